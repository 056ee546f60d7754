"""EmojiGraphData: keyed batches of an annotation graph's tasks on the bundled emoji, with in-context examples.

The samples are described in `datamodules.emoji.samples`, their images in `datamodules.emoji.images`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.emoji.images import OF_IMAGES, EmojiGraph
from datamodules.emoji.samples import Forms, GraphDataset, forms_of, glyphs_of, pool_of
from datamodules.emoji.splits import EmojiSplits
from datamodules.graph.choosing import RANDOM, check_choice
from datamodules.graph.columns import Columns, Instruction, arrangement_shares, check_rows, row_shares_of
from datamodules.graph.graph import AnnotationGraph
from datamodules.graph.keyed import FormBatchSampler
from datamodules.graph.sampling import Task, listed, matching
from datamodules.graph.user import SEED, UserGraphData, Wanted
from datamodules.reading.drawing import read_image
from unigen.core.noise import mix
from unigen.core.types import Batch, ImageSlot

Items = list[tuple[str, int, int]]


class EmojiGraphData(UserGraphData):
    """Samples of the tasks of `graph`, of images of `size` x `size` pixels, in batches of `unigen.core.types.Batch`.

    graph: an `AnnotationGraph` whose tasks have images of `datamodules.emoji.images.NAMES`.
    tasks: patterns (see `graph_sampling.matching`) for the tasks to train on, which keep the graph's proportions; null
        for all that the graph trains on. What the graph holds out cannot be had here.
    test_tasks: patterns for the tasks of the test, held-out and unseen ones too, each shown on the same glyphs; null
        draws the test's tasks as in training.
    rows: the least and the most example rows that a sample has; row_shares: how often each number, null for equally
        often; test_rows: the least and the most in the test, null for as in training. test_example_seed: which
        examples the samples of the test get; another one changes the examples and nothing else. test_examples: how
        those of the test are chosen, one of `datamodules.graph.choosing.CHOICES`: at random; the nearest or the
        farthest of 16 draws, by the judge's cosine between their conditions and the query's; or the same rows for all
        queries of a task.
    arrangements: how often samples want each arrangement of a formatter that knows several (`formatter=arranged`), null
        for its usual one; test_arrangements: the same in the test, null for as in training.
    instruction: makes the prompts (`datamodules.graph.instructions`); null for bare captions.
    shuffle_columns: whether the conditions of a training sample stand in random order (see `Columns`).
    shared_degradations: whether the rows of a sample share a degradation's kind and strength (see `EmojiGraph`).
    val_items, test_items: at most this many samples (of every test task); always the same ones, whatever `seed` is.
    size, cache, limit and the splits: as in `EmojiSplits`; batch_size, num_workers, where training starts: `KeyedData`.
        Where `limit` leaves a task too few glyphs for its rows, that task is left out.

    Training batches are keyed and endless (see `datamodules.graph.keyed`); an epoch has each glyph once, but for those
    that lack an image of their task (see `GraphDataset`). Batch k has the same form on every rank.
    Raises ValueError, naming the argument, for a pattern that matches nothing, an image that emoji do not have, and a
    number out of range.
    """

    def __init__(
        self,
        *,
        graph: AnnotationGraph,
        size: int = 64,
        tasks: Sequence[str] | None = None,
        test_tasks: Sequence[str] | None = None,
        rows: Sequence[int] = (0, 2),
        row_shares: Sequence[float] | None = None,
        test_rows: Sequence[int] | None = None,
        test_example_seed: int = 0,
        test_examples: str = RANDOM,
        arrangements: Mapping[str, float] | None = None,
        test_arrangements: Mapping[str, float] | None = None,
        instruction: Instruction | None = None,
        shuffle_columns: bool = False,
        shared_degradations: bool = True,
        batch_size: int = 32,
        seed: int = 0,
        val_items: int = 64,
        test_items: int = 64,
        num_workers: int = 0,
        cache: str | Path | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(batch_size, seed, num_workers)
        self.emoji = EmojiSplits(size=size, val_items=val_items, test_items=test_items, cache=cache, limit=limit)
        self.size, self.limit, self.rows = size, limit, check_rows(rows)
        self.row_shares = row_shares_of(rows, row_shares, test_rows)
        self.test_example_seed, self.test_examples = test_example_seed, check_choice(test_examples)
        self.arrangements = arrangement_shares(arrangements, test_arrangements)
        self.graph, self.columns = graph, Columns(instruction, shuffle_columns)
        self.records = self.records_of(self.emoji.images, shared_degradations)
        self._shares = training_shares(graph, tasks)
        self.test_tasks = None if test_tasks is None else named_tasks(graph, test_tasks, "test_tasks")
        self.records.check(tuple(self._shares), "tasks")
        self.records.check(self.test_tasks or (), "test_tasks")
        self.training = self._possible("train", self._shares)
        self.forms = forms_of(self.training, self.row_shares["train"], self.arrangements["train"])
        if limit is None:  # else a split may be empty, which matters to who asks for it
            self._possible("val", self._shares)
            self._possible("test", dict.fromkeys(self.test_tasks or self._shares, 1.0))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks that training draws from."""
        return tuple(task.name for task in self.training)

    @property
    def slots(self) -> tuple[ImageSlot, ...]:
        """The slots of the training form that has the most images: what a header shows."""
        return max((form.slots(self.size) for form in self.forms.values()), key=len)

    made = OF_IMAGES
    records_of: ClassVar[type[EmojiGraph]] = EmojiGraph

    def check_user_task(self, task: Task) -> None:
        """Check the images of a task. Raises ValueError, naming the task, for an image that the emoji do not have."""
        self.records.check([task], "task")

    def user_conditions(self, wanted: Sequence[Wanted]) -> list[np.ndarray]:
        """Crop the user's images to squares around their centres, and derive from them the conditions that are not
        given.
        """
        read = [(name, read_image(file, self.size)[0].numpy(), given) for name, file, given in wanted]
        return [image if given else self.records.of_image(name, image, SEED) for name, image, given in read]

    def prepare_data(self) -> None:
        """Draw the image caches of the tasks if absent. Lightning calls this on one process per machine."""
        self.records.prepare((*self._shares, *(self.test_tasks or ())))

    def fit_images(self, n: int) -> Tensor:
        """`n` training images, uint8 (n, 3, size, size), as in `EmojiSplits`."""
        return self.emoji.fit_images(n)

    def dataset(self, split: str, forms: Forms) -> GraphDataset:
        """Samples of these forms. In 'val' and 'test' the first glyphs alone are queries; examples may be any."""
        pool = self.emoji.indices[split]
        columns = self.columns._replace(training=split == "train")
        own = (self.test_example_seed, self.test_examples) if split == "test" else ()
        return GraphDataset(self.records, pool[: self.emoji.items.get(split)], pool, forms, columns, *own)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Endless keyed batches of this rank."""
        dataset = self.dataset("train", self.forms)
        return self.loader(dataset, FormBatchSampler(self.keyed_batches(len(dataset)), self.forms))

    def val_dataloader(self) -> DataLoader[Batch]:
        """The fixed validation batches, with every form's share of the samples; every rank gets all of them."""
        return self._fixed("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """The fixed test batches, one test task after another; every rank gets all of them."""
        if self.test_tasks is None:
            return self._fixed("test")
        dataset, batches = self._test_batches(self.test_tasks)
        return self.loader(dataset, batches)

    def _fixed(self, split: str) -> DataLoader[Batch]:
        """Batches like those of training, but of fixed items and with every form's share of them."""
        forms = forms_of(self._possible(split, self._shares), self.row_shares[split], self.arrangements[split])
        dataset, batches = self.dataset(split, forms), []
        for name, items in apportioned(forms, len(dataset)).items():
            found = [(name, i, mix("graph", split, i)) for i in items]
            batches += [found[i : i + self.batch_size] for i in range(0, len(found), self.batch_size)]
        return self.loader(dataset, batches)

    def _test_batches(self, tasks: Sequence[Task]) -> tuple[GraphDataset, list[Items]]:
        """The samples of these tasks, and the batches, task by task, whose numbers of examples take turns."""
        forms: Forms = {}
        parts = self.fixed_batches(min(self.emoji.items["test"], len(self.emoji.indices["test"])), "graph", "test")
        batches: list[Items] = []
        for task in self._possible("test", dict.fromkeys(tasks, 1.0)):
            own = forms_of({task: 1.0}, self.row_shares["test"], self.arrangements["test"])
            turns = [f"{task.name}, {name}" for name in own]
            forms |= zip(turns, own.values(), strict=True)
            batches += [[(turns[k % len(turns)], i, seed) for i, seed in part] for k, part in enumerate(parts)]
        return self.dataset("test", forms), batches

    def _possible(self, split: str, shares: Mapping[Task, float]) -> dict[Task, float]:
        """The tasks for which the split has enough glyphs: every row and style reference shows another base.

        Raises ValueError if that leaves none, or leaves one out although there is no `limit`.
        """
        needs = {task: self.records.needs(task) for task in shares}
        indices = self.emoji.indices[split]
        bases = {names: len(pool_of(self.records, indices, names).bases) for names in set(needs.values())}
        most = max(self.row_shares[split])
        possible = {t: share for t, share in shares.items() if bases[needs[t]] >= glyphs_of(t, most)}
        if len(possible) < len(shares) and (self.limit is None or not possible):
            lost = [task.name for task in shares if task not in possible]
            raise ValueError(
                f"the {split} split of {len(self.emoji.images.names)} glyphs has too few for rows={most} of "
                f"{listed(lost)}: lower `rows`, leave the task out, or raise or drop `limit`"
            )
        return possible


def named_tasks(graph: AnnotationGraph, patterns: Sequence[str], where: str) -> tuple[Task, ...]:
    """The graph's tasks, unseen ones included, that match any of the patterns; '>target' is one from text alone.

    Raises ValueError if there is no pattern, or one that matches nothing.
    """
    patterns = (patterns,) if isinstance(patterns, str) else patterns
    everything = (*graph.tasks, *graph.unseen_tasks, *from_text(graph, patterns, where))
    if not patterns:
        raise ValueError(f"{where} is empty: it must name at least one task or group, or be null")
    return tuple(dict.fromkeys(task for pattern in patterns for task in matching(everything, pattern, where)))


def from_text(graph: AnnotationGraph, patterns: Sequence[str], where: str) -> tuple[Task, ...]:
    """The tasks without a condition that patterns name, which any graph has."""
    asked = [pattern for pattern in patterns if pattern.strip().startswith(">")]
    return tuple(task for pattern in asked for task in graph.expand(pattern, where))


def training_shares(graph: AnnotationGraph, patterns: Sequence[str] | None) -> dict[Task, float]:
    """The relative frequency of each task: of all that the graph trains on, or of those that match a pattern.

    Raises ValueError as `named_tasks` does, and for a pattern that matches no task that the graph trains on.
    """
    shares = dict(zip(graph.training.tasks, graph.training.probabilities().values(), strict=True))
    if patterns is None:
        return shares
    patterns = (patterns,) if isinstance(patterns, str) else patterns
    shares |= dict.fromkeys(from_text(graph, patterns, "tasks"), max(shares.values()))
    chosen = set(named_tasks(graph, patterns, "tasks"))
    for pattern in patterns:
        if not shares.keys() & named_tasks(graph, [pattern], "tasks"):
            raise ValueError(f"tasks: '{pattern}' is held out or unseen in this graph; only test_tasks may name it")
    return {task: share for task, share in shares.items() if task in chosen}


def apportioned(forms: Forms, n: int) -> dict[str, range]:
    """Divide range(n) in order into the forms' shares of it, rounded."""
    total, at, cut = sum(form.share for form in forms.values()), 0.0, {}
    for name, form in forms.items():
        start, at = at, at + form.share / total
        cut[name] = range(round(start * n), round(at * n))
    return cut
