"""Degradations that lie over an image: `inpainting` (lines that hide it), `rain` and `frost`."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np

from datamodules.degradations.base import draw_seed, image_of, pixels_of, rounded
from datamodules.degradations.ice import frost_texture

PUBLISHED = 512  # side of the images that the thickness of lines is published for
KEPT, ICED = 0.65, 0.7  # shares of the image and of the ice under frost; more than white is white


@dataclass(frozen=True, slots=True)
class Lines:
    """Draws `count` straight lines between random places, all white (255) or all black (0). They are `thick` pixels
    where the shorter side is 512, and in proportion elsewhere, so they hide the same share of any image.
    """

    count: int
    thick: int
    value: int
    seed: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        import cv2

        height, width = image.shape[1:]
        ends = np.random.default_rng(self.seed).integers(0, (width + 1, height + 1), (self.count, 2, 2))
        thick = max(1, round(self.thick * min(height, width) / PUBLISHED))
        colour = (self.value,) * 3
        return image_of(cv2.polylines(pixels_of(image), list(ends.astype(np.int32)), False, colour, thick))


@dataclass(frozen=True, slots=True)
class Rain:
    """Adds streaks as light: drops on `amount` / 256 percent of the pixels (at least one), each drawn out to about
    `length` pixels at `angle` degrees from the vertical, softened over `width` pixels; the brightest adds 255.
    """

    amount: float
    length: int
    angle: int
    width: int
    seed: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        import cv2

        chance = np.random.default_rng(self.seed).random(image.shape[1:], np.float32)
        drops = (chance <= max(self.amount / 25600, chance.min())).astype(np.float32)
        light = cv2.filter2D(drops, -1, self._streak(), borderType=cv2.BORDER_REFLECT)
        light = np.maximum(light, 0)  # Fourier filtering leaves tiny negative numbers
        return rounded(image + light * (255 / light.max()))

    def _streak(self) -> np.ndarray:
        """The shape that one drop becomes: float32, odd sides."""
        import cv2

        half = self.length * math.sqrt(0.5) * (1 - self.length / 100)
        room = math.ceil(half) + self.width
        reach = np.array([math.sin(math.radians(self.angle)), math.cos(math.radians(self.angle))]) * half
        ends = np.rint(256 * (room + np.stack([-reach, reach]))).astype(np.int32)  # 8 bits of fraction
        streak = np.zeros((2 * room + 1, 2 * room + 1), np.uint8)
        cv2.polylines(streak, [ends], False, 255, 1, cv2.LINE_AA, 8)
        return cv2.GaussianBlur(streak.astype(np.float32), (self.width, self.width), 0)


@dataclass(frozen=True, slots=True)
class Frost:
    """Grows ice over the image: KEPT times the image plus ICED times a bluish texture, both of 0 to 255."""

    seed: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        ice = frost_texture(*image.shape[1:], self.seed)
        tint = np.array([0.9, 0.96, 1.0], np.float32)[:, None, None]
        return rounded(np.float32(KEPT) * image + (255 * ICED * tint) * ice)


def inpainting(rng: random.Random) -> Lines:
    """Draw 20 to 50 lines, 10 to 20 pixels thick at 512 × 512."""
    return Lines(rng.randint(20, 50), rng.randint(10, 20), rng.choice((255, 0)), draw_seed(rng))


def rain(rng: random.Random) -> Rain:
    """Draw 0.16 to 0.78 percent of drops, of length 30 to 40, at -45 to 44 degrees, softened over 3 to 11 pixels."""
    shape = rng.randint(30, 40), rng.randint(-45, 44), rng.choice((3, 5, 7, 9, 11))
    return Rain(rng.uniform(40, 200), *shape, draw_seed(rng))


def frost(rng: random.Random) -> Frost:
    """Draw the seed; the strength is fixed."""
    return Frost(draw_seed(rng))
