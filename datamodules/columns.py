"""How a sample of a graph's task is presented: in which order its columns stand, and what its prompt says of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from datamodules.graph_sampling import Task
from unigen.noise import mix

# An instruction from (columns, rows, caption, subject, seed, training), see `datamodules.instructions`.
Instruction = Callable[[Task, int, str, str, int, bool], str]


class Columns(NamedTuple):
    """The presentation of a split's samples; everything random in it is a function of a sample's seed.

    instruction: makes the prompt; without one it is the caption. shuffle: whether the conditions of a sample stand in
    random order, style references among them, the same one in all its rows (VisualCloze's released code); targets stay
    last, in the order of the task. training: whether this is what a model is trained on; else nothing is shuffled and
    no part of an instruction is left out.
    """

    instruction: Instruction | None = None
    shuffle: bool = False
    training: bool = True

    def order(self, task: Task, seed: int) -> Task:
        """The task with its conditions in the order of this sample's columns."""
        if not (self.shuffle and self.training):
            return task
        conditions = list(task.conditions)
        random.Random(mix(seed, "columns")).shuffle(conditions)
        return task._replace(conditions=tuple(conditions))

    def prompt(self, columns: Task, rows: int, caption: str, subjects: Sequence[str], seed: int) -> str:
        """The sample's prompt. columns: as `order` gave them. rows: example rows and the query. caption: of the picture
        that the prompt is about, see `told`; subjects: the words for what it shows.
        """
        if self.instruction is None:
            return caption
        return self.instruction(columns, rows, caption, next(iter(subjects), ""), seed, self.training)

    def told(self, task: Task) -> str:
        """The picture that a prompt is about: an instruction's, the last one, a bare caption's, the first result."""
        return task.targets[0 if self.instruction is None else -1]
