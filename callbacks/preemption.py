"""Stops a run on request (signal, Ctrl-C, time limit) at an optimiser step, on all ranks, after saving."""

from typing import Any

import lightning as L

from callbacks.checkpoint import LastCheckpoint
from unigen.launch.preemption import NOTICE, Preempted, seconds


class Preemption(L.Callback):
    """Every `every` optimiser steps, the ranks agree whether any of them was asked to stop (one scalar all-reduce).

    If so, all of them save last.ckpt and raise Preempted: the exit code is 143, and the folder stays unfinished. A
    request during a validation waits for its end; before the first step there is nothing to save. `time_limit`
    ("3h50m", counted from the start of the process) makes such a request. With `requeue`, SLURM is told to start the
    job again. This callback must stand behind the checkpoint. Lightning's own handlers are disabled: they save and
    broadcast inside the handler, which deadlocks ranks.
    """

    def __init__(self, every: int = 1, time_limit: str | int | float | None = None, requeue: bool = True) -> None:
        if every < 1:
            raise ValueError(f"callback.preemption.every is {every}; legal is 1 or more optimiser steps")
        self.every, self.seconds, self.requeue = every, seconds(time_limit), requeue
        self._step = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        trainer._signal_connector.register_signal_handlers = lambda: None
        if stage == "fit":
            self._checkpoint(trainer)
            NOTICE.requeue = self.requeue
            NOTICE.limit(self.seconds)
            NOTICE.stepping = True
            self._leave_if_asked(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._step = trainer.global_step
        self._leave_if_asked(trainer)  # the state is that of the checkpoint, or new

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:  # gradients still accumulate
            return
        self._step = trainer.global_step
        if self._step % self.every == 0:
            self._leave_if_asked(trainer, save=True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and trainer.global_step == self._step:  # 0 in a validation that is made up for
            self._leave_if_asked(trainer, save=True)

    def _leave_if_asked(self, trainer: L.Trainer, save: bool = False) -> None:
        if trainer.strategy.reduce_boolean_decision(NOTICE.given, all=False):
            if save:
                self._checkpoint(trainer).save(trainer)
            raise Preempted

    @staticmethod
    def _checkpoint(trainer: L.Trainer) -> LastCheckpoint:
        """The one callback that writes last.ckpt. Raises ValueError if there is none."""
        found = [c for c in trainer.callbacks if isinstance(c, LastCheckpoint)]
        if not found:
            raise ValueError("callback=[preemption] needs checkpoint beside it, which saves the state to go on from")
        return found[0]
