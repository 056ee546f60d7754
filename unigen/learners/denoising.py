"""Trains a pipeline's trainable modules to denoise its targets. It never asks what the model is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unigen import export, noise
from unigen.build import build, build_pipeline
from unigen.cache import open_cache
from unigen.evaluation import all_targets, evaluate, protocol
from unigen.header import print_header
from unigen.latency import sampling
from unigen.learner import Learner
from unigen.pipeline import Pipeline
from unigen.subject_words import uce_line
from unigen.types import Batch, ImageSlot
from unigen.validation import FastMetrics

BOUNDS = {"low": "no condition", "high": "through codec"}  # see unigen.evaluation
FIT_PICTURES = 2000  # training pictures that a codec without weights is fitted on


class Denoising(Learner):
    """One experiment. All randomness of a step is keyed (see `Learner.chance`): none is in a checkpoint."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.pipeline = pipeline = build_pipeline(config)
        pipeline.cache = open_cache(config)
        self.parts.update({"backbone": pipeline.backbone, "embedding": pipeline.embedding})
        frozen = {"codec": pipeline.codec}
        (self.parts if pipeline.text.trained else frozen)["text"] = pipeline.text
        self.frozen = frozen.values()
        self.fast = FastMetrics(config)

    def print_header(self, slots: tuple[ImageSlot, ...], config: Mapping[str, Any]) -> None:
        """Who sees whom, what may be cached, what is trained, how long a sample is."""
        print_header(self.pipeline, slots, config)

    def notes(self, data: Any) -> str:
        """How often UCE finds the subject's word in the prompts of training."""
        return uce_line(self.pipeline, data.train_dataloader())

    def prepare(self, data: Any) -> None:
        """Fit a codec that has no weights of its own."""
        self.pipeline.codec.fit(lambda: data.fit_pictures(FIT_PICTURES))

    def measure(self, data: Any, config: Mapping[str, Any]) -> dict[str, Any]:
        """The configured metrics over samples of the test split."""
        metrics = {name: build(node) for name, node in config["metric"].items()}
        found = evaluate(self.pipeline, data.test_dataloader(), metrics, config["evaluation"]["seed"])
        self.keep()
        items = max((s["items"] for s in found.metrics.values()), default=0)  # a split may hold fewer than asked for
        said = protocol(self.pipeline, metrics, config) | {"items": items} | all_targets(found.targets)
        if "test" in getattr(data, "on_training_images", ()):
            said["split"] = "train, as nothing was held out"
        measured = {"metrics": found.metrics, "bounds": BOUNDS, "protocol": said, "sampling": sampling(found.draws)}
        return {**measured, "of_items": found.of_items}

    def export(self, folder: Path, config: Mapping[str, Any]) -> list[Path]:
        """LoRA in diffusers' format and a sidecar; no model of its own."""
        export.save(self.pipeline, folder, config)
        return []

    def facts(self, slots: tuple[ImageSlot, ...]) -> dict[str, Any]:
        """Mask, tokens and parameters."""
        tokens = len(self.pipeline.plan(slots).layout)
        return {"mask": self.pipeline.mask.name, "tokens": tokens, **super().facts(slots)}

    def sample(self, batch: Batch, seed: int) -> dict[str, Tensor]:
        """What the pipeline makes of the batch."""
        return self.pipeline.sample(batch, seed)

    def cost(self, batch: Batch) -> tuple[int, float]:
        """See `sample_cost`."""
        return sample_cost(self.pipeline, batch)

    def on_fit_start(self) -> None:
        """Before the first step: an attention kernel that cannot train here is refused, validation has its metrics."""
        super().on_fit_start()
        self.fast.check()
        with self.trainer.precision_plugin.forward_context():
            self.pipeline.backbone.try_kernel(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch; logs it and its parts by segment."""
        loss, parts = self.pipeline.training_loss(batch, self.chance("train"))
        self.log("train/loss", loss.detach(), batch_size=len(batch))
        self.log("step", self.trainer.global_step + 1.0, batch_size=len(batch))  # Lightning counts from 0
        for name, value in parts.items():
            self.log(f"train/loss_{name}", value, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss, and by segment, at evenly spread times on fixed noise: low variance, and equal for every arm.

        Of some samples also what the fast metrics need.
        """
        p = self.pipeline
        plan, size = p.plan(batch.slots), len(batch)
        t_B = (torch.arange(size, device=self.device) + 0.5) / size
        noises = p.draw_noise(plan, batch.slots, [noise.generator("validation", key) for key in batch.keys])
        loss, parts = p.denoising_loss(plan.layout, p.encode(batch, {}), noises, t_B)
        self.log("val/loss", loss, batch_size=size, sync_dist=True)
        for name, value in parts.items():
            self.log(f"val/loss_{name}", value, batch_size=size, sync_dist=True)
        self.log("step", float(self.trainer.global_step), batch_size=size, sync_dist=True)
        self.fast.take(p, batch, self.trainer.num_val_batches[0])

    def on_validation_epoch_end(self) -> None:
        """The fast metrics, as val/NAME."""
        for name, value in self.fast.scores().items():
            self.log(f"val/{name}", value, sync_dist=True)

    def on_fit_end(self) -> None:
        """On every rank."""
        self.keep()

    def keep(self) -> None:
        """The next job of a sweep finds everything that this one encoded."""
        if self.pipeline.cache is not None:
            self.pipeline.cache.flush()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What training changed, and a fitted codec."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["codec"] = dict(self.pipeline.codec.named_buffers())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The codec that the checkpoint was trained with."""
        self.pipeline.codec.load_state_dict(checkpoint["codec"], strict=False)


def sample_cost(pipeline: Pipeline, batch: Batch) -> tuple[int, float]:
    """(tokens, model FLOPs) of a sample: what a step must compute, whatever it computes besides (recomputation).

    Forward and backward are 3 × forward where weights are trained. A frozen linear needs no weight gradient: 2 ×.
    Attention, over the attended pairs alone, is 3 ×, and so are adapters. Left out: frozen modulation, norms and
    everything else without a matrix product, UCE and encoders.
    """
    layout = pipeline.plan(batch.slots).layout
    backbone = pipeline.backbone
    flops = backbone.flops(layout, pipeline.mask)
    frozen = any(not parameter.requires_grad for parameter in backbone.parameters())
    trained = 3 * (flops["attention"] + backbone.adapter_flops(layout))
    return len(layout), (2 if frozen else 3) * flops["linear"] + trained
