"""Blurs and their opposite: `blur`, `gaussian_blur`, `defocus` and `oversharpen`.

Lengths are pixels, as published for images of 512 pixels; borders repeat the outermost pixels.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np

from datamodules.degradations.base import (
    SEVERITIES,
    Degradation,
    draw_seed,
    image_of,
    pixels_of,
    places,
    remapped,
    rounded,
)

GAUSSIAN = (1, 2, 3, 4, 5)  # sigma
MOTION = ((5, 3), (10, 5), (15, 7), (15, 9), (20, 12))  # radius, sigma
GLASS = ((0.7, 1, 1), (0.9, 2, 1), (1.2, 2, 2), (1.4, 3, 2), (1.6, 4, 2))  # sigma, shift, rounds
LENS = (2, 3, 4, 6, 8)  # radius
ZOOM = (2, 3, 5, 8, 11)  # layers, each 2 % larger than the one before: up to 1.02, 1.04, 1.08, 1.14 and 1.20
JITTER = (1, 2, 3, 4, 5)  # shift
AMOUNTS = (2, 2.8, 4, 6, 8)  # of oversharpening


@dataclass(frozen=True, slots=True)
class GaussianBlur:
    """Blurs by a Gaussian of `sigma` pixels, cut off to `window` pixels (odd)."""

    sigma: float
    window: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return image_of(_smooth(pixels_of(image), self.sigma, self.window))


@dataclass(frozen=True, slots=True)
class MotionBlur:
    """Smears over 2 `radius` + 1 pixels to one side, `angle` degrees from the horizontal, fading as half a Gaussian."""

    radius: int
    sigma: float
    angle: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        fine = (np.arange(8 * (2 * self.radius + 1)) + 0.5) / 8 - 0.5  # eight points a step: slanted trails are even
        y = np.rint(fine * math.sin(math.radians(self.angle))).astype(int)
        x = np.rint(fine * math.cos(math.radians(self.angle))).astype(int)
        kernel = np.zeros((np.ptp(y) + 1, np.ptp(x) + 1), np.float32)
        np.add.at(kernel, (y - y.min(), x - x.min()), np.exp(-(np.rint(fine) ** 2) / (2 * self.sigma**2)))
        return _convolved(image, kernel / kernel.sum(), (int(-x.min()), int(-y.min())))


@dataclass(frozen=True, slots=True)
class GlassBlur:
    """Blurs by a Gaussian, then `rounds` times takes every pixel from up to `shift` pixels away, then blurs again."""

    sigma: float
    shift: int
    rounds: int
    seed: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        chance, window = np.random.default_rng(self.seed), _window(self.sigma)
        image = image_of(_smooth(pixels_of(image), self.sigma, window))
        for _ in range(self.rounds):
            image = _scattered(image, self.shift, chance)
        return image_of(_smooth(pixels_of(image), self.sigma, window))


@dataclass(frozen=True, slots=True)
class DiskBlur:
    """Blurs by a disk of `radius` pixels, its edge softened by a 3×3 Gaussian of sigma `soft` (0: not at all)."""

    radius: int
    soft: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        import cv2

        span = np.arange(-self.radius - 1, self.radius + 2)  # one pixel of room for the soft edge
        disk = (span**2 + span[:, None] ** 2 <= self.radius**2).astype(np.float32)
        if self.soft:
            disk = cv2.GaussianBlur(disk, (3, 3), self.soft)
        return _convolved(image, disk / disk.sum(), (-1, -1))


@dataclass(frozen=True, slots=True)
class ZoomBlur:
    """Averages the image and `layers` copies of it, scaled about its centre by 1, 1.02, 1.04 and so on."""

    layers: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        import cv2

        pixels = pixels_of(image)
        height, width = pixels.shape[:2]
        total = pixels.astype(np.uint16)
        for layer in range(self.layers):
            about = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), 0, 1 + 0.02 * layer)
            total += cv2.warpAffine(pixels, about, (width, height), borderMode=cv2.BORDER_REPLICATE)
        return image_of(rounded(total / np.float32(self.layers + 1)))


@dataclass(frozen=True, slots=True)
class Jitter:
    """Takes every pixel from up to `shift` pixels away, across and down."""

    shift: int
    seed: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return _scattered(image, self.shift, np.random.default_rng(self.seed))


@dataclass(frozen=True, slots=True)
class Oversharpen:
    """Sharpens by an unsharp mask: adds `amount` times the difference from a 5×5 Gaussian (sigma 1.1)."""

    amount: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        import cv2

        pixels = pixels_of(image)
        return image_of(cv2.addWeighted(pixels, 1 + self.amount, _smooth(pixels, 1.1, 5), -self.amount, 0))


def blur(rng: random.Random) -> Degradation:
    """Draw one of six kinds of blur at one of five severities."""
    level = rng.randrange(SEVERITIES)
    radius, sigma = MOTION[level]
    kinds = (
        GaussianBlur(GAUSSIAN[level], _window(GAUSSIAN[level])),
        MotionBlur(radius, sigma, rng.uniform(-90, 90)),
        GlassBlur(*GLASS[level], seed=draw_seed(rng)),
        DiskBlur(LENS[level], soft=0.0),
        ZoomBlur(ZOOM[level]),
        Jitter(JITTER[level], seed=draw_seed(rng)),
    )
    return rng.choice(kinds)


def oversharpen(rng: random.Random) -> Oversharpen:
    """Draw one of five amounts."""
    return Oversharpen(rng.choice(AMOUNTS))


def gaussian_blur(rng: random.Random) -> GaussianBlur:
    """Draw a sigma of 2 to 4 pixels, in a window of 15."""
    return GaussianBlur(rng.uniform(2, 4), window=15)


def defocus(rng: random.Random) -> DiskBlur:
    """Nothing is drawn: a disk of 3 pixels."""
    return DiskBlur(3, soft=0.2)


def _window(sigma: float) -> int:
    """The odd side of a Gaussian's window that reaches four sigma."""
    return 2 * round(4 * sigma) + 1


def _smooth(pixels: np.ndarray, sigma: float, window: int) -> np.ndarray:
    import cv2

    return cv2.GaussianBlur(pixels, (window, window), sigma, borderType=cv2.BORDER_REPLICATE)


def _convolved(image: np.ndarray, kernel: np.ndarray, anchor: tuple[int, int]) -> np.ndarray:
    """Convolve an image with a float32 kernel. OpenCV's Fourier path for large kernels is twice as fast on float32."""
    import cv2

    pixels = pixels_of(image).astype(np.float32)
    return image_of(rounded(cv2.filter2D(pixels, -1, kernel, anchor=anchor, borderType=cv2.BORDER_REPLICATE)))


def _scattered(image: np.ndarray, shift: int, chance: np.random.Generator) -> np.ndarray:
    """Take every pixel from a uniform place at most `shift` pixels away, across and down."""
    import cv2

    height, width = image.shape[1:]
    x, y = places(height, width)
    across, down = chance.integers(-shift, shift + 1, (2, height, width), np.int8)
    return remapped(image, x + across, y + down, cv2.INTER_NEAREST, cv2.BORDER_REPLICATE)
