"""The one place that says whether two arms differ: `judge`, over all differences that a page compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from unigen.clusters import Clusters, difference_error
from unigen.intervals import Contrast, over_seeds

if TYPE_CHECKING:
    import numpy as np

ALPHA = 0.05  # the chance that a page without any true difference shows one as resolved


class Arm(NamedTuple):
    """One metric of an arm: the value of each seed, and the scores of single items with their clusters where known."""

    values: Mapping[int, float]
    scores: Mapping[int, np.ndarray] = {}
    clusters: Clusters | None = None


class Verdict(NamedTuple):
    """A difference, first minus second, and what seeds and items say of it.

    `seeds` is the t test over seeds, `items` the bootstrap over clusters, each None where it cannot be made; `why` says
    then what is lacking. `p` is the larger of their p values after Holm's correction, `limit` the smallest difference
    that would have been resolved at these spreads, whatever became of the others.
    """

    difference: float
    shared: int
    seeds: Contrast | None
    items: Contrast | None
    why: str = ""
    p: float | None = None
    limit: float | None = None

    @property
    def resolved(self) -> bool:
        return self.p is not None and self.p <= ALPHA

    @property
    def word(self) -> str:
        return "resolved" if self.resolved else "not resolved" + (f": {self.why}" if self.why else "")


def judge(pairs: Sequence[tuple[Arm, Arm]]) -> list[Verdict]:
    """A verdict on each pair, first minus second; the pairs are all that is compared.

    A difference is resolved if the paired t test over seeds and the bootstrap over clusters both reject at ALPHA after
    Holm's correction (1979) for the number of tests: p is the larger of the two (an intersection-union test, Berger
    1982). So it is never resolved from one seed, nor without scores of items. Pairs that cannot be tested, which the
    design decides and not the outcome, are not counted.
    """
    found = [measured(*pair) for pair in pairs]
    tested = [i for i, verdict in enumerate(found) if not verdict.why]
    adjusted = holm([max(found[i].seeds.p, found[i].items.p) for i in tested])
    for i, p in zip(tested, adjusted, strict=True):
        limit = max(test.limit(ALPHA / len(tested)) for test in (found[i].seeds, found[i].items))
        found[i] = found[i]._replace(p=p, limit=limit)
    return found


def measured(first: Arm, second: Arm) -> Verdict:
    """Both tests of one pair, where they can be made."""
    shared = set(first.values) & set(second.values)
    seeds = over_seeds(first.values, second.values)
    value = seeds.value if seeds else _mean(first.values) - _mean(second.values)
    why, items = "" if seeds else "one seed", None
    clusters, lacks = common(first, second)
    if clusters:
        items = Contrast(value, difference_error(first.scores, second.scores, clusters), clusters.degrees)
    return Verdict(value, len(shared), seeds, items, why or lacks)


def common(first: Arm, second: Arm) -> tuple[Clusters | None, str]:
    """The clusters by which both arms' items are drawn, or None and why there are none."""
    for arm in (first, second):
        if arm.clusters is None or arm.scores.keys() != arm.values.keys():
            return None, "no scores of single items"
    agreed = Clusters.agreed([first.clusters, second.clusters])
    if agreed is None:
        return None, "other items"
    return (agreed, "") if agreed.degrees else (None, "all items are one cluster")


def holm(ps: Sequence[float]) -> list[float]:
    """p values after Holm's step-down correction for their number, in the order given."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min((len(ps) - rank) * ps[i], 1.0))
        adjusted[i] = largest
    return adjusted


def _mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values)
