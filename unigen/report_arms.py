"""Runs in, arms out: what belongs together in a report, what may stand side by side, and the numbers by seed.

An *arm* is the runs of one name and configuration that differ in nothing but the seed.
"""

import os
import re
import statistics
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from unigen.report_evaluations import sheets
from unigen.report_runs import Get, Run, number, shown

HASH = " @"  # between a metric and the start of its protocol card's hash, where one report holds several cards


class Arm(NamedTuple):
    label: str
    runs: list[Run]


class Grids(NamedTuple):
    """The sample grids of one seed: (caption, newest PNG) of each arm that has one, and the arms that have none."""

    seed: int
    pictures: list[tuple[str, Path]]
    without: list[str]


def group_arms(runs: list[Run]) -> list[Arm]:
    """Arms in the order of their first run. Namesakes are told apart by their settings, or else by their folder."""
    by_config: dict[Any, list[Run]] = {}
    for run in runs:
        by_config.setdefault((run.summary["name"], *sorted(run.config.items())), []).append(run)
    by_name: dict[str, list[list[Run]]] = {}
    for group in by_config.values():
        by_name.setdefault(group[0].summary["name"], []).extend(without_repeats(group))
    arms = []
    for name, groups in by_name.items():
        keys = differing([group[0].config for group in groups])[:3]
        texts = [", ".join(f"{short(k)}={group[0].config.get(k, 'absent')}" for k in keys) for group in groups]
        for text, group in zip(texts, groups, strict=True):
            folder = os.path.commonpath([run.folder for run in group]) if texts.count(text) > 1 else ""
            detail = "; ".join(filter(None, (text, folder)))
            arms.append(Arm(f"{name} ({detail})" if detail else name, group))
    order = {id(run): i for i, run in enumerate(runs)}
    return sorted(arms, key=lambda arm: order[id(arm.runs[0])])


def short(key: str) -> str:
    """The end of a config key that says what it is of: weights.condition, blank.train."""
    return ".".join(key.split(".")[-2:])


def without_repeats(runs: list[Run]) -> list[list[Run]]:
    """The runs cut by parent folder, or else one by one, until no part holds a seed twice: a repeat is no new seed."""
    if len({run.summary["seed"] for run in runs}) == len(runs):
        return [runs]
    parents: dict[Path, list[Run]] = {}
    for run in runs:
        parents.setdefault(run.path.parent, []).append(run)
    return [[r] for r in runs] if len(parents) == 1 else [p for g in parents.values() for p in without_repeats(g)]


def differing(configs: list[dict[str, str]]) -> list[str]:
    """Keys that do not have one value in all configs."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({config.get(key) for config in configs}) > 1]


# what may stand side by side ------------------------------------------------------------------------------------------


def incomparable(arms: list[Arm]) -> dict[int, str]:
    """Index of an arm -> why its numbers cannot stand beside the others': another task, step count or protocol."""
    own_seed = all(r.summary["protocol"].get("seed") == r.summary["seed"] for arm in arms for r in arm.runs)
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


def apart_by_card(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """The runs with every metric that was taken under several protocol cards cut into one metric a card; sentences.

    A card is known by its hash, `protocol_hash` in the summary's metric; no hash is a card of its own beside others.
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
    """The start of the hash of a metric's protocol card, "" where the run does not tell."""
    return shown(metric.get("protocol_hash") or "")[:8]


def renamed(run: Run, several: dict[str, Any]) -> dict[str, Any]:
    metrics = run.summary["metrics"]
    return {f"{name}{HASH}{card(m) or 'no card'}" if name in several else name: m for name, m in metrics.items()}


def variants(metric: str, names: list[str]) -> list[str]:
    """The metric of this name under each of its cards; itself where there is none."""
    return [name for name in names if name == metric or name.startswith(metric + HASH)] or [metric]


def reasons(arms: list[Arm]) -> list[str]:
    """Why metrics are absent: the reason that the run gives beside null, or that it gives none; what was not found."""
    said: dict[str, dict[str, None]] = {}
    for arm in arms:
        for run in arm.runs:
            for name, metric in run.summary["metrics"].items():
                if number(metric.get("value")) is None:
                    why = shown(metric.get("reason") or f"the run says {shown(metric.get('value'))} and no reason")
                    said.setdefault(f"{name} is absent: {why}", {})[run.folder] = None
                if (missed := number(metric.get("undetected"))) is not None and missed > 0:
                    text = f"{name}: no subject found in {missed:g} of {shown(metric.get('items'))} pictures"
                    said.setdefault(f"{text}, which count whole", {})[run.folder] = None
            if not run.summary["metrics"]:
                said.setdefault("no metrics at all", {})[run.folder] = None
    return [f"{text} ({', '.join(folders)})." for text, folders in said.items()]


# numbers and pictures -------------------------------------------------------------------------------------------------


class Stat(NamedTuple):
    """Mean over seeds, sample standard deviation (0 for one seed) and the number of seeds."""

    mean: float
    std: float
    seeds: int


def over_seeds(arm: Arm, get: Get) -> Stat | None:
    """Mean and spread of a number over the runs that have it."""
    values = [value for run in arm.runs if (value := number(get(run.summary))) is not None]
    if not values:
        return None
    return Stat(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))


def by_seed(arm: Arm, metric: str) -> dict[int, float]:
    """The value of a metric by the seed of the run, for the runs that have it."""
    values = {run.summary["seed"]: number(run.summary["metrics"].get(metric, {}).get("value")) for run in arm.runs}
    return {seed: value for seed, value in values.items() if value is not None}


def metric_directions(arms: list[Arm]) -> dict[str, str]:
    """Metric names in the order of the summaries, each with "higher", "lower" or ""."""
    directions: dict[str, str] = {}
    for arm in arms:
        for run in arm.runs:
            for name, metric in run.summary["metrics"].items():
                directions.setdefault(name, shown(metric.get("better") or ""))
    return directions


def pick_grids(arms: list[Arm]) -> list[Grids]:
    """The seed that most arms have pictures of, so that they can be compared; then others for arms without that one."""
    found = [arm_grids(arm) for arm in arms]
    counts = Counter(seed for grids in found for seed in grids)
    picked, open_arms = [], {i for i, grids in enumerate(found) if grids}
    for seed in sorted(counts, key=lambda seed: (-counts[seed], seed)):
        if having := {i for i in open_arms if seed in found[i]}:
            open_arms -= having
            pictures = [picture for grids in found for picture in grids.get(seed, ())]
            without = [arm.label for arm, grids in zip(arms, found, strict=True) if seed not in grids]
            picked.append(Grids(seed, pictures, without))
    return picked


def arm_grids(arm: Arm) -> dict[int, list[tuple[str, Path]]]:
    """(caption, PNG) by seed: the newest grid of a run, or the sheets of its evaluations."""
    grids = {}
    for run in arm.runs:
        who, steps = f"{arm.label} · seed {run.summary['seed']}", {}
        if not run.evaluations:
            steps = {p: int((re.findall(r"\d+", p.stem) or [-1])[-1]) for p in (run.path / "samples").glob("*.png")}
        found = [(f"{who} · {path.parent.name}", path) for _, path in sheets(run)]
        if steps:
            newest = max(steps, key=lambda p: (p.stem == "final", steps[p], p.name))
            step = run.summary["steps"] if newest.stem == "final" else steps[newest]
            found.append((f"{who} · step {step:,}", newest))
        if found:
            grids[run.summary["seed"]] = found
    return grids
