"""Verdicts on whether two arms differ. `judge` tests all differences of a page together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from unigen.core.intervals import Contrast, over_seeds
from unigen.evaluation.clusters import Clusters, difference_error
from unigen.evaluation.power import Spread, seeds_needed

if TYPE_CHECKING:
    import numpy as np

ALPHA = 0.05  # the chance that a page claims a difference where there is none, or equality where there is a difference


class Arm(NamedTuple):
    """One metric of an arm: the value by seed, and the scores of items by seed with their clusters, if known."""

    values: Mapping[int, float]
    scores: Mapping[int, np.ndarray] = {}
    clusters: Clusters | None = None


class Verdict(NamedTuple):
    """A difference, first minus second, with its tests over seeds and over items.

    `seeds` is the t test over seeds, `items` the bootstrap over clusters; each is None if it cannot be made, and `why`
    then names what is missing. `p` is the larger of their p values of no difference, and `p_equal` the larger of those
    of a difference of `margin` or more (two one-sided tests); both are corrected for the number of differences, and
    compared with `alpha`. `limit` is the smallest difference that would have been resolved at these spreads, whatever
    the outcome of the other tests.

    `half` is the half-width of the interval that decides: it excludes 0 if the difference is resolved, lies within the
    margin if it is equal, and neither if it is open. Its level is that of the step of Holm's procedure at which this
    difference was tested. If a difference is equal and this interval reaches beyond the margin, it is that of the two
    one-sided tests instead (1 - 2 alpha, as is usual for them), which may exclude 0 although nothing is resolved.

    `seeds_needed` is the number of seeds of each arm that settle the difference found, if it is the true one, in 80 of
    100 sweeps with this `spread`: that resolve it, or show that it is smaller than the margin if that takes fewer. None
    if it cannot be estimated.
    """

    difference: float
    shared: int
    seeds: Contrast | None
    items: Contrast | None
    why: str = ""
    p: float | None = None
    limit: float | None = None
    margin: float | None = None
    p_equal: float | None = None
    half: float | None = None
    seeds_needed: int | None = None
    spread: Spread | None = None
    alpha: float = ALPHA

    @property
    def resolved(self) -> bool:
        return self.p is not None and self.p <= self.alpha

    @property
    def equal(self) -> bool:
        """True if the difference is shown to be smaller than the margin, whether or not it is resolved too."""
        return self.p_equal is not None and self.p_equal <= self.alpha

    @property
    def state(self) -> str:
        """Return "resolved", "equal" or "open". A resolved difference that is smaller than the margin is resolved."""
        return "resolved" if self.resolved else "equal" if self.equal else "open"

    @property
    def word(self) -> str:
        if self.resolved:
            return "resolved, smaller than the margin" if self.equal else "resolved"
        return "equal" if self.equal else "not resolved" + (f": {self.why}" if self.why else "")


def judge(
    pairs: Sequence[tuple[Arm, Arm]], margins: Sequence[float | None] | None = None, alpha: float = ALPHA
) -> list[Verdict]:
    """Return a verdict on each pair, first minus second. `pairs` must hold all comparisons of a page.

    A difference is resolved if the paired t test over seeds and the bootstrap over clusters both reject at `alpha`
    after correction: p is the larger of the two (an intersection-union test, Berger 1982). So it is never resolved with
    one seed, nor without scores of items. It is equal if both reject a difference of its margin or more. Pairs that
    cannot be tested do not count as tests; the design decides which these are, not the outcome.

    Args:
        margins: the absolute margin of each pair, None for none.
        alpha: the chance that any of these verdicts states what is not so; for repeated looks, what this one may spend.
    """
    margins = [None] * len(pairs) if margins is None else margins
    found = [measured(*pair)._replace(margin=margin, alpha=alpha) for pair, margin in zip(pairs, margins, strict=True)]
    tested = [i for i, verdict in enumerate(found) if not verdict.why]
    differ = [max(found[i].seeds.p, found[i].items.p) for i in tested]
    bounded = [i for i in tested if found[i].margin is not None]
    alike = [max(found[i].seeds.p_equal(found[i].margin), found[i].items.p_equal(found[i].margin)) for i in bounded]
    owners = [*tested, *bounded]
    adjusted, counts = holm([*differ, *alike], owners), remaining([*differ, *alike], owners)
    unsettled = len({owner for owner, p in zip(owners, adjusted, strict=True) if p > alpha})
    for k, (i, p, count) in enumerate(zip(owners, adjusted, counts, strict=True)):
        if k < len(tested):
            level = alpha / (count if p <= alpha else unsettled)
            found[i] = found[i]._replace(p=p, half=_limit(found[i], level), **_sizes(found[i], alpha / len(tested)))
        else:
            half = found[i].half
            if p <= alpha and abs(found[i].difference) + half >= found[i].margin:
                half = min(half, _limit(found[i], 2 * alpha / count))
            found[i] = found[i]._replace(p_equal=p, half=half)
    return found


def _limit(verdict: Verdict, level: float) -> float:
    """Return the smallest difference that both tests reject at a level."""
    return max(test.limit(level) for test in (verdict.seeds, verdict.items))


def _sizes(verdict: Verdict, level: float) -> dict[str, float | int | None]:
    """Return `limit` and `seeds_needed` at the level that is left if nothing else is resolved.

    What has to be found is the distance of the difference to 0, or to the margin if it is smaller than that.
    """
    size = max(abs(verdict.difference), (verdict.margin or 0.0) - abs(verdict.difference))
    needed = seeds_needed(size, verdict.spread, level) if verdict.spread and size > 0 else None
    return {"limit": _limit(verdict, level), "seeds_needed": needed}


def measured(first: Arm, second: Arm) -> Verdict:
    """Return the verdict on one pair before correction, with the tests that can be made."""
    shared = set(first.values) & set(second.values)
    seeds = over_seeds(first.values, second.values)
    value = seeds.value if seeds else _mean(first.values) - _mean(second.values)
    why, items, spread = "" if seeds else "one seed", None, None
    clusters, lacks = common(first, second)
    if clusters:
        error, lasting = difference_error(first.scores, second.scores, clusters)
        items = Contrast(value, error, clusters.degrees)
        if lasting is not None and len(shared) > 1:
            n = len(shared)
            spread = Spread(n * seeds.error**2, lasting, n * max(0.0, error**2 - lasting), clusters.degrees)
    return Verdict(value, len(shared), seeds, items, why or lacks, spread=spread)


def common(first: Arm, second: Arm) -> tuple[Clusters | None, str]:
    """Return the clusters that the items of both arms share, or None and the reason."""
    for arm in (first, second):
        if arm.clusters is None or arm.scores.keys() != arm.values.keys():
            return None, "no scores of single items"
    agreed = Clusters.agreed([first.clusters, second.clusters])
    if agreed is None:
        return None, "other items"
    return (agreed, "") if agreed.degrees else (None, "all items are one cluster")


def holm(ps: Sequence[float], owners: Sequence[Hashable] | None = None) -> list[float]:
    """Return the p values after Holm's step-down correction (1979) for their number, in the order given.

    `owners` names the pair that each test is about. What two tests of one pair deny, no difference and a difference of
    the margin or more, is never both true, so a pair counts once (Shaffer 1986). It counts until both are rejected:
    where every pair has a margin, hardly anything is left of Holm's gain over Bonferroni's correction.
    """
    adjusted, largest, counts = [0.0] * len(ps), 0.0, remaining(ps, owners)
    for i in sorted(range(len(ps)), key=ps.__getitem__):
        largest = max(largest, min(counts[i] * ps[i], 1.0))
        adjusted[i] = largest
    return adjusted


def remaining(ps: Sequence[float], owners: Sequence[Hashable] | None = None) -> list[int]:
    """Return for each p value how many owners have one that is as large or larger; ties are taken in their order."""
    owners = range(len(ps)) if owners is None else owners
    seen: set[Hashable] = set()
    counts = [0] * len(ps)
    for i in sorted(range(len(ps)), key=ps.__getitem__)[::-1]:
        seen.add(owners[i])
        counts[i] = len(seen)
    return counts


def _mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values)
