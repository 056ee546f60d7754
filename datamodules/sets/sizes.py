"""Sizes of images: of equal area, on a grid of pixels, in few classes of aspect ratio.

Sizes are (width, height) in pixels. VisualCloze's rule (data_reader.py:13 of its code): an image of aspect ratio
r = width / height gets the height floor(sqrt(R^2 / r)) and the width floor(height * r), each rounded down to a
multiple of 16, which is 8 of the codec times 2 of FLUX's packing; R is 384 or 512.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from datamodules.sets.base import Size

MULTIPLE = 16


def area_size(width: int, height: int, resolution: int, multiple: int = MULTIPLE) -> Size:
    """The size of about resolution x resolution pixels for an image: 768 x 1024 at 384 becomes 320 x 432.

    Raises ValueError for a size below 1, or a resolution below `multiple`.
    """
    if min(width, height) < 1 or multiple < 1 or resolution < multiple:
        raise ValueError(
            f"no size for {width} x {height} pixels at resolution={resolution}: sides must be at least 1, the "
            f"resolution at least {multiple}"
        )
    ratio = width / height
    tall = math.floor(math.sqrt(resolution**2 / ratio))
    wide = math.floor(tall * ratio)
    return max(wide // multiple * multiple, multiple), max(tall // multiple * multiple, multiple)


def buckets_of(ratios: Iterable[str], resolution: int) -> tuple[Size, ...]:
    """The sizes of aspect ratios such as '4:3' (width to height) at a resolution, each once, in order.

    Raises ValueError for what is no ratio, and if there is none.
    """
    found: dict[Size, None] = {}
    for ratio in ratios:
        wide, _, tall = str(ratio).partition(":")
        if not (wide.isdecimal() and tall.isdecimal() and int(wide) and int(tall)):
            raise ValueError(f"ratios: {ratio!r} is no aspect ratio; write width:height, such as '4:3'")
        found[area_size(int(wide), int(tall), resolution)] = None
    if not found:
        raise ValueError("ratios is empty; it must have at least one, such as '1:1'")
    return tuple(found)


def bucket_of(size: Size, buckets: Sequence[Size]) -> Size:
    """The bucket whose aspect ratio is nearest to the image's, as a factor; of equals the first."""
    ratio = size[0] / size[1]
    return min(buckets, key=lambda bucket: abs(math.log(bucket[0] / bucket[1] / ratio)))


def filled(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Scale uint8 (3, H, W) to cover the size (LANCZOS), and crop it around its centre."""
    from PIL import Image, ImageOps

    if pixels.shape[:0:-1] == tuple(size):
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return np.ascontiguousarray(np.asarray(ImageOps.fit(image, size, Image.Resampling.LANCZOS)).transpose(2, 0, 1))
