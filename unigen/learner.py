"""The LightningModule: keyed randomness, optimiser, and what is saved. It never asks what the model is."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from unigen import noise
from unigen.pipeline import Pipeline
from unigen.types import Batch


class Experiment(L.LightningModule):
    """Trains a pipeline's trainable modules. Frozen encoders stay outside, so no strategy shards or saves them.

    `optimizer` holds lr, betas, weight_decay and warmup (steps of linear warm-up, then constant).
    All randomness of step k on rank r is a function of (seed, k, r): nothing random is in a checkpoint.
    """

    strict_loading = False

    def __init__(self, pipeline: Pipeline, optimizer: Mapping[str, Any], seed: int) -> None:
        super().__init__()
        self.pipeline, self.optimizer_options, self.seed = pipeline, dict(optimizer), seed
        parts = {"backbone": pipeline.backbone, "embedding": pipeline.embedding}
        frozen = {"codec": pipeline.codec}
        (parts if pipeline.text.trained else frozen)["text"] = pipeline.text
        self.parts = nn.ModuleDict(parts)
        self._frozen = frozen.values()

    def on_fit_start(self) -> None:
        """Lightning has moved the module by now (at `setup` it has not)."""
        self.place_frozen()

    def place_frozen(self) -> None:
        """Frozen encoders follow the module's device without belonging to it."""
        for encoder in self._frozen:
            encoder.to(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch; logs it and its parts by segment."""
        step = self.trainer.fit_loop.total_batch_idx
        loss, parts = self.pipeline.training_loss(batch, noise.generator(self.seed, "train", step, self.global_rank))
        self.log("train/loss", loss.detach(), batch_size=len(batch))
        self.log("step", self.trainer.global_step + 1.0, batch_size=len(batch))  # Lightning counts from 0
        for name, value in parts.items():
            self.log(f"train/loss_{name}", value, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss at evenly spread times on fixed noise: low variance, and equal for every arm."""
        p = self.pipeline
        plan, size = p.plan(batch.slots), len(batch)
        t_B = (torch.arange(size, device=self.device) + 0.5) / size
        noises = p.draw_noise(plan, batch.slots, [noise.generator("validation", key) for key in batch.keys])
        loss, _ = p.denoising_loss(plan.layout, p.encode(batch, {}), noises, t_B)
        self.log("val/loss", loss, batch_size=size, sync_dist=True)
        self.log("step", float(self.trainer.global_step), batch_size=size, sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW over what is trained, with linear warm-up."""
        o = self.optimizer_options
        trained = [p for p in self.parameters() if p.requires_grad]
        adamw = torch.optim.AdamW(trained, lr=o["lr"], betas=tuple(o["betas"]), weight_decay=o["weight_decay"])
        ramp = torch.optim.lr_scheduler.LambdaLR(adamw, lambda k: min(1.0, (k + 1) / max(1, o["warmup"])))
        return {"optimizer": adamw, "lr_scheduler": {"scheduler": ramp, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what training changed, and a fitted codec: frozen pretrained weights are not copied."""
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint["codec"] = dict(self.pipeline.codec.named_buffers())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The codec that the checkpoint was trained with."""
        self.pipeline.codec.load_state_dict(checkpoint["codec"], strict=False)
