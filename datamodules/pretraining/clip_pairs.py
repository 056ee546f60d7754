"""ClipPairs: a clip as the condition of a clip, such as grey in and colour out; procedural, on the bundled emoji.

The target is a clip of `datamodules.pretraining.clips`. The condition is what can be computed of each of its frames, so
that both move alike: its grey form, or its edges.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from datamodules.pretraining.clips import MOMENTS, Clip, ClipData, ClipDataset, check_keys
from datamodules.reading.drawing import canny, grey, read_clip
from unigen.core.types import CONDITION, TARGET, ImageSlot, Sample

CONDITIONS = {"grey": grey, "canny": canny}


class PairForm(NamedTuple):
    """A form of samples: the kind of condition, the number of frames, and how often it occurs."""

    condition: str
    frames: int
    share: float

    @property
    def first(self) -> bool:
        """True if a sample begins with a condition."""
        return True

    @property
    def task(self) -> str:
        """The task's name."""
        return f"{self.condition}>clip"

    @property
    def moments(self) -> tuple[int, ...]:
        """The moments of a clip that this form shows: `frames` of them, evenly spread."""
        return tuple(i * (MOMENTS - 1) // max(1, self.frames - 1) for i in range(self.frames))

    def slots(self, size: int) -> tuple[ImageSlot, ...]:
        """`condition0` and `clip`, of equally many frames."""
        places = (("condition0", CONDITION), ("clip", TARGET))
        return tuple(ImageSlot(name, role, size, size, frames=self.frames) for name, role in places)


def check_pairs(
    forms: Mapping[str, Mapping[str, Any]], conditions: Collection[str] = tuple(CONDITIONS)
) -> dict[str, PairForm]:
    """The table of forms. Raises ValueError, naming the form, for a wrong key or a value out of range."""
    check_keys(forms, PairForm._fields)
    for name, given in forms.items():
        if given["condition"] not in conditions:
            legal = ", ".join(conditions)
            raise ValueError(f"data.forms.{name}.condition is {given['condition']!r}; legal are {legal}")
        if not isinstance(given["frames"], int) or not 1 <= given["frames"] <= MOMENTS:
            raise ValueError(f"data.forms.{name}.frames is {given['frames']!r}; legal are 1 to {MOMENTS}")
    return {name: PairForm(**given) for name, given in forms.items()}


class PairDataset(ClipDataset):
    """Samples by (form, clip number, item seed): the frames of the condition and then those of the clip."""

    def task(self, form: PairForm) -> str:
        return form.task

    def frames(self, form: PairForm, i: int, clip: Clip) -> tuple[str, list[np.ndarray]]:
        """The motion in words, the frames of the condition and those of the target, uint8 (3, size, size) each."""
        words, drawn = super().frames(form, i, clip)
        compute = CONDITIONS[form.condition]
        return words, [*(compute(frame) for frame in drawn), *drawn]


class ClipPairs(ClipData):
    """Pairs of clips of `size` x `size` pixels in batches of `unigen.core.types.Batch`; every batch has one form.

    forms: {name: {condition, frames, share}}: the condition is "grey" or "canny", both clips have `frames` frames (1 to
        9), `share` is how often a batch has this form.
    tasks: "grey>clip" and "canny>clip", as the forms have them. Everything else is as in `ClipData`.
    Raises ValueError for an unknown name or a number out of range.
    """

    samples = PairDataset
    made: ClassVar[Mapping[str, Callable[[np.ndarray], np.ndarray]]] = CONDITIONS  # conditions made of any clip
    check_forms = staticmethod(check_pairs)
    forms: Mapping[str, PairForm]

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Check the config's tasks. Raises ValueError unless they are those of the forms."""
        if sorted(tasks) != sorted(self.tasks):
            own = ",".join(f'"{task}"' for task in self.tasks)
            raise ValueError(
                f"data.tasks is {list(tasks)}, but the forms of data.forms have {', '.join(self.tasks)}; "
                f"write 'data.tasks=[{own}]'"
            )

    @property
    def tasks(self) -> tuple[str, ...]:
        """The task of every form."""
        return tuple(dict.fromkeys(form.task for form in self.forms.values()))

    def user_sample(
        self, files: str | Sequence[str], prompt: str, subjects: tuple[str, ...], task: str, prepared: bool
    ) -> Sample:
        """A user's own clip (an animated GIF, WebP or PNG) as the condition, of which grey or edges are made.

        `prepared` says that it is the condition already. Raises ValueError for another task, for several files, and for
        a file that cannot be read or has too few frames, and for a condition that is not made of a clip.
        """
        files = [files] if isinstance(files, str) else files
        forms = [form for form in self.forms.values() if form.task == task]
        if not forms or len(files) != 1:
            said = f"task={task} with {len(files)} files"
            raise ValueError(f"{said}: a clip is one file, and the tasks are {', '.join(self.tasks)}")
        slots = forms[0].slots(self.size)
        shown = read_clip(files[0], self.size, forms[0].frames)
        if not prepared:
            if forms[0].condition not in self.made:
                raise ValueError(
                    f"task={task} needs a {forms[0].condition}, which is not made of a clip: prepared=true"
                )
            compute = self.made[forms[0].condition]
            shown = torch.stack([torch.from_numpy(compute(frame.numpy())) for frame in shown])
        images = {slots[0].name: shown, slots[1].name: torch.zeros_like(shown)}
        return Sample(slots, images, prompt, subjects, task, "user")
