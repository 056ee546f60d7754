"""Geometric degradations: `barrel`, `pincushion`, `elastic` and the rotations."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from datamodules.degradations.base import draw_seed, places, remapped

ALPHA = 25  # times the smoothed field of elastic
LARGEST = 0.005  # largest displacement of elastic before smoothing, as a share of a side
SMOOTH = 0.01  # sigma of its smoothing, as a share of a side


@dataclass(frozen=True, slots=True)
class RadialDistortion:
    """Shows at radius r what lay at r (1 + k1 r² + k2 r⁴); r is 1 in the middle of each side, √2 in a corner.

    Above 0 this is a barrel: the image shrinks towards its centre, and black is left around it (a quarter of all
    pixels at k1 = 0.1, k2 = 0.05). Below 0 it is a pincushion: the image grows, and its borders leave the frame.
    """

    k1: float
    k2: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        import cv2

        height, width = image.shape[1:]
        x, y = places(height, width)
        x, y = x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1
        square = x * x + y * y
        scale = 1 + self.k1 * square + self.k2 * square * square
        x, y = (x * scale + 1) * ((width - 1) / 2), (y * scale + 1) * ((height - 1) / 2)
        return remapped(image, x, y, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)


@dataclass(frozen=True, slots=True)
class Elastic:
    """Displaces pixels by smoothed noise: by 2 pixels (standard deviation) in an image of 64 pixels or more."""

    seed: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        import cv2

        height, width = image.shape[1:]
        x, y = places(height, width)
        chance = np.random.default_rng(self.seed)
        return remapped(
            image,
            x + _field(chance, height, width, LARGEST * width),
            y + _field(chance, height, width, LARGEST * height),
            cv2.INTER_LINEAR,
            cv2.BORDER_REFLECT,
        )


@dataclass(frozen=True, slots=True)
class QuarterTurns:
    """Turns the image by `turns` quarter turns clockwise; after an odd number the sides have changed places."""

    turns: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return np.array(np.rot90(image, -self.turns, axes=(1, 2)), order="C")


def barrel(rng: random.Random) -> RadialDistortion:
    """Nothing is drawn: one barrel distortion."""
    return RadialDistortion(0.1, 0.05)


def pincushion(rng: random.Random) -> RadialDistortion:
    """Nothing is drawn: one pincushion distortion."""
    return RadialDistortion(-0.1, -0.05)


def elastic(rng: random.Random) -> Elastic:
    """Draw the seed of an elastic deformation, whose strength is fixed."""
    return Elastic(draw_seed(rng))


def rotate_90(rng: random.Random) -> QuarterTurns:
    """Nothing is drawn: a quarter turn clockwise."""
    return QuarterTurns(1)


def rotate_180(rng: random.Random) -> QuarterTurns:
    """Nothing is drawn: half a turn."""
    return QuarterTurns(2)


def rotate_270(rng: random.Random) -> QuarterTurns:
    """Nothing is drawn: three quarter turns clockwise."""
    return QuarterTurns(3)


def _field(chance: np.random.Generator, height: int, width: int, largest: float) -> np.ndarray:
    """Smooth displacements, float32 (H, W) in pixels: noise within ± `largest`, smoothed, times ALPHA."""
    import cv2

    noise = chance.random((height, width), np.float32)
    noise = (2 * noise - 1) * (largest * ALPHA)
    across, down = SMOOTH * width, SMOOTH * height
    window = (2 * round(3 * across) + 1, 2 * round(3 * down) + 1)
    return cv2.GaussianBlur(noise, window, across, sigmaY=down, borderType=cv2.BORDER_REFLECT)
