"""Fewer samples than pixels: `pixelate`, `sr_x2`, `sr_x4` and `mosaic`."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from datamodules.degradations.base import picture_of, pixels_of

SCALES = (0.5, 0.4, 0.3, 0.25, 0.2)


@dataclass(frozen=True, slots=True)
class Pixelate:
    """Means over squares: down to `scale` times the sides (rounded down), and up without interpolation."""

    scale: float

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        import cv2

        height, width = picture.shape[1:]
        small = (max(1, int(width * self.scale)), max(1, int(height * self.scale)))
        cells = cv2.resize(pixels_of(picture), small, interpolation=cv2.INTER_AREA)
        return picture_of(cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))


@dataclass(frozen=True, slots=True)
class LowResolution:
    """Down to the sides divided by `factor` (rounded down) and up again, both bicubic without antialiasing."""

    factor: int

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        import cv2

        height, width = picture.shape[1:]
        small = (max(1, width // self.factor), max(1, height // self.factor))
        few = cv2.resize(pixels_of(picture), small, interpolation=cv2.INTER_CUBIC)
        return picture_of(cv2.resize(few, (width, height), interpolation=cv2.INTER_CUBIC))


@dataclass(frozen=True, slots=True)
class Mosaic:
    """What a Bayer sensor (RGGB) measures: one channel a pixel, the other two zero. Two thirds of all values go."""

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        seen = np.zeros_like(picture)
        for channel, down, right in ((0, 0, 0), (1, 0, 1), (1, 1, 0), (2, 1, 1)):
            seen[channel, down::2, right::2] = picture[channel, down::2, right::2]
        return seen


def pixelate(rng: random.Random) -> Pixelate:
    """One of five scales."""
    return Pixelate(rng.choice(SCALES))


def sr_x2(rng: random.Random) -> LowResolution:
    """Always the same: half the sides."""
    return LowResolution(2)


def sr_x4(rng: random.Random) -> LowResolution:
    """Always the same: a quarter of the sides."""
    return LowResolution(4)


def mosaic(rng: random.Random) -> Mosaic:
    """Always the same: RGGB."""
    return Mosaic()
