"""What a preempted run asks of SLURM as its last act, and what it does not: with stand-ins for SLURM's programs."""

import io
import os
import signal
from pathlib import Path

import pytest

from unigen.launch import preemption
from unigen.launch.preemption import job_id


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "9"}, "9"),
        ({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}, "7_0"),
    ],
)
def test_what_slurm_calls_the_job(environment, name):
    assert job_id(environment) == name


@pytest.mark.parametrize("stub", ["exit 1", None])
def test_a_job_that_is_not_requeued_says_so(stub, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(preemption.NOTICE, "requeue", True)
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("PATH", str(tmp_path))
    if stub:
        for name in ("squeue", "scontrol"):
            (tmp_path / name).write_text(f"#!/bin/sh\necho no such job >&2\n{stub}\n")
            (tmp_path / name).chmod(0o755)
    preemption.farewell(tmp_path, saved=True)
    said = capfd.readouterr().err
    assert "; job 9 could not be requeued (" in said and ("no such job" in said) == bool(stub)


def slurm_says(folder: Path, squeue: str, scontrol: str, monkeypatch) -> None:
    """In job 9, these lines of shell stand in for SLURM's programs."""
    monkeypatch.setattr(preemption.NOTICE, "requeue", True)
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name, does in (("squeue", squeue), ("scontrol", scontrol)):
        (folder / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("state", "requeued"),
    [("RUNNING 0:10", True), ("COMPLETING 0:10", False), ("COMPLETING UNLIMITED", False), ("COMPLETING 0:00", True),
     ("COMPLETING INVALID", True), ("", True)],
)  # fmt: skip
def test_a_job_that_was_cancelled_stays_so(state, requeued, tmp_path, monkeypatch, capfd):
    """One that SLURM ends because its time is up does not; nor one of which it says nothing."""
    slurm_says(tmp_path, f"echo {state}", f"echo $1 $2 >> {tmp_path}/asked", monkeypatch)
    preemption.farewell(tmp_path, saved=True)
    assert (tmp_path / "asked").exists() == requeued
    assert ("; job 9 is requeued" if requeued else "; job 9 is not requeued: SLURM") in capfd.readouterr().err


def test_slurm_is_asked_whatever_signal_arrives_meanwhile(tmp_path, monkeypatch, capfd):
    """Another rank that has left makes SLURM send SIGTERM to this one, and to its scontrol."""
    slurm_says(tmp_path, "echo RUNNING 0:10", "kill -TERM $$ $PPID", monkeypatch)
    before = signal.getsignal(signal.SIGTERM)
    preemption.farewell(tmp_path, saved=True)
    assert "; job 9 is requeued" in capfd.readouterr().err and signal.getsignal(signal.SIGTERM) is before


def test_the_farewell_is_one_write_with_its_end_of_line(tmp_path, monkeypatch):
    """SLURM appends its own lines to the log between any two writes of ours."""
    writes = []
    monkeypatch.setattr(preemption.NOTICE, "requeue", False)
    monkeypatch.setattr("sys.stderr", Writes(writes))
    preemption.farewell(tmp_path, saved=False)
    assert writes == ["preempted; there is no checkpoint yet\n"]
    print("negative control", file=Writes(writes))
    assert len(writes) == 3


class Writes(io.StringIO):
    """Appends each piece of text that is written to a list."""

    def __init__(self, pieces: list[str]) -> None:
        super().__init__()
        self.pieces = pieces

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return len(text)
