"""The order of records of a large set: windows of neighbours, shuffled inside and among each other."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

import torch

from datamodules.graph.keyed import KeyedBatchSampler
from unigen.core.noise import mix


def window_of(index: int, n: int, window: int | None) -> range:
    """The neighbours of a record, itself among them: all records without a window."""
    if window is None:
        return range(n)
    first = index // window * window
    return range(first, min(first + window, n))


class WindowBatchSampler(KeyedBatchSampler):
    """A KeyedBatchSampler whose epochs go through windows of `window` records of consecutive indices, one by one.

    Of a parquet file a record costs a row group, which its neighbours share. Which record comes at a position is a pure
    function of (seed, position) here too. Raises ValueError for a window below 1, and as KeyedBatchSampler does.
    """

    def __init__(self, n: int, batch_size: int, seed: int, start: int, window: int) -> None:
        super().__init__(n, batch_size, seed, start)
        if type(window) is not int or window < 1:
            raise ValueError(f"window={window!r} must be a number of records, at least 1, or null")
        self.window = window
        self._order: tuple[int, list[int], list[int]] = (-1, [], [])
        self._inside: tuple[tuple[int, int], list[int]] = ((-1, -1), [])

    def _index(self, position: int) -> int:
        """The record at a position of the endless stream."""
        epoch, offset = divmod(position, self.n)
        if self._order[0] != epoch:
            firsts = range(0, self.n, self.window)
            order = [firsts[i] for i in _permutation(len(firsts), mix(self.seed, "windows", epoch))]
            starts = list(accumulate((len(window_of(first, self.n, self.window)) for first in order), initial=0))
            self._order = epoch, order, starts
        _, order, starts = self._order
        place = bisect_right(starts, offset) - 1
        neighbours = window_of(order[place], self.n, self.window)
        if self._inside[0] != (epoch, place):
            inside = _permutation(len(neighbours), mix(self.seed, "window", epoch, place))
            self._inside = (epoch, place), inside
        return neighbours[self._inside[1][offset - starts[place]]]


def _permutation(n: int, seed: int) -> list[int]:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
