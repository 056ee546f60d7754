"""ClipData: short clips of real images in procedural motion, to pretrain a small video model on.

The images are the bundled emoji (see `datamodules.emoji.cache`), what happens to them is in
`datamodules.pretraining.motions`. A clip shows one kind of image throughout, so no two of its frames are the
condition and the target of an ablation's
task: edges and their image, line art and its colouring, grey and colour, one style and the other. Only where the
motions `fill` are asked for do edge maps turn into areas, of colours drawn at random
(`datamodules.pretraining.colouring`).

A clip has MOMENTS = 9 moments, of progress 0, 1/8, ..., 1. A form says how many of them a sample shows and in which
slots. What happens in a clip does not depend on the form, nor on the training seed, so latents can be kept by content.
Half of the clips that can run backward do: the first frame is the changed image, the last one the original.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.emoji.cache import KINDS, EmojiImages
from datamodules.emoji.names import base_of, caption, subject
from datamodules.emoji.splits import EmojiSplits
from datamodules.graph.keyed import FormBatchSampler, KeyedData
from datamodules.pretraining.motions import (
    FAMILY,
    GROUPS,
    MOTION_SHARES,
    check_shares,
    choose,
    posed,
    random_pose,
    shown,
    unlike,
)
from datamodules.reading.drawing import read_image
from datamodules.reading.images import warn_of_animations
from unigen.core.noise import mix
from unigen.core.types import CONDITION, TARGET, Batch, ImageSlot, Sample

MOMENTS = 9
LONGEST = 78  # bytes of a prompt; what does not fit is left out, the motion first
TURNOVER = 3 / 8  # the progress at which a family clip turns into the second one: every form's last moment is later
STYLES = {"line": "line art", "grey": "grey", "canny": "edges"}  # said in every prompt; a bare caption means colour
POSED = 0.35  # share of clips that start in a random pose instead of as drawn
SHARES = {"twemoji": 0.4, "openmoji": 0.4, "line": 0.1, "grey": 0.05, "canny": 0.05}
FORMS = {
    "still": {"first": False, "frames": 1, "share": 0.15},
    "clip4": {"first": False, "frames": 4, "share": 0.15},
    "clip8": {"first": False, "frames": 8, "share": 0.05},
    "next": {"first": True, "frames": 1, "share": 0.5},
    "continue": {"first": True, "frames": 2, "share": 0.15},
}


class Form(NamedTuple):
    """A form of samples of a clip: the first frame is a condition or not, and so many frames are the target.

    `arrangement` is that of `ImageSlot`: how the images lie, for a formatter that knows several ways.
    """

    first: bool
    frames: int
    share: float
    arrangement: str = ""

    @property
    def moments(self) -> tuple[int, ...]:
        """The moments that this form shows: every (9 // n)-th of MOMENTS, n in all (2: 0 4; 3: 0 3 6; 4: 0 2 4 6)."""
        count = self.first + self.frames
        return tuple(i * (MOMENTS // count) for i in range(count))

    def slots(self, size: int) -> tuple[ImageSlot, ...]:
        """`first` (a condition of one frame), if the form has it, and `clip` (the target)."""
        clip = ImageSlot("clip", TARGET, size, size, frames=self.frames, arrangement=self.arrangement)
        first = ImageSlot("first", CONDITION, size, size, arrangement=self.arrangement)
        return (first, clip) if self.first else (clip,)


class Clip(NamedTuple):
    """The content of a clip before anything is drawn: its images (the second one in a family clip) and its choices."""

    glyphs: tuple[int, ...]
    kind: str
    motion: str
    backward: bool
    moved: bool  # true: it starts in a random pose instead of as drawn
    style_said: bool
    motion_said: bool
    seed: int  # seed of the pose and the motion


Shares, Forms = dict[str, float], Mapping[str, Any]


def check_forms(forms: Mapping[str, Mapping[str, Any]]) -> dict[str, Form]:
    """The table of forms. Raises ValueError, naming the form, for a wrong key or a value out of range."""
    check_keys(forms, Form._fields, tuple(Form._field_defaults))
    for name, given in forms.items():
        if not isinstance(given["first"], bool):
            raise ValueError(f"data.forms.{name}.first={given['first']!r} must be true or false")
        if not isinstance(given["frames"], int) or given["frames"] not in (1, 2, 4, 6, 8):
            raise ValueError(f"data.forms.{name}.frames={given['frames']!r} must be 1 (a still), 2, 4, 6 or 8")
    return {name: Form(**given) for name, given in forms.items()}


def check_keys(forms: Mapping[str, Mapping[str, Any]], keys: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Check a table of forms. Raises ValueError, naming the form, for other keys and for illegal shares.

    Those of the `keys` that are `optional` may be absent.
    """
    for name, given in forms.items():
        if not isinstance(given, Mapping):
            raise ValueError(f"data.forms.{name} is {given!r}; it must be a mapping of {', '.join(keys)}")
        if not set(keys) - set(optional) <= set(given) <= set(keys):
            raise ValueError(f"data.forms.{name} has the keys {', '.join(given)}; it must have {', '.join(keys)}")
    check_shares("data.forms", {name: given["share"] for name, given in forms.items()})


def check_kinds(kinds: Mapping[str, float]) -> Shares:
    """The share of each kind of image. Raises ValueError for an unknown kind, no kind, or a share that is not > 0."""
    return check_shares("kinds", kinds, KINDS)


class ClipDataset(Dataset):
    """Samples by (form, clip number, item seed). A clip depends on its split and number alone, so the seed is idle.

    Clip i shows glyph i mod n of the split's n `indices`.
    """

    def __init__(
        self, images: EmojiImages, indices: list[int], split: str, kinds: Shares, motions: Shares, forms: Forms
    ) -> None:
        self.images, self.indices, self.split = images, indices, split
        self.kinds, self.motions, self.forms = kinds, motions, forms
        self.relatives: dict[str, list[int]] = {}
        for index in self.indices:
            self.relatives.setdefault(base_of(images.names[index]), []).append(index)

    def __getitem__(self, item: tuple[str, int, int]) -> Sample:
        name, i, _ = item
        form, clip = self.forms[name], self.plan(i)
        words, frames = self.frames(form, i, clip)
        slots, images = form.slots(self.images.size), torch.from_numpy(np.stack(frames))
        parts = dict(zip([slot.name for slot in slots], images.split([slot.frames for slot in slots]), strict=True))
        prompt = self.prompt(clip, words if len(frames) > 1 else "")
        key = f"{'clip' if self.split == 'train' else self.split}-{i}/{name}"
        return Sample(slots, parts, prompt, (subject(self.images.names[clip.glyphs[0]]),), self.task(form), key)

    def task(self, form: Any) -> str:
        """The task of a sample in this form."""
        return "clip"

    def frames(self, form: Any, i: int, clip: Clip) -> tuple[str, list[np.ndarray]]:
        """The motion in words, and all images, uint8 (3, size, size), that clip number i shows in a form."""
        return self.draw(clip, [moment / (MOMENTS - 1) for moment in form.moments])

    def plan(self, i: int) -> Clip:
        """The content of clip number i."""
        rng = random.Random(mix("clip", self.split, i))
        kind = rng.choices(list(self.kinds), list(self.kinds.values()))[0]
        motion, backward, glyphs = self._motion(self.indices[i % len(self.indices)], kind, rng)
        moved, style, told = (rng.random() < share for share in (POSED, 0.5, 0.5))
        return Clip(glyphs, kind, motion, backward, moved, style or kind in STYLES, told, rng.getrandbits(62))

    def draw(self, clip: Clip, amounts: Sequence[float]) -> tuple[str, list[np.ndarray]]:
        """The motion in words, and the frames, uint8 (3, size, size), of progress `amounts` in [0, 1]."""
        rng = random.Random(clip.seed)
        images = [self.images.image(clip.kind, index) for index in clip.glyphs]
        if clip.moved:
            pose = random_pose(rng)
            images = [posed(image, pose) for image in images]
        if clip.motion != FAMILY:
            return shown(clip.motion, images[0], amounts, clip.backward, rng)
        before, after = (caption(self.images.names[index]) for index in clip.glyphs)
        news = after.removeprefix(before.split(", ")[0] + ", ")  # do not repeat the common part
        return f"becoming {news}", [images[a >= TURNOVER] for a in amounts]

    def prompt(self, clip: Clip, motion: str) -> str:
        """The caption, its style and the motion, as far as the clip says them and LONGEST allows."""
        parts = [caption(self.images.names[clip.glyphs[0]])]
        parts += [STYLES.get(clip.kind, f"{clip.kind} style")] if clip.style_said else []
        parts += [motion] if clip.motion_said and motion else []
        while len(parts) > 1 and len(", ".join(parts).encode()) > LONGEST:
            parts.pop()
        return ", ".join(parts)

    def _motion(self, index: int, kind: str, rng: random.Random) -> tuple[str, bool, tuple[int, ...]]:
        """Draw a motion that is visible on this image, its direction in time, and the glyphs that it shows."""
        image = self.images.image(kind, index)
        other = rng.choice(self.relatives[base_of(self.images.names[index])])
        related = unlike(image, self.images.image(kind, other))  # not so: itself, or skin tones in line art
        motion, backward = choose(self.motions, image, kind, related, rng)
        return motion, backward, (index, other) if motion == FAMILY else (index,)


class ClipData(KeyedData):
    """Clips of `size` x `size` pixels in batches of `unigen.core.types.Batch`; every batch has one form.

    clips: how many training clips there are; clip i is the same whatever `seed` is. An epoch shows each once.
    forms: {name: {first, frames, share}}: `first` shows frame 0 as a condition, `frames` (1, 2, 4, 6 or 8) are the
        target, `share` is how often a batch has this form.
    kinds: {kind of image: share of the clips}; kinds as in `datamodules.emoji.cache`.
    motions: {group of motions: share of the clips}; groups as in `datamodules.pretraining.motions`. Where no motion
        of a group fits the image, the others share.
    val_items, test_items: this many clips of held-out glyphs, each shown in every form; the same whatever `seed` is.
        Batch k has form k mod n; those with `first` come first, since grids are drawn from the first batch.
    tasks: only [clip]. size, cache, limit and the splits: as in `EmojiSplits`; batch_size, num_workers, and where
        training starts: as in `KeyedData`.

    Prompts: the caption; ', twemoji style' or ', openmoji style' in half of the clips of that kind, ', line art',
    ', grey' or ', edges' in all of that kind; then the motion in half of the clips (', moving left', or backward
    ', back from moving left'), never in a form of a single frame.
    Raises ValueError for an unknown name or a number out of range.
    """

    samples: type[ClipDataset] = ClipDataset
    check_forms = staticmethod(check_forms)

    def __init__(
        self,
        *,
        size: int = 64,
        tasks: Sequence[str] = ("clip",),
        batch_size: int = 32,
        seed: int = 0,
        clips: int = 16384,
        forms: Mapping[str, Mapping[str, Any]] = FORMS,
        kinds: Mapping[str, float] = SHARES,
        motions: Mapping[str, float] = MOTION_SHARES,
        val_items: int = 64,
        test_items: int = 64,
        num_workers: int = 0,
        cache: str | Path | None = None,
        limit: int | None = None,
    ) -> None:
        if clips < 1:
            raise ValueError(f"clips={clips} leaves no data: it must be at least 1")
        super().__init__(batch_size, seed, num_workers)
        self.emoji = EmojiSplits(size=size, val_items=val_items, test_items=test_items, cache=cache, limit=limit)
        self.size, self.clips = size, clips
        self.forms, self.kinds = self.check_forms(forms), check_kinds(kinds)
        self.motions = check_shares("motions", motions, GROUPS)
        self.check_tasks(tasks)

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Check the config's tasks. Raises ValueError for tasks that these data do not have."""
        if list(tasks) != ["clip"]:
            raise ValueError(f"tasks={tasks!r} is not legal for the clip data: it must be [clip]")

    @property
    def tasks(self) -> tuple[str, ...]:
        """The one task of every sample."""
        return ("clip",)

    @property
    def slots(self) -> tuple[ImageSlot, ...]:
        """The slots of the first form that has `first`, else of the first form: what a header shows."""
        return self.forms[self._in_turn()[0]].slots(self.size)

    @property
    def unsampled(self) -> str | None:
        """Explain why no image of a user can be a condition (no form shows one image and asks for the rest); None if
        one can.
        """
        return None if self._user_form() else "no form of data.forms shows one image and asks for what follows"

    def user_sample(
        self, files: str | Sequence[str], prompt: str, subjects: tuple[str, ...], task: str, prepared: bool
    ) -> Sample:
        """A user's own image as the first moment of a clip, in the form of the largest share that shows one.

        Nothing is made of it, so `prepared` changes nothing. Raises ValueError if no form does, for another task, and
        for a file that cannot be read.
        """
        if (form := self._user_form()) is None:
            return super().user_sample(files, prompt, subjects, task, prepared)
        files = [files] if isinstance(files, str) else files
        if task not in self.tasks or len(files) != 1:
            raise ValueError(f"task={task} with {len(files)} images: clips have task=clip, which takes one image")
        slots, shown = form.slots(self.size), read_image(files[0], self.size)
        warn_of_animations(files)
        images = {
            slot.name: shown if slot.role == CONDITION else shown.new_zeros(slot.frames, *shown.shape[1:])
            for slot in slots
        }
        return Sample(slots, images, prompt, subjects, "clip", "user")

    def _user_form(self) -> Any:
        """The form of the largest share whose samples are one image and a target; None if there is none."""
        roles = {name: sorted(slot.role for slot in form.slots(self.size)) for name, form in self.forms.items()}
        found = [form for name, form in self.forms.items() if form.share and roles[name] == [CONDITION, TARGET]]
        return max(found, key=lambda form: form.share, default=None)

    def prepare_data(self) -> None:
        """Draw the image cache if it is not there. Lightning calls this on one process per machine."""
        self.emoji.prepare()

    def fit_images(self, n: int) -> Tensor:
        """`n` training images of all kinds in turn, uint8 (n, 3, size, size), as drawn (see `EmojiSplits`)."""
        return self.emoji.fit_images(n)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Endless keyed batches of this rank."""
        return self.loader(self.dataset("train"), FormBatchSampler(self.keyed_batches(self.clips), self.forms))

    def val_dataloader(self) -> DataLoader[Batch]:
        """The fixed validation batches; every rank gets all of them."""
        return self._fixed("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """The fixed test batches; every rank gets all of them."""
        return self._fixed("test")

    def dataset(self, split: str) -> ClipDataset:
        """The clips of 'train', 'val' or 'test'. Raises ValueError if `limit` left the split empty."""
        names, indices = self.emoji.images.names, self.emoji.indices[split]
        if not indices:
            raise ValueError(f"the {split} split of {len(names)} glyphs is empty: raise or drop `limit`")
        if split == "train":  # these are sorted by code point: mixed, so that few clips show many sorts of image
            indices = sorted(indices, key=lambda index: mix("clip order", names[index]))
        return self.samples(self.emoji.images, indices, split, self.kinds, self.motions, self.forms)

    def _in_turn(self) -> list[str]:
        """The forms' names, those with `first` in front, otherwise as in the table."""
        return sorted(self.forms, key=lambda name: not self.forms[name].first)

    def _fixed(self, split: str) -> DataLoader[Batch]:
        """The same clips in every form: a batch of each form, then the next batch of each."""
        items = range(self.emoji.items[split])
        parts = [items[i : i + self.batch_size] for i in range(0, len(items), self.batch_size)]
        batches = [[(name, i, mix("clip", split, i)) for i in part] for part in parts for name in self._in_turn()]
        return self.loader(self.dataset(split), batches)
