"""Power of a comparison: how likely a true difference is resolved, and how many seeds a given one needs.

The comparison is that of `unigen.evaluation.verdicts`: a paired t test over seeds and a bootstrap over clusters, which
must both reject. Both tests look at the same difference, so it must be beyond the larger one of their limits. The
difference found is normal around the true one, and the variance over seeds that a sweep finds is the true one times a
chi-square variate over its degrees of freedom. Where items do not matter this is the noncentral t distribution.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, NamedTuple

from unigen.core.intervals import critical

if TYPE_CHECKING:
    import numpy as np

POWER = 0.8  # the share of sweeps in which a difference of the wanted size is to be resolved
MOST = 1000  # seeds; a comparison that needs more is said to be out of reach
POINTS = 200  # quantiles of the variance over seeds, over which the power is averaged


class Spread(NamedTuple):
    """The variances of a paired difference of two arms.

    `seeds` is the variance of one seed's difference. The bootstrap's variance with n seeds is `items` + `both` / n:
    `items` is what items do under all seeds, and `clusters` are its degrees of freedom.
    """

    seeds: float
    items: float
    both: float
    clusters: int


def power(difference: float, spread: Spread, n: int, level: float) -> float:
    """Return the probability that a true `difference` is resolved with n seeds at `level`, which is two-sided."""
    import numpy as np
    from scipy.special import ndtr

    share_Q = _variances(n - 1)
    over_seeds_Q = critical(n - 1, level) * np.sqrt(spread.seeds * share_Q / n)
    over_items_Q = critical(spread.clusters, level) * np.sqrt(spread.items + spread.both * share_Q / n)
    limit_Q = np.maximum(over_seeds_Q, over_items_Q)
    deviation = math.sqrt(spread.items + spread.seeds / n)
    if deviation == 0:
        return float(difference != 0)
    return float(np.mean(ndtr((difference - limit_Q) / deviation) + ndtr((-difference - limit_Q) / deviation)))


@functools.lru_cache(maxsize=64)
def _variances(df: int) -> np.ndarray:
    """Return equally likely ratios (POINTS,) of a variance with `df` degrees of freedom to the true one."""
    import numpy as np
    from scipy.special import gammaincinv

    return gammaincinv(df / 2, (np.arange(POINTS) + 0.5) / POINTS) * 2 / df


def seeds_needed(difference: float, spread: Spread, level: float, wanted: float = POWER) -> int | None:
    """Return the smallest number of seeds that resolves `difference` with the power `wanted`; None beyond MOST."""

    def enough(n: int) -> bool:
        return power(difference, spread, n, level) >= wanted

    high = 2
    while not enough(high):
        if high >= MOST:
            return None
        high = min(2 * high, MOST)
    low = max(1, high // 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def smallest(spread: Spread, n: int, level: float, wanted: float = POWER) -> float:
    """Return the smallest true difference that n seeds resolve with the power `wanted`."""
    from scipy.optimize import brentq

    unit = math.sqrt(spread.items + max(spread.seeds, spread.both) / n)
    if unit == 0:
        return 0.0
    high = unit
    while power(high, spread, n, level) < wanted:
        high *= 2
    return float(brentq(lambda size: power(size, spread, n, level) - wanted, 0.0, high, rtol=1e-6))
