"""The rich progress bar, counting optimiser steps; silent where there is no terminal."""

import sys

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar


class StepBar(RichProgressBar):
    """Lightning's bar says "Epoch 0/-2" for a run that is measured in steps; this one says what is done."""

    def __init__(self) -> None:
        super().__init__(leave=True)
        if not sys.stdout.isatty():
            self.disable()

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, str]:
        """Loss and speed, without the version number."""
        shown = {"train/loss": "loss", "speed/samples_per_s": "samples/s"}
        return {
            label: f"{float(v):.4g}" for k, label in shown.items() if (v := trainer.callback_metrics.get(k)) is not None
        }
