"""Clusters of held-out items, and the bootstrap over clusters and over seeds of training.

Items that show the same thing (skin tones of one emoji, prompts of one subject) are not independent, so whole clusters
are drawn. Items may be clustered in several ways, as by DreamBench's subjects and prompts; then each way is drawn by
itself and the draws are crossed. Seeds are crossed with them too, since every run of a protocol is measured on the same
items. This is the pigeonhole bootstrap (Owen 2007, arXiv:0712.1111; weights as products, Owen and Eckles 2012,
arXiv:1106.2125). Of n units, n - 1 are drawn with replacement, which makes the variance of each way unbiased (Rao and
Wu 1988); with n drawn it would be (n - 1) / n of that. Noise that belongs to no cluster is counted several times, so
intervals are rather too wide than too narrow.

Shapes: N items, K cells (items that share all of their clusters), S seeds, R resamples.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 2000
SEEDS, ITEMS = 0, 2  # streams of random numbers: 0 and 1 for seeds of two arms that share none, from 2 on for the ways
Scores = Mapping[int, "np.ndarray"]  # seed -> (N,)


class Clusters(NamedTuple):
    """The cluster of every item, (N,) names for each way of grouping them. The value is hashable.

    `told` is False if the file of scores had no clusters and they were derived (`unigen.evaluation.scores`).
    """

    ways: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]
    told: bool = True

    @classmethod
    def single(cls, count: int) -> Clusters:
        """Return `count` clusters of one item each."""
        return cls(("item",), (tuple(map(str, range(count))),), told=False)

    @classmethod
    def agreed(cls, found: Sequence[Clusters]) -> Clusters | None:
        """Return the clusters that several files agree on, or None if they are of different items or clusters.

        Clusters that a file holds take precedence over derived ones.
        """
        told = [each for each in found if each.told] or list(found)
        alike = len({each.items for each in found}) == 1 and all(each == told[0] for each in told)
        return told[0] if alike else None

    @property
    def items(self) -> int:
        return len(self.columns[0])

    @property
    def counts(self) -> dict[str, int]:
        """The number of clusters in each way."""
        return {way: len(set(column)) for way, column in zip(self.ways, self.columns, strict=True)}

    @property
    def degrees(self) -> int:
        """Degrees of freedom of the bootstrap: one less than the smallest number of clusters in a way that is drawn.

        A way with a single cluster cannot be resampled and is not drawn; the result is 0 if no way is left.
        """
        return min((count - 1 for count in self.counts.values() if count > 1), default=0)

    @property
    def text(self) -> str:
        """The number of items for a report, with the numbers of clusters that are smaller."""
        fewer = {way: count for way, count in self.counts.items() if count < self.items}
        return f"{self.items:,}" + (f" ({', '.join(f'{w}: {n:,}' for w, n in fewer.items())})" if fewer else "")


@functools.lru_cache(maxsize=64)
def shares(count: int, stream: int) -> np.ndarray:
    """Return weights (R, count) of the units in each resample, with mean 1 / count; count - 1 units are drawn."""
    import numpy as np

    if count == 1:
        return np.ones((RESAMPLES, 1))
    draw = np.random.default_rng([count, stream])
    return draw.multinomial(count - 1, [1 / count] * count, size=RESAMPLES) / (count - 1)


@functools.lru_cache(maxsize=8)
def cells(clusters: Clusters) -> tuple[np.ndarray, np.ndarray]:
    """Return weights (R, K) of cells, the products of the weights of their clusters, and each item's cell (N,)."""
    import numpy as np

    drawn = [column for column, n in zip(clusters.columns, clusters.counts.values(), strict=True) if n > 1]
    levels = [np.unique(column, return_inverse=True)[1] for column in drawn]
    places, cell_N = np.unique(np.stack(levels), axis=1, return_inverse=True)
    weights_RK = np.ones((RESAMPLES, places.shape[1]))
    for way, place_K in enumerate(places):
        weights_RK *= shares(int(place_K.max()) + 1, ITEMS + way)[:, place_K]
    return weights_RK, cell_N.ravel()


def by_seed(scores: Scores, clusters: Clusters) -> np.ndarray:
    """Return the means (R, S) of each seed over resampled clusters. `clusters.degrees` must not be 0."""
    import numpy as np

    weights_RK, cell_N = cells(clusters)
    sums_KS = np.stack([np.bincount(cell_N, scores[seed]) for seed in sorted(scores)], axis=1)
    totals_R = weights_RK @ np.bincount(cell_N)
    with np.errstate(invalid="ignore"):  # if a crossing has few cells, a resample may hold none of them
        return (weights_RK @ sums_KS) / totals_R[:, None]


def resampled(scores: Scores, clusters: Clusters, stream: int = SEEDS) -> np.ndarray:
    """Return the means (R,) over resampled seeds and clusters. `clusters.degrees` must not be 0."""
    return _over_seeds(by_seed(scores, clusters), stream)


def _over_seeds(means_RS: np.ndarray, stream: int) -> np.ndarray:
    return (means_RS * shares(means_RS.shape[1], stream)).sum(axis=1)


def error(means_R: np.ndarray) -> float:
    """Return the standard error, which is the standard deviation of the resampled means."""
    import numpy as np

    return float(np.nanstd(means_R))


def difference_error(first: Scores, second: Scores, clusters: Clusters) -> tuple[float, float | None]:
    """Return the standard error of the difference of two arms, and the part of its square that no further seed removes.

    The difference is taken item by item over the seeds that both arms have. If they share fewer than two seeds, seeds
    are drawn for each arm by itself, items stay paired, and the second number is None.
    """
    shared = sorted(set(first) & set(second))
    if len(shared) > 1 or (shared and len(first) == len(second) == 1):
        means_RS = by_seed({seed: first[seed] - second[seed] for seed in shared}, clusters)
        return error(_over_seeds(means_RS, SEEDS)), lasting(means_RS)
    return error(resampled(first, clusters) - resampled(second, clusters, stream=SEEDS + 1)), None


def lasting(means_RS: np.ndarray) -> float | None:
    """Return the variance that all seeds have in common: the mean covariance of two seeds over resampled clusters."""
    import numpy as np

    count = means_RS.shape[1]
    if count < 2:
        return None
    covariance_SS = np.cov(means_RS[~np.isnan(means_RS).any(axis=1)], rowvar=False)
    return max(0.0, float(covariance_SS.sum() - covariance_SS.trace()) / (count * (count - 1)))
