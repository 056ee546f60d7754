"""Trains a pipeline's trainable modules to denoise its targets. It never asks what the model is."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unigen.cache.store import open_cache
from unigen.config.values import ConfigError
from unigen.core import noise
from unigen.core.types import Batch, ImageSlot
from unigen.evaluation.latency import sampling
from unigen.evaluation.scoring import BOUNDS, all_targets, evaluate, protocol
from unigen.evaluation.validation import FastMetrics
from unigen.pipeline import export
from unigen.pipeline.build import build, build_pipeline
from unigen.pipeline.header import print_header
from unigen.pipeline.learner import Learner
from unigen.pipeline.pipeline import Pipeline
from unigen.pipeline.subject_words import uce_line

FIT_IMAGES = 2000  # training images that a codec without weights is fitted on


class Denoising(Learner):
    """Trains the pipeline of an experiment.

    All randomness of a step is keyed (see `Learner.chance`), so a checkpoint holds no random state.
    """

    has_pipeline = True

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
        """Print who attends to whom, which segments may be cached, what is trained, and how long a sample is."""
        print_header(self.pipeline, slots, config)

    def notes(self, data: Any) -> str:
        """Return a line that says how often UCE finds the subject's word in the prompts of training."""
        return uce_line(self.pipeline, data.train_dataloader())

    def check(self, data: Any) -> None:
        """Refuse exceptions of guidance for tasks that the data do not have."""
        check_tasks(self.pipeline, data.tasks)

    def prepare(self, data: Any) -> None:
        """Fit a codec that has no weights of its own."""
        self.pipeline.codec.fit(lambda: data.fit_images(FIT_IMAGES))

    def measure(self, data: Any, config: Mapping[str, Any]) -> dict[str, Any]:
        """Sample the test split and return the configured metrics, their bounds, the protocol and the latency."""
        metrics = {name: build(node) for name, node in config["metric"].items()}
        found = evaluate(self.pipeline, data.test_dataloader(), metrics, config["evaluation"]["seed"])
        self.keep()
        items = max((s["items"] for s in found.metrics.values()), default=0)  # a split may hold fewer than requested
        said = protocol(self.pipeline, metrics, config) | {"items": items} | all_targets(found.targets)
        if "test" in getattr(data, "on_training_images", ()):
            said["split"] = "train, as nothing was held out"
        measured = {"metrics": found.metrics, "bounds": BOUNDS, "protocol": said, "sampling": sampling(found.draws)}
        return {**measured, "of_items": found.of_items}

    def export(self, folder: Path, config: Mapping[str, Any]) -> list[Path]:
        """Save the export that `unigen.pipeline.export` reads; return no folders, since no whole model is saved."""
        export.save(self.pipeline, folder, config)
        return []

    def facts(self, slots: tuple[ImageSlot, ...]) -> dict[str, Any]:
        """Return the facts that a summary records: the mask's name, the tokens of a sample, and the parameters."""
        tokens = len(self.pipeline.plan(slots).layout)
        return {"mask": self.pipeline.mask.name, "tokens": tokens, **super().facts(slots)}

    def sample(self, batch: Batch, seed: int) -> dict[str, Tensor]:
        """Sample the batch's targets with the pipeline."""
        return self.pipeline.sample(batch, seed)

    def cost(self, batch: Batch) -> tuple[int, float]:
        """Return (tokens, model FLOPs) of a sample, see `sample_cost`."""
        return sample_cost(self.pipeline, batch)

    def on_fit_start(self) -> None:
        """Refuse, before the first step, an attention kernel or a validation metric that cannot be used here."""
        super().on_fit_start()
        self.fast.check()
        with self.trainer.precision_plugin.forward_context():
            self.pipeline.backbone.try_kernel(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch; log it and its parts by segment."""
        loss, parts = self.pipeline.training_loss(batch, self.chance("train"))
        self.log("train/loss", loss.detach(), batch_size=len(batch))
        self.log("step", self.trainer.global_step + 1.0, batch_size=len(batch))  # Lightning counts from 0
        for name, value in parts.items():
            self.log(f"train/loss_{name}", value, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss, whole and by segment, at evenly spread times on fixed noise.

        So its variance is low, and every arm is validated alike. Some samples are drawn for the fast metrics too.
        """
        p = self.pipeline
        plan, size = p.plan(batch.slots), len(batch)
        t_B = (torch.arange(size, device=self.device) + 0.5) / size
        noises = p.draw_noise(plan, [noise.generator("validation", key) for key in batch.keys])
        loss, parts = p.denoising_loss(p.encode(batch, {}), noises, t_B)
        self.log("val/loss", loss, batch_size=size, sync_dist=True)
        for name, value in parts.items():
            self.log(f"val/loss_{name}", value, batch_size=size, sync_dist=True)
        self.log("step", float(self.trainer.global_step), batch_size=size, sync_dist=True)
        self.fast.take(p, batch, self.trainer.num_val_batches[0])

    def on_validation_epoch_end(self) -> None:
        """Log the fast metrics as val/NAME."""
        for name, value in self.fast.scores().items():
            self.log(f"val/{name}", value, sync_dist=True)

    def on_fit_end(self) -> None:
        """Write the cache's new entries, on every rank."""
        self.keep()

    def keep(self) -> None:
        """Write the cache's new entries to disk, so that the next job of a sweep finds them."""
        if self.pipeline.cache is not None:
            self.pipeline.cache.flush()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the trained weights (as every learner does) and the buffers of a fitted codec."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["codec"] = dict(self.pipeline.codec.named_buffers())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the buffers of the codec that the checkpoint was trained with."""
        self.pipeline.codec.load_state_dict(checkpoint["codec"], strict=False)


def check_tasks(pipeline: Pipeline, tasks: Sequence[str]) -> None:
    """Raises ConfigError if guidance has an exception for a task that the data do not have."""
    for task in pipeline.guidance.by_task:
        if task not in tasks:
            close = get_close_matches(task, tasks, 1, cutoff=0.5)
            some = ", ".join(tasks[:5]) + (", ..." if len(tasks) > 5 else "")
            hint = f"did you mean '{close[0]}'? They" if close else "they"
            raise ConfigError(f"guidance.by_task names task '{task}', which the data do not have; {hint} have {some}")


def sample_cost(pipeline: Pipeline, batch: Batch) -> tuple[int, float]:
    """Return (tokens, model FLOPs) of a sample. Model FLOPs are those that a step needs, without recomputation.

    Forward and backward together are 3 × forward for trained weights, and 2 × for a frozen linear, which needs no
    weight gradient. Attention, over the attended pairs alone, counts 3 ×, and so do adapters. Frozen modulation, norms
    and everything else without a matrix product, UCE and the encoders are left out.
    """
    layout = pipeline.plan(batch.slots).layout
    backbone = pipeline.backbone
    flops = backbone.flops(layout, pipeline.mask)
    frozen = any(not parameter.requires_grad for parameter in backbone.parameters())
    trained = 3 * (flops["attention"] + backbone.adapter_flops(layout, pipeline.mask))
    return len(layout), (2 if frozen else 3) * flops["linear"] + trained
