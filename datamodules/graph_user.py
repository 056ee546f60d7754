"""A user's own picture as a sample of a graph's task: of one condition and one target, and without examples."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from datamodules import degradations
from datamodules.emoji_graph import sobel
from datamodules.graph_samples import forms_of
from datamodules.graph_sampling import Task
from datamodules.pictures import canny, grey
from unigen.noise import mix
from unigen.types import Sample

# What a picture does not tell: these have to be drawn by hand or cut out, and given as they are.
CUT_OUT = ("mask", "bbox", "foreground")
MAPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "canny": canny,
    "grey": grey,
    "sobel": lambda picture: sobel(picture, picture),  # the mask is for others of its kind
}


def user_sample(picture_FCHW: Tensor, prompt: str, subjects: tuple[str, ...], task: Task, prepared: bool) -> Sample:
    """A picture, uint8 (1, 3, size, size), as the condition of a task; zeros stand in for the target.

    Unless `prepared` says that it is the condition already, that is made of it: a map, or a degradation at a strength
    that is always the same. What a picture can be by itself (a drawing in a style, a subject, an edited picture) is
    taken as it is. Raises ValueError, naming the task, if it has more pictures than two, or its condition can only be
    given, not made.
    """
    if len(task.pictures) != 2:
        raise ValueError(
            f"task={task.name} shows {' and '.join(task.conditions)} and asks for {' and '.join(task.targets)}; a task "
            "for one picture of your own must have one condition and one target, as canny>target has"
        )
    (name,) = task.conditions
    if name in CUT_OUT and not prepared:
        raise ValueError(
            f"task={task.name} needs a {name}, which is not made of a picture; give one with prepared=true"
        )
    condition = picture_FCHW if prepared else _made(name, picture_FCHW)
    (form,) = forms_of({task: 1.0}, [0]).values()
    images = {"condition": condition, "target": torch.zeros_like(picture_FCHW)}
    return Sample(form.slots(picture_FCHW.shape[-1]), images, prompt, subjects, task.name, "user")


def _made(name: str, picture_FCHW: Tensor) -> Tensor:
    """The condition of this name, of a picture."""
    picture = picture_FCHW[0].numpy()
    if name in MAPS:
        picture = MAPS[name](picture)
    elif name in degradations.NAMES:
        picture = degradations.apply(picture, degradations.draw(name, random.Random(mix("user", name))))
    return torch.tensor(picture)[None]
