"""The loader section of the bench: how long a training step waits for its batch, in the loop that runs use."""

import tempfile
import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.profilers import Profiler

from unigen.bench import Effort, Table
from unigen.build import build, build_learner
from unigen.training import make_trainer, quiet

STEPS = 5  # that count, for each round of the effort
COLUMNS = ("data", "workers", "batch", "step ms", "of which waiting ms", "waiting")
NOTE = (
    "Lightning's loop as a run has it (its precision, clipping, num_workers), without callbacks, loggers and "
    "validation, which only take longer; {steps} steps after one epoch, when the codec knows the pictures that it "
    "keeps. Waiting: from asking the loader for a batch until it is there. On a GPU that has queued work meanwhile it "
    "is idle for less than that. Wall clock, means over the steps."
)


class Fetches(Profiler):
    """When the training loop asked its loader for each batch, and when it had it, in seconds."""

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
        """(seconds from batch to batch, seconds of these spent waiting), over the last `steps` batches."""
        waits = [had - asked for asked, had in zip(self.asked, self.had, strict=True)][-steps:]
        return (self.had[-1] - self.had[-1 - steps]) / steps, sum(waits) / steps


def loader_table(configs: Mapping[str, Mapping[str, Any]], effort: Effort) -> Table:
    """A row for each configuration, by name."""
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
    """Train for an epoch and `steps` more, as a run does."""
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
