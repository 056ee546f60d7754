"""A run that is asked to stop: saved at an optimiser step, by all ranks, with an exit code that says so, and exact."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forked_runs import EVERYTHING, code_of, differing, finished, forked, left_behind, started, two_ranks, uninterrupted
from small_runs import command, heard, line, small, train
from tiny import ROOT

from callbacks.checkpoint import LastCheckpoint
from callbacks.preemption import Preemption
from callbacks.sample_grid import SampleGrid
from unigen.launch import preemption
from unigen.launch.preemption import CODE, INTERRUPTED, SIGNALS, Notice, Preempted, deafen, seconds
from unigen.learners.denoising import Denoising
from unigen.training import experiment as training

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="forks, and claims for the CPU alone")


def asks_in(owner, name, number, call=1):
    """Arms a function of this process: in its so-manieth call the process gets a signal."""
    function, calls = getattr(owner, name), itertools.count(1)

    def armed(*args, **kwargs):
        if next(calls) == call:
            os.kill(os.getpid(), number)
        return function(*args, **kwargs)

    setattr(owner, name, armed)


def step_of(run_dir: Path) -> int | None:
    last = run_dir / "checkpoints" / "last.ckpt"
    return torch.load(last, weights_only=True)["global_step"] if last.exists() else None


@pytest.fixture
def slurm(tmp_path):
    """The surroundings of task 2 of array job 7 for a process to step into; `scontrol` writes down what is asked."""
    stub, said = tmp_path / "bin" / "scontrol", tmp_path / "scontrol.txt"
    stub.parent.mkdir()
    said.touch()
    for path, does in ((stub, f'echo "$@" >> {said}'), (stub.with_name("squeue"), "echo RUNNING 1:00")):
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)
    job = {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "x", "SLURM_JOB_ID": "9", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    job |= {"SLURM_NODEID": "0", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    job |= {"PATH": f"{stub.parent}:{os.environ['PATH']}"}
    return job, lambda: said.read_text().splitlines()


# Of a run of 8 steps of two batches each, validated at 3 and 6: where it is asked, and the step of last.ckpt then.
REQUESTS = [
    ("before training", lambda: asks_in(Denoising, "prepare", signal.SIGUSR1), None),
    ("between two halves of step 2", lambda: asks_in(Denoising, "training_step", signal.SIGTERM, 3), 2),
    ("in the validation of step 3", lambda: asks_in(SampleGrid, "on_validation_batch_end", signal.SIGUSR1), 3),
    ("and again while it saves", lambda: (asks_in(Denoising, "training_step", signal.SIGTERM),
                                          asks_in(torch, "save", signal.SIGTERM)), 4),
    ("in the evaluation", lambda: asks_in(training, "write_summary", signal.SIGTERM), 8),
]  # fmt: skip


@pytest.mark.slow
def test_asked_at_any_time_it_saves_leaves_and_goes_on_exactly(tmp_path, slurm):
    job, asked = slurm
    whole, run_dir = uninterrupted(), tmp_path / "run"
    config = small(run_dir, *EVERYTHING)
    for i, (where, request, step) in enumerate(REQUESTS):
        assert code_of(started(config, lambda request=request: (os.environ.update(job), request()))) == CODE, where
        assert step_of(run_dir) == step, where
        assert asked() == ["requeue 7_2"] * (i + 1), where
        last = (run_dir / "out.txt").read_text().splitlines()[-1]
        kept = f"run_dir={run_dir} goes on from the last checkpoint" if step else "there is no checkpoint yet"
        assert last == f"preempted; {kept}; job 7_2 is requeued"
        assert not (run_dir / "summary.json").exists()
    finished(config)
    assert len(asked()) == len(REQUESTS) and not list(run_dir.rglob("hpc_ckpt*"))
    assert differing(left_behind(run_dir), whole) == []


# --- several ranks -------------------------------------------------------------------------------------------------

TWO = [*EVERYTHING, "trainer.devices=2", "strategy=ddp", "trainer.accelerator=cpu"]


def nothing():
    """No request."""


def slow():
    """A rank that the other one waits for, in the middle of its own step."""
    step = Denoising.training_step
    Denoising.training_step = lambda *args: (time.sleep(0.1), step(*args))[1]


def both(config, *before) -> list[int]:
    return [code_of(child) for child in two_ranks(config, *before)]


@pytest.mark.slow
def test_two_ranks_agree_whoever_is_asked_and_whenever(tmp_path):
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    assert both(small(whole, *TWO)) == [0, 0]
    config = small(run_dir, *TWO)
    first_alone = (lambda: asks_in(Denoising, "training_step", signal.SIGTERM, 3), slow)
    assert both(config, *first_alone) == [CODE, CODE] and step_of(run_dir) == 2
    at_different_times = (
        lambda: asks_in(LastCheckpoint, "save", signal.SIGTERM),
        lambda: asks_in(SampleGrid, "on_validation_start", signal.SIGUSR1),
    )
    assert both(config, *at_different_times) == [CODE, CODE] and step_of(run_dir) == 3
    said = [line for line in (run_dir / "out.txt").read_text().splitlines() if line.startswith("preempted")]
    assert said == [f"preempted; run_dir={run_dir} goes on from the last checkpoint"] * 2, "one rank says it"

    alone = tmp_path / "alone"
    shutil.copytree(run_dir, alone)
    assert both(config) == [0, 0]
    ours, theirs = left_behind(run_dir), left_behind(whole)
    assert differing(ours, theirs) == []
    goes_on_alone(alone, theirs)


def goes_on_alone(run_dir, theirs):
    """Another number of ranks: the same samples, which is said to be inexact, and is."""
    alone = [*EVERYTHING, "trainer.accumulate_grad_batches=4"]
    few = small(run_dir, *EVERYTHING)
    with pytest.raises(
        ValueError, match=r"set data.batch_size or trainer.accumulate_grad_batches so that a step has 16"
    ):
        train(few)
    assert code_of(started(small(run_dir, *alone))) == 0
    said = (run_dir / "out.txt").read_text()
    assert "are 1 × 4 × 4 now: the same items in every step but other noise, so not exactly" in said
    assert "accumulated batches were 2 × 4 × 2 until step 3" in said
    ours = left_behind(run_dir)
    assert [line["step"] for line in ours["log"]] == [line["step"] for line in theirs["log"]]
    assert ours["log"][:4] == theirs["log"][:4] and ours["log"][4:] != theirs["log"][4:]
    assert differing(ours["last/state_dict"], theirs["last/state_dict"]), "negative control of the test above"


# --- one process ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_workers_outlive_signals_to_all_processes_of_the_job(tmp_path):
    config = small(tmp_path, "trainer.max_steps=10000", "validation.every=10000", "data.num_workers=2")
    child = started(config)
    while not (tmp_path / "metrics.jsonl").exists():
        time.sleep(0.02)
    for number in (signal.SIGUSR1, signal.SIGTERM):
        os.killpg(child, number)
    assert code_of(child) == CODE, (tmp_path / "out.txt").read_text()
    assert step_of(tmp_path) > 0


@pytest.mark.slow
def test_it_outlives_the_service_of_wandb(tmp_path):
    """SLURM's SIGTERM is for all processes of the job, and that one obeys at once."""
    seen = tmp_path / "ended"

    def everybody_is_asked(*args):
        children = {
            int(child) for path in Path("/proc/self/task").glob("*/children") for child in path.read_text().split()
        }
        for process in (os.getpid(), *children):
            os.kill(process, signal.SIGTERM)
        time.sleep(0.5)
        seen.write_text(" ".join(map(str, children)))

    config = small(tmp_path, *EVERYTHING, "logger=[jsonl,wandb]")
    arm = lambda: setattr(SampleGrid, "on_validation_start", everybody_is_asked)  # noqa: E731
    assert code_of(started(config, arm)) == CODE, (tmp_path / "out.txt").read_text()
    assert seen.read_text() and step_of(tmp_path) == 3


@pytest.mark.slow
def test_an_ablation_ends_with_the_job_that_was_asked(tmp_path):
    def asked():
        asks_in(Denoising, "training_step", signal.SIGTERM, 2)
        sys.exit(command("run.py", "-m", *line("logger=[jsonl]", "seed=0,1", f"hydra.sweep.dir={tmp_path / 'jobs'}")))

    assert code_of(forked(asked, tmp_path / "out.txt")) == CODE, (tmp_path / "out.txt").read_text()
    [only] = (tmp_path / "jobs").glob("*seed*")
    assert step_of(only) == 2 and "seed0" in only.name
    assert "goes on from the last checkpoint" in (tmp_path / "out.txt").read_text()


def test_a_time_limit_asks_by_itself(tmp_path):
    config = small(tmp_path, "trainer.max_steps=10000", "validation.every=10000", "callback.preemption.time_limit=1s")
    assert code_of(started(config)) == CODE, "this process is older than a second"


def test_without_the_callback_a_signal_is_obeyed_at_once(tmp_path):
    config = small(tmp_path, "trainer.max_steps=10000", "validation.every=10000")
    del config["callback"]["preemption"]
    assert code_of(started(config, lambda: asks_in(Denoising, "training_step", signal.SIGTERM, 3))) == CODE
    assert step_of(tmp_path) is None


def test_lightning_handles_no_signal_of_its_own(tmp_path):
    """In training and in validation all handlers are ours; before and after a run, whose they were."""
    seen, before = [], signal.getsignal(signal.SIGTERM)

    def looks(*args):
        seen.extend(signal.getsignal(number) for number in preemption.SIGNALS)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("on_train_batch_start", "on_validation_batch_start"):
            patch.setattr(Denoising, name, looks)
        train(small(tmp_path, "trainer.max_steps=1"))
    assert len(seen) == 2 * len(preemption.SIGNALS) and set(seen) == {preemption.NOTICE._on_signal}
    assert signal.getsignal(signal.SIGTERM) is before


def test_it_stands_beside_the_checkpoint(tmp_path):
    config = small(tmp_path)
    del config["callback"]["checkpoint"]
    with pytest.raises(ValueError, match="needs checkpoint beside it"):
        train(config)
    with pytest.raises(ValueError, match=r"callback.preemption.every is 0"):
        Preemption(every=0)


@pytest.mark.slow
def test_the_ranks_agree_every_so_many_steps(tmp_path):
    config = small(tmp_path, "trainer.max_steps=9", "validation.every=9", "callback.preemption.every=4")
    assert code_of(started(config, lambda: asks_in(Denoising, "training_step", signal.SIGTERM, 2))) == CODE
    assert step_of(tmp_path) == 4


@pytest.mark.parametrize(
    ("text", "found"),
    [("3h50m", 13800.0), ("45m", 2700.0), ("90s", 90.0), ("1h1s", 3601.0), (7200, 7200.0), (None, None)],
)
def test_a_time_limit_in_words(text, found):
    assert seconds(text) == found


@pytest.mark.parametrize("text", ["", "0", "0m", "3:50", "50m3h", "h", "-5", "3h 50m"])
def test_what_is_no_time_is_refused_with_its_key(text):
    with pytest.raises(ValueError, match=r"callback.preemption.time_limit is .*; legal are 3h50m, 45m, 90s"):
        Preemption(time_limit=text)


def test_a_notice_is_kept_until_it_is_to_be_obeyed():
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Preempted) as stop:
        notice = Notice()
        patch.setattr(os, "getpid", lambda pid=os.getpid(): pid)
        notice._on_signal(signal.SIGTERM, None)
        assert notice.given
        notice.obey()
    assert stop.value.code == CODE == 143


PROGRAM = """
import os, signal, sys
sys.path.insert(0, {root!r})
from unigen.launch.preemption import NOTICE, deafen
NOTICE.listen()
{middle}
import atexit
atexit.register(lambda: None)
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.parametrize(("middle", "given"), [("deafen()", 0), ("signal.signal(signal.SIGUSR1, signal.SIG_DFL)", -10)])
def test_a_late_signal_does_not_fail_a_finished_program(middle, given):
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(root=str(ROOT), middle=middle)], check=False)
    assert done.returncode == given


def test_a_script_that_a_test_runs_leaves_signals_as_they_were():
    """Else whatever a later test starts would be deaf, and SLURM or a pool of workers could not end it."""
    before = [signal.getsignal(number) for number in SIGNALS]
    with heard():
        deafen()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN, "negative control"
    assert [signal.getsignal(number) for number in SIGNALS] == before and signal.SIG_IGN not in before


# --- a person who stops it -----------------------------------------------------------------------------------------


@pytest.fixture
def person():
    """Ctrl-C is heard again in a child of a test run that ignores it, as one in the background does."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# What is pressed, in which call of the training step, and the step of last.ckpt then: the first Ctrl-C waits for the
# end of the step, the second one does not, and before training there is nothing to wait for.
PRESSED = [
    ("once", lambda: asks_in(Denoising, "training_step", signal.SIGINT, 3), 2, "goes on from the last checkpoint"),
    ("a closed terminal", lambda: asks_in(Denoising, "training_step", signal.SIGHUP, 3), 2, "goes on from the last"),
    ("twice", lambda: presses_twice(), None, "there is no checkpoint yet"),
    ("before training", lambda: asks_in(Denoising, "prepare", signal.SIGINT), None, "there is no checkpoint yet"),
    ("while it is measured", lambda: asks_in(training, "write_summary", signal.SIGINT), 8, "goes on from the last"),
]


def presses_twice():
    asks_in(Denoising, "training_step", signal.SIGINT)
    asks_in(Denoising, "on_before_backward", signal.SIGINT)


@pytest.mark.parametrize(("how", "press", "step", "said"), PRESSED, ids=[how for how, *_ in PRESSED])
def test_a_person_who_stops_it_loses_nothing(how, press, step, said, tmp_path, person):
    config = small(tmp_path, *EVERYTHING)
    assert code_of(started(config, press)) == (CODE if how == "a closed terminal" else INTERRUPTED)
    assert step_of(tmp_path) == step
    lines = [line for line in (tmp_path / "out.txt").read_text().splitlines() if line]
    assert lines[-1].startswith("preempted; " if how == "a closed terminal" else "interrupted; ") and said in lines[-1]
    assert ("Ctrl-C again stops at once" in "".join(lines)) == (how in ("once", "twice"))
    assert "Traceback" not in "".join(lines)


def test_nohup_and_the_background_keep_their_signals_ignored():
    """A shell's `&` has Ctrl-C ignored, nohup has SIGHUP: whoever asked for that wants the run to go on."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT)}
    try:
        with Notice().listening():
            assert [signal.getsignal(number) for number in before] == [signal.SIG_IGN] * 2
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
