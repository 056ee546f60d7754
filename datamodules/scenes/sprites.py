"""Sprites: the bundled glyphs cut out, so that they can be laid over any background.

The drawings are kept over white, and how opaque they are beside them (see `datamodules.emoji.cache`), from which the
colours times their opacity follow: c a = white - (255 - a), where `white` is what the drawing over white shows.

Shapes: H and W pixels; a sprite is uint8 (H, W, 4), colours multiplied by their opacity, and the opacity.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from datamodules.emoji.cache import LAYERS, MAX_CACHED, SHAPES, EmojiImages
from unigen.core.colours import NAMED, nearest_colours

# A way to draw a glyph: the image over white, and the one that says how opaque it is.
DRAWINGS = {
    "twemoji": ("twemoji", "mask"),
    "openmoji": ("openmoji", "openmoji_mask"),
    "line": ("line", "openmoji_mask"),  # its outlines, with white inside
    "flat": ("colour_layer", "colour_mask"),  # its colours, without outlines
}
HIDDEN = 0.35  # of a glyph's pixels: on a colour that so many of them have it would not be seen


class Sprites:
    """The sprites of `names` at `size` pixels, read from caches that `prepare` draws, as `EmojiImages` does."""

    def __init__(self, size: int, names: Sequence[str], folder: str | Path | None = None) -> None:
        images = EmojiImages(min(size, MAX_CACHED), names, folder)
        layers, shapes = (EmojiImages(images.size, names, images.folder, kinds) for kinds in (LAYERS, SHAPES))
        self.size, self.names = images.size, images.names
        self._files = (images, layers, shapes)
        self._of = {kind: file for file in self._files for kind in file.drawn}
        self._number = {name: i for i, name in enumerate(self.names)}

    def prepare(self) -> None:
        """Draw the caches that are not there."""
        for file in self._files:
            file.prepare()

    def sprite(self, glyph: str, drawing: str) -> np.ndarray:
        """A glyph in a way of DRAWINGS, cut to the box of what is opaque by half or more, with a pixel around it."""
        return _cut(self, glyph, drawing)

    def clashes(self, glyph: str, style: str) -> frozenset[str]:
        """The named colours on which this glyph would hardly be seen."""
        return _clashes(self, glyph, style)

    def over_white(self, glyph: str, style: str) -> np.ndarray:
        """A glyph as it is drawn, over white, uint8 (3, size, size)."""
        return self._of[style].image(style, self._number[glyph])

    def whole(self, glyph: str, drawing: str) -> np.ndarray:
        """A glyph with all its margins, uint8 (size, size, 4)."""
        white, opaque = (self._of[kind].image(kind, self._number[glyph]) for kind in DRAWINGS[drawing])
        alpha = opaque[:1].astype(np.int16)
        colours = (white.astype(np.int16) - (255 - alpha)).clip(0, alpha)
        return np.ascontiguousarray(np.concatenate([colours, alpha]).transpose(1, 2, 0).astype(np.uint8))


@lru_cache(maxsize=2048)
def _cut(sprites: Sprites, glyph: str, drawing: str) -> np.ndarray:
    whole = sprites.whole(glyph, drawing)
    rows, columns = (np.flatnonzero((whole[..., 3] >= 128).any(axis)) for axis in (1, 0))
    if not len(rows):  # a drawing without colours, say
        rows = columns = np.arange(sprites.size)
    top, bottom = max(0, rows[0] - 1), rows[-1] + 2
    return np.ascontiguousarray(whole[top:bottom, max(0, columns[0] - 1) : columns[-1] + 2])


@lru_cache(maxsize=16384)
def _clashes(sprites: Sprites, glyph: str, style: str) -> frozenset[str]:
    whole = sprites.whole(glyph, style)
    colours = whole[whole[..., 3] >= 250][::7, :3]
    if not len(colours):
        return frozenset()
    named = nearest_colours(colours)
    return frozenset(NAMED[i] for i in np.unique(named) if (named == i).mean() >= HIDDEN)
