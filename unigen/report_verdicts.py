"""What a page compares, and what came of it: arms against the reference, by every metric that is asked about."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from unigen import verdicts
from unigen.clusters import Clusters
from unigen.report_arms import HASH, Arm, by_seed, metric_directions
from unigen.report_evaluations import scores_of
from unigen.report_tables import decimals
from unigen.verdicts import ALPHA, Verdict, judge

Measured = Mapping[tuple[str, str], verdicts.Arm]  # by the label of the arm and the metric
Kept = dict[int, tuple[list[float | None], Clusters]]  # scores of a metric and clusters of the items, by seed
DERIVED = (
    "Some scores.jsonl do not say which items are alike: those whose keys begin alike are taken for one cluster, and "
    "without keys each item for one by itself, which may make intervals too narrow."
)


class Family(NamedTuple):
    """All differences that a page compares, {(arm, reference, metric): verdict} by labels; `metrics` are those asked
    about, by the published table `asked_by` ("" for none: then by all)."""

    verdicts: dict[tuple[str, str, str], Verdict]
    metrics: list[str]
    asked_by: str = ""

    def of(self, arm: Arm, reference: Arm, metric: str) -> Verdict | None:
        return self.verdicts.get((arm.label, reference.label, metric))

    @property
    def tested(self) -> list[Verdict]:
        """Those that could be tested: what Holm corrects for."""
        return [verdict for verdict in self.verdicts.values() if not verdict.why]

    def notes(self) -> list[str]:
        """How verdicts come about, how many differences were corrected for, and what would have been resolved."""
        said, tested = [], len(self.tested)
        if tested:
            said.append(
                f"Resolved: a paired t test over seeds and a bootstrap over clusters of items both reject at {ALPHA:g} "
                f"after Holm's correction for the {tested} differences to the reference that this page tests."
            )
            said.append(f"At the spreads found, a difference is resolved from: {'; '.join(self._limits())}.")
        reasons = dict.fromkeys(verdict.why for verdict in self.verdicts.values() if verdict.why)
        if "one seed" in reasons:
            said.append(
                "One seed cannot separate arms: a difference is resolved only where both arms have two or more."
            )
        if others := [why for why in reasons if why != "one seed"]:
            said.append(f"Some differences cannot be tested, so they are not resolved: {', '.join(others)}.")
        if self.asked_by and self.verdicts:
            said.append(f"Verdicts are on the metrics that {self.asked_by} asks about; others have none.")
        return said

    def _limits(self) -> list[str]:
        found: dict[str, list[float]] = {}
        for (_, _, metric), verdict in self.verdicts.items():
            if verdict.limit is not None:
                found.setdefault(metric, []).append(verdict.limit)
        return [f"{metric} {span(limits)}" for metric, limits in found.items()]


def span(values: Sequence[float]) -> str:
    """'0.12', or '0.12 to 0.40', with two digits of the smallest."""
    show = f".{decimals(min(values)) if min(values) > 0 else 3}f"
    return " to ".join(dict.fromkeys(f"{value:{show}}" for value in (min(values), max(values))))


def compare(measured: Measured, pairs: Iterable[tuple[Arm, Arm, str]], asked_by: str = "") -> Family:
    """Every (arm, reference, metric), once; those that either arm has no number of are left out."""
    sides = {
        (arm.label, reference.label, metric): (measured[arm.label, metric], measured[reference.label, metric])
        for arm, reference, metric in pairs
        if (arm.label, metric) in measured and (reference.label, metric) in measured
    }
    found = dict(zip(sides, judge(list(sides.values())), strict=True))
    return Family(found, list(dict.fromkeys(metric for *_, metric in sides)), asked_by)


def best(family: Family, arms: Sequence[Arm], reference: int, metric: str, better: str) -> set[int]:
    """Arms to mark: those that are better than the reference, resolved; the reference if all others are worse."""
    found = {i: v for i, arm in enumerate(arms) if (v := family.of(arm, arms[reference], metric))}
    ahead = {i: v.difference > 0 if better == "higher" else v.difference < 0 for i, v in found.items() if v.resolved}
    if better not in ("higher", "lower") or not found:
        return set()
    return {i for i, wins in ahead.items() if wins} or ({reference} if len(ahead) == len(found) else set())


def measure(arms: Sequence[Arm]) -> tuple[dict[tuple[str, str], verdicts.Arm], list[str]]:
    """Every metric of every arm by seed, with scores of items where they can be used; sentences on those that cannot.

    An arm's scores of a metric are used if they agree with the summaries and are of the same items under all seeds.
    """
    found: dict[tuple[str, str], verdicts.Arm] = {}
    without: dict[str, list[str]] = {}
    for arm in arms:
        values = {name: by_seed(arm, name) for name in metric_directions([arm])}
        kept: dict[str, Kept] = {name: {} for name in values}
        for run in arm.runs:
            try:
                scores, why = scores_of(run), "no scores.jsonl"
            except ValueError as error:
                scores, why = {}, str(error)
            if not scores:
                without.setdefault(why, []).append(run.folder)
            seed = run.summary["seed"]
            for name in (name for name, told in values.items() if seed in told):
                each = scores.get(name.partition(HASH)[0])
                if each and (fault := faults(*each, values[name][seed])):
                    without.setdefault(f"{fault} {name}", []).append(run.folder)
                elif each:
                    kept[name][seed] = each
        for name, told in ((name, told) for name, told in values.items() if told):
            found[arm.label, name] = assembled(told, kept[name])
            if kept[name] and found[arm.label, name].clusters is None:
                without.setdefault(f"{name} of other items under other seeds", []).append(arm.label)
    notes = [f"Not in this table, {why}: {', '.join(who)}." for why, who in without.items()]
    if any(each.clusters and not each.clusters.told for each in found.values()):
        notes.append(DERIVED)
    return found, notes


def faults(scores: Sequence[float | None], clusters: Clusters, value: float) -> str:
    """What is wrong with a run's scores of a metric, "" for nothing."""
    if None in scores or len(scores) != clusters.items:
        return "some items have no score of"
    agrees = math.isclose(sum(scores) / len(scores), value, rel_tol=1e-4, abs_tol=1e-9)
    return "" if agrees else "scores.jsonl and summary.json disagree on"


def assembled(values: Mapping[int, float], kept: Kept) -> verdicts.Arm:
    """The arm with the scores of its runs, or with none where they are of other items under other seeds."""
    import numpy as np

    clusters = Clusters.agreed([clusters for _, clusters in kept.values()]) if kept else None
    if clusters is None:
        return verdicts.Arm(values)
    return verdicts.Arm(values, {seed: np.array(scores) for seed, (scores, _) in kept.items()}, clusters)
