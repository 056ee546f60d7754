"""SceneCollages: grids of rows of scenes, to pretrain a small infilling model, and its plain twin, on.

A row is a clip of `datamodules.scenes.clips`, its moments side by side: a scene, and what became of it. In most
collages the same change happens in all rows, to other scenes; in the others each row is a clip by itself. What clips
withhold, collages withhold too: no two images of a row are the condition and the target of an ablation's task.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from datamodules.pretraining.collages import ALIKE, CollageForm, check_collages
from datamodules.scenes.clips import SceneClip, SceneClipDataset, SceneClips, amounts_of, spread
from datamodules.scenes.scene import STYLES, draw_scene
from unigen.core.noise import mix


class SceneCollageForm(CollageForm):
    """A grid whose rows show moments that are spread over the whole clip."""

    @property
    def moments(self) -> tuple[int, ...]:
        return spread(self.images)


class SceneCollageDataset(SceneClipDataset):
    """Samples by (form, clip number, item seed), as a `SceneClipDataset`: the clip of this number is the last row."""

    def images(self, form: CollageForm, i: int, clip: SceneClip) -> list[np.ndarray]:
        """All images, row by row."""
        return [image for row in self.rows(i, clip, form.rows) for image in self.draw(row, amounts_of(form))]

    def rows(self, i: int, clip: SceneClip, count: int) -> list[SceneClip]:
        """The content of each row, clip number i last. The form changes only the number of rows for the same i."""
        rng = random.Random(mix("scene collage", self.cast.split, i))
        alike = rng.random() < ALIKE
        others = [(i + 1 + rng.randrange(max(1, len(self.cast.bases) - 1))) for _ in range(count - 1)]
        return [*(self._beside(number, clip, alike, rng) for number in others), clip]

    def _beside(self, number: int, clip: SceneClip, alike: bool, rng: random.Random) -> SceneClip:
        """The content of a row above: clip `number`, or the clip's kind and change in a scene with its subject."""
        if not alike:
            return self.plan(number)
        subject, style = self.cast.subject(number, rng), rng.choice(STYLES)
        start = draw_scene(rng, subject, self.cast.plain, style, self.sprites.clashes)
        return self.changed(start, clip.change, clip.kind, rng)


def check_scene_collages(forms: Mapping[str, Mapping[str, Any]]) -> dict[str, CollageForm]:
    """The table of forms, see `check_collages`."""
    return check_collages(forms, SceneCollageForm)


class SceneCollages(SceneClips):
    """Collages of scenes of `size` x `size` pixels in batches of `unigen.core.types.Batch`; every batch has one form.

    forms: {name: {rows, images, share}}: `rows` rows (1 to 5) of `images` images (1 to 5), `share` is how often a
        batch has this form. The last image of the last row is the target.
    Everything else is as in `SceneClips`.
    """

    samples = SceneCollageDataset
    check_forms = staticmethod(check_scene_collages)
