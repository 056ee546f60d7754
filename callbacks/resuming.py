"""Makes a resumed run exact: restores logs, makes up for a missed validation, and keeps the samples of a step.

A checkpoint is made in the middle of its step: after the update, before the step's line in the log and its validation.
"""

from math import prod
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

PROGRESS = "epoch_loop.batch_progress"


def record(trainer: L.Trainer) -> dict[str, Any]:
    """The record that a checkpoint stores beside the state: the factors of its step's number of samples, and its
    line of the log.
    """
    return {"samples": samples_of(trainer), "line": _line(trainer)}


def samples_of(trainer: L.Trainer) -> dict[str, int]:
    """The factors of the number of samples of one step: ranks × batch × accumulated batches."""
    batch = trainer.datamodule.batch_size
    return {"ranks": trainer.world_size, "batch": batch, "accumulated": trainer.accumulate_grad_batches}


def _line(trainer: L.Trainer) -> dict[str, float]:
    """The values that the loggers will write for this step; empty if they skip it."""
    if trainer.global_step % trainer.log_every_n_steps:
        return {}
    return {k: float(v) for k, v in trainer.logged_metrics.items() if k.startswith(("train/", "speed/"))}


def go_on(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Restore logs to the checkpoint's moment and count batches in today's size, before the state itself is restored.

    Raises ValueError if a step would have another number of samples than before.
    """
    made = checkpoint.get("resuming", {"samples": samples_of(trainer), "line": {}})  # from before there was a record
    before, now = made["samples"], samples_of(trainer)
    if before != now:
        _recount(checkpoint, before, now)
    rewind(trainer, checkpoint["global_step"], made["line"])


def _recount(checkpoint: dict[str, Any], before: dict[str, int], now: dict[str, int]) -> None:
    step = checkpoint["global_step"]
    was, now_is = _spelt(before), _spelt(now)
    if (product := prod(before.values())) != prod(now.values()):
        raise ValueError(
            f"ranks × batch × accumulated batches were {was} in the checkpoint of step {step} and are {now_is} now; "
            f"set data.batch_size or trainer.accumulate_grad_batches so that a step has {product} samples again"
        )
    for counts in (checkpoint["loops"]["fit_loop"][PROGRESS][k] for k in ("total", "current")):
        more = step * now["accumulated"] - counts["ready"]
        counts.update({k: counts[k] + more for k in ("ready", "started", "processed", "completed")})
    rank_zero_only(Console(highlight=False).print)(
        f"ranks × batch × accumulated batches were {was} until step {step} and are {now_is} now: the same items in "
        "every step but other noise, so not exactly the run that it would have been",
        soft_wrap=True,
    )


def _spelt(samples: dict[str, int]) -> str:
    return " × ".join(map(str, samples.values()))


@rank_zero_only
def rewind(trainer: L.Trainer, step: int, line: dict[str, float]) -> None:
    """Remove what a killed run logged after its checkpoint, in the loggers that can do so (W&B cannot)."""
    for logger in trainer.loggers:
        if hasattr(logger, "rewind"):
            logger.rewind(step, line)


def validation_due(trainer: L.Trainer) -> bool:
    """Return whether a validation belongs to the batch that training is at."""
    return (trainer.fit_loop.total_batch_idx + 1) % trainer.val_check_batch == 0


def validate_if_missed(trainer: L.Trainer) -> None:
    """At the start of training, run the validation of the checkpoint's own step if it was due."""
    if validation_due(trainer):
        loop = trainer.fit_loop.epoch_loop.val_loop
        loop.restarting = False  # it was not begun
        trainer.validating = True  # as Lightning does around its own
        loop.run()
        trainer.training = True
