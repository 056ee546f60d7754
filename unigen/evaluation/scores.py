"""scores.jsonl: the scores of every held-out item of a run, one JSON object a line, for statistics over items."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unigen.config.files import json_lines, write_text
from unigen.evaluation.clusters import Clusters

FILE = "scores.jsonl"
FACTS = {
    "item",
    "image",
    "key",
    "seed",
    "clusters",
    "targets",
}  # the keys of a line that are about the item itself; all others are metrics


class Scores(NamedTuple):
    """The scores of single items by metric, and the clusters of the items (None without any item)."""

    each: dict[str, list[float | None]]
    clusters: Clusters | None


def split(measured: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, list[float]], list[dict[str, Any]]]:
    """Split a learner's measurement into a summary, the scores of single items by metric, and a line for each item.

    The scores come from `each` of a metric. A line holds an item's key and clusters (from `of_items`) and the scores of
    its targets; there are no lines if neither is known.
    """
    metrics = {name: dict(metric) for name, metric in measured["metrics"].items()}
    each = {name: metric.pop("each", None) for name, metric in metrics.items()}
    rest = {key: value for key, value in measured.items() if key != "of_items"}
    kept = {name: scores for name, scores in each.items() if scores}
    lines = [dict(line) for line in measured.get("of_items", ())]
    for name, metric in metrics.items():
        if "targets" in metric:
            lines = lines or [{} for _ in kept[name]]
            metric["targets"] = add_targets(lines, name, metric["targets"])
    return {**rest, "metrics": metrics}, kept, lines


def add_targets(
    lines: Sequence[dict[str, Any]], metric: str, targets: Mapping[str, Mapping[str, Any]]
) -> dict[str, float | None]:
    """Add each item's scores of single targets to its line, {"targets": {slot: {metric: score}}}; return the means.

    `targets` is that of a metric (`unigen.evaluation.scoring.measured`). The means are {slot: value}.
    """
    for slot, found in targets.items():
        for line, score in zip(lines, found["each"], strict=True):
            if score is not None:  # None: the item does not have this target
                finite = score if math.isfinite(score) else None
                line.setdefault("targets", {}).setdefault(slot, {})[metric] = finite
    return {slot: found["value"] for slot, found in targets.items()}


def write_scores(folder: Path, each: Mapping[str, Sequence[float]], of_items: Sequence[Mapping[str, Any]] = ()) -> None:
    """Write `folder`/scores.jsonl with a line for each item; write no file if there are no scores.

    A line is {"item": place in the test split, "key": ..., "clusters": {way: name}, metric: score}. Its entries besides
    the scores come from `of_items`, also "targets", {slot: {metric: score}}, for items with several targets. All runs
    of one protocol have the same items in the same order. A score that is not finite is null.
    """
    count = max(map(len, each.values()), default=0)
    lines = [{"item": i, **(of_items[i] if len(of_items) == count else {})} for i in range(count)]
    for name, scores in each.items():
        for line, score in zip(lines, scores, strict=False):
            line[name] = score if math.isfinite(score) else None
    if lines:
        write_text(folder / FILE, "".join(json.dumps(line) + "\n" for line in lines))


def read_scores(folder: Path) -> Scores:
    """Read the scores by metric, none if the run kept none. Raises ValueError, in one sentence, for a damaged file.

    A score is a finite number or null. If a line lacks a metric, later lines must lack it too, since a later score
    would be taken for that of another item.
    """
    try:
        lines = (folder / FILE).read_bytes().splitlines()
    except FileNotFoundError:
        return Scores({}, None)
    except OSError as error:
        raise ValueError(f"{FILE} cannot be read: {error.strerror or error}") from None
    found: dict[str, list[float | None]] = {}
    facts: list[dict[str, Any]] = []
    whole = json_lines(lines)
    for i, line in enumerate(lines):
        try:
            said = json.loads(line) if whole is None else whole[i]
            for name, score in said.items():
                if name in FACTS:
                    continue
                if len(found.setdefault(name, [])) != i:
                    raise ValueError("a line above has no score of this metric")
                found[name].append(_score(score))
            facts.append(_facts(said))
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            raise ValueError(f"{FILE}, line {i + 1}, does not hold an item's scores (is the file damaged?)") from None
    return Scores(found, clusters_of(facts))


def clusters_of(facts: Sequence[Mapping[str, Any]]) -> Clusters | None:
    """Return the clusters of items from their lines.

    Older files have no clusters: then items are grouped by the part of their keys before the first "/", which is the
    glyph or the subject; without keys each item is a cluster of its own.
    """
    if not facts:
        return None
    ways = facts[0].get("clusters", {})
    if ways and all(line.get("clusters", {}).keys() == ways.keys() for line in facts):
        return Clusters(tuple(ways), tuple(tuple(line["clusters"][way] for line in facts) for way in ways))
    if all("key" in line for line in facts):
        return Clusters(("key",), (tuple(line["key"].partition("/")[0] for line in facts),), told=False)
    return Clusters.single(len(facts))


def _facts(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return the key and the clusters of a line. Raises TypeError if they are not text."""
    said = {name: line[name] for name in ("key", "clusters") if name in line}
    words = [said.get("key", ""), *said.get("clusters", {}).values()]
    if not all(isinstance(word, str) for word in words):
        raise TypeError("a key or a cluster is no text")
    return said


def _score(value: object) -> float | None:
    """Return a score as a float, or None. Raises ValueError or OverflowError if it is not a finite number."""
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no score")
    return float(value)
