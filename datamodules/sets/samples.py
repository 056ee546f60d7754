"""SetDataset: samples of an annotation graph's tasks on the records of a data set, with in-context examples.

Samples have the slots of `datamodules.emoji.samples`: rows of one task, the query last. The task is drawn first, then
records that have all its images, so the shares of the tasks hold, and not those of records: a record that lacks a
image is replaced by one drawn by the item's seed. A batch has one form and one size; a record belongs to the size
whose aspect ratio is nearest to that of its target. Every image is scaled to cover that size and cropped around its
centre, which keeps the maps of a target in place. (VisualCloze's code stretches all to a square in training.)
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch.utils.data import Dataset

from datamodules.emoji.samples import Forms, GridForm
from datamodules.graph.columns import Columns
from datamodules.graph.graph import CENTRE
from datamodules.graph.sampling import Task, listed
from datamodules.reading.images import BadImage
from datamodules.reading.records import Refusals
from datamodules.sets.base import ImageSet, SetRecord, Size
from datamodules.sets.online import ONLINE, Draw, with_online
from datamodules.sets.order import window_of
from datamodules.sets.sizes import bucket_of, filled
from unigen.core.noise import mix
from unigen.core.types import ImageSlot, Sample

TRIES = 256  # records looked at for the rows of a sample
PROBED = 256  # records whose sizes are looked at for the shares of the sizes
RARE = 0.05  # sizes of fewer of them are not used: their records go to the nearest one that is


class SizedForm(NamedTuple):
    """A form of the samples, with the size of their images; `share` is how often a batch has it."""

    grid: GridForm
    size: Size
    share: float

    @property
    def slots(self) -> tuple[ImageSlot, ...]:
        """All images of a sample, row by row."""
        return tuple(slot._replace(width=self.size[0], height=self.size[1]) for slot in self.grid.slots(0))


def sized_forms(forms: Forms, sizes: Mapping[Size, float]) -> dict[str, SizedForm]:
    """All forms in all sizes, by name ('2 rows of 2>1, 384 x 384'), with the product of their shares."""
    return {
        f"{name}, {size[0]} x {size[1]}": SizedForm(form, size, form.share * share)
        for name, form in forms.items()
        for size, share in sizes.items()
    }


def size_shares(source: ImageSet, buckets: Sequence[Size]) -> dict[Size, float]:
    """The shares of records that each size has, estimated from PROBED of them; RARE sizes are left out.

    Of one size nothing is looked at. Records that cannot be read do not count; if none can, the first size has all.
    """
    if len(buckets) == 1:
        return {buckets[0]: 1.0}
    step = max(1, len(source) // PROBED)
    counts: Counter[Size] = Counter()
    for index in range(0, len(source), step):
        try:
            counts[bucket_of(source.record(index).size(), buckets)] += 1
        except BadImage:
            continue
    total = counts.total()
    kept = [size for size in buckets if total and counts[size] >= RARE * total] or [buckets[0]]
    sizes = Counter({size: counts[size] or 1 for size in kept})
    return {size: sizes[size] / sizes.total() for size in kept}


def servable(source: ImageSet, tasks: Sequence[Task]) -> tuple[Task, ...]:
    """The tasks whose images records of this data set may have, those computed from a target included."""
    names = {*source.names, *(ONLINE if CENTRE in source.names else ())}
    return tuple(task for task in tasks if task.fits(names))


def check_servable(source: ImageSet, tasks: Sequence[Task], where: str) -> None:
    """Check that records can serve the tasks. Raises ValueError, naming the first task that none can, and the images
    that there are.
    """
    missing = [task for task in tasks if task not in servable(source, tasks)]
    if missing:
        lacking = [name for name in missing[0].images if name not in (*source.names, *ONLINE)]
        hint = source.looked_for(lacking[0]) if lacking and hasattr(source, "looked_for") else ""
        raise ValueError(
            f"{where}: no record has {', '.join(lacking) or CENTRE}, which task {missing[0].name} needs; records may "
            f"have {listed(source.names)}, and what is computed from a target{hint and f'; {hint}'}"
        )


class SetDataset(Dataset):
    """Samples by (form, index of the query's record, item seed), which decide all of a sample.

    shared_degradations: see `Draw`. refusals: counts the records that are bad, and puts others in their place.
    window: the other rows of a sample are drawn from so many neighbours of its query, see `datamodules.sets.order`.
    columns: the order of a sample's columns, and its prompt.
    example_seed: 0, or another one for other examples of the same queries, of which all else stays as it is.
    """

    def __init__(
        self,
        source: ImageSet,
        forms: Mapping[str, SizedForm],
        refusals: Refusals,
        shared_degradations: bool = True,
        window: int | None = None,
        columns: Columns = Columns(),
        example_seed: int = 0,
    ) -> None:
        self.source, self.forms, self.refusals, self.columns = source, dict(forms), refusals, columns
        self.shared, self.window, self.example_seed = shared_degradations, window, example_seed
        self._sizes = list(dict.fromkeys(form.size for form in self.forms.values()))

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, item: tuple[str, int, int]) -> Sample:
        name, index, seed = item
        return self.refusals.read(partial(self._sample, self.forms[name], *self.plan(item)), (index, seed), len(self))

    def plan(self, item: tuple[str, int, int]) -> tuple[Task]:
        """The task of a sample; no record is looked at."""
        grid = self.forms[item[0]].grid
        (task,) = random.Random(item[2]).choices(grid.tasks, cum_weights=grid.cumulative)
        return (task,)

    def _sample(self, form: SizedForm, task: Task, index: int, seed: int) -> Sample:
        rows, shown = self.rows(form, task, index, seed), self.columns.order(task, seed)
        pixels = [filled(row.read(name), form.size) for row in rows for name in shown.images]
        images = {slot.name: torch.tensor(image)[None] for slot, image in zip(form.slots, pixels, strict=True)}
        query = rows[-1]
        prompt, caption = self._words(task, query, len(rows), seed)
        clusters = query.clusters or ({"origin": query.origin} if query.origin else {})
        said = f"{query.key}/{shown.name}", caption, clusters
        return Sample(form.slots, images, prompt, query.subjects, task.name, *said)

    def said(self, item: tuple[str, int, int]) -> tuple[str, tuple[str, ...]]:
        """The prompt of a sample and the words for its subject; of its records the query alone is looked at."""
        name, index, seed = item
        return self.refusals.read(partial(self._said, self.forms[name], *self.plan(item)), (index, seed), len(self))

    def _said(self, form: SizedForm, task: Task, index: int, seed: int) -> tuple[str, tuple[str, ...]]:
        alone = form._replace(grid=form.grid._replace(rows=0))
        (query,) = self.rows(alone, task, index, seed)
        return self._words(task, query, form.grid.rows + 1, seed)[0], query.subjects

    def _words(self, task: Task, query: SetRecord, rows: int, seed: int) -> tuple[str, str]:
        """A sample's prompt, and the caption of what is asked for."""
        caption, shown = query.caption(self.columns.told(task)), self.columns.order(task, seed)
        return self.columns.prompt(shown, rows, caption, query.subjects, seed), caption

    def rows(self, form: SizedForm, task: Task, index: int, seed: int) -> tuple[SetRecord, ...]:
        """The records of a sample, the query last: that of `index` if it fits, and others of other origins.

        Raises BadImage if a record is bad, or TRIES of them do not fit.
        """
        rng = random.Random(mix(seed, "rows", index))
        found: list[SetRecord] = []
        origins: set[str] = set()
        neighbours = window_of(index, len(self), self.window)
        for tried in range(TRIES):
            chosen = rng.choice(neighbours) if tried else index
            record = self.source.record(chosen, mix(seed, chosen))
            origin = record.origin or record.key
            record = with_online(record, Draw(seed, form.grid.rows - len(found), self.shared))  # the query comes first
            if origin in origins or not task.fits(record.images) or not self._of_size(record, form.size):
                continue
            found.append(record)
            origins.add(origin)
            if len(found) == form.grid.rows + 1:
                return tuple(reversed(found))
            if len(found) == 1 and self.example_seed:  # the query is there
                rng = random.Random(mix(seed, "rows", index, self.example_seed))
        reason = f"{TRIES} records hold {len(found)} that fit task {task.name} at {form.size[0]} x {form.size[1]}"
        raise BadImage.of(f"record {index}", reason, f"there must be {form.grid.rows + 1}")

    def _of_size(self, record: SetRecord, size: Size) -> bool:
        """True if the record belongs to this size."""
        return len(self._sizes) == 1 or bucket_of(record.size(), self._sizes) == size
