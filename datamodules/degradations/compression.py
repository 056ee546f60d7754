"""Artifacts of lossy compression: `compression` and `jpeg`."""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.degradations.base import Degradation, draw_mild, image_of, pixels_of

QUALITIES = (25, 18, 12)
DECIBELS = (29, 27.5, 26)
COARSE = 63  # highest of the levels that JPEG 2000 codes; see Jpeg2000


@dataclass(frozen=True, slots=True)
class Jpeg:
    """Codes as JPEG of `quality` 1 to 95, chroma at half the sides, as Pillow writes it."""

    quality: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return image_of(_recoded(pixels_of(image), "JPEG", quality=self.quality))


@dataclass(frozen=True, slots=True)
class Jpeg2000:
    """Codes as JPEG 2000, 9/7 wavelet with colour transform, to a signal-to-noise ratio of `decibels`.

    Its coder writes every bit plane and then drops most of them, so the images are coded with 64 levels a channel:
    27 instead of 47 ms for a portrait of 512 × 512, and 0.2 dB more of error.
    """

    decibels: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        levels = np.arange(256)
        down = np.rint(levels * (COARSE / 255)).astype(np.uint8)
        up = np.rint(levels * (255 / COARSE)).clip(0, 255).astype(np.uint8)  # the wavelet overshoots COARSE
        settings = {"quality_mode": "dB", "mct": 1, "irreversible": True, "no_jp2": True}
        ratio = self.decibels + 20 * math.log10(255 / COARSE)  # the coder takes 255 for the peak
        return image_of(up.take(_recoded(down.take(pixels_of(image)), "JPEG2000", quality_layers=[ratio], **settings)))


def compression(rng: random.Random) -> Degradation:
    """Draw JPEG or JPEG 2000, at one of three severities."""
    level = draw_mild(rng)
    return rng.choice((Jpeg(QUALITIES[level]), Jpeg2000(DECIBELS[level])))


def jpeg(rng: random.Random) -> Jpeg:
    """Draw a JPEG quality of 10 to 40."""
    return Jpeg(rng.randint(10, 40))


def _recoded(pixels: np.ndarray, form: str, **settings: Any) -> np.ndarray:
    """Write pixels (H, W, 3) to memory by Pillow and read them again."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **settings)
    return np.asarray(Image.open(file))
