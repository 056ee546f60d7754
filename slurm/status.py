"""Shows the progress of a sweep: for each task, SLURM's state and what the run's own files say."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from slurm.states import State, Submission, latest
from unigen.config.manifest import differing, read_manifest, run_folder
from unigen.config.values import ConfigError

if TYPE_CHECKING:
    from rich.console import Group

SUBMISSIONS = "submissions.jsonl"
TAIL = 2**16  # bytes at the end of metrics.jsonl in which the last loss is sought


class Progress(NamedTuple):
    """The progress of a run by its folder; step and loss are the last ones logged, None before that."""

    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    finished: bool = False


class Task(NamedTuple):
    """One line of the manifest. `state` is None where SLURM knows none: the task was not submitted, or long ago."""

    number: int
    words: str
    folder: Path
    submitted: bool
    job: str
    state: State | None
    progress: Progress

    @property
    def live(self) -> bool:
        return self.state is not None and self.state.live

    @property
    def open(self) -> bool:
        """True if the task is neither finished nor queued in SLURM; `retry` submits it."""
        return not self.progress.finished and not self.live


def read_sweep(folder: Path) -> list[Task]:
    """Every task of a sweep. Raises ConfigError if `folder` holds none, or SLURM does not answer."""
    lines, submissions = read_manifest(folder), read_submissions(folder)
    known = latest(submissions)
    sent = {task for submission in submissions for task in submission.tasks}
    return [
        Task(i, words, where := run_folder(line), i in sent, *known.get(i, ("", None)), progress(where))
        for i, (line, words) in enumerate(zip(lines, differing(lines), strict=True))
    ]


def read_submissions(folder: Path) -> list[Submission]:
    """Every call of sbatch for this sweep, in order. Raises ConfigError if their file cannot be read."""
    path = folder / SUBMISSIONS
    try:
        records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [Submission(str(said["job"]), said["name"], list(said["tasks"])) for said in records]
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise ConfigError(f"cannot read {path}: a line of it is {{job, name, tasks}}") from exc


def add_submission(folder: Path, submission: Submission) -> None:
    """Record a call of sbatch."""
    with open(folder / SUBMISSIONS, "a") as file:
        file.write(json.dumps(submission._asdict() | {"time": round(time.time())}) + "\n")


def progress(folder: Path) -> Progress:
    """Read the progress of a run from its files; a half-written or absent file gives None."""
    step = loss = None
    for line in reversed(_tail(folder / "metrics.jsonl")):
        try:
            said = json.loads(line)
            step = said["step"] if step is None else step
            loss = said["train/loss"]
            break
        except (ValueError, TypeError, KeyError):
            continue
    return Progress(step, _max_steps(folder / "config.yaml"), loss, (folder / "summary.json").is_file())


def _tail(path: Path) -> list[str]:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def _max_steps(path: Path) -> int | None:
    import yaml

    try:
        steps = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["trainer"]["max_steps"]
    except (OSError, TypeError, KeyError, yaml.YAMLError):
        return None
    return steps if isinstance(steps, int) else None


def word(task: Task) -> str:
    """The state of a task in words; the files' own evidence stands beside SLURM's."""
    state, finished = task.state, task.progress.finished
    if state is None:
        if finished:
            return "finished"
        return f"stopped: logs/{task.number}.log" if task.submitted else "not submitted"
    if state.word == "COMPLETED":
        return "COMPLETED" if finished else "COMPLETED, no summary.json"
    if not state.live:
        why = f" (signal {state.signal})" if state.signal else f" (exit {state.code})" if state.code else ""
        return state.word + why
    again = f", requeued {state.restarts}×" if state.restarts else ""
    waits = f" ({state.reason})" if state.word == "PENDING" and state.reason not in ("", "None") else ""
    return f"{state.word}{waits}{again}"


def counts(tasks: list[Task]) -> str:
    """One line with the numbers of finished, running, waiting and open tasks."""
    found: Mapping[str, int] = {
        "finished": sum(t.progress.finished for t in tasks),
        "running": sum(t.live and not t.progress.finished and t.state.word != "PENDING" for t in tasks),
        "waiting": sum(t.live and not t.progress.finished and t.state.word == "PENDING" for t in tasks),
        "to retry": sum(t.open for t in tasks),
    }
    return ", ".join(f"{count} {name}" for name, count in found.items() if count)


def table(folder: Path, tasks: list[Task]) -> Group:
    """The sweep as a table for the terminal: a line of counts, and a row for each task."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    made = Table()
    for name, side in (("task", "right"), ("overrides", "left"), ("state", "left"), ("step", "right")):
        made.add_column(name, justify=side)
    made.add_column("loss", justify="right")
    made.add_column("elapsed", justify="right")
    for task in tasks:
        at, of = task.progress.step, task.progress.steps
        step = "" if at is None and of is None else f"{at or 0:,} / {'?' if of is None else f'{of:,}'}"
        loss = "" if task.progress.loss is None else f"{task.progress.loss:.4g}"
        elapsed = task.state.elapsed if task.state else ""
        made.add_row(str(task.number), *map(Text, (task.words, word(task), step, loss, elapsed)))
    return Group(Text(f"{folder}: {counts(tasks)}", no_wrap=True, overflow="ignore"), made)
