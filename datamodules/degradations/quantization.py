"""Reduces levels: `quantization`, in three ways to choose the levels from an image's histograms."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.degradations.base import LEVELS, Degradation, draw_mild, toned

OTSU = (15, 11, 8)
MEDIAN = (20, 15, 10)
EQUALISED = (24, 16, 8)


@dataclass(frozen=True, slots=True)
class MultiOtsu:
    """Divides each channel into the `classes` with the least variance within; every class becomes its mean."""

    classes: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        histograms = [np.bincount(channel.ravel(), minlength=256) for channel in image]
        return toned(image, *(_within(h, otsu_thresholds(h, self.classes)) for h in histograms))


@dataclass(frozen=True, slots=True)
class MedianCut:
    """Cuts, in each channel, the class of most pixels at its median until there are `classes`; each takes its mean."""

    classes: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        histograms = [np.bincount(channel.ravel(), minlength=256) for channel in image]
        return toned(image, *(_within(h, median_cuts(h, self.classes)) for h in histograms))


@dataclass(frozen=True, slots=True)
class EqualisedLevels:
    """Rounds to `levels` evenly spaced levels, then spreads them by the share of all lower values (histogram
    equalisation).
    """

    levels: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        nearest = np.rint(LEVELS * (self.levels - 1)).astype(int)
        counts = np.bincount(nearest, np.bincount(image.ravel(), minlength=256), self.levels)
        below = np.cumsum(counts)
        lowest = below[below > 0][0]
        if lowest == below[-1]:  # one level in the whole image: nothing to spread
            return toned(image, nearest / (self.levels - 1))
        return toned(image, np.maximum(below - lowest, 0)[nearest] / (below[-1] - lowest))


def quantization(rng: random.Random) -> Degradation:
    """Draw one of three kinds, at one of three severities."""
    level = draw_mild(rng)
    return rng.choice((MultiOtsu(OTSU[level]), MedianCut(MEDIAN[level]), EqualisedLevels(EQUALISED[level])))


def otsu_thresholds(histogram: np.ndarray, classes: int) -> list[int]:
    """The first levels of all classes but the lowest, for the division of a histogram (256,) with the least variance
    within.

    Exact, by dynamic programming over the last class: the variance within is least where the sum over classes of
    (sum of levels)² / (number of pixels) is largest (Liao, Chen and Chung 2001).
    """
    count = np.concatenate(([0.0], np.cumsum(histogram, dtype=np.float64)))
    total = np.concatenate(([0.0], np.cumsum(histogram * np.arange(256.0))))
    pixels = count[None, :] - count[:, None]  # (first, end)
    gain = np.square(total[None, :] - total[:, None]) / np.maximum(pixels, 1)
    gain[np.tri(257, dtype=bool)] = -np.inf  # a class has at least one level
    best, origins = gain[0], []
    for _ in range(classes - 1):
        through = best[:, None] + gain
        origins.append(through.argmax(axis=0))
        best = through.max(axis=0)
    end, cuts = 256, []
    for origin in reversed(origins):
        end = int(origin[end])
        cuts.append(end)
    return cuts[::-1]


def median_cuts(histogram: np.ndarray, classes: int) -> list[int]:
    """The first levels of all classes but the lowest, at most `classes` in all. A class of one level is not cut."""
    boxes = [(0, 256)]
    while len(boxes) < classes:
        most = max(boxes, key=lambda box: histogram[slice(*box)].sum() * (np.count_nonzero(histogram[slice(*box)]) > 1))
        inside = np.cumsum(histogram[slice(*most)])
        used = np.flatnonzero(histogram[slice(*most)])
        if used.size < 2:
            break
        middle = int(np.searchsorted(inside, inside[-1] / 2)) + 1
        cut = most[0] + min(middle, int(used[-1]))  # neither side may be empty
        boxes.remove(most)
        boxes += [(most[0], cut), (cut, most[1])]
    return sorted(first for first, _ in boxes)[1:]


def _within(histogram: np.ndarray, inner: Sequence[int]) -> np.ndarray:
    """The curve (256,) that gives every level the mean level of its class; empty classes keep their levels.

    `inner` are the first levels of all classes but the lowest, ascending.
    """
    weights, curve = histogram.astype(np.float64), LEVELS.copy()
    for first, end in zip((0, *inner), (*inner, 256), strict=True):
        if weights[first:end].any():
            curve[first:end] = np.average(LEVELS[first:end], weights=weights[first:end])
    return curve
