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
    """The spreads that differences between arms are measured against; `paired` only if all arms have the same seeds."""

    unpaired: Spread | None
    paired: Spread | None

    @property
    def spread(self) -> Spread | None:
        """The one that decides, by the design and not by the outcome: paired wherever it exists."""
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


def residual(rows: Sequence[Sequence[float]]) -> Spread | None:
    """s² = Σ_as (x_as - x_a. - x_.s + x_..)² / df, df = (arms - 1)(seeds - 1): what arm and seed do not explain.

    One row an arm, one column a seed. None without a degree of freedom.

    Raises:
        ValueError: rows of different lengths.
    """
    arms, seeds = [statistics.fmean(row) for row in rows], [statistics.fmean(x) for x in zip(*rows, strict=True)]
    df = (len(arms) - 1) * (len(seeds) - 1)
    if df < 1:
        return None
    whole = statistics.fmean(arms)
    squares = sum((x - arms[a] - seeds[s] + whole) ** 2 for a, row in enumerate(rows) for s, x in enumerate(row))
    return Spread(math.sqrt(squares / df), df)


def resolution(samples: Sequence[Mapping[int, float]]) -> Resolution:
    """The spreads of arms given as {seed: number}. Arms without a number do not count."""
    arms = [arm for arm in samples if arm]
    same = len({frozenset(arm) for arm in arms}) == 1
    paired = residual([[arm[seed] for seed in sorted(arm)] for arm in arms]) if same else None
    return Resolution(pooled([list(arm.values()) for arm in arms]), paired)


def resolvable(spread: Spread, n: int, m: int) -> float:
    """The smallest difference of two arms' means, over n and m seeds, that differs from 0 at LEVEL.

    t(0.975, df) · s · √(1/n + 1/m), which is t s √(2/n) for equal numbers of seeds; for one pair named beforehand.
    """
    return critical(spread.df) * spread.sd * math.sqrt(1 / n + 1 / m)
