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
    """A mean of n numbers, and the half-width of its interval: None for one number, which has no interval."""

    mean: float
    half: float | None
    n: int


class Contrast(NamedTuple):
    """A difference of two means, its standard error, and the degrees of freedom of that error."""

    value: float
    error: float
    df: float

    @property
    def p(self) -> float:
        """The two-sided p value of no difference. If the standard error is 0, it is 1 for no difference and else 0."""
        from scipy.special import stdtr

        if self.error == 0:
            return float(self.value == 0)
        return float(2 * stdtr(self.df, -abs(self.value) / self.error))

    def p_equal(self, margin: float) -> float:
        """The p value of a difference of `margin` or more, in either direction: the larger one of two one-sided t tests
        (Schuirmann 1987). If the standard error is 0, it is 0 for a smaller difference and else 1.
        """
        from scipy.special import stdtr

        room = margin - abs(self.value)
        if self.error == 0:
            return float(room <= 0)
        return float(stdtr(self.df, -room / self.error))

    def limit(self, alpha: float) -> float:
        """Return the smallest difference with this standard error that has p <= alpha."""
        return critical(self.df, alpha) * self.error


def critical(df: float, alpha: float = 1 - LEVEL) -> float:
    """Return t(1 - alpha / 2, df), the two-sided critical value of Student's t."""
    from scipy.special import stdtrit  # not scipy.stats, which takes a second to import

    return float(-stdtrit(df, alpha / 2))


def mean_interval(values: Sequence[float]) -> Interval:
    """Return mean ± t(0.975, n-1) s / √n with the sample's own standard deviation s.

    Raises:
        ValueError: no values.
    """
    n = len(values)
    if not n:
        raise ValueError("mean_interval of no values; it takes one or more")
    half = critical(n - 1) * statistics.stdev(values) / math.sqrt(n) if n > 1 else None
    return Interval(statistics.fmean(values), half, n)


def over_seeds(first: Mapping[int, float], second: Mapping[int, float]) -> Contrast | None:
    """Return first minus second for two arms, each {seed: number}, or None if no test is possible.

    If the arms share two seeds or more, the test is paired: the differences' own s / √n with n - 1 degrees of freedom.
    Else it is Welch's, which needs two seeds in each arm. The variance is never pooled over arms: arms differ in it
    (docs/report.md), and a pooled test would then find too much.
    """
    shared = sorted(set(first) & set(second))
    if len(shared) > 1:
        return paired([first[seed] - second[seed] for seed in shared])
    if min(len(first), len(second)) > 1:
        return welch(list(first.values()), list(second.values()))
    return None


def paired(differences: Sequence[float]) -> Contrast:
    """Return the mean of two differences or more as a `Contrast`: error s / √n, n - 1 degrees of freedom."""
    n = len(differences)
    return Contrast(statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(n), n - 1)


def welch(first: Sequence[float], second: Sequence[float]) -> Contrast:
    """Return first minus second by Welch's test, for two numbers or more on each side.

    The squared error is s1² / n + s2² / m; the degrees of freedom are those of Welch and Satterthwaite.
    """
    a, b = statistics.variance(first) / len(first), statistics.variance(second) / len(second)
    spread = a * a / (len(first) - 1) + b * b / (len(second) - 1)
    df = (a + b) ** 2 / spread if spread else len(first) + len(second) - 2
    return Contrast(statistics.fmean(first) - statistics.fmean(second), math.sqrt(a + b), df)


def decimals(unit: float) -> int:
    """Return the number of decimals that show two digits of a positive uncertainty: 3 for 0.0134."""
    return min(max(1 - math.floor(math.log10(unit)), 0), 9)


def rounded(value: float, unit: float | None = None, sign: str = "") -> str:
    """Print a number with two digits of its uncertainty `unit`; with three decimals if that is None, 0 or infinite."""
    return f"{value:{sign}.{decimals(unit) if unit and math.isfinite(unit) else 3}f}"
