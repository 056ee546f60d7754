"""Degradations of colour: `saturate_strengthen`, `saturate_weaken`, `gray` and `color_distortion`.

On an image without colour these do nothing, but for a channel that is filled.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from datamodules.degradations.base import SEVERITIES, Degradation, image_of, pixels_of, rounded
from datamodules.reading.drawing import grey

MORE_S = (3, 6, 12, 20, 64)
MORE_CHROMA = (2, 3, 5, 8, 16)
LESS_S = (0.7, 0.55, 0.4, 0.2, 0)
LESS_CHROMA = (0.6, 0.4, 0.2, 0.1, 0)
ORDERS = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))  # of the channels; all but their own


@dataclass(frozen=True, slots=True)
class ScaledSaturation:
    """Multiplies S of HSV by `scale`, to at most 1; hue and V stay."""

    scale: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        value = image.max(axis=0).astype(np.float32)
        spread = np.maximum(value - image.min(axis=0), 1)  # 1: where there is no colour, nothing to scale
        return rounded(value - (value - image) * np.minimum(self.scale, value / spread))


@dataclass(frozen=True, slots=True)
class ScaledChroma:
    """Multiplies Cr and Cb of YCrCb (Rec. 601, 8 bits, clipped there) by `scale`; the luma stays until RGB clips."""

    scale: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        import cv2

        luma_chroma = cv2.cvtColor(pixels_of(image), cv2.COLOR_RGB2YCrCb)
        table = rounded(128 + self.scale * (np.arange(256) - 128))
        luma_chroma[..., 1:] = table.take(luma_chroma[..., 1:])
        return image_of(cv2.cvtColor(luma_chroma, cv2.COLOR_YCrCb2RGB))


@dataclass(frozen=True, slots=True)
class Gray:
    """Puts the luma (Rec. 601) into all three channels."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return grey(image)


@dataclass(frozen=True, slots=True)
class SwappedChannels:
    """Takes red, green and blue from the channels in `order`."""

    order: tuple[int, int, int]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return image[list(self.order)]


@dataclass(frozen=True, slots=True)
class FilledChannel:
    """Sets one channel (0 red, 1 green, 2 blue) to `value`, 0 or 255."""

    channel: int
    value: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        filled = image.copy()
        filled[self.channel] = self.value
        return filled


def saturate_strengthen(rng: random.Random) -> Degradation:
    """Draw a stronger saturation or chroma at one of five severities."""
    level = rng.randrange(SEVERITIES)
    return rng.choice((ScaledSaturation(MORE_S[level]), ScaledChroma(MORE_CHROMA[level])))


def saturate_weaken(rng: random.Random) -> Degradation:
    """Draw a weaker saturation or chroma at one of five severities; the last leaves no colour."""
    level = rng.randrange(SEVERITIES)
    return rng.choice((ScaledSaturation(LESS_S[level]), ScaledChroma(LESS_CHROMA[level])))


def gray(rng: random.Random) -> Gray:
    """Nothing is drawn: grey."""
    return Gray()


def color_distortion(rng: random.Random) -> Degradation:
    """Draw, with equal chances, an exchange of channels (never the identity), or one channel filled with 0 or 255."""
    if rng.random() < 0.5:
        return SwappedChannels(rng.choice(ORDERS))
    return FilledChannel(rng.randrange(3), rng.choice((0, 255)))
