"""The 32 degradations of VisualCloze's restoration tasks (arXiv 2504.07960; figures from its code at b3dda64).

Each is drawn and applied in two steps: `draw(name, rng)` draws a kind, a strength and a seed, and returns them as
a small value; `apply(image, value)` makes the image. So the rows of a grid may share one value, or draw one each as the
released code does. Rows that share a value also share its noise, pixel by pixel, which a model could copy from an
example (degraded minus clean): `reseeded` keeps kind and strength and draws only the seed again.

A new degradation is one frozen dataclass, one function that draws it, and one name below. docs/degradations.md lists
differences from the released code and the cost of each. Imports no torch: loader workers run this.
"""

from __future__ import annotations

import dataclasses
import difflib
import random
from collections.abc import Mapping

import numpy as np

from datamodules.degradations import (
    blur,
    colour,
    compression,
    geometry,
    noise,
    overlays,
    quantization,
    resolution,
    tone,
)
from datamodules.degradations.base import Degradation, Draw, draw_seed

LEAST_SIDE = 8  # pixels

FAMILIES: Mapping[str, Mapping[str, Draw]] = {
    "A": {  # one of several kinds, at one of five severities
        "blur": blur.blur,
        "compression": compression.compression,
        "pixelate": resolution.pixelate,
        "oversharpen": blur.oversharpen,
        "contrast_strengthen": tone.contrast_strengthen,
        "contrast_weaken": tone.contrast_weaken,
        "quantization": quantization.quantization,
        "brighten": tone.brighten,
        "darken": tone.darken,
        "saturate_strengthen": colour.saturate_strengthen,
        "saturate_weaken": colour.saturate_weaken,
    },
    "B": {  # from image restoration
        "sr_x2": resolution.sr_x2,
        "sr_x4": resolution.sr_x4,
        "gaussian_noise": noise.gaussian_noise,
        "gaussian_blur": blur.gaussian_blur,
        "jpeg": compression.jpeg,
        "salt_pepper_noise": noise.salt_pepper_noise,
        "poisson_noise": noise.poisson_noise,
        "low_light": tone.low_light,
        "gray": colour.gray,
        "color_distortion": colour.color_distortion,
        "inpainting": overlays.inpainting,
        "mosaic": resolution.mosaic,
        "rain": overlays.rain,
    },
    "C": {  # of one strength
        "defocus": blur.defocus,
        "barrel": geometry.barrel,
        "pincushion": geometry.pincushion,
        "elastic": geometry.elastic,
        "frost": overlays.frost,
    },
    "D": {"rotate_90": geometry.rotate_90, "rotate_180": geometry.rotate_180, "rotate_270": geometry.rotate_270},
}
DRAWS: Mapping[str, Draw] = {name: draw for family in FAMILIES.values() for name, draw in family.items()}
NAMES = tuple(DRAWS)


def draw(name: str, rng: random.Random) -> Degradation:
    """Draw the degradation of this name with all its parameters. Raises ValueError if there is no such name."""
    if name not in DRAWS:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"legal are {', '.join(NAMES)}"
        raise ValueError(f"unknown degradation '{name}' ({hint})")
    return DRAWS[name](rng)


def reseeded(degradation: Degradation, rng: random.Random) -> Degradation:
    """Return the same kind and strength with another seed; a degradation without a seed is returned as it is."""
    if "seed" not in {field.name for field in dataclasses.fields(degradation)}:
        return degradation
    return dataclasses.replace(degradation, seed=draw_seed(rng))


def apply(image: np.ndarray, degradation: Degradation) -> np.ndarray:
    """Return a new image, uint8 (3, H, W) with the same sides; after a quarter turn the sides change places, (3, W, H).

    Raises ValueError if `image` is not uint8 (3, H, W) of sides of at least LEAST_SIDE pixels.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] != 3 or min(image.shape[1:]) < LEAST_SIDE:
        legal = f"it must be uint8 (3, H, W) with sides of at least {LEAST_SIDE} pixels"
        raise ValueError(f"cannot degrade an image of {image.dtype} {image.shape}: {legal}")
    return np.ascontiguousarray(degradation(image))
