"""Compares arms with a reference arm: which scores can be used, intervals of means, and all verdicts of a page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from unigen.config.margins import Margin
from unigen.core.intervals import critical, mean_interval
from unigen.evaluation import verdicts
from unigen.evaluation.agreement import counted, few
from unigen.evaluation.arms import HASH, Arm, by_seed, incomparable, metric_directions
from unigen.evaluation.clusters import Clusters, error, resampled
from unigen.evaluation.evaluations import scores_of
from unigen.evaluation.runs import PaperTable
from unigen.evaluation.verdicts import ALPHA, Verdict, judge

Measured = Mapping[tuple[str, str], verdicts.Arm]  # keys: the arm's label and the metric
Kept = dict[int, tuple[list[float | None], Clusters]]  # seed -> scores of a metric and clusters of the items
DERIVED = (
    "Some scores.jsonl have no clusters: items whose keys start with the same part are taken for a cluster, and items "
    "without keys for clusters of their own, which may make intervals too narrow."
)


class Family(NamedTuple):
    """All comparisons of a page, {(arm's label, reference's label, metric): verdict}.

    `asked_by` is the title of the published tables that name the metrics, "" for none.
    """

    verdicts: dict[tuple[str, str, str], Verdict]
    asked_by: str = ""

    def of(self, arm: Arm, reference: Arm, metric: str) -> Verdict | None:
        return self.verdicts.get((arm.label, reference.label, metric))

    @property
    def tested(self) -> list[Verdict]:
        """The verdicts that could be tested; Holm's correction is for their number."""
        return [verdict for verdict in self.verdicts.values() if not verdict.why]

    def notes(self) -> list[str]:
        """Return notes that explain the verdicts and the correction, and name what cannot be tested."""
        said, tested = [], len(self.tested)
        if tested:
            said.append(
                "Resolved: a paired t test over seeds and a bootstrap over clusters of items both reject at "
                f"{self.tested[0].alpha:.2g} after Holm's correction for the {counted(tested, 'difference')} to the "
                "reference that this page tests."
            )
            if any(verdict.margin is not None for verdict in self.tested):
                said.append("Equal: two one-sided tests reject a difference of the margin or more, in the same way.")
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


def compare(
    measured: Measured,
    pairs: Iterable[tuple[Arm, Arm, str]],
    asked_by: str = "",
    margins: Mapping[str, Margin] = {},
    alpha: float = ALPHA,
) -> Family:
    """Judge every (arm, reference, metric) once; triples for which either arm has no value are left out.

    `margins` are those of metrics; a relative one is taken of the mean of the reference.
    """
    sides = {
        (arm.label, reference.label, metric): (measured[arm.label, metric], measured[reference.label, metric])
        for arm, reference, metric in pairs
        if (arm.label, metric) in measured and (reference.label, metric) in measured
    }
    absolute = [
        margins[metric].at(statistics.fmean(against.values.values())) if metric in margins else None
        for (_, _, metric), (_, against) in sides.items()
    ]
    return Family(dict(zip(sides, judge(list(sides.values()), absolute, alpha), strict=True)), asked_by)


# what may be used -----------------------------------------------------------------------------------------------------


def measure(arms: Sequence[Arm]) -> tuple[dict[tuple[str, str], verdicts.Arm], list[str]]:
    """Return every metric of every arm by seed, with usable scores of items, and sentences on unusable ones.

    An arm's scores of a metric are used if they agree with the summaries and all seeds have the same items.
    """
    found: dict[tuple[str, str], verdicts.Arm] = {}
    without: dict[str, list[str]] = {}
    absent: dict[str, list[str]] = {}
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
                elif scores:
                    absent.setdefault(name, []).append(run.folder)
        for name, told in ((name, told) for name, told in values.items() if told):
            found[arm.label, name] = assembled(told, kept[name])
            if kept[name] and found[arm.label, name].clusters is None:
                without.setdefault(f"{name} of other items under other seeds", []).append(arm.label)
    having = {name for (_, name), scored in found.items() if scored.clusters}  # a metric of whole sets has none at all
    without |= {f"scores.jsonl has none of {name}": who for name, who in absent.items() if name in having}
    return found, [f"No scores of single items in {few(who)}: {why}." for why, who in without.items()]


def derived(measured: Measured) -> list[str]:
    """Return a note if the clusters of some scores had to be derived, as it is of older files."""
    return [DERIVED] if any(each.clusters and not each.clusters.told for each in measured.values()) else []


def faults(scores: Sequence[float | None], clusters: Clusters, value: float) -> str:
    """Return the fault of a run's scores of a metric as part of a sentence, "" if there is none."""
    if None in scores or len(scores) != clusters.items:
        return "some items have no score of"
    agrees = math.isclose(sum(scores) / len(scores), value, rel_tol=1e-4, abs_tol=1e-9)
    return "" if agrees else "scores.jsonl and summary.json disagree on"


def assembled(values: Mapping[int, float], kept: Kept) -> verdicts.Arm:
    """Return the arm with the scores of its runs, or without scores if its seeds have different items."""
    import numpy as np

    clusters = Clusters.agreed([clusters for _, clusters in kept.values()]) if kept else None
    if clusters is None:
        return verdicts.Arm(values)
    return verdicts.Arm(values, {seed: np.array(scores) for seed, (scores, _) in kept.items()}, clusters)


class Interval(NamedTuple):
    """A mean, the half-width of its 95 % interval (None without one), and what the interval covers."""

    value: float
    half: float | None
    over: str


def interval(arm: verdicts.Arm) -> Interval:
    """Return the mean of an arm and the wider of two 95 % intervals, for neither alone covers what the other does.

    One is Student's t over seeds, the other t times the error of the bootstrap over seeds and clusters of items.
    """
    mean, half, _ = mean_interval(list(arm.values.values()))
    found = {} if half is None else {"seeds": half}
    if arm.clusters and arm.clusters.degrees:
        found["items"] = critical(arm.clusters.degrees) * error(resampled(arm.scores, arm.clusters))
    return Interval(mean, max(found.values(), default=None), " and ".join(found))


def reference_rows(table: PaperTable) -> list[str]:
    """Return the rows that may be the reference: those with a published number, or all rows if none has one.

    So a user's own arm at the end of a paper's table is compared with the paper's arms, and not the other way round.
    """
    return [row for row in table.order if row in table.published] or table.order


def reference_arm(arms: Sequence[Arm], order: Sequence[str], named: str | None) -> int:
    """Return the index of the reference arm: the one `named`, else the last row of `order` with runs, else the first.

    An arm that is not named is chosen among those that can be compared with others, if there are any.
    Raises ValueError if no arm has the name.
    """
    names, flagged = [arm.runs[0].summary["name"] for arm in arms], incomparable(list(arms))
    if named is not None:
        labels = [arm.label for arm in arms]
        if named not in names + labels:
            raise ValueError(f"reference={named} is no arm of this report; its arms are {', '.join(labels) or 'none'}")
        return labels.index(named) if named in labels else names.index(named)
    legal = [i for i in range(len(arms)) if i not in flagged] or range(len(arms))
    rows = [i for name in reversed(order) for i in legal if names[i] == name]
    return next(iter((*rows, *legal)), 0)
