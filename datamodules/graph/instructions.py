"""Language instructions of a grid: its layout, its task and its content in words, as in VisualCloze.

Three parts, joined by single spaces. The layout is always said; task and content are each left out of a share of the
training samples. That a share of the whole prompts is hidden is the pipeline's business (`dropout.text`, .1 in
VisualCloze's released code): together .576 of the prompts of a task that ends in a whole image have all three parts,
.144 each lack content or task, .036 say the layout alone, and .100 are empty. In evaluation all that there is is said.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from datamodules.graph.graph import CENTRE
from datamodules.graph.instruction_words import CONTENTS, LAYOUTS, TASKS, phrases_of, word_of
from datamodules.graph.sampling import Task
from unigen.core.noise import mix

LONG = 200  # tokens of a text encoder that reads whole sentences: the longest have 100 words before their caption


class Instructions:
    """Instructions in whole sentences, with paraphrases of each part, as VisualCloze has them; the words are ours.

    task_dropout, content_dropout: shares of the training samples whose instruction lacks that part, independently.
    described: the images whose caption is said, where a task's last image is one of them; in VisualCloze's released
        code that is the target alone: no style, map or extracted subject is described.
    Raises ValueError for a share outside [0, 1].
    """

    def __init__(
        self, task_dropout: float = 0.2, content_dropout: float = 0.2, described: Sequence[str] = (CENTRE,)
    ) -> None:
        self.dropout = {"task": task_dropout, "content": content_dropout}
        for part, share in self.dropout.items():
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
                raise ValueError(f"data.instruction.{part}_dropout={share!r} must be a probability, between 0 and 1")
        if isinstance(described, str):
            raise ValueError(f"data.instruction.described={described!r} must be a list of images, such as [{CENTRE}]")
        self.described = tuple(described)

    def __call__(self, columns: Task, rows: int, caption: str, subject: str, seed: int, training: bool) -> str:
        """The instruction of a sample: which words, and in training which parts, is a function of `seed`.

        columns: the task, its images in the order in which the sample shows them. rows: example rows and the query.
        caption: of the query's last image, '' if it has none. subject: what it shows; said before a caption that
        does not say it.
        """
        made = {"layout": self.layout(rows, columns, _rng(seed, "layout"))}
        made["task"] = self.task(columns, _rng(seed, "task"))
        if caption and columns.targets[-1] in self.described:
            told = caption if subject.lower() in caption.lower() else f"{subject} {caption}"
            made["content"] = self.content(told, _rng(seed, "content"))
        dropped = {part for part, share in self.dropout.items() if _rng(seed, "drop", part).random() < share}
        return " ".join(said for part, said in made.items() if not (training and part in dropped))

    def layout(self, rows: int, columns: Task, rng: random.Random) -> str:
        """A sentence with the number of images, and of their rows and columns."""
        count = len(columns.images)
        words = {"rows": f"{rows} row{'s' * (rows > 1)}", "columns": f"{count} columns", "total": rows * count}
        return rng.choice(LAYOUTS).format(**words, r=rows, c=count)

    def task(self, columns: Task, rng: random.Random) -> str:
        """A sentence on each image of a row by its number from 1 (`[IMAGE1]`), and on those that are asked for.

        One noun phrase is drawn for each column.
        """
        named = [f"[IMAGE{k}] {rng.choice(phrases_of(name))}" for k, name in enumerate(columns.images, start=1)]
        shown = len(columns.conditions)
        return rng.choice(TASKS).format(conditions=", ".join(named[:shown]), target=", ".join(named[shown:]))

    def content(self, told: str, rng: random.Random) -> str:
        """A sentence on the content of the last image of the last row."""
        return f"{rng.choice(CONTENTS)} {told}"


class ShortInstructions(Instructions):
    """The same in a few words, '2x3: edges, subject > picture. red apple': for small text encoders.

    That of the mini family reads 80 bytes. There are no paraphrases: whose model has to learn its words from a
    thousand images learns those few better.
    """

    def layout(self, rows: int, columns: Task, rng: random.Random) -> str:
        """The layout in short, '2x3:' for rows and columns."""
        return f"{rows}x{len(columns.images)}:"

    def task(self, columns: Task, rng: random.Random) -> str:
        """The task in short, 'edges, subject > picture.'"""
        sides = (", ".join(map(word_of, side)) for side in (columns.conditions, columns.targets))
        return f"{' > '.join(sides)}."

    def content(self, told: str, rng: random.Random) -> str:
        """The caption by itself."""
        return told


def fitting(window: int, **options: Any) -> Instructions:
    """Whole sentences for a text encoder that reads LONG tokens, else short ones; options as in `Instructions`.

    window: what it reads, tokens.
    """
    return (Instructions if window >= LONG else ShortInstructions)(**options)


def _rng(seed: int, *keys: str) -> random.Random:
    return random.Random(mix(seed, "instruction", *keys))
