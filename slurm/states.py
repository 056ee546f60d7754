"""Asks SLURM for the states of an array's tasks: scontrol, and sacct for those that scontrol has forgotten."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from unigen.config.values import ConfigError

# Every other state is of a task that is waiting or at work (PENDING, RUNNING, COMPLETING, REQUEUED, SUSPENDED, ...).
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    *("REVOKED", "TIMEOUT"),
}
REST = 4294967294  # scontrol's number for the tasks of an array that was cancelled before they had records of their own
SACCT = ("--noheader", "--parsable2", "--allocations", "--format=JobID,JobName,State,ExitCode,Elapsed")


class State(NamedTuple):
    """The state of one task: SLURM's word, exit code, elapsed time as SLURM writes it, reason to wait, number of
    requeues.

    `code` is the exit code of its last end; `signal` the signal that ended it, or 0.
    """

    word: str
    code: int = 0
    signal: int = 0
    elapsed: str = ""
    reason: str = ""
    restarts: int = 0

    @property
    def live(self) -> bool:
        return self.word not in ENDED


class Submission(NamedTuple):
    """One call of sbatch: SLURM's number for the array, its name there, and its tasks."""

    job: str
    name: str
    tasks: list[int]


def ask(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one of SLURM's programs. Raises ConfigError if it is not installed."""
    if shutil.which(program) is None:
        raise ConfigError(
            f"{program} is not found: run this where SLURM is, or bring up a private one: slurm/local_cluster.sh up"
        )
    return subprocess.run([program, *words], capture_output=True, text=True)


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a program of SLURM that failed, in one line; SLURM's own about no SLURM takes six."""
    if "configuration source" in done.stderr + done.stdout:
        return "no SLURM is configured here; set SLURM_CONF, or start one on this machine as docs/cluster.md shows"
    return " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"


def states(job: str, name: str) -> dict[int, State]:
    """Every task of the array `job` that SLURM remembers; none if the job of that number has another name.

    Raises:
        ConfigError: SLURM is not there or does not answer: then nobody knows what runs.
    """
    done = ask("scontrol", "show", "job", "--oneliner", job)
    if done.returncode == 0:
        found = parse_scontrol(done.stdout, name)
    elif "Invalid job id" in done.stderr + done.stdout:
        found = {}
    else:
        raise ConfigError(f"SLURM does not answer: {complaint(done)}")
    if shutil.which("sacct"):
        old = subprocess.run(["sacct", *SACCT, "--jobs", job], capture_output=True, text=True)
        if old.returncode == 0:  # it fails where no accounting is kept
            found = parse_sacct(old.stdout, name) | found
    return found


def parse_scontrol(text: str, name: str) -> dict[int, State]:
    """Parse the records of `scontrol show job --oneliner`. Waiting tasks share one record, as in ArrayTaskId=3-9%2."""
    found: dict[int, State] = {}
    for record in text.splitlines():
        fields: dict[str, str] = {}
        for key, value in re.findall(r"(\w+)=(\S*)", record):
            fields.setdefault(key, value)
        if fields.get("JobName") != name or "ArrayTaskId" not in fields:
            continue
        code, _, signal = fields.get("ExitCode", "0:0").partition(":")
        state = State(
            fields["JobState"],
            int(code),
            int(signal or 0),
            fields.get("RunTime", ""),
            fields.get("Reason", ""),
            int(fields.get("Restarts", 0)),
        )
        found |= dict.fromkeys(numbers(fields["ArrayTaskId"]), state)
    return found


def parse_sacct(text: str, name: str) -> dict[int, State]:
    """Parse the lines of sacct, with the fields of SACCT. Waiting tasks (27_[3-9]) are left to scontrol."""
    found: dict[int, State] = {}
    for line in text.splitlines():
        job, job_name, state, exit_code, elapsed, *_ = [*line.split("|"), "", "", "", "", ""]
        task = job.rpartition("_")[2]
        if job_name == name and "_" in job and task.isdigit() and state:
            code, _, signal = exit_code.partition(":")
            found[int(task)] = State(state.split()[0], int(code or 0), int(signal or 0), elapsed)
    return found


def numbers(spelt: str) -> list[int]:
    """Parse SLURM's "1,4-6%2" into [1, 4, 5, 6], and "0-8:4" into [0, 4, 8]."""
    found: list[int] = []
    for part in spelt.partition("%")[0].split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if match:
            first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
            found += range(first, last + 1, step)
    return found


def spelt(tasks: Iterable[int]) -> str:
    """Write [1, 4, 5, 6] as "1,4-6", as --array takes it."""
    runs: list[list[int]] = []
    for task in sorted(tasks):
        if runs and task == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], task]
        else:
            runs.append([task])
    return ",".join("-".join(map(str, run)) for run in runs)


def latest(submissions: Sequence[Submission]) -> dict[int, tuple[str, State]]:
    """{task: (job, state)} of the last submission that SLURM knows; a live one comes first.

    (An ended task of an earlier submission can be requeued by hand.)
    """
    found: dict[int, tuple[str, State]] = {}
    for job, name, tasks in submissions:
        known = states(job, name)
        for task in tasks:
            state = known.get(task, known.get(REST))
            if state and (state.live or task not in found or not found[task][1].live):
                found[task] = (job, state)
    return found
