"""What the runs of a page have to agree on: none is a copy, which values are better, what was measured, and how.

Most functions return sentences for the reader, none where all is well.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Sequence

from unigen.evaluation.arms import HASH, Arm, by_seed, own_seeds
from unigen.evaluation.runs import Run, flatten, shown

MOST = 6  # names in a sentence


def without_copies(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Leave out copies of runs, which are no further seeds; return the others, and a sentence.

    Two folders hold the same run if their summaries and settings are the same to the last digit, seconds included. The
    one that lies beside more of the other runs is kept, or else the first.
    """
    beside = Counter(run.path.parent for run in runs)
    kept: dict[Hashable, Run] = {}
    for run in runs:
        own = _identity(run)
        first = kept.setdefault(own, run)
        if beside[run.path.parent] > beside[first.path.parent]:
            kept[own] = run
    originals = {id(run) for run in kept.values()}
    left = [f"{run.folder} (of {kept[_identity(run)].folder})" for run in runs if id(run) not in originals]
    note = f"Left out as copies, with the same summary and settings to the last digit: {few(left)}."
    return [run for run in runs if id(run) in originals], [note] if left else []


def _identity(run: Run) -> Hashable:
    said = json.dumps(run.summary, sort_keys=True, default=str)
    return said, tuple(sorted(run.config.items())), tuple(run.evaluations)


def one_direction(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Let every metric have the `better` that most runs state; return the runs, and a sentence for each metric.

    If as many runs state one as another, it is not known which values are better.
    """
    owners: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        for name, metric in run.summary["metrics"].items():
            if metric.get("better"):
                owners.setdefault(name, {}).setdefault(shown(metric["better"]), []).append(run.folder)
    settled, notes = {}, []
    for name, found in ((name, found) for name, found in owners.items() if len(found) > 1):
        usual, *others = sorted(found, key=lambda word: -len(found[word]))
        settled[name] = usual if len(found[usual]) > len(found[others[0]]) else ""
        if settled[name]:
            odd = "; ".join(f"{word} in {few(found[word])}" for word in others)
            notes.append(f"Runs disagree on which {name} is better: {odd}, {usual} in all others, which is taken.")
        else:
            each = "; ".join(f"{word} in {few(found[word])}" for word in found)
            notes.append(f"Runs disagree on which {name} is better, so neither is taken: {each}.")
    return [_with_directions(run, settled) for run in runs] if settled else [*runs], notes


def _with_directions(run: Run, settled: dict[str, str]) -> Run:
    metrics = {
        name: metric | {"better": settled[name]} if name in settled else metric
        for name, metric in run.summary["metrics"].items()
    }
    return run._replace(summary=run.summary | {"metrics": metrics})


def partly_measured(arms: Sequence[Arm]) -> list[str]:
    """Return a sentence on metrics that some runs of an arm have measured and others have not, none if all is measured.

    A metric that a run names without a value is `arms.reasons`' to explain.
    """
    lacks: dict[Hashable, tuple[list[str], list[str]]] = {}
    for arm in arms:
        have = {run.summary["seed"]: {name.partition(HASH)[0] for name in run.summary["metrics"]} for run in arm.runs}
        names = dict.fromkeys(name for run in arm.runs for name in run.summary["metrics"])
        within: dict[Hashable, list[str]] = {}
        for name in names:
            if missing := tuple(sorted(seed for seed, own in have.items() if name.partition(HASH)[0] not in own)):
                within.setdefault((len(by_seed(arm, name)), len(have), missing), []).append(name)
        for key, metrics in within.items():
            lacks.setdefault((*key, *metrics), (metrics, []))[1].append(arm.label)
    each = []
    for (count, total, missing, *_), (metrics, labels) in lacks.items():
        said = f"{listed(metrics)} {'are' if len(metrics) > 1 else 'is'} of {count} of {total} seeds of {few(labels)}"
        have = "have" if len(missing) > 1 else "has"
        each.append(f"{said}: {seeds_of(missing)} {have} not measured {'them' if len(metrics) > 1 else 'it'}")
    return [f"{'; '.join(each)}."] if each else []


# protocols ------------------------------------------------------------------------------------------------------------


def protocols(arms: list[Arm]) -> dict[str, dict[str, str]]:
    """Return {the arms that it is of: keys and values} of each protocol, with their seeds where others have another.

    The seed of sampling is left out if it is that of every run.
    """
    left_out = {"seed"} if own_seeds(arms) else set()
    owners: dict[str, tuple[dict[str, str], dict[str, list[int]]]] = {}
    for arm in arms:
        for run in arm.runs:
            told = {key: value for key, value in run.summary["protocol"].items() if key not in left_out}
            card = flatten(told) if told else {"protocol": "not recorded"}
            owners.setdefault(shown(card), (card, {}))[1].setdefault(arm.label, []).append(run.summary["seed"])
    counts = {arm.label: len(arm.runs) for arm in arms}
    return {heading(who, counts) if len(owners) > 1 else "all arms": card for card, who in owners.values()}


def heading(who: dict[str, list[int]], counts: dict[str, int]) -> str:
    seeds = [f" ({seeds_of(each)})" if len(each) < counts[label] else "" for label, each in who.items()]
    return ", ".join(label + told for label, told in zip(who, seeds, strict=True))


# words --------------------------------------------------------------------------------------------------------------


def listed(words: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def seeds_of(seeds: Sequence[int]) -> str:
    """Return `seed 1`, or `seeds 0, 1 and 2`."""
    return f"seed{'s' if len(seeds) > 1 else ''} {listed([*map(str, seeds)])}"


def named(label: str) -> str:
    """Return a label for a list, in quotes if it contains a comma or is blank."""
    return f"'{label}'" if "," in label or not label.strip() else label


def few(names: Sequence[str], most: int = MOST) -> str:
    """Return the first names, with commas between, and the number of the others."""
    more, told = len(names) - most, [*map(named, names)]
    return ", ".join(told) if more <= 1 else f"{', '.join(told[:most])} and {more:,} others"
