"""What a few seeds allow one to say: intervals of means, and the smallest difference of two arms that can be told.

Notation: x_as is the number of arm a under seed s; means are over what is left out (x_a. over seeds).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

LEVEL = 0.95
SWEEPS = 1000  # of the fit that takes arms and seeds out of an incomplete table


class Interval(NamedTuple):
    """Half-width None: one number has no interval."""

    mean: float
    half: float | None
    n: int


class Spread(NamedTuple):
    """A standard deviation with the degrees of freedom that it was estimated from."""

    sd: float
    df: int


class Resolution(NamedTuple):
    """The spreads that differences between arms are measured against; `paired` only if arms share seeds."""

    unpaired: Spread | None
    paired: Spread | None

    @property
    def spread(self) -> Spread | None:
        """The one that decides for arms that share seeds, by the design and not by the outcome."""
        return self.paired or self.unpaired


@cache
def student_t(p: float, df: int) -> float:
    """t with P(T <= t) = p for Student's T of `df` degrees of freedom; 0.5 <= p < 1.

    P(|T| <= t) with θ = atan(t / √df) is a finite sum (Abramowitz and Stegun 26.7.3, 26.7.4):
    sin θ (1 + 1/2 cos² θ + 1·3/(2·4) cos⁴ θ + ...) for even df, up to cos^(df-2);
    2/π (θ + sin θ cos θ (1 + 2/3 cos² θ + 2·4/(3·5) cos⁴ θ + ...)) for odd df, up to cos^(df-3) in the brackets.

    Raises:
        ValueError: p or df out of range.
    """
    if not 0.5 <= p < 1 or df < 1:
        raise ValueError(f"student_t({p}, {df}): p must be in [0.5, 1) and df at least 1")

    def within(theta: float) -> float:
        cos2, term, total = math.cos(theta) ** 2, 1.0, 0.0
        for k in range(1 + df % 2, df, 2):
            total += term
            term *= cos2 * k / (k + 1)
        if df % 2 == 0:
            return math.sin(theta) * total
        return 2 / math.pi * (theta + math.sin(theta) * math.cos(theta) * total)

    low, high = 0.0, math.pi / 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if within(middle) < 2 * p - 1 else (low, middle)
    return math.sqrt(df) * math.tan(low)


def critical(df: int) -> float:
    """t(1 - (1 - LEVEL)/2, df), the two-sided critical value."""
    return student_t(0.5 + LEVEL / 2, df)


def mean_interval(values: Sequence[float]) -> Interval:
    """mean ± t(0.975, n-1) s / √n with the sample's own standard deviation s.

    Raises:
        ValueError: no values.
    """
    n = len(values)
    if not n:
        raise ValueError("mean_interval of no values; it takes one or more")
    half = critical(n - 1) * statistics.stdev(values) / math.sqrt(n) if n > 1 else None
    return Interval(statistics.fmean(values), half, n)


def pooled(samples: Sequence[Sequence[float]]) -> Spread | None:
    """s² = Σ_as (x_as - x_a.)² / df, df = Σ_a (n_a - 1); None without a degree of freedom."""
    df = sum(len(values) - 1 for values in samples if values)
    squares = sum((x - statistics.fmean(values)) ** 2 for values in samples for x in values)
    return Spread(math.sqrt(squares / df), df) if df else None


def residual(samples: Sequence[Mapping[int, float]]) -> Spread | None:
    """What arm and seed do not explain, of arms as {seed: number}; an arm may lack a seed.

    s² = Σ (x_as - m_as)² / df, where m_as = a_a + b_s is fitted by least squares. df = numbers - arms - seeds + groups;
    a group is the arms that are joined by shared seeds. Where all arms have all seeds, m_as = x_a. + x_.s - x_.. and
    df = (arms - 1)(seeds - 1). None without a degree of freedom.
    """
    left = [dict(arm) for arm in samples if arm]
    seeds = sorted({seed for arm in left for seed in arm})
    df = sum(map(len, left)) - len(left) - len(seeds) + groups(left)
    if df < 1:
        return None
    scale = max(abs(x) for arm in left for x in arm.values())
    cells = [[(arm, seed) for seed in arm] for arm in left]
    cells += [[(arm, seed) for arm in left if seed in arm] for seed in seeds]
    for _ in range(SWEEPS):  # alternating projections; the first sweep is exact where nothing is missing
        if max(map(_centre, cells)) <= 1e-13 * scale:
            break
    return Spread(math.sqrt(sum(x * x for arm in left for x in arm.values()) / df), df)


def groups(samples: Sequence[Mapping[int, float]]) -> int:
    """How many sets of arms there are that share no seed with one another, directly or through others."""
    found: list[set[int]] = []
    for arm in samples:
        apart = [group for group in found if group.isdisjoint(arm)]
        found = [*apart, set(arm).union(*(group for group in found if group not in apart))]
    return len(found)


def _centre(cells: Sequence[tuple[dict[int, float], int]]) -> float:
    """Takes the mean of some numbers off each of them; returns how much it was."""
    mean = statistics.fmean(arm[seed] for arm, seed in cells)
    for arm, seed in cells:
        arm[seed] -= mean
    return abs(mean)


def resolution(samples: Sequence[Mapping[int, float]]) -> Resolution:
    """The spreads of arms given as {seed: number}. Arms without a number do not count."""
    arms = [arm for arm in samples if arm]
    return Resolution(pooled([list(arm.values()) for arm in arms]), residual(arms))


class Comparison(NamedTuple):
    """Two arms, first minus second: the means' difference and its limit; the same over the `shared` seeds of both.

    `paired` is None where the two share fewer than two seeds, each limit where there is no spread to measure with.
    """

    means: float
    unpaired: float | None
    paired: float | None
    paired_limit: float | None
    shared: int

    @property
    def difference(self) -> float:
        """By the design and not by the outcome: over the shared seeds wherever those can be compared."""
        return self.means if self.paired_limit is None else self.paired

    @property
    def limit(self) -> float | None:
        return self.unpaired if self.paired_limit is None else self.paired_limit

    @property
    def resolved(self) -> bool | None:
        """Whether the difference is beyond its limit; None where one seed does not tell."""
        return None if self.limit is None else abs(self.difference) > self.limit


def compare(first: Mapping[int, float], second: Mapping[int, float], spreads: Resolution) -> Comparison:
    """Two arms as {seed: number}, each with one seed or more, measured against the spreads of all arms."""
    shared = sorted(set(first) & set(second))
    paired = statistics.fmean(first[s] - second[s] for s in shared) if len(shared) > 1 else None
    able = paired is not None and spreads.paired is not None
    return Comparison(
        statistics.fmean(first.values()) - statistics.fmean(second.values()),
        resolvable(spreads.unpaired, len(first), len(second)) if spreads.unpaired else None,
        paired,
        resolvable(spreads.paired, len(shared), len(shared)) if able else None,
        len(shared),
    )


def resolvable(spread: Spread, n: int, m: int) -> float:
    """The smallest difference of two arms' means, over n and m seeds, that differs from 0 at LEVEL.

    t(0.975, df) · s · √(1/n + 1/m), which is t s √(2/n) for equal numbers of seeds; for one pair named beforehand.
    """
    return critical(spread.df) * spread.sd * math.sqrt(1 / n + 1 / m)
