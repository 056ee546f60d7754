"""Presents a sample of a graph's task: rows of examples, slots, the order of its columns, and its prompt."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from datamodules.graph.sampling import Task
from unigen.core.noise import mix
from unigen.core.types import CONDITION, EXAMPLE, TARGET, ImageSlot

# An instruction from (columns, rows, caption, subject, seed, training), see `datamodules.graph.instructions`.
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
        """The sample's prompt. columns: as `order` gave them. rows: example rows and the query. caption: of the image
        that the prompt is about, see `told`; subjects: the words for what it shows.
        """
        if self.instruction is None:
            return caption
        return self.instruction(columns, rows, caption, next(iter(subjects), ""), seed, self.training)

    def told(self, task: Task) -> str:
        """The image that a prompt is about: the last one for an instruction, the first result for a bare caption."""
        return task.targets[0 if self.instruction is None else -1]


SPLITS = ("train", "val", "test")


def arrangement_shares(
    arrangements: Mapping[str, float] | None, test_arrangements: Mapping[str, float] | None
) -> dict[str, dict[str, float]]:
    """{arrangement: its share of the samples} for each split; null is the formatter's usual one alone.

    The test has what training has, or its own shares. Raises ValueError for what is no table of shares above 0.
    """
    found = []
    for key, shares in (("arrangements", arrangements), ("test_arrangements", test_arrangements)):
        numbers = isinstance(shares, Mapping) and all(
            type(share) in (int, float) and share > 0 for share in shares.values()
        )
        if shares is not None and not (numbers and shares):
            raise ValueError(f"{key}={shares!r} must be null or shares above 0, such as {{frames: 0.5, grid: 0.5}}")
        total = sum((shares or {}).values())
        found.append({str(name): share / total for name, share in (shares or {}).items()})
    drawn = found[0] or {"": 1.0}
    return dict(zip(SPLITS, (drawn, drawn, found[1] or drawn), strict=True))


def check_rows(rows: Sequence[int], where: str = "rows") -> range:
    """The legal numbers of example rows. Raises ValueError for what is not two integers in order, from 0."""
    ends = tuple(rows) if isinstance(rows, list | tuple) else ()
    if len(ends) != 2 or any(type(end) is not int for end in ends) or not 0 <= ends[0] <= ends[1]:
        raise ValueError(f"{where}={rows!r} must be [least, most], the example rows of a sample, such as [0, 2]")
    return range(ends[0], ends[1] + 1)


def row_shares_of(
    rows: Sequence[int], row_shares: Sequence[float] | None, test_rows: Sequence[int] | None
) -> dict[str, dict[int, float]]:
    """{number of example rows: its share of the samples} for each split.

    rows: the least and the most of them; row_shares: a share for each number from the least to the most, null for equal
    ones. The test has what training has, or by test_rows its own least and most, equally often.
    Raises ValueError for rows as `check_rows` does, and for shares that are not as many positive numbers.
    """
    counts = check_rows(rows)
    shares = [1.0] * len(counts) if row_shares is None else row_shares
    numbers = isinstance(shares, list | tuple) and all(type(share) in (int, float) and share > 0 for share in shares)
    if not numbers or len(shares) != len(counts):
        raise ValueError(
            f"row_shares={row_shares!r} must be {len(counts)} numbers above 0, one for each number of example rows "
            f"from {counts[0]} to {counts[-1]} (rows)"
        )
    drawn = {count: share / sum(shares) for count, share in zip(counts, shares, strict=True)}
    test = drawn if test_rows is None else dict.fromkeys(check_rows(test_rows, "test_rows"), 1.0)
    return dict(zip(SPLITS, (drawn, drawn, test), strict=True))


def grid_slots(rows: int, conditions: int, targets: int, size: int, arrangement: str = "") -> tuple[ImageSlot, ...]:
    """The slots of `rows` example rows and the query: its conditions and its targets, `size` pixels a side.

    Their names: `example0_condition`, `example0_target`, ..., `condition`, `target`; where a row has several of
    a kind they are numbered, `condition0`, `condition1`. `arrangement` is that of `ImageSlot`.
    """
    parts = [
        (part if count == 1 else f"{part}{i}", part)
        for part, count in ((CONDITION, conditions), (TARGET, targets))
        for i in range(count)
    ]
    examples = [
        ImageSlot(f"{EXAMPLE}{row}_{name}", EXAMPLE, size, size, row=row, arrangement=arrangement)
        for row in range(rows)
        for name, _ in parts
    ]
    query = (ImageSlot(name, role, size, size, row=rows, arrangement=arrangement) for name, role in parts)
    return (*examples, *query)
