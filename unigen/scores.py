"""scores.jsonl: what every held-out item scored in a run, one JSON object a line, for statistics over items."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unigen.files import json_lines, write_text

FILE = "scores.jsonl"
FACTS = {"item", "image", "key", "seed"}  # what a line says of the item itself; all else are metrics


def split(measured: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """What a learner measured without the scores of single items (`each` of a metric), and those by metric."""
    metrics = {name: dict(metric) for name, metric in measured["metrics"].items()}
    each = {name: metric.pop("each", None) for name, metric in metrics.items()}
    return {**measured, "metrics": metrics}, {name: scores for name, scores in each.items() if scores}


def write_scores(folder: Path, each: Mapping[str, Sequence[float]]) -> None:
    """`folder`/scores.jsonl: {"item": place in the test split, metric: score} a line; no file without scores.

    All runs of one protocol have the same items in the same order. A score that is not finite is null.
    """
    lines = [{"item": i} for i in range(max(map(len, each.values()), default=0))]
    for name, scores in each.items():
        for line, score in zip(lines, scores, strict=False):
            line[name] = score if math.isfinite(score) else None
    if lines:
        write_text(folder / FILE, "".join(json.dumps(line) + "\n" for line in lines))


def read_scores(folder: Path) -> dict[str, list[float | None]]:
    """The scores by metric, {} if the run kept none. Raises ValueError, one sentence, if the file is not whole.

    A score is a finite number or null. After a line that lacks a metric there may be no other score of it: that would
    be taken for the score of another item.
    """
    try:
        lines = (folder / FILE).read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ValueError(f"{FILE} cannot be read: {error.strerror or error}") from None
    found: dict[str, list[float | None]] = {}
    whole = json_lines(lines)
    for i, line in enumerate(lines):
        try:
            for name, score in (json.loads(line) if whole is None else whole[i]).items():
                if name in FACTS:
                    continue
                if len(found.setdefault(name, [])) != i:
                    raise ValueError("a line above has no score of this metric")
                found[name].append(_score(score))
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            raise ValueError(f"{FILE}, line {i + 1}, is no item's scores (is the file whole?)") from None
    return found


def _score(value: object) -> float | None:
    """A score as it was written. Raises ValueError for what is no finite number, OverflowError for a huge one."""
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no score")
    return float(value)
