"""Rows of images of any size, made as a grid takes them: equally large within a row, sides multiples of 16.

How VisualCloze does it at inference (visualcloze.py of its code); it trains on squares. Sizes are (width, height) in
pixels, images uint8 (3, H, W), and None is an image that is to be generated, which only the last row may have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datamodules.sets.base import Size
from datamodules.sets.sizes import MULTIPLE, area_size

MaybeImage = np.ndarray | None


def reference_sizes(rows: Sequence[Sequence[Size | None]], resolution: int) -> list[Size]:
    """The size of each row's images: the first image's, scaled to the area of resolution x resolution.

    A last row with nothing but images to generate has the size of the row before it. (The released code makes it a
    square, and with several targets one of 384 pixels at every resolution.)
    Raises ValueError for rows of unequal length, a missing image in an example, and a last row without size.
    """
    if not rows or not rows[-1]:
        raise ValueError("rows is empty; give at least one row of images, such as rows=[[a.png,null]]")
    found: list[Size] = []
    for number, row in enumerate(rows):
        if len(row) != len(rows[-1]):
            raise ValueError(f"rows: row {number} has {len(row)} images, the last row {len(rows[-1])}; make them equal")
        known = [size for size in row if size is not None]
        if len(known) < len(row) and row is not rows[-1]:
            raise ValueError(
                f"rows: image {row.index(None)} of row {number} is missing; only the last row, {len(rows) - 1}, may "
                "leave out what is to be generated"
            )
        if not known and not found:
            raise ValueError("rows: nothing says how large the images are to be; give an example row, or a condition")
        found.append(area_size(*known[0], resolution) if known else found[-1])
    return found


def row_sizes(rows: Sequence[Sequence[Size | None]], resolution: int) -> list[Size]:
    """The size of each row's images in the grid. It is that of `reference_sizes`, except for several targets: then
    images are equally wide, all rows as wide as the last one, and heights in proportion, rounded down to a multiple of
    16.

    Raises ValueError as `reference_sizes` does.
    """
    sizes = reference_sizes(rows, resolution)
    if sum(size is None for size in rows[-1]) < 2:
        return sizes
    wide = sizes[-1][0]
    return [(wide, max(tall * wide // own // MULTIPLE * MULTIPLE, MULTIPLE)) for own, tall in sizes]


def fitted(pixels: np.ndarray, size: Size, resolution: int) -> np.ndarray:
    """Fit an image to a row of this size: scale it to its area (LANCZOS), then so that its shorter side fits, and crop
    it around its centre; where it does not reach, the result is black.
    """
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image = image.resize(area_size(*image.size, resolution), Image.Resampling.LANCZOS)
    wide, tall = image.size
    scaled = (size[0], tall * size[0] // wide) if wide <= tall else (wide * size[1] // tall, size[1])
    image = image.resize(scaled, Image.Resampling.BICUBIC)
    left, top = (scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2
    return _array(image.crop((left, top, left + size[0], top + size[1])))


def fit_rows(rows: Sequence[Sequence[MaybeImage]], resolution: int) -> list[list[MaybeImage]]:
    """The rows' images at the sizes of `row_sizes`; None stays None. Raises ValueError as `reference_sizes` does."""
    from PIL import Image

    sizes = [[None if p is None else p.shape[:0:-1] for p in row] for row in rows]
    fit: list[list[MaybeImage]] = []
    for row, reference, size in zip(
        rows, reference_sizes(sizes, resolution), row_sizes(sizes, resolution), strict=True
    ):
        made = [None if p is None else fitted(p, reference, resolution) for p in row]
        if size != reference:
            made = [p if p is None else _array(Image.fromarray(p.transpose(1, 2, 0)).resize(size)) for p in made]
        fit.append(made)
    return fit


def _array(image: object) -> np.ndarray:
    """Convert a PIL image to uint8 (3, H, W)."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
