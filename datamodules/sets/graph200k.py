"""Graph200K: all images that VisualCloze annotated around each of its targets, as records of an annotation graph.

`VisualCloze/Graph200K` on the Hugging Face Hub, apache-2.0 by its card; arrow files of `datasets`, splits `train` (380
files) and `test` (2), about 0.94 GB each. Checked in November 2026, without the data: column names and which may be
None in processing.py and docs/DATASET.md of lzyhha/VisualCloze (5dceb5c, 9d38c30); the splits and the licence on the
card. That text says there are styles 0-3 and edits 0-5; processing.py reads 0..2 and 0..4, and so does this reader.
Not checked: the number of rows; that every file has every column; what `FillEdit_meta.description` is, which is taken
as one text for all edits or as a list of one for each.

What the released code does at load time and this reader too: foreground and background are the target where the
foreground mask is above one half, or is not, on black; one of the styles and one of the edits is drawn; a reference
needs a quality assessment. The code keeps objectConsistency >= 3 (its check refuses < 3), while the card says that
<= 3 was filtered out: `least_consistency` is 3, and 4 follows the card. Released code drops a style or the edits where
one of their images is missing; here the others can still be drawn. The 32 degradations are computed from the target
by who draws the rows (`datamodules.sets.online`); with them, a record may have all 49 annotation types.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.reading.accounts import Account
from datamodules.sets.base import LazyImage, SetRecord, aligned, captions_of, required
from datamodules.sets.tables import Tables
from unigen.core.noise import mix

MAPS = {  # stored, by the graph's name
    **{name: name for name in ("canny", "depth", "hed", "normal", "mlsd", "openpose", "sam2_mask", "uniformer")},
    "mask": "qwen_2_5_mask",
    "bbox": "qwen_2_5_bounding_box",
}
STYLES = {"instant_style": "InstantStyle", "redux_style": "ReduxStyle"}
STYLE_COUNT, EDIT_COUNT = 3, 5
EDITS = tuple(f"FillEdit_image_{i}" for i in range(EDIT_COUNT))
IMAGES = (
    *("ref", "target", "foreground", "DepthEdit", *MAPS.values(), *EDITS),
    *(f"{style}_{part}_{i}" for style in STYLES.values() for part in ("image", "ref") for i in range(STYLE_COUNT)),
)
VALUES = ("quality_assessment", "description", "collection", "FillEdit_meta")


class Graph200K:
    """Records of Graph200K. See `datamodules.sets.base.ImageSet`.

    root: the folder that the data set was downloaded to. split: 'train' or 'test'. least_consistency: what a pair of
    target and reference must score in objectConsistency, 0 to 5, for the reference to be there. limit: at most so many
    records, the first. cache: see `Tables`.
    Captions: `target` has description_0 (released prompts say the item and then this), `reference` description_1 as
    in Subjects200K, and `fill_edit` that of its new subject. `subjects` is the item.
    """

    names = (
        *("target", "reference", *MAPS, "foreground", "background", "fill_edit", "depth_edit"),
        *(name for style in STYLES for name in (style, f"{style}_ref")),
    )

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        least_consistency: int = 3,
        limit: int | None = None,
        cache: str | Path | None = None,
    ) -> None:
        self.least_consistency = least_consistency
        self.tables = Tables(root, split, images=IMAGES, values=VALUES, limit=limit, cache=cache)

    def __len__(self) -> int:
        return len(self.tables)

    @property
    def account(self) -> Account:
        """The account of the tables."""
        return self.tables.account

    def record(self, index: int, seed: int = 0) -> SetRecord:
        """Record `index`; `seed` draws one of its styles and one of its edits, a style and its reference together."""
        tables, key = self.tables, self.tables.name(index)
        target = required(tables.image(index, "target"), f"{key}, target")
        images = {"target": target}
        for name, column in (*MAPS.items(), ("foreground", "foreground")):
            if stored := tables.image(index, column):
                images[name] = aligned(stored, target, f"{key}, {column}")
        if mask := images.pop("foreground", None):
            images |= {"foreground": _masked(target, mask, True), "background": _masked(target, mask, False)}
        if self._consistent(index) and (reference := tables.image(index, "ref")):
            images["reference"] = reference
        if edited := tables.image(index, "DepthEdit"):
            images["depth_edit"] = edited
        for name, column in STYLES.items():
            images |= self._style(index, name, column, seed)
        edits = [i for i, column in enumerate(EDITS) if tables.has(index, column)]
        edit = random.Random(mix(seed, key, "edit")).choice(edits) if edits else None
        if edit is not None:
            images["fill_edit"] = required(tables.image(index, EDITS[edit]), key)
        said = tables.value(index, "description") or {}
        captions = self._captions(index, said, edit)
        subjects = captions_of({"item": [said.get("item")]}).get("item", ())
        return SetRecord(key, images, {name: captions[name] for name in captions if name in images}, subjects)

    def _consistent(self, index: int) -> bool:
        quality = self.tables.value(index, "quality_assessment") or {}
        score = quality.get("objectConsistency")
        return score is not None and score >= self.least_consistency

    def _style(self, index: int, name: str, column: str, seed: int) -> dict[str, LazyImage]:
        """A stylised image and its reference, one of the pairs of which both are there."""
        pairs = [
            [self.tables.image(index, f"{column}_{part}_{i}") for part in ("image", "ref")] for i in range(STYLE_COUNT)
        ]
        whole = [pair for pair in pairs if None not in pair]
        if not whole:
            return {}
        stylised, reference = random.Random(mix(seed, self.tables.name(index), name)).choice(whole)
        return {name: stylised, f"{name}_ref": reference}

    def _captions(self, index: int, said: Mapping[str, Any], edit: int | None) -> dict[str, tuple[str, ...]]:
        texts = {"target": [said.get("description_0")], "reference": [said.get("description_1")]}
        if edit is not None:
            told = (self.tables.value(index, "FillEdit_meta") or {}).get("description")
            texts["fill_edit"] = told[edit : edit + 1] if isinstance(told, list) else [told]
        return captions_of(texts)


def _masked(target: LazyImage, mask: LazyImage, foreground: bool) -> LazyImage:
    """The target where the mask is above one half, or is not, on black."""

    def read() -> np.ndarray:
        kept = (mask.read()[:1] > 127) == foreground
        return np.where(kept, target.read(), np.uint8(0))

    return LazyImage(read, target.size)
