"""Student's t: intervals of means over seeds, and the t tests of two arms.

Notation: n and m are numbers of seeds, s standard deviations.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

LEVEL = 0.95


class Interval(NamedTuple):
    """Half-width None: one number has no interval."""

    mean: float
    half: float | None
    n: int


class Contrast(NamedTuple):
    """A difference of two means with its standard error and the degrees of freedom of that."""

    value: float
    error: float
    df: float

    @property
    def p(self) -> float:
        """Two-sided p of no difference. Without any spread it is 0, or 1 for no difference beyond rounding."""
        from scipy.special import stdtr

        if self.error == 0:
            return float(self.value == 0)
        return float(2 * stdtr(self.df, -abs(self.value) / self.error))

    def limit(self, alpha: float) -> float:
        """The smallest difference of this error that has p <= alpha."""
        return critical(self.df, alpha) * self.error


def critical(df: float, alpha: float = 1 - LEVEL) -> float:
    """t(1 - alpha / 2, df), the two-sided critical value of Student's t."""
    from scipy.special import stdtrit  # not scipy.stats, which takes a second to import

    return float(-stdtrit(df, alpha / 2))


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


def over_seeds(first: Mapping[int, float], second: Mapping[int, float]) -> Contrast | None:
    """First minus second, of arms as {seed: number}: paired over the shared seeds if those are two or more.

    Paired: the differences' own s / √n with n - 1 degrees of freedom. Else Welch's test, if both arms have two seeds.
    The spread is never pooled over arms: arms differ in it (docs/report.md), and then a pooled test finds too much.
    None if neither test can be made.
    """
    shared = sorted(set(first) & set(second))
    if len(shared) > 1:
        return paired([first[seed] - second[seed] for seed in shared])
    if min(len(first), len(second)) > 1:
        return welch(list(first.values()), list(second.values()))
    return None


def paired(differences: Sequence[float]) -> Contrast:
    """Two differences or more."""
    n = len(differences)
    return Contrast(statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(n), n - 1)


def welch(first: Sequence[float], second: Sequence[float]) -> Contrast:
    """Two numbers or more on each side: s1² / n + s2² / m, degrees of freedom by Welch and Satterthwaite."""
    a, b = statistics.variance(first) / len(first), statistics.variance(second) / len(second)
    spread = a * a / (len(first) - 1) + b * b / (len(second) - 1)
    df = (a + b) ** 2 / spread if spread else len(first) + len(second) - 2
    return Contrast(statistics.fmean(first) - statistics.fmean(second), math.sqrt(a + b), df)
