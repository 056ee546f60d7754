"""SceneClipPairs: a clip of a scene as the condition of a clip, such as its depth in and the clip out.

The condition is what is known of each of the frames, so that both clips move alike (see `datamodules.scenes.maps`).
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from datamodules.emoji.names import subject as short_name
from datamodules.pretraining.clip_pairs import ClipPairs, check_pairs
from datamodules.pretraining.clips import MOMENTS
from datamodules.scenes.clips import SceneClipDataset, SceneClips, stage_at
from datamodules.scenes.graph import OF_IMAGES
from datamodules.scenes.maps import KINDS
from datamodules.scenes.render import render
from unigen.core.types import Sample

CONDITIONS = tuple(kind for kind in KINDS if kind != "image")


class ScenePairDataset(SceneClipDataset):
    """Samples by (form, clip number, item seed): the frames of the condition and then those of the clip."""

    def __getitem__(self, item: tuple[str, int, int]) -> Sample:
        name, i, _ = item
        form, clip = self.forms[name], self.plan(i)._replace(kind="image")
        amounts = [moment / (MOMENTS - 1) for moment in form.moments]
        rendered = [render(self.sprites, stage_at(clip, amount, self.size)) for amount in amounts]
        condition = [KINDS[form.condition][0](moment) for moment in rendered]
        images = {
            slot.name: torch.from_numpy(np.stack(frames))
            for slot, frames in zip(form.slots(self.size), (condition, [m.image for m in rendered]), strict=True)
        }
        key = f"scene-{self.cast.split}-{i}/{name}"
        subjects = (short_name(clip.start.subject.glyph),)
        return Sample(form.slots(self.size), images, self.prompt(clip, form.frames > 1), subjects, form.task, key)


class SceneClipPairs(SceneClips):
    """Pairs of clips of `size` x `size` pixels in batches of `unigen.core.types.Batch`; every batch has one form.

    forms: {name: {condition, frames, share}}: the condition is one of CONDITIONS, both clips have `frames` frames (1 to
        9), `share` is how often a batch has this form. tasks: "depth>clip" and so on, as the forms have them.
    Everything else is as in `SceneClips`, but that `kinds` has no effect.
    Raises ValueError for an unknown name or a number out of range.
    """

    samples = ScenePairDataset
    made = {kind: compute for kind, compute in OF_IMAGES.items() if kind in CONDITIONS}
    check_forms = staticmethod(partial(check_pairs, conditions=CONDITIONS))
    check_tasks = ClipPairs.check_tasks
    tasks = ClipPairs.tasks
    user_sample = ClipPairs.user_sample
