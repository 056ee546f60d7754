"""Degradations of light and contrast: `contrast_strengthen`, `contrast_weaken`, `brighten`, `darken` and `low_light`.

V is the largest channel of a pixel (of HSV). What changes V alone multiplies all three channels by V' / V, which keeps
hue and saturation without a detour over 8-bit HSV.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from datamodules.degradations.base import LEVELS, SEVERITIES, Degradation, rounded, toned
from datamodules.reading.drawing import grey

STRONGER = (1.4, 1.7, 2.1, 2.6, 4.0)
STEEPER = (2, 4, 6, 8, 10)
WEAKER = (0.75, 0.6, 0.45, 0.3, 0.2)
FLATTER = (1.0, 0.9, 0.8, 0.6, 0.4)
SHIFTS_V = (0.1, 0.2, 0.3, 0.4, 0.5)
SHIFTS_RGB = (0.1, 0.15, 0.2, 0.27, 0.35)
BRIGHTER_RGB = (0.8, 0.7, 0.6, 0.45, 0.3)
BRIGHTER_V = (0.7, 0.58, 0.47, 0.36, 0.25)
DARKER_RGB = (1.4, 1.7, 2.1, 2.6, 3.2)
DARKER_V = (1.5, 1.8, 2.2, 2.7, 3.5)


@dataclass(frozen=True, slots=True)
class ScaledContrast:
    """Multiplies distances from the image's mean luma by `scale`."""

    scale: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        mean = grey(image)[0].mean() / 255
        return toned(image, mean + self.scale * (LEVELS - mean))


@dataclass(frozen=True, slots=True)
class StretchedContrast:
    """Maps x to 1 / (1 + (mean / x)^exponent) in each channel: the channel's mean becomes middle grey, black stays
    black.
    """

    exponent: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return toned(image, *(self._curve(channel.mean() / 255) for channel in image))

    def _curve(self, mean: float) -> np.ndarray:
        powers = LEVELS**self.exponent
        return powers / np.maximum(powers + mean**self.exponent, 1e-30)  # 0 / 0 of a black channel stays black


@dataclass(frozen=True, slots=True)
class ShiftedRGB:
    """Adds `by` to every channel (1 is white)."""

    by: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return toned(image, LEVELS + self.by)


@dataclass(frozen=True, slots=True)
class ShiftedV:
    """Adds `by` to V (1 is white); channels that leave the range are clipped."""

    by: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return _with_value(image, LEVELS + self.by)


@dataclass(frozen=True, slots=True)
class GammaRGB:
    """Raises every channel to the power of `gamma`."""

    gamma: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return toned(image, LEVELS**self.gamma)


@dataclass(frozen=True, slots=True)
class GammaV:
    """Raises V to the power of `gamma`."""

    gamma: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return _with_value(image, LEVELS**self.gamma)


@dataclass(frozen=True, slots=True)
class LowLight:
    """Multiplies every channel by `scale`."""

    scale: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return toned(image, LEVELS * self.scale)


def contrast_strengthen(rng: random.Random) -> Degradation:
    """Draw a stronger contrast, by scaling or by stretching, at one of five severities."""
    level = rng.randrange(SEVERITIES)
    return rng.choice((ScaledContrast(STRONGER[level]), StretchedContrast(STEEPER[level])))


def contrast_weaken(rng: random.Random) -> Degradation:
    """Draw a weaker contrast, by scaling or by stretching, at one of five severities."""
    level = rng.randrange(SEVERITIES)
    return rng.choice((ScaledContrast(WEAKER[level]), StretchedContrast(FLATTER[level])))


def brighten(rng: random.Random) -> Degradation:
    """Draw a shift or a power, of all channels or of V, at one of five severities."""
    level = rng.randrange(SEVERITIES)
    shifts = (ShiftedV(SHIFTS_V[level]), ShiftedRGB(SHIFTS_RGB[level]))
    return rng.choice((*shifts, GammaV(BRIGHTER_V[level]), GammaRGB(BRIGHTER_RGB[level])))


def darken(rng: random.Random) -> Degradation:
    """Draw a shift or a power, of all channels or of V, at one of five severities."""
    level = rng.randrange(SEVERITIES)
    shifts = (ShiftedV(-SHIFTS_V[level]), ShiftedRGB(-SHIFTS_RGB[level]))
    return rng.choice((*shifts, GammaV(DARKER_V[level]), GammaRGB(DARKER_RGB[level])))


def low_light(rng: random.Random) -> LowLight:
    """Draw a factor of 0.3 to 0.4."""
    return LowLight(rng.uniform(0.3, 0.4))


def _with_value(image: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """Change V along a curve (256,) over `LEVELS`; black becomes the grey that the curve gives it."""
    value = image.max(axis=0)
    ratio = (curve / np.maximum(LEVELS, 1e-9)).astype(np.float32)
    black = np.where(LEVELS > 0, 0, 255 * curve).astype(np.float32)
    return rounded(image * ratio[value] + black[value])
