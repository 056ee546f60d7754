"""CollageData: grids of rows of real images, to pretrain a small infilling model, and its plain twin, on.

A row is a clip of `datamodules.pretraining.clips`, its moments side by side: an image, and what became of it in
procedural motion. In most collages the same thing happens in all rows, to other glyphs; in the others each row is a
clip by itself. As in a clip, no two images of a row are the condition and the target of an ablation's task.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from datamodules.emoji.names import base_of
from datamodules.graph.columns import grid_slots
from datamodules.pretraining.clips import MOMENTS, Clip, ClipData, ClipDataset, check_keys
from unigen.core.noise import mix
from unigen.core.types import ImageSlot

ALIKE = 0.75  # share of collages with the same motion in all rows
MOST_ROWS, MOST_IMAGES = 5, 5  # the largest grid of VisualCloze's demo


class CollageForm(NamedTuple):
    """A grid of `rows` rows of `images` images; `share` is how often a batch has it."""

    rows: int
    images: int
    share: float

    @property
    def first(self) -> bool:
        """True if the last row begins with an image that is a condition of its last one."""
        return self.images > 1

    @property
    def moments(self) -> tuple[int, ...]:
        """The moments of a clip that a row shows, as in a clip's form."""
        return tuple(i * (MOMENTS // self.images) for i in range(self.images))

    def slots(self, size: int) -> tuple[ImageSlot, ...]:
        """Examples, and in the last row conditions and, at its end, the target."""
        return grid_slots(self.rows - 1, self.images - 1, 1, size)


def check_collages(
    forms: Mapping[str, Mapping[str, Any]], form: type[CollageForm] = CollageForm
) -> dict[str, CollageForm]:
    """The table of forms, each of the class `form`.

    Raises ValueError, naming the form, for a wrong key or a value out of range.
    """
    check_keys(forms, CollageForm._fields)
    for name, given in forms.items():
        for key, most in (("rows", MOST_ROWS), ("images", MOST_IMAGES)):
            if not isinstance(given[key], int) or not 1 <= given[key] <= most:
                raise ValueError(f"data.forms.{name}.{key}={given[key]!r} must be a whole number from 1 to {most}")
    return {name: form(**given) for name, given in forms.items()}


class CollageDataset(ClipDataset):
    """Samples by (form, clip number, item seed), as a `ClipDataset`: the clip of this number is the last row."""

    def frames(self, form: CollageForm, i: int, clip: Clip) -> tuple[str, list[np.ndarray]]:
        """The last row's motion in words, and all images, row by row."""
        amounts = [moment / (MOMENTS - 1) for moment in form.moments]
        drawn = [self.draw(row, amounts) for row in self.rows(i, clip, form.rows)]
        return drawn[-1][0], [image for _, images in drawn for image in images]

    def rows(self, i: int, clip: Clip, count: int) -> list[Clip]:
        """The content of each row, clip number i last. The form changes only the number of rows for the same i."""
        rng = random.Random(mix("collage", self.split, i))
        alike = rng.random() < ALIKE
        return [*(self._beside(clip, alike, rng) for _ in range(count - 1)), clip]

    def _beside(self, clip: Clip, alike: bool, rng: random.Random) -> Clip:
        """The content of a row above: the clip's motion on another glyph, or another clip altogether."""
        number = rng.randrange(len(self.indices))
        if not alike:
            return self.plan(number)
        glyph = self.indices[number]
        relative = rng.choice(self.relatives[base_of(self.images.names[glyph])])
        return clip._replace(glyphs=(glyph, relative)[: len(clip.glyphs)])


class CollageData(ClipData):
    """Collages of images of `size` x `size` pixels in batches of `unigen.core.types.Batch`; every batch has one form.

    forms: {name: {rows, images, share}}: `rows` rows (1 to 5) of `images` images (1 to 5), `share` is how often a
        batch has this form. The last image of the last row is the target.
    Everything else is as in `ClipData`: `clips` collages, of which each shows one kind of image, but for those whose
    rows are not alike. Raises ValueError for an unknown name or a number out of range.
    """

    samples = CollageDataset
    check_forms = staticmethod(check_collages)
