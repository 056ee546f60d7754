"""A run that was killed, at any moment, gives what it would have given: bit for bit, in weights, log and results."""

import itertools
import os
import random
import signal

import pytest
import torch
from forked_runs import EVERYTHING, code_of, differing, finished, kill_and_go_on, left_behind, started, uninterrupted
from small_runs import log, small, train

from callbacks.checkpoint import LastCheckpoint
from callbacks.jsonl_logger import JsonlLogger
from callbacks.sample_grid import SampleGrid
from datamodules.graph.keyed import KeyedBatchSampler
from unigen.learners.denoising import Denoising
from unigen.training import experiment as training

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="forks, and claims for the CPU alone")


def dies_in(owner, name, call=1):
    """Arms a function of this process: its so-manieth call is a kill -9."""
    function, calls = getattr(owner, name), itertools.count(1)

    def armed(*args, **kwargs):
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(owner, name, armed)


def dies_half_way_through_a_save():
    """The second one, which is of last.ckpt: the first is of best.ckpt."""
    save, calls = torch.save, itertools.count(1)

    def half(checkpoint, file):
        save(checkpoint, file)
        if next(calls) == 2:
            file.truncate(1000)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = half


# Of a run of 8 steps with checkpoints at 2, 4, 6, 8 and validations at 3 and 6: where it dies, and what is left then.
DEATHS = [
    ("before the first checkpoint", lambda: dies_in(LastCheckpoint, "save"), None, [1]),
    ("between a checkpoint and its line", lambda: dies_in(JsonlLogger, "log_metrics", 2), 2, [1]),
    ("in a validation", lambda: dies_in(SampleGrid, "on_validation_batch_end"), 2, [1, 2, 3]),
    ("half-way through a save", dies_half_way_through_a_save, 2, [1, 2, 3, 3]),
    ("between two halves of a step", lambda: dies_in(Denoising, "training_step", 6), 4, [1, 2, 3, 3, 4]),
    (
        "in a validation due at the checkpoint",
        lambda: dies_in(SampleGrid, "on_validation_batch_end"),
        6,
        [1, 2, 3, 3, 4, 5, 6],
    ),
    ("before the summary", lambda: dies_in(training, "write_summary"), 8, None),
]


@pytest.mark.slow
def test_killed_at_the_worst_moments_it_gives_the_same(tmp_path):
    whole = uninterrupted()
    config = small(tmp_path, *EVERYTHING)
    for where, death, step, lines in DEATHS:
        assert code_of(started(config, death)) == -signal.SIGKILL, where
        last = tmp_path / "checkpoints" / "last.ckpt"
        there = torch.load(last, weights_only=True)["global_step"] if last.exists() else None
        assert there == step, where
        assert lines is None or [line["step"] for line in log(tmp_path)] == lines, where
    finished(config)
    assert differing(left_behind(tmp_path), whole) == []
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_another_seed_gives_something_else(tmp_path):
    """The negative control of every comparison with `uninterrupted`: it sees weights, log, results and files."""
    train(small(tmp_path, *EVERYTHING, "seed=1"))
    seen = {where.split("/")[1] for where in differing(left_behind(tmp_path), uninterrupted())}
    assert seen >= {"log", "last", "best", "metrics", "pytorch_lora_weights.safetensors", "samples", "scores.jsonl"}


def test_a_step_has_the_same_items_however_they_are_shared_out():
    def items(step, ranks, batch, accumulated):
        parts = [KeyedBatchSampler(50, batch, 0, step * accumulated, ranks, rank) for rank in range(ranks)]
        return sorted(item for part in parts for few in itertools.islice(part, accumulated) for item in few)

    assert items(5, 2, 4, 2) == items(5, 1, 4, 4) == items(5, 1, 16, 1) == items(5, 8, 1, 2) != items(5, 2, 4, 4)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_twenty_kills_at_random_moments(tmp_path, workers, capsys):
    """As `pytest -m slow tests/training/test_resume.py`: whole runs, killed at any time from the first import on."""
    rng, kills, runs = random.Random(workers), 0, 0
    more = ("trainer.max_steps=24", f"data.num_workers={workers}")
    seconds = finished(small(tmp_path / "whole", *EVERYTHING, *more))
    whole = left_behind(tmp_path / "whole")
    while kills < 20:
        run_dir = tmp_path / str(runs)
        kills += kill_and_go_on(small(run_dir, *EVERYTHING, *more), seconds, 20 - kills, rng)
        assert differing(left_behind(run_dir), whole) == [], f"seed {workers}, run {runs}"
        runs += 1
    with capsys.disabled():
        print(f"\n{kills} kills of {runs} runs of {seconds:.1f} s with {workers} workers: bit for bit the same")
