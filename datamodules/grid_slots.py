"""The slots of a grid of rows of pictures: positional names, so that samples of different tasks stack."""

from __future__ import annotations

from unigen.types import CONDITION, EXAMPLE, TARGET, ImageSlot


def grid_slots(rows: int, conditions: int, targets: int, size: int) -> tuple[ImageSlot, ...]:
    """`rows` rows of examples, then the query, each of its conditions and its targets, `size` pixels a side.

    Their names: `example0_condition`, `example0_target`, ..., `condition`, `target`; where a row has several of
    a kind they are numbered, `condition0`, `condition1`.
    """
    parts = [
        (part if count == 1 else f"{part}{i}", part)
        for part, count in ((CONDITION, conditions), (TARGET, targets))
        for i in range(count)
    ]
    examples = [
        ImageSlot(f"{EXAMPLE}{row}_{name}", EXAMPLE, size, size, row=row) for row in range(rows) for name, _ in parts
    ]
    return (*examples, *(ImageSlot(name, role, size, size, row=rows) for name, role in parts))
