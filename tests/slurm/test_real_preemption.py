"""Preemption on a real two-node SLURM: requeued by itself, gone on in the same folder, and bit for bit the same run."""

import os
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from forked_runs import EVERYTHING, code_of, differing, finished, left_behind, two_ranks, uninterrupted
from local_cluster import ended, logs, run, wait_for
from small_runs import line, log, small
from tiny import CONF, ROOT

from slurm import commands
from slurm.status import progress, read_submissions, read_sweep

HELD = Path(__file__).with_name("held.py")
RANKS = ("strategy=ddp", "trainer.accelerator=cpu")
NODES = (*RANKS, "trainer.num_nodes=2", "trainer.devices=1")
LONG = ("trainer.max_steps=100", "validation.every=20", "callback.checkpoint.every=20")
PATIENCE = 400.0  # seconds for a start of a run; it takes 10 by itself

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="forks, and claims for the CPU alone"),
]


def program(path: Path, line: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def sweep(slurm_cluster, tmp_path):
    """Submits a sweep of a small run with these words, held in so many starts; returns its folder."""
    made = []

    def submit(*words: str, held: int = 0) -> Path:
        folder = tmp_path / f"sweep{len(made)}"
        own = ["cluster=local", f"hydra.sweep.dir={folder}", "hydra.sweep.subdir=run"]
        if held:
            program(tmp_path / "bin" / "scontrol", f'sleep 1; exec "{shutil.which("scontrol")}" "$@"')  # a busy SLURM
            start = f'PATH="{tmp_path}/bin:$PATH" exec "{sys.executable}" "{HELD}" "{folder}/held" {held} "$@"'
            own.append(f"cluster.python={program(tmp_path / f'python{len(made)}', start)}")
        made.append(folder)
        commands.submit(CONF, [*line("logger=[jsonl]", *EVERYTHING), *own, *words])
        return folder

    yield submit
    for folder in made:
        if (folder / commands.SCRIPT).exists():
            commands.cancel(folder)


def task_of(folder: Path):
    return read_sweep(folder)[0]


def job_of(folder: Path) -> str:
    return f"{read_submissions(folder)[0].job}_0"


def urgent(folder: Path) -> None:
    """A job that wants all processors of both nodes, at once; SLURM takes them from whoever has them."""
    words = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=4", "--output=/dev/null", "--wrap=true")
    run("sbatch", "--partition=urgent", *words)


def signalled(name: str, folder: Path) -> None:
    """All processes of the task get a signal."""
    run("scancel", f"--signal={name}", job_of(folder))


def to_the_last_rank(folder: Path) -> None:
    """One process alone gets the signal; the others have to hear of it from that one."""
    ours = {f"SLURM_ARRAY_JOB_ID={read_submissions(folder)[0].job}", f"SLURM_CONF={os.environ['SLURM_CONF']}"}
    found: dict[str, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            said = (process / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if ours <= set(said):
            found |= {word: int(process.name) for word in said if word.startswith("SLURM_PROCID=")}
    os.kill(found[max(found)], signal.SIGUSR1)


def held_again(folder: Path, times: int) -> None:
    wait_for(lambda: (folder / "held").exists() and len((folder / "held").read_text().split()) == times, PATIENCE,
             said=lambda: logs(folder))  # fmt: skip


def ended_well(folder: Path, restarts: int) -> None:
    (task,) = wait_for(lambda: ended(folder), PATIENCE, said=lambda: logs(folder))
    assert (task.state.word, task.state.code, task.state.restarts) == ("COMPLETED", 0, restarts), logs(folder)
    said = re.findall(r"preempted; .* (?:checkpoint|yet); job (\S+) is requeued\n", logs(folder))
    assert said == [job_of(folder)] * restarts, logs(folder)


def test_asked_by_a_signal_then_by_an_urgent_job_it_ends_as_if_it_had_not_been(sweep):
    """One folder, one identity at W&B, a line for every step, and every bit of weights and results."""
    folder = sweep("logger=[jsonl,wandb]", held=2)
    whole = uninterrupted()
    held_again(folder, 1)
    signalled("USR1", folder)
    held_again(folder, 2)
    assert log(folder / "run")[-1]["step"] == 3, "it went on from step 2"
    urgent(folder)
    ended_well(folder, restarts=2)
    assert differing(left_behind(folder / "run"), whole) == []
    parts = list(folder.glob("run/wandb/offline-run-*"))
    assert len(parts) == 3 and {part.name.rpartition("-")[2] for part in parts} == {
        (folder / "run" / "wandb" / "run_id").read_text()
    }


def test_two_nodes_agree_although_the_signal_finds_one_of_them_waiting_for_the_other(sweep, tmp_path):
    """Rank 1 stands in an all-reduce, where Python handles no signal, until rank 0 has handled its own."""
    folder = sweep(*NODES, held=1)
    config = small(tmp_path / "whole", *EVERYTHING, *RANKS, "trainer.devices=2")
    assert [code_of(child, PATIENCE) for child in two_ranks(config)] == [0, 0]
    held_again(folder, 1)
    signalled("USR1", folder)
    ended_well(folder, restarts=1)
    assert differing(left_behind(folder / "run"), left_behind(tmp_path / "whole")) == []
    assert differing(left_behind(folder / "run"), uninterrupted()), "negative control: two ranks see other samples"


PATIENT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from unigen.launch.preemption import CODE, NOTICE, farewell
NOTICE.listen()
NOTICE.requeue = True
with open({mark!r}, "a") as mark:
    print("held", file=mark)
while not NOTICE.given:
    time.sleep(0.05)
farewell(Path("run"), saved=True)
sys.exit(CODE)
"""


def test_a_task_that_is_cancelled_stays_so_and_one_that_is_asked_comes_back(sweep, tmp_path):
    """Both are sent SIGTERM. A program with nothing but our signals and our farewell."""
    (tmp_path / "patient.py").write_text(PATIENT.format(root=str(ROOT), mark=str(tmp_path / "sweep0" / "held")))
    python = program(tmp_path / "patient", f'exec "{sys.executable}" "{tmp_path}/patient.py"')
    folder = sweep(f"cluster.python={python}")
    held_again(folder, 1)
    signalled("TERM", folder)
    held_again(folder, 2)
    assert commands.cancel(folder) == ["cancelled: task 0"]
    wait_for(
        lambda: f"; job {job_of(folder)} is not requeued: SLURM itself ends it" in logs(folder),
        said=lambda: logs(folder),
    )
    (task,) = wait_for(lambda: ended(folder), said=lambda: logs(folder))
    assert (task.state.word, task.state.code, task.state.restarts) == ("CANCELLED", 143, 1) and task.open


WAYS = {
    "SIGUSR1": partial(signalled, "USR1"),
    "SIGTERM": partial(signalled, "TERM"),
    "SIGUSR1 to one rank": to_the_last_rank,
    "an urgent job": urgent,
}


def preempted(folder: Path, most: int, rng: random.Random) -> list[str]:
    """Preempts a task in random ways, a few steps after each start, until it ends or that often; the ways."""
    ways: list[str] = []
    over = (folder / "run" / "summary.json").exists

    def step() -> int:
        return progress(folder / "run").step or 0

    while len(ways) < most:
        goal = step() + rng.randint(1, 6)
        wait_for(lambda: over() or step() >= goal, PATIENCE, said=lambda: logs(folder))
        if over():
            break
        way = rng.choice(list(WAYS))
        WAYS[way](folder)
        wait_for(lambda: over() or task_of(folder).state.restarts > len(ways), PATIENCE, said=lambda: logs(folder))
        if over():
            break
        ways.append(way)
    return ways


@pytest.mark.parametrize("nodes", [1, 2])
def test_ten_preemptions_lose_no_step_and_hang_nowhere(nodes, sweep, tmp_path, capsys):
    """As `pytest -m slow tests/slurm`: ten on one device, ten on two nodes."""
    began, rng, runs, ways = time.monotonic(), random.Random(nodes), 0, []
    config = small(tmp_path / "whole", *EVERYTHING, *LONG, *((*RANKS, "trainer.devices=2") if nodes == 2 else ()))
    if nodes == 2:
        assert [code_of(child, PATIENCE) for child in two_ranks(config)] == [0, 0]
    else:
        finished(config)
    whole = left_behind(tmp_path / "whole")
    while len(ways) < 10:
        folder = sweep(*LONG, *(NODES if nodes == 2 else ()))
        now = preempted(folder, 10 - len(ways), rng)
        ended_well(folder, restarts=len(now))
        assert differing(left_behind(folder / "run"), whole) == [], f"run {runs} of {nodes} nodes"
        ways, runs = ways + now, runs + 1
    with capsys.disabled():
        told = ", ".join(f"{count} by {way}" for way, count in Counter(ways).items())
        minutes = (time.monotonic() - began) / 60
        print(f"\n{nodes} nodes: {len(ways)} preemptions ({told}) of {runs} runs of 100 steps; {minutes:.1f} minutes")
