"""Reads curves of training from metrics.jsonl, and smooths them for a drawing."""

import functools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unigen.config.files import json_lines
from unigen.evaluation.runs import UNREADABLE, Run, number

Points = list[tuple[int, float]]
TRAINING = "train/loss"  # shown as a mean over a window; val/ metrics are shown as they are
WINDOW = 0.05  # the window as a share of the points


def read_curves(run: Run) -> dict[str, Points]:
    """Return the points of the training loss and of every val/ metric by step, from a run's metrics.jsonl.

    A step's last line counts. Lines that cannot be read (the last one of a killed run is often cut off) are skipped;
    without the file the result is {}.
    """
    try:
        return points_of(run.path / "metrics.jsonl")
    except OSError:
        return {}


def points_of(path: Path) -> dict[str, Points]:
    """Return the same of a metrics.jsonl, of a run that is not finished too. Raises OSError without the file."""
    found = path.stat()
    return _read(path, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=4096)
def _read(path: Path, *version: int) -> dict[str, Points]:
    """Read the curves of a file, once for all formats of a report. Raises OSError."""
    points: dict[str, dict[int, float]] = {}
    for row in _rows(path.read_bytes().splitlines()):
        try:
            step = int(row["step"])
        except UNREADABLE:
            continue
        for name, value in row.items():
            if (name == TRAINING or name.startswith("val/")) and (value := number(value)) is not None:
                points.setdefault(name, {})[step] = value
    return {name: sorted(values.items()) for name, values in points.items()}


def _rows(lines: Sequence[bytes]) -> Iterator[Any]:
    if (found := json_lines(lines)) is not None:
        yield from found
        return
    for line in lines:
        try:
            yield json.loads(line)
        except UNREADABLE:
            continue


def smoothed(points: Points, share: float, most: int = 240) -> Points:
    """Return the means over a centred window of `share` of the points, thinned to about `most` points.

    At both ends the window is cut off.
    """
    total = [0.0]
    for _, value in points:
        total.append(total[-1] + value)
    half, last, result = int(len(points) * share / 2), len(points) - 1, []
    for i in sorted({*range(0, len(points), math.ceil(len(points) / most) or 1), max(last, 0)} if points else ()):
        start, stop = max(i - half, 0), min(i + half, last) + 1
        result.append((points[i][0], (total[stop] - total[start]) / (stop - start)))
    return result
