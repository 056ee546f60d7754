"""The protocol of a degradation, and the pixel arithmetic that several of them share.

Shapes: images are uint8 (3, H, W), as everywhere in `datamodules`; inside, OpenCV wants pixels, uint8 (H, W, 3).
Imports no torch: loader workers run this.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

import numpy as np

LEVELS = np.arange(256, dtype=np.float64) / 255
SEVERITIES = 5  # of the degradations that VisualCloze's released code takes from image-quality datasets


class Degradation(Protocol):
    """A corruption with its parameters drawn: a frozen dataclass, so hashable, comparable, printable, picklable.

    Calling it makes a new image and leaves the given one alone; equal degradations of equal images are equal.
    What is drawn for every pixel (noise, where lines lie) comes from its field `seed` and the sides of the image.
    """

    def __call__(self, image: np.ndarray) -> np.ndarray: ...


Draw = Callable[[random.Random], Degradation]


def draw_seed(rng: random.Random) -> int:
    """Draw a seed of 32 bits for a numpy generator."""
    return rng.getrandbits(32)


def draw_mild(rng: random.Random) -> int:
    """Draw the index of one of five severities with the chances 0.2, 0.2 and 0.6: those above the third become the
    third.
    """
    return min(rng.randrange(SEVERITIES), 2)


def pixels_of(image: np.ndarray) -> np.ndarray:
    """Copy (3, H, W) to a contiguous (H, W, 3)."""
    return np.array(image.transpose(1, 2, 0), order="C")


def image_of(pixels: np.ndarray) -> np.ndarray:
    """Copy (H, W, 3) to a contiguous (3, H, W)."""
    return np.array(pixels.transpose(2, 0, 1), order="C")


def rounded(values: np.ndarray) -> np.ndarray:
    """Round numbers in which 255 is white to the nearest uint8."""
    return np.rint(values).clip(0, 255).astype(np.uint8)


def toned(image: np.ndarray, *curves: np.ndarray) -> np.ndarray:
    """Map every value by a curve over `LEVELS`, (256,) in [0, 1] and clipped to it: one for all channels, or three."""
    tables = [rounded(255 * curve) for curve in curves]
    if len(tables) == 1:
        return tables[0].take(image)
    return np.stack([table.take(channel) for table, channel in zip(tables, image, strict=True)])


def remapped(image: np.ndarray, x: np.ndarray, y: np.ndarray, how: int, border: int) -> np.ndarray:
    """Sample the image's colours at float32 places (H, W), in pixels; `how` and `border` are OpenCV's."""
    import cv2

    return image_of(cv2.remap(pixels_of(image), x, y, how, borderMode=border))


def places(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates (x, y) of every pixel, float32 (H, W) each."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return x, y
