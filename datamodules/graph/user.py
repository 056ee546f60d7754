"""A user's own images as a sample of a graph's task: its conditions are given, or made as those of training are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from datamodules.graph.columns import Columns, grid_slots
from datamodules.graph.graph import AnnotationGraph
from datamodules.graph.keyed import KeyedData
from datamodules.graph.sampling import Task, listed
from datamodules.reading.images import warn_of_animations
from unigen.core.noise import mix
from unigen.core.types import TARGET, Sample

SEED = mix("user")  # a condition that is drawn (a degradation) is that of a record in a sample of this seed


class Wanted(NamedTuple):
    """A condition of a user's sample: its name in the graph, the file, and whether the file already shows the
    condition.
    """

    name: str
    file: str
    given: bool


class UserGraphData(KeyedData):
    """A data module of an annotation graph, which takes a user's own images as conditions of its tasks.

    A subclass says which conditions it makes of an image (`made`) and makes them (`user_conditions`), by the same
    functions as its records. Other maps (kind 'condition') have to be given. What an image can be by itself (a target,
    a subject, a drawing in a style, an edited image) is taken as it is.
    """

    graph: AnnotationGraph
    columns: Columns
    rows: Sequence[int]
    made: ClassVar[Collection[str]] = ()

    @property
    def unsampled(self) -> str | None:
        """Explain why no image can be a condition: training always showed example rows. None if it did not."""
        if 0 in self.rows:
            return None
        return (
            f"rows={[self.rows[0], self.rows[-1]]}: in training every sample had example rows, and one image of your "
            "own has none; rows must begin at 0 for this, or give rows=[[...],[...]] instead of condition="
        )

    def user_conditions(self, wanted: Sequence[Wanted]) -> list[np.ndarray]:
        """The images of a sample's conditions, uint8 (3, H, W) of one size. Raises ValueError for a bad file."""
        raise NotImplementedError

    def check_user_task(self, task: Task) -> None:
        """Check the images of a task. Raises ValueError, naming the task, for one that this data does not know."""

    def user_sample(
        self, files: str | Sequence[str], prompt: str, subjects: tuple[str, ...], task: str, prepared: bool
    ) -> Sample:
        """A sample of any task of the graph, also one held out; zeros stand in for the targets.

        files: one for each condition, or a single one of which all of them are made. prepared: whether the files show
        the conditions already. Where prompts are instructions, `prompt` is the caption in one.
        Raises ValueError, naming the task, for a file that cannot be read, an unknown task, a condition that cannot be
        made, another number of files, and if training always had example rows.
        """
        if self.unsampled:
            raise ValueError(self.unsampled)
        found = self.graph.task(task)
        self.check_user_task(found)
        files = self._files_of(found, [files] if isinstance(files, str) else files, prepared)
        wanted = [
            Wanted(name, file, self._is_given(found, name, prepared))
            for name, file in zip(found.conditions, files, strict=True)
        ]
        shown = self.user_conditions(wanted) if wanted else []
        warn_of_animations(files)
        first = next(slot for slot in self.slots if slot.role == TARGET)
        height, width = shown[0].shape[1:] if shown else (first.height, first.width)
        slots = tuple(
            slot._replace(height=height, width=width)
            for slot in grid_slots(0, len(found.conditions), len(found.targets), 0)
        )
        pixels = [*shown, *(np.zeros((3, height, width), np.uint8) for _ in found.targets)]
        images = {slot.name: torch.tensor(image)[None] for slot, image in zip(slots, pixels, strict=True)}
        prompt = self.columns._replace(training=False).prompt(found, 1, prompt, subjects, SEED)
        return Sample(slots, images, prompt, subjects, found.name, "user")

    def _files_of(self, task: Task, files: Sequence[str], prepared: bool) -> Sequence[str]:
        """The file of each condition. Raises ValueError if there are not as many, and one cannot stand for all."""
        names = task.conditions
        if len(files) == 1 and not prepared and all(name in self.made for name in names):
            return [files[0]] * len(names)
        if len(files) == len(names):
            return files
        said = f"task={task.name} shows {' and '.join(names)} and asks for {' and '.join(task.targets)}"
        if len(names) == 1:
            raise ValueError(f"{said}; it takes one image, and {len(files)} are given")
        several = f"condition=[{','.join(f'{name}.png' for name in names)}]"
        raise ValueError(f"{said}; give an image for each of what it shows: {several}")

    def _is_given(self, task: Task, name: str, prepared: bool) -> bool:
        """True if the file already shows the condition. Raises ValueError if it does not and it cannot be computed."""
        if prepared or name in self.made:
            return prepared
        node = self.graph.nodes.get(self.graph.node_of[name])
        if node is not None and node.kind == "condition":
            others = [name for name in self.graph.nodes if name in self.made]
            more = f", or name a task whose condition can be made ({listed(others)})" if others else ""
            raise ValueError(
                f"task={task.name} needs a {name}, which is not made of an image; give one with prepared=true{more}"
            )
        return True
