"""Subjects200K: pairs of images of the same subject, each of which is once the target and once the reference.

`Yuanshi/Subjects200K` (206,841 rows in 32 parquet files, 10.6 GB, apache-2.0; collections 1 and 2) and
`Yuanshi/Subjects200K_collection3` (49,159 rows, 59 GB). Checked in November 2026 on their cards, without the data:
columns and types, numbers of rows, sizes (512 in collections 1 and 2, 1024 in 3), scores of 0 to 5, and the card's
selection: all three scores at least 5, which leaves 111,767 pairs of collection 2. Checked in OminiControl's code
(src/train/data.py): the two images stand side by side, the left one is described by description_0, the right one by
description_1, and each is a target once.

Not checked: where exactly they stand. The card says '16-pixel padding' and OminiControl's code is used with 8 pixels,
so the place follows from the size that an image has: both are squares of the collection's side, centred vertically,
as far from the left and the right edge as from the top one.

RealGeneral trains on 40K pairs (80K examples, if both directions count) filtered from this set (section 4.1); how is
in a supplement that is not at hand. `pairs=40_000` gives so many of those with the best scores, drawn by a fixed key:
the number is theirs, the choice is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.reading.accounts import Account
from datamodules.reading.images import BadImage
from datamodules.sets.base import LazyImage, SetRecord, Size, captions_of, check_index, check_limit, required
from datamodules.sets.tables import Selection, Tables
from unigen.core.noise import mix

SCORES = ("compositeStructure", "objectConsistency", "imageQuality")
SIDES = {"collection_1": 512, "collection_2": 512, "collection_3": 1024}


class Subjects200K:
    """Records of a `target` and a `reference`, two for each pair. See `datamodules.sets.base.ImageSet`.

    root: the folder that the data set was downloaded to. collections: of which collections, names of SIDES.
    least_score: what a pair must have in each of SCORES, 0 to 5; None keeps pairs that were not assessed too.
    pairs: so many of them, drawn by a fixed key; None for all. limit: at most so many records, the first.
    cache: see `Tables`. `subjects` is the item that both images show.
    Raises ValueError for an unknown collection, and on use for fewer pairs than asked for.
    """

    names = ("target", "reference")

    def __init__(
        self,
        root: str | Path,
        *,
        collections: Sequence[str] = ("collection_2",),
        least_score: int | None = 5,
        pairs: int | None = None,
        limit: int | None = None,
        cache: str | Path | None = None,
    ) -> None:
        for name in collections:
            if name not in SIDES:
                raise ValueError(f"collections: unknown name '{name}'; legal are {', '.join(SIDES)}")
        self.pairs, self.limit = pairs, check_limit(limit)
        self.tables = Tables(
            root,
            "train",
            images=("image",),
            values=("description",),
            selection=_selection(frozenset(collections), least_score),
            cache=cache,
        )

    def __len__(self) -> int:
        count = 2 * len(self._pairs)
        return count if self.limit is None else min(count, self.limit)

    @property
    def account(self) -> Account:
        """The account of the tables, and how many pairs `pairs` leaves out."""
        more = len(self.tables) - len(self._pairs)
        notes = (f"data.train.pairs={self.pairs} leaves out {more} of {len(self.tables)} pairs",) if more else ()
        return self.tables.account._replace(notes=(*self.tables.account.notes, *notes))

    def record(self, index: int, seed: int = 0) -> SetRecord:
        """Record `index`: pair index // 2, its left image the target if `index` is even. No variants: no seed."""
        row, side = self._pairs[check_index(index, len(self)) // 2], index % 2
        key = self.tables.name(row)
        pair = required(self.tables.image(row, "image"), f"{key}, image")
        square = SIDES[self.tables.value(row, "collection")]
        left, right = (_half(pair, square, i, f"{key}, image") for i in (0, 1))
        said = self.tables.value(row, "description") or {}
        told = [said.get("description_0"), said.get("description_1")]
        captions = captions_of({"target": [told[side]], "reference": [told[1 - side]]})
        images = {"target": (left, right)[side], "reference": (right, left)[side]}
        subjects = captions_of({"item": [said.get("item")]}).get("item", ())
        return SetRecord(f"{key}, {('left', 'right')[side]}", images, captions, subjects, origin=key)

    @cached_property
    def _pairs(self) -> Sequence[int]:
        """The rows of the tables that are used."""
        n = len(self.tables)
        if self.pairs is None:
            return range(n)
        if not 1 <= self.pairs <= n:
            raise ValueError(f"pairs={self.pairs}: the selection '{self.tables.selection.name}' has 1 to {n} pairs")
        return sorted(sorted(range(n), key=lambda row: mix("pairs", row))[: self.pairs])


def _selection(collections: frozenset[str], least: int | None) -> Selection:
    name = f"{'+'.join(sorted(collections))}, scores of at least {least}"
    return Selection(name, ("collection", "quality_assessment"), partial(_keeps, collections, least))


def _keeps(collections: frozenset[str], least: int | None, row: Mapping[str, Any]) -> bool:
    scores = row["quality_assessment"] or {}
    return row["collection"] in collections and (
        least is None or all((scores.get(score) or 0) >= least for score in SCORES)
    )


def _half(pair: LazyImage, side: int, which: int, name: str) -> LazyImage:
    """The left (0) or the right (1) square of an image of two."""

    def corner(width: int, height: int) -> tuple[int, int]:
        border = (height - side) // 2
        if border < 0 or width < 2 * side + 2 * border:
            legal = f"it must show two squares of {side} pixels side by side"
            raise BadImage.of(name, f"it has {width} x {height} pixels", legal)
        return (width - border - side if which else border), border

    def read() -> np.ndarray:
        pixels = pair.read()
        x, y = corner(pixels.shape[2], pixels.shape[1])
        return np.ascontiguousarray(pixels[:, y : y + side, x : x + side])

    def size() -> Size:
        corner(*pair.size())
        return side, side

    return LazyImage(read, size)
