"""What a degradation is, and the arithmetic on pixels that several of them share.

Shapes: pictures are uint8 (3, H, W), as everywhere in `datamodules`; inside, OpenCV wants pixels, uint8 (H, W, 3).
Imports no torch: loader workers run this.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

import numpy as np

LEVELS = np.arange(256, dtype=np.float64) / 255
SEVERITIES = 5  # of what VisualCloze's released code takes over from image-quality datasets


class Degradation(Protocol):
    """A corruption with its parameters drawn: a frozen dataclass, so hashable, comparable, printable, picklable.

    Calling it makes a new picture and leaves the given one alone; equal degradations of equal pictures are equal.
    What is drawn for every pixel (noise, where lines lie) comes from its field `seed` and the sides of the picture.
    """

    def __call__(self, picture: np.ndarray) -> np.ndarray: ...


Draw = Callable[[random.Random], Degradation]


def draw_seed(rng: random.Random) -> int:
    """32 bits for a numpy generator."""
    return rng.getrandbits(32)


def draw_mild(rng: random.Random) -> int:
    """Index of one of five severities, those above the third counted as the third: 0.2, 0.2 and 0.6."""
    return min(rng.randrange(SEVERITIES), 2)


def pixels_of(picture: np.ndarray) -> np.ndarray:
    """(3, H, W) to a contiguous copy (H, W, 3)."""
    return np.array(picture.transpose(1, 2, 0), order="C")


def picture_of(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) to a contiguous copy (3, H, W)."""
    return np.array(pixels.transpose(2, 0, 1), order="C")


def rounded(values: np.ndarray) -> np.ndarray:
    """Numbers where 255 is white, to the nearest of uint8."""
    return np.rint(values).clip(0, 255).astype(np.uint8)


def toned(picture: np.ndarray, *curves: np.ndarray) -> np.ndarray:
    """Every value through a curve over `LEVELS`, (256,) in [0, 1] and clipped to it: one for all channels, or three."""
    tables = [rounded(255 * curve) for curve in curves]
    if len(tables) == 1:
        return tables[0].take(picture)
    return np.stack([table.take(channel) for table, channel in zip(tables, picture, strict=True)])


def remapped(picture: np.ndarray, x: np.ndarray, y: np.ndarray, how: int, border: int) -> np.ndarray:
    """The picture's colours at float32 places (H, W), in pixels; `how` and `border` are OpenCV's."""
    import cv2

    return picture_of(cv2.remap(pixels_of(picture), x, y, how, borderMode=border))


def places(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Every pixel's own (x, y), float32 (H, W) each."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return x, y
