"""Profiles the loader: the time that a training step waits for its batch, in the training loop of runs."""

import tempfile
import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.profilers import Profiler

from unigen.pipeline.build import build, build_learner
from unigen.tools.bench.turns import Effort, Table
from unigen.training.experiment import make_trainer, quiet

STEPS = 5  # the number of counted steps for each round of the effort
COLUMNS = ("data", "workers", "batch", "step ms", "of which waiting ms", "waiting")
NOTE = (
    "Lightning's loop as in a run (its precision, clipping, num_workers), without callbacks, loggers and validation, "
    "which only add time; {steps} steps after one epoch, when cached images are known. Waiting: the time from the "
    "request for a batch until it arrives; a GPU with queued work is idle for less than that. Wall clock, means over "
    "the steps."
)


class Fetches(Profiler):
    """Records when the training loop requested each batch from its loader, and when it got it, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []
        self.had: list[float] = []

    def start(self, action_name: str) -> None:
        if action_name.endswith("train_dataloader_next"):
            self.asked.append(time.perf_counter())

    def stop(self, action_name: str) -> None:
        if action_name.endswith("train_dataloader_next"):
            self.had.append(time.perf_counter())

    def means(self, steps: int) -> tuple[float, float]:
        """Return the mean seconds from batch to batch, and those spent waiting, over the last `steps` batches."""
        waits = [had - asked for asked, had in zip(self.asked, self.had, strict=True)][-steps:]
        return (self.had[-1] - self.had[-1 - steps]) / steps, sum(waits) / steps


def loader_table(configs: Mapping[str, Mapping[str, Any]], effort: Effort) -> Table:
    """Return a table with a row for each configuration."""
    quiet()
    steps = STEPS * effort.rounds
    table = Table("Waiting for the loader", COLUMNS, note=NOTE.format(steps=steps))
    for name, config in configs.items():
        step, waiting = measured(config, steps, effort).means(steps)
        data = config["data"]
        row = (1e3 * step, 1e3 * waiting, f"{waiting / step:.1%}")
        table.add(f"{name}, {data['_target_'].rpartition('.')[2]}", data["num_workers"], data["batch_size"], *row)
    return table


def measured(config: Mapping[str, Any], steps: int, effort: Effort) -> Fetches:
    """Train for an epoch and `steps` more as a run does; return the recorded times."""
    data = build(config["data"])
    data.prepare_data()
    learner = build_learner(config)
    learner.prepare(data)
    epoch = -(-len(data.train_dataloader().dataset) // data.batch_size)
    alone = {
        "max_steps": epoch + steps,
        "accelerator": "gpu" if effort.device.type == "cuda" else "cpu",
        "limit_val_batches": 0,
        "enable_progress_bar": False,
    }
    with tempfile.TemporaryDirectory() as folder:
        alone["default_root_dir"] = folder
        trainer, _ = make_trainer({**config, "trainer": config["trainer"] | alone, "callback": {}, "logger": {}})
        trainer.profiler = Fetches()
        trainer.fit(learner, datamodule=data)
    return trainer.profiler
