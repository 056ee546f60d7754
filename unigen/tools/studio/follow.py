"""Follows runs while they write: their state, progress, curves, sample grids, and the end of their log."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unigen.evaluation.curves import TRAINING, WINDOW, Points, points_of, smoothed
from unigen.evaluation.runs import YAML, cleaned, read_tree
from unigen.launch.claims import holder
from unigen.tools.studio.places import images_below

LINES, TAIL = 40, 64 * 1024  # of a log: lines that are shown, bytes that are read for them


class State(NamedTuple):
    """How far a run is. `word` is running, finished or stopped; `most` is None where its configuration does not say."""

    word: str
    step: int
    most: int | None
    seconds: float | None
    holder: Mapping[str, Any] | None

    @property
    def words(self) -> str:
        of = "" if self.most is None else f" of {self.most:,}"
        left = ""
        if self.word == "running" and self.seconds and self.most and self.step < self.most:
            left = f", about {_spelt(self.seconds * (self.most - self.step))} to go"
        return f"{self.word}, step {self.step:,}{of}{left}"


def state_of(run: Path) -> State:
    """Return the state of a run folder; a file that is not there yet, or is damaged, is no error."""
    try:
        config = read_tree(run / "config.yaml", lambda text: _yaml(text))
    except ValueError:
        config = {}
    trainer = config.get("trainer")
    most = trainer.get("max_steps") if isinstance(trainer, dict) else None
    steps = _steps(run / "metrics.jsonl")
    held = holder(run)
    word = "running" if held else "finished" if (run / "summary.json").is_file() else "stopped"
    recent = steps[-20:]
    pace = None
    if len(recent) > 1 and recent[-1][0] > recent[0][0]:
        pace = (recent[-1][1] - recent[0][1]) / (recent[-1][0] - recent[0][0])
    return State(word, steps[-1][0] if steps else 0, most if type(most) is int else None, pace, held)


def _yaml(text: bytes) -> Any:
    import yaml

    return yaml.load(text, Loader=YAML)


def _steps(path: Path) -> list[tuple[int, float]]:
    """Return (step, unix time) of the last readable lines of a metrics.jsonl."""
    found = []
    for line in _tail(path).splitlines():
        try:
            said = json.loads(line)
            found.append((int(said["step"]), float(said.get("time", 0.0))))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
    return found


def _tail(path: Path, most: int = TAIL) -> bytes:
    """Return the last bytes of a file, or nothing if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - most))
            return file.read()
    except OSError:
        return b""


def log_of(run: Path, runs: Path) -> str:
    """Return the last lines of a run's log, which lies beside the folder as NAME.log or in it; "" without one."""
    places = [run.with_name(f"{run.name}.log"), *sorted(run.glob("*.log"))]
    for path in places:
        if path.is_file() and path.resolve().is_relative_to(runs.resolve()):
            lines = _tail(path).decode("utf-8", "replace").replace("\r", "\n").splitlines()
            return cleaned_lines([line for line in lines if line.strip()][-LINES:])
    return ""


def cleaned_lines(lines: Sequence[str]) -> str:
    """Return lines as text without control characters."""
    return "\n".join(cleaned(line) for line in lines)


def curves_of(run: Path) -> dict[str, Points]:
    """Return the curves of a run, the training loss as a mean over a window; {} while there are none."""
    try:
        found = points_of(run / "metrics.jsonl")
    except OSError:
        return {}
    return {name: smoothed(points, WINDOW if name == TRAINING else 0.0) for name, points in found.items()}


def curve_rows(runs: Mapping[str, Path], curve: str) -> list[tuple[int, float, str]]:
    """Return (step, value, run) of one curve of several runs."""
    found = {name: curves_of(path).get(curve, []) for name, path in runs.items()}
    return [(step, value, name) for name, points in found.items() for step, value in points]


def curve_names(runs: Mapping[str, Path]) -> list[str]:
    """Return the names of the curves that any of the runs has, the training loss first."""
    names = {name for path in runs.values() for name in curves_of(path)}
    return sorted(names, key=lambda name: (name != TRAINING, name))


def grids_of(run: Path) -> dict[str, Path]:
    """Return the sample grids of a run by name (step_000325), the newest last."""
    found = {path.stem: path for path in images_below(run, "samples/*.png")}
    return dict(sorted(found.items(), key=lambda each: (each[0] == "final", each[0])))


def shown_grids(runs: Mapping[str, Path], wanted: str | None) -> list[tuple[str, str]]:
    """Return (path, caption) of one grid of each run: `wanted`, or the newest where that is None or missing."""
    found = []
    for name, path in runs.items():
        grids = grids_of(path)
        if wanted is not None and wanted in grids:
            found.append((str(grids[wanted]), f"{name} · {wanted}"))
        elif grids and wanted is None:
            stem, file = list(grids.items())[-1]
            found.append((str(file), f"{name} · {stem}"))
    return found


def table_rows(runs: Mapping[str, Path]) -> list[list[str]]:
    """Return a row of text for each run: name, state, the last training loss, and how long ago it wrote."""
    rows = []
    for name, path in runs.items():
        state, points = state_of(path), curves_of(path).get(TRAINING, [])
        loss = f"{points[-1][1]:.4g}" if points else "–"
        rows.append([name, state.words, loss, _age(path / "metrics.jsonl")])
    return rows


def _age(path: Path) -> str:
    try:
        return f"{_spelt(time.time() - path.stat().st_mtime)} ago"
    except OSError:
        return "–"


def _spelt(seconds: float) -> str:
    """Return a duration in words: 40 s, 12 min, 3.5 h, 2 days."""
    for most, size, unit in ((90, 1, "s"), (5400, 60, "min"), (129600, 3600, "h")):
        if seconds < most:
            return f"{seconds / size:.1f} {unit}" if unit == "h" else f"{max(0, seconds) / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"
