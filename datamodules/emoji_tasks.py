"""What an emoji task shows and asks for: a table of (condition picture, target picture) pairs.

A new task of this kind is one line in TASKS. Pictures are named by their kind, see `datamodules.emoji_cache`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch

from datamodules.emoji_cache import EmojiPictures
from datamodules.emoji_names import caption, subject
from datamodules.pictures import canny, grey
from unigen.types import CONDITION, TARGET, ImageSlot, Sample

# name -> the pairs it draws from, each equally likely
TASKS: dict[str, tuple[tuple[str, str], ...]] = {
    "canny": (("canny", "twemoji"),),
    "line": (("line", "openmoji"),),
    "subject": (("openmoji", "twemoji"), ("twemoji", "openmoji")),
    "colour": (("grey", "twemoji"),),
}


def check_tasks(names: Sequence[str]) -> tuple[str, ...]:
    """`names` as a tuple. Raises ValueError, naming the legal tasks, if there are none or one is unknown."""
    names = (names,) if isinstance(names, str) else tuple(names or ())  # None: a graph's data would take all
    unknown = [name for name in names if name not in TASKS]
    if unknown or not names:
        problem = f"unknown task '{unknown[0]}'" if unknown else "no task given"
        raise ValueError(f"{problem} for the emoji data: legal tasks are {', '.join(TASKS)}")
    return names


def emoji_slots(size: int) -> tuple[ImageSlot, ...]:
    """The two pictures of every emoji sample: one condition, one target."""
    return (ImageSlot("condition", CONDITION, size, size), ImageSlot("target", TARGET, size, size))


def emoji_sample(
    pictures: EmojiPictures,
    index: int,
    seed: int,
    tasks: Sequence[str],
    slots: tuple[ImageSlot, ...],
    flip: float = 0.0,
) -> Sample:
    """One sample of one glyph; `seed` alone decides the task, its direction and whether both pictures are mirrored.

    The prompt is the glyph's caption; where a task has two directions it ends in the wanted style ('..., twemoji
    style'). The key is 'glyph/condition kind>target kind'.
    """
    rng = random.Random(seed)
    task = tasks[int(rng.random() * len(tasks))]
    pairs = TASKS[task]
    condition, target = pairs[int(rng.random() * len(pairs))]
    mirrored = rng.random() < flip
    glyph = pictures.names[index]
    prompt = caption(glyph) if len(pairs) == 1 else f"{caption(glyph)}, {target} style"
    images = {
        slot.name: _frames(pictures.picture(kind, index), mirrored)
        for slot, kind in zip(slots, (condition, target), strict=True)
    }
    return Sample(slots, images, prompt, (subject(glyph),), task, f"{glyph}/{condition}>{target}")


def _frames(picture: np.ndarray, mirrored: bool) -> torch.Tensor:
    """uint8 (3, H, W) to a tensor (1, 3, H, W) of its own memory, mirrored left to right if asked."""
    return torch.from_numpy(np.array(picture[..., ::-1] if mirrored else picture))[None]


def user_sample(
    picture_FCHW: torch.Tensor, prompt: str, subjects: tuple[str, ...], task: str, size: int, prepared: bool
) -> Sample:
    """A user's own picture, uint8 (1, 3, size, size), as a sample without a known target (zeros stand in for it).

    Unless `prepared` says that it is a condition already, the task's condition is taken from it: its edges (canny),
    its grey values (colour); other tasks show it as it is.
    """
    (task,) = check_tasks([task])
    kind = TASKS[task][0][0]
    derive = {"canny": canny, "grey": grey}.get(kind)
    condition = picture_FCHW
    if derive is not None and not prepared:
        condition = torch.from_numpy(derive(picture_FCHW[0].numpy()))[None]
    images = {"condition": condition, "target": torch.zeros_like(picture_FCHW)}
    return Sample(emoji_slots(size), images, prompt, subjects, task, "user")
