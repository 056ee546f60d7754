"""Degradations with fewer samples than pixels: `pixelate`, `sr_x2`, `sr_x4` and `mosaic`."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from datamodules.degradations.base import image_of, pixels_of

SCALES = (0.5, 0.4, 0.3, 0.25, 0.2)


@dataclass(frozen=True, slots=True)
class Pixelate:
    """Averages over squares: scales down to `scale` times the sides (rounded down), and up without interpolation."""

    scale: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        import cv2

        height, width = image.shape[1:]
        small = (max(1, int(width * self.scale)), max(1, int(height * self.scale)))
        cells = cv2.resize(pixels_of(image), small, interpolation=cv2.INTER_AREA)
        return image_of(cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))


@dataclass(frozen=True, slots=True)
class LowResolution:
    """Divides the sides by `factor` (rounded down) and scales up again, both bicubic without antialiasing."""

    factor: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        import cv2

        height, width = image.shape[1:]
        small = (max(1, width // self.factor), max(1, height // self.factor))
        few = cv2.resize(pixels_of(image), small, interpolation=cv2.INTER_CUBIC)
        return image_of(cv2.resize(few, (width, height), interpolation=cv2.INTER_CUBIC))


@dataclass(frozen=True, slots=True)
class Mosaic:
    """Keeps what a Bayer sensor (RGGB) measures: one channel a pixel. The other two thirds of all values
    become zero.
    """

    def __call__(self, image: np.ndarray) -> np.ndarray:
        seen = np.zeros_like(image)
        for channel, down, right in ((0, 0, 0), (1, 0, 1), (1, 1, 0), (2, 1, 1)):
            seen[channel, down::2, right::2] = image[channel, down::2, right::2]
        return seen


def pixelate(rng: random.Random) -> Pixelate:
    """Draw one of five scales."""
    return Pixelate(rng.choice(SCALES))


def sr_x2(rng: random.Random) -> LowResolution:
    """Nothing is drawn: half the sides."""
    return LowResolution(2)


def sr_x4(rng: random.Random) -> LowResolution:
    """Nothing is drawn: a quarter of the sides."""
    return LowResolution(4)


def mosaic(rng: random.Random) -> Mosaic:
    """Nothing is drawn: RGGB."""
    return Mosaic()
