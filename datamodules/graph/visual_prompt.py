"""A visual prompt of the user's own image files as a sample: whole example rows, and a query row to complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from datamodules.graph.rows import fit_rows, reference_sizes, row_sizes
from datamodules.graph.sampling import Task
from datamodules.reading.images import decode_image, warn_of_animations
from unigen.core.types import CONDITION, EXAMPLE, TARGET, ImageSlot, Sample

Rows = Sequence[Sequence[str | None]]  # image files; None is what is to be generated


def visual_prompt(rows: Rows, resolution: int, text: str, subjects: tuple[str, ...], task: str) -> Sample:
    """The rows as the grid takes them: each of about resolution x resolution pixels an image (see `rows.fit_rows`).

    Any images of the last row may be those to generate, also the first (reverse generation: VisualCloze, section
    3.1); zeros stand in for them. Slots are as in `prompt_slots`, `text` is all that the model reads with them.
    Raises ValueError for rows that make no grid (see `rows.reference_sizes`), if nothing is to be generated, and for a
    file that cannot be read.
    """
    known = [[path if path is None else (resolution, resolution) for path in row] for row in rows]
    reference_sizes(known, resolution)  # refuse wrong rows before any file is read
    if None not in rows[-1]:
        raise ValueError(
            f"rows: the last row, {len(rows) - 1}, has all of its {len(rows[-1])} images, so there is nothing to "
            "generate; write null for what is wanted"
        )
    read = [[path if path is None else decode_image(path) for path in row] for row in rows]
    warn_of_animations(path for row in rows for path in row if path is not None)
    sizes = row_sizes([[p if p is None else p.shape[:0:-1] for p in row] for row in read], resolution)
    slots = prompt_slots([None in row for row in zip(*rows, strict=True)], sizes)
    pixels = [image for row in fit_rows(read, resolution) for image in row]
    images = {
        slot.name: torch.from_numpy(np.zeros((3, slot.height, slot.width), np.uint8) if p is None else p)[None]
        for slot, p in zip(slots, pixels, strict=True)
    }
    return Sample(slots, images, text, subjects, task, "user")


def prompt_slots(generated: Sequence[bool], sizes: Sequence[tuple[int, int]]) -> tuple[ImageSlot, ...]:
    """All slots, row by row, each row in the order of its columns. `generated` says of each column of the query whether
    it is a target, `sizes` are the (width, height) of each row's images.

    Called as in `datamodules.emoji.samples`: `condition` and `target`, numbered if there are several, and in the
    examples those names behind `example0_`, `example1_`, ...
    """
    roles = [TARGET if wanted else CONDITION for wanted in generated]
    names = [f"{r}{roles[:i].count(r)}" if roles.count(r) > 1 else r for i, r in enumerate(roles)]
    last = len(sizes) - 1
    return tuple(
        ImageSlot(
            name if row == last else f"{EXAMPLE}{row}_{name}", role if row == last else EXAMPLE, tall, wide, 1, row
        )
        for row, (wide, tall) in enumerate(sizes)
        for name, role in zip(names, roles, strict=True)
    )


def instructed(
    rows: Rows,
    columns: Sequence[str],
    prompt: str,
    subject: str,
    writer: Callable[[Task, int, str, str, int, bool], str],
) -> str:
    """The instruction of a visual prompt, as in training, by a run's `data.instruction`.

    columns: what each column shows, by the graph's names. As in training the last one is what the text asks for, or
    as many as the query leaves out at its end: a condition that is left out does not change it (VisualCloze).
    Raises ValueError if there are not as many names as columns.
    """
    query = rows[-1]
    if len(columns) != len(query):
        raise ValueError(f"columns={list(columns)} names {len(columns)} images, but a row has {len(query)}")
    asked = 1
    while asked < len(query) - 1 and query[-asked - 1] is None and query[-1] is None:
        asked += 1
    task = Task(tuple(columns[:-asked]), tuple(columns[-asked:]), "user", "user")
    return writer(task, len(rows), prompt, subject, 0, False)
