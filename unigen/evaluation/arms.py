"""Groups runs into arms, decides which arms can be compared, and collects their numbers by seed.

An *arm* is the runs of one name and configuration that differ in nothing but the seed and what is measured: a metric
under two protocols stands in two columns (`apart_by_card`), so it takes no arm apart.
"""

import os
import statistics
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from unigen.evaluation.runs import Get, Run, number, shown

OFF = "null"  # what a key says that a run of before the key does not have
MEASURED = "metric."
HASH = " @"  # separates a metric from the start of its protocol card's hash, if a report has several cards of it


class Arm(NamedTuple):
    label: str
    runs: list[Run]


def group_arms(runs: list[Run]) -> list[Arm]:
    """Return the arms in the order of their first run; arms of one name get settings or a folder in their label."""
    by_config: dict[Any, list[Run]] = {}
    for run in runs:
        by_config.setdefault((run.summary["name"], *treatment(run)), []).append(run)
    by_name: dict[str, list[list[Run]]] = {}
    for group in by_config.values():
        by_name.setdefault(group[0].summary["name"], []).extend(without_repeats(group))
    arms = []
    for name, groups in by_name.items():
        keys = differing([dict(treatment(group[0])) for group in groups])[:3]
        texts = [", ".join(f"{short(k)}={group[0].config.get(k, OFF)}" for k in keys) for group in groups]
        for text, group in zip(texts, groups, strict=True):
            folder = os.path.commonpath([run.folder for run in group]) if texts.count(text) > 1 else ""
            detail = "; ".join(filter(None, (text, folder)))
            arms.append(Arm(f"{name} ({detail})" if detail else name, group))
    order = {id(run): i for i, run in enumerate(runs)}
    return sorted(arms, key=lambda arm: order[id(arm.runs[0])])


def treatment(run: Run) -> list[tuple[str, str]]:
    """Return what a run was given, in order, without what it measures and without keys that are off."""
    return sorted((k, v) for k, v in run.config.items() if v not in (OFF, "{}") and not k.startswith(MEASURED))


def short(key: str) -> str:
    """Return the last two parts of a config key: weights.condition, blank.train."""
    return ".".join(key.split(".")[-2:])


def without_repeats(runs: list[Run]) -> list[list[Run]]:
    """Split runs by parent folder, or else one by one, until no part has a seed twice: a repeat is no new seed."""
    if len({run.summary["seed"] for run in runs}) == len(runs):
        return [runs]
    parents: dict[Path, list[Run]] = {}
    for run in runs:
        parents.setdefault(run.path.parent, []).append(run)
    return [[r] for r in runs] if len(parents) == 1 else [p for g in parents.values() for p in without_repeats(g)]


def differing(configs: list[dict[str, str]]) -> list[str]:
    """Return the keys that do not have the same value in all configs; those of before a key have it off."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({config.get(key, OFF) for config in configs}) > 1]


# what may stand side by side ------------------------------------------------------------------------------------------


def incomparable(arms: list[Arm]) -> dict[int, str]:
    """Return {index of an arm: reason why it cannot be compared}: another task, number of steps or protocol."""
    own_seed = own_seeds(arms)
    facts: list[dict[str, str]] = []
    for arm in arms:
        seen: dict[str, set[str]] = {}
        for summary in (run.summary for run in arm.runs):
            carded = any("protocol_hash" in metric for metric in summary["metrics"].values())
            left_out = {"seed"} if own_seed else set()
            left_out |= {k for k in summary["protocol"] if carded and k.startswith("metric.")}  # see apart_by_card
            protocol = {f"protocol '{k}'": v for k, v in summary["protocol"].items() if k not in left_out}
            for key, value in {"task": summary.get("task"), "training steps": summary["steps"], **protocol}.items():
                seen.setdefault(key, set()).add(shown(value))
        facts.append({key: " / ".join(sorted(values)) for key, values in seen.items()})
    reasons: dict[int, list[str]] = {}
    for key in dict.fromkeys(key for fact in facts for key in fact):
        values = [fact.get(key, "absent") for fact in facts]
        usual, count = Counter(values).most_common(1)[0]
        for i, value in enumerate(values):
            if 2 * count <= len(values) or " / " in value:
                reasons.setdefault(i, []).append(f"{key} {value} (arms or seeds differ)")
            elif value != usual:
                reasons.setdefault(i, []).append(f"{key} {value}, {usual} in most arms")
    return {i: "; ".join(texts) for i, texts in reasons.items()}


def own_seeds(arms: list[Arm]) -> bool:
    """Return True if every run was sampled with its own seed, which is then no difference of protocols."""
    return all(r.summary["protocol"].get("seed") == r.summary["seed"] for arm in arms for r in arm.runs)


def apart_by_card(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """Split every metric that has several protocol cards into one metric a card; return the runs, and sentences.

    A card is identified by its hash, `protocol_hash` in the summary's metric; a missing hash counts as another card.
    """
    owners: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        for name, metric in run.summary["metrics"].items():
            if number(metric.get("value")) is not None:
                owners.setdefault(name, {}).setdefault(card(metric), []).append(run.folder)
    several = {name: found for name, found in owners.items() if len(found) > 1}
    notes = []
    for name, found in several.items():
        who = "; ".join(f"{mark or 'no card'}: {', '.join(folders)}" for mark, folders in found.items())
        notes.append(f"{name} was taken under {len(found)} protocol cards, which are not put in one column ({who}).")
    return [run._replace(summary=run.summary | {"metrics": renamed(run, several)}) for run in runs], notes


def card(metric: dict[str, Any]) -> str:
    """Return the start of the hash of a metric's protocol card, "" if the run has none."""
    return shown(metric.get("protocol_hash") or "")[:8]


def renamed(run: Run, several: dict[str, Any]) -> dict[str, Any]:
    metrics = run.summary["metrics"]
    return {f"{name}{HASH}{card(m) or 'no card'}" if name in several else name: m for name, m in metrics.items()}


def variants(metric: str, names: list[str]) -> list[str]:
    """Return the names of this metric under each of its cards, or its own name if it has one card."""
    return [name for name in names if name == metric or name.startswith(metric + HASH)] or [metric]


def reasons(arms: list[Arm]) -> list[str]:
    """Return sentences on metrics that are absent, with the reasons, and on subjects that were not found."""
    said: dict[str, dict[str, None]] = {}
    for arm in arms:
        for run in arm.runs:
            for name, metric in run.summary["metrics"].items():
                if number(metric.get("value")) is None:
                    why = shown(metric.get("reason") or f"the run says {shown(metric.get('value'))} and no reason")
                    said.setdefault(f"{name} is absent: {why}", {})[run.folder] = None
                if (missed := number(metric.get("undetected"))) is not None and missed > 0:
                    text = f"{name}: no subject found in {missed:g} of {shown(metric.get('items'))} images"
                    said.setdefault(f"{text}, which count whole", {})[run.folder] = None
            if not run.summary["metrics"]:
                said.setdefault("no metrics at all", {})[run.folder] = None
    return [f"{text} ({', '.join(folders)})." for text, folders in said.items()]


# numbers ---------------------------------------------------------------------------------------------------------


class Stat(NamedTuple):
    """The mean over seeds, the sample standard deviation (0 for one seed) and the number of seeds."""

    mean: float
    std: float
    seeds: int


def over_seeds(arm: Arm, get: Get) -> Stat | None:
    """Return the mean and the spread of a value over the runs that have it; None if no run has it."""
    values = [value for run in arm.runs if (value := number(get(run.summary))) is not None]
    if not values:
        return None
    return Stat(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))


def by_seed(arm: Arm, metric: str) -> dict[int, float]:
    """Return {seed: value} of a metric, for the runs that have it."""
    values = {run.summary["seed"]: number(run.summary["metrics"].get(metric, {}).get("value")) for run in arm.runs}
    return {seed: value for seed, value in values.items() if value is not None}


def metric_directions(arms: list[Arm]) -> dict[str, str]:
    """Return {metric: "higher", "lower" or ""}, in the order of the summaries."""
    directions: dict[str, str] = {}
    for arm in arms:
        for run in arm.runs:
            for name, metric in run.summary["metrics"].items():
                directions.setdefault(name, shown(metric.get("better") or ""))
    return directions
