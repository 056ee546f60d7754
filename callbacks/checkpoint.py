"""last.ckpt: the state to go on from, at a fixed rhythm and at the end."""

from pathlib import Path
from typing import Any

import lightning as L


class LastCheckpoint(L.Callback):
    """Saves `folder`/last.ckpt every `every` optimiser steps, and after the last one.

    Lightning's ModelCheckpoint leaves nothing behind for a run that is shorter than its rhythm.
    """

    def __init__(self, folder: str, every: int) -> None:
        self.path, self.every = Path(folder) / "last.ckpt", every
        self._saved = -1

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step and trainer.global_step % self.every == 0:
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        if self._saved != trainer.global_step:
            self._saved = trainer.global_step
            trainer.save_checkpoint(self.path)
