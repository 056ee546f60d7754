"""Saves last.ckpt, from which a run continues, at a fixed interval and at the end, best.ckpt of the best
validation, and checkpoints of steps in between, which stay.
"""

import math
from pathlib import Path
from typing import Any

import lightning as L

from callbacks.resuming import go_on, record, rewind, validate_if_missed, validation_due


class LastCheckpoint(L.Callback):
    """Saves `folder`/last.ckpt every `every` optimiser steps, and after the last one.

    `monitor` names a value that is logged by the end of a validation (val/loss, val/loss_target): `folder`/best.ckpt is
    saved whenever it is better than ever before, and `mode` says whether "min" or "max" is better. With `keep`, every
    `keep` optimiser steps `folder`/step_N.ckpt is saved besides, which nothing removes. Lightning's ModelCheckpoint
    would save nothing in a run that is shorter than its interval. A run that continues from last.ckpt gives, bit for
    bit, what it would have given without the stop.
    """

    def __init__(
        self, folder: str, every: int, monitor: str | None = None, mode: str = "min", keep: int | None = None
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"callback.checkpoint.mode is '{mode}'; legal are min, max")
        if keep is not None and (type(keep) is not int or keep < 1):
            raise ValueError(f"callback.checkpoint.keep is {keep!r}; legal are a number of steps from 1 on, and null")
        self.folder, self.every, self.monitor, self.mode, self.keep = Path(folder), every, monitor, mode, keep
        self.best: float | None = None
        self._saved = self._kept = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # else the next batch, which may be half a step, would be saved again
        self._saved = self._kept = trainer.global_step
        if trainer.global_step == 0:
            rewind(trainer, 0, {})  # a run that was killed before its first checkpoint
        else:
            validate_if_missed(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step and trainer.global_step % self.every == 0 and not self._may_be_best(trainer):
            self.save(trainer)
        if self.keep and trainer.global_step % self.keep == 0 and self._kept != trainer.global_step:
            trainer.lightning_module.require_finite()
            self._kept = trainer.global_step
            trainer.save_checkpoint(self.folder / f"step_{trainer.global_step}.ckpt")

    def _may_be_best(self, trainer: L.Trainer) -> bool:
        """Return whether the last step's validation is still to come and may save best.ckpt.

        A run that goes on from a checkpoint of the last step does not train, and so saves no best.ckpt: the last one is
        saved after that validation (on_train_end).
        """
        last = 0 < trainer.max_steps <= trainer.global_step
        return last and self.monitor is not None and validation_due(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.monitor is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        logged = trainer.callback_metrics
        if self.monitor not in logged:
            raise ValueError(
                f"callback.checkpoint.monitor is '{self.monitor}', which is not logged; there are: "
                f"{', '.join(sorted(logged))}"
            )
        value, sign = float(logged[self.monitor]), 1 if self.mode == "max" else -1
        if math.isfinite(value) and (self.best is None or sign * value > sign * self.best):
            self.best = value
            trainer.save_checkpoint(self.folder / "best.ckpt")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Save last.ckpt of this optimiser step, once. All ranks must call it, before any gradient of the next step.

        Raises NotFinite, and keeps the file that is there, if the training has left the finite numbers.
        """
        if self._saved != trainer.global_step:
            trainer.lightning_module.require_finite()
            self._saved = trainer.global_step
            trainer.save_checkpoint(self.folder / "last.ckpt")

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["resuming"] = record(trainer)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == "fit":
            go_on(trainer, checkpoint)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]
