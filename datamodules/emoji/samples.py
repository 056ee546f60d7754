"""GraphDataset: samples of an annotation graph's tasks on the bundled emoji, with in-context examples.

A sample is rows of one task (VisualCloze, section 3.1): first the examples, whole, then the query. Its slots are, in
this order and each row in the order of the task,
`example0_condition`, `example0_target`, `example1_condition`, ..., `condition`, `target`;
where a row has several conditions or targets they are numbered, `condition0`, `condition1`. Slots are not named after
images, because the samples of a batch have different tasks; what they show says the sample's task, and in the order
of the slots its key ('1f34e/canny+reference>target'), for the conditions may be shuffled (`datamodules.graph.columns`).

A batch has one form (how many examples, conditions and targets), else it would not stack. It is drawn from (seed, batch
number), and then every sample draws its task among those of that form, so that over many batches each task is drawn as
often as the graph says, and each number of examples as often as it is to be, with every task alike.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.emoji.images import EmojiGraph, Row
from datamodules.emoji.names import base_of, caption, subject
from datamodules.graph.choosing import CANDIDATES, FIXED, NEAREST, RANDOM, alike, shipped_judge
from datamodules.graph.columns import Columns, grid_slots
from datamodules.graph.sampling import Task
from unigen.core.noise import mix
from unigen.core.types import ImageSlot, Sample


class GridForm(NamedTuple):
    """The common form of a batch's samples: their number of example rows, the shape of their tasks, their arrangement.

    `share` is how often a batch has this form; `cumulative` are its tasks' shares of that, added up.
    """

    rows: int
    tasks: tuple[Task, ...]
    cumulative: tuple[float, ...]
    share: float
    arrangement: str = ""

    @property
    def name(self) -> str:
        """The name of a form, such as '2 rows of 3>1': example rows, conditions and targets."""
        arranged = f" as {self.arrangement}" if self.arrangement else ""
        return f"{self.rows} rows of {len(self.tasks[0].conditions)}>{len(self.tasks[0].targets)}{arranged}"

    def slots(self, size: int) -> tuple[ImageSlot, ...]:
        """All images of a sample, row by row, `size` pixels a side."""
        shape = len(self.tasks[0].conditions), len(self.tasks[0].targets)
        return grid_slots(self.rows, *shape, size, self.arrangement)


Forms = dict[str, GridForm]


def forms_of(
    shares: Mapping[Task, float],
    rows: Iterable[int] | Mapping[int, float],
    arrangements: Mapping[str, float] = MappingProxyType({"": 1.0}),
) -> Forms:
    """The forms, by name, of tasks with these shares, each number of example rows, equally often or by shares, and each
    arrangement.

    Those with the most examples come first, for grids are drawn from the first batch.
    """
    rows = rows if isinstance(rows, Mapping) else dict.fromkeys(rows, 1.0)
    shapes: dict[tuple[int, int], list[Task]] = {}
    for task in shares:
        shapes.setdefault((len(task.conditions), len(task.targets)), []).append(task)
    forms: Forms = {}
    for count in sorted(rows, reverse=True):
        for tasks in shapes.values():
            cumulative = tuple(accumulate(shares[task] for task in tasks))
            for arrangement, share in arrangements.items():
                form = GridForm(count, tuple(tasks), cumulative, cumulative[-1] * rows[count] * share, arrangement)
                forms[form.name] = form
    return forms


class Pool(NamedTuple):
    """The glyphs that have what some tasks need, by base: a sample shows no two of one base."""

    glyphs: tuple[int, ...]
    by_base: dict[str, list[int]]
    bases: tuple[str, ...]


class GraphDataset(Dataset):
    """Samples by (form, index into `indices`, item seed); from the item seed comes everything but the glyph.

    Rows and style references show glyphs of `pool`, the whole split. A glyph that lacks an image of the task that
    was drawn, a skin tone say, is replaced by one that has it: so the shares of the tasks hold, not those of glyphs.
    columns: the order of a sample's columns, and its prompt.
    example_seed: 0, or another one for other examples of the same queries, of which all else stays as it is.
    choice: how examples are chosen, one of `datamodules.graph.choosing.CHOICES`; the query does not depend on it.
    """

    def __init__(
        self,
        records: EmojiGraph,
        indices: Sequence[int],
        pool: Sequence[int],
        forms: Forms,
        columns: Columns = Columns(),
        example_seed: int = 0,
        choice: str = RANDOM,
    ) -> None:
        self.records, self.indices, self.forms, self.columns = records, tuple(indices), forms, columns
        self.example_seed, self.choice = example_seed, choice
        self._slots = {name: form.slots(records.images.size) for name, form in forms.items()}
        tasks = {task for form in forms.values() for task in form.tasks}
        self._pools = {needs: pool_of(records, pool, needs) for needs in {records.needs(task) for task in tasks}}
        self._needs = {task: records.needs(task) for task in tasks}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: tuple[str, int, int]) -> Sample:
        task, rows = self.plan(item)
        slots, names = self._slots[item[0]], self.records.images.names
        shown = self.columns.order(task, item[2])
        pixels = [self.records.image(name, row) for row in rows for name in shown.images]
        images = {slot.name: torch.from_numpy(np.array(image))[None] for slot, image in zip(slots, pixels, strict=True)}
        prompt, subjects, described = self._words(task, rows, item[2])
        glyph = names[rows[-1].glyph]
        said = f"{glyph}/{shown.name}", described, {"base glyph": base_of(glyph)}
        return Sample(slots, images, prompt, subjects, task.name, *said)

    def said(self, item: tuple[str, int, int]) -> tuple[str, tuple[str, ...]]:
        """The prompt of a sample and the words for its subject; no image is made."""
        return self._words(*self.plan(item), item[2])[:2]

    def _words(self, task: Task, rows: Sequence[Row], seed: int) -> tuple[str, tuple[str, ...], str]:
        """A sample's prompt, the words for its subject, and the caption of what is asked for."""
        told = self.records.images.names[self.records.shown(self.columns.told(task), rows[-1])]  # an edit leads to it
        subjects, described = (subject(told),), caption(told)
        prompt = self.columns.prompt(self.columns.order(task, seed), len(rows), described, subjects, seed)
        return prompt, subjects, described

    def plan(self, item: tuple[str, int, int]) -> tuple[Task, tuple[Row, ...]]:
        """The task of a sample, and its rows, the query last; no two glyphs of them have one base."""
        name, number, seed = item
        form, rng = self.forms[name], random.Random(seed)
        (task,) = rng.choices(form.tasks, cum_weights=form.cumulative)
        pool, names = self._pools[self._needs[task]], self.records.images.names
        glyph = self.indices[number]
        if glyph not in pool.by_base.get(base_of(names[glyph]), ()):
            glyph = pool.glyphs[int(rng.random() * len(pool.glyphs))]
        count = glyphs_of(task, form.rows) - 1
        bases = [base for base in rng.sample(pool.bases, count + 1) if base != base_of(names[glyph])][:count]
        others = [rng.choice(pool.by_base[base]) for base in bases]
        shown = [*others[: form.rows], glyph]
        references = others[form.rows :] or shown  # without a style nobody looks at them
        if self.example_seed:
            query, kept = (glyph, references[-1]), {base_of(names[glyph]), base_of(names[references[-1]])}
            drawn = self._examples(pool, kept, count, random.Random(mix(seed, "examples", self.example_seed)))
            shown = [*drawn[: form.rows], query[0]]
            references = [*drawn[form.rows : 2 * form.rows], query[1]] if count > form.rows else shown
        rows = tuple(Row(*both, seed, i) for i, both in enumerate(zip(shown, references, strict=True)))
        return task, rows if self.choice == RANDOM else (*self._chosen(task, rows), rows[-1])

    def conditions(self, task: Task, row: Row) -> list[np.ndarray]:
        """The conditions of a row, uint8 (3, size, size)."""
        return [self.records.image(name, row) for name in task.conditions]

    def _chosen(self, task: Task, rows: Sequence[Row]) -> list[Row]:
        """The example rows of a query, the last of `rows`, as `choice` says; no two of all have one base."""
        query, places = rows[-1], rows[:-1]
        fixed = self.choice == FIXED
        seed = mix("fixed examples", task.name) if fixed else query.sample
        own = {base_of(self.records.images.names[glyph]) for glyph in (query.glyph, query.other)}
        pool, rng = self._pools[self._needs[task]], random.Random(mix(seed, "chosen", self.example_seed))
        one_of_each = {base: rng.choice(pool.by_base[base]) for base in rng.sample(pool.bases, len(pool.bases))}
        pairs = glyphs_of(task, 0)  # glyphs of a row: one, and another one of its style reference
        drawn = [glyph for base, glyph in one_of_each.items() if base not in own][: pairs * CANDIDATES * len(places)]
        found = [Row(*(2 * drawn[i : i + pairs])[:2], seed, 0) for i in range(0, len(drawn) - pairs + 1, pairs)]
        shares = [[row._replace(number=i) for row in found[i :: len(places)]] for i in range(len(places))]
        if fixed:
            return [share[0] for share in shares]
        sign, wanted = 1 if self.choice == NEAREST else -1, self.conditions(task, query)
        chosen = []
        for share in shares:
            scores = alike(wanted, [self.conditions(task, row) for row in share], shipped_judge())
            chosen.append(share[max(range(len(share)), key=lambda k: sign * scores[k])])
        return chosen

    @staticmethod
    def _examples(pool: Pool, kept: set[str], count: int, rng: random.Random) -> list[int]:
        """Draw up to so many glyphs of different bases, none of them of the bases `kept`."""
        bases = rng.sample(pool.bases, min(count + len(kept), len(pool.bases)))
        return [rng.choice(pool.by_base[base]) for base in bases if base not in kept]


def pool_of(records: EmojiGraph, indices: Sequence[int], needs: Iterable[str]) -> Pool:
    """The glyphs among `indices` that have all of these images."""
    glyphs = tuple(index for index in indices if all(records.has(index, name) for name in needs))
    by_base: dict[str, list[int]] = {}
    for index in glyphs:
        by_base.setdefault(base_of(records.images.names[index]), []).append(index)
    return Pool(glyphs, by_base, tuple(by_base))


def glyphs_of(task: Task, rows: int) -> int:
    """The number of glyphs that a sample of this task with so many example rows shows, style references included."""
    return (rows + 1) * (2 if any(name.endswith("_ref") for name in task.images) else 1)
