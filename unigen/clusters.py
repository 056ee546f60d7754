"""Held-out items in clusters, and the bootstrap over clusters and over seeds of training.

Items that show the same thing (skin tones of one emoji, prompts of one subject) are no independent evidence, so whole
clusters are drawn. Clusters in several ways, as DreamBench's subjects and prompts, are drawn in each way by itself and
crossed, and so are seeds, since every run of a protocol is measured on the same items: the pigeonhole bootstrap
(Owen 2007, arXiv:0712.1111; weights as products, Owen and Eckles 2012, arXiv:1106.2125). Of n units n - 1 are drawn
with replacement, which makes the variance of each way unbiased (Rao and Wu 1988); n drawn would have (n - 1) / n of it.
Noise that is in no way a cluster's counts several times, so the bootstrap errs on the wide side.

Shapes: N items, K cells (items that share all of their clusters), S seeds, R resamples.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 2000
SEEDS, ITEMS = 0, 2  # streams of random numbers: 0 and 1 for the seeds of two arms that share none, then the ways
Scores = Mapping[int, "np.ndarray"]  # seed -> (N,)


class Clusters(NamedTuple):
    """The cluster of every item in each way of grouping them, {way: (N,) names}; hashable.

    `told` is False where a file did not say them and they were derived (`unigen.scores.read_scores`).
    """

    ways: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]
    told: bool = True

    @classmethod
    def single(cls, count: int) -> Clusters:
        """Each item by itself."""
        return cls(("item",), (tuple(map(str, range(count))),), told=False)

    @classmethod
    def agreed(cls, found: Sequence[Clusters]) -> Clusters | None:
        """Those of items that several files name: what a file told counts for one that did not. None: other items."""
        told = [each for each in found if each.told] or list(found)
        alike = len({each.items for each in found}) == 1 and all(each == told[0] for each in told)
        return told[0] if alike else None

    @property
    def items(self) -> int:
        return len(self.columns[0])

    @property
    def counts(self) -> dict[str, int]:
        """How many clusters there are in each way."""
        return {way: len(set(column)) for way, column in zip(self.ways, self.columns, strict=True)}

    @property
    def degrees(self) -> int:
        """Degrees of freedom of a bootstrap over them: one less than the fewest clusters that can be drawn from.

        A way with a single cluster says nothing of others and is not drawn; 0 if no way is left.
        """
        return min((count - 1 for count in self.counts.values() if count > 1), default=0)

    @property
    def text(self) -> str:
        """For a report: the number of items, and of clusters where they are fewer."""
        fewer = {way: count for way, count in self.counts.items() if count < self.items}
        return f"{self.items:,}" + (f" ({', '.join(f'{w}: {n:,}' for w, n in fewer.items())})" if fewer else "")


@functools.lru_cache(maxsize=64)
def shares(count: int, stream: int) -> np.ndarray:
    """(R, count) weights of units in each resample, of mean 1 / count: count - 1 of them drawn with replacement."""
    import numpy as np

    if count == 1:
        return np.ones((RESAMPLES, 1))
    draw = np.random.default_rng([count, stream])
    return draw.multinomial(count - 1, [1 / count] * count, size=RESAMPLES) / (count - 1)


@functools.lru_cache(maxsize=8)
def cells(clusters: Clusters) -> tuple[np.ndarray, np.ndarray]:
    """(R, K) weights of cells, the product of those of their clusters, and the cell of every item, (N,)."""
    import numpy as np

    drawn = [column for column, n in zip(clusters.columns, clusters.counts.values(), strict=True) if n > 1]
    levels = [np.unique(column, return_inverse=True)[1] for column in drawn]
    places, cell_N = np.unique(np.stack(levels), axis=1, return_inverse=True)
    weights_RK = np.ones((RESAMPLES, places.shape[1]))
    for way, place_K in enumerate(places):
        weights_RK *= shares(int(place_K.max()) + 1, ITEMS + way)[:, place_K]
    return weights_RK, cell_N.ravel()


def resampled(scores: Scores, clusters: Clusters, stream: int = SEEDS) -> np.ndarray:
    """(R,) means over resampled seeds and clusters. `clusters.degrees` must not be 0."""
    import numpy as np

    weights_RK, cell_N = cells(clusters)
    sums_KS = np.stack([np.bincount(cell_N, scores[seed]) for seed in sorted(scores)], axis=1)
    totals_R = weights_RK @ np.bincount(cell_N)
    with np.errstate(invalid="ignore"):  # where few cells exist of a crossing, a resample may hold none
        means_RS = (weights_RK @ sums_KS) / totals_R[:, None]
    return (means_RS * shares(len(scores), stream)).sum(axis=1)


def error(means_R: np.ndarray) -> float:
    """The standard error: the standard deviation of resampled means."""
    import numpy as np

    return float(np.nanstd(means_R))


def difference_error(first: Scores, second: Scores, clusters: Clusters) -> float:
    """Standard error of the difference of two arms, item by item over the seeds that both have.

    Without two shared seeds, seeds are drawn for each arm by itself; items stay paired.
    """
    shared = sorted(set(first) & set(second))
    if len(shared) > 1 or (shared and len(first) == len(second) == 1):
        return error(resampled({seed: first[seed] - second[seed] for seed in shared}, clusters))
    return error(resampled(first, clusters) - resampled(second, clusters, stream=SEEDS + 1))
