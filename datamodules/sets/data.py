"""SetGraphData: keyed batches of an annotation graph's tasks on a data set, with in-context examples.

The samples are described in `datamodules.sets.samples`, data sets in `datamodules.sets.base`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.emoji.data import apportioned, named_tasks, training_shares
from datamodules.emoji.samples import forms_of
from datamodules.graph.columns import Columns, Instruction, check_rows, row_shares_of
from datamodules.graph.graph import CENTRE, AnnotationGraph
from datamodules.graph.keyed import FormBatchSampler, KeyedBatchSampler
from datamodules.graph.sampling import Task, listed
from datamodules.graph.user import SEED, UserGraphData, Wanted
from datamodules.reading.records import Refusals, summary
from datamodules.sets.base import ImageSet, SetRecord, Size
from datamodules.sets.files import annotators_of, file_record, image_file
from datamodules.sets.online import ONLINE, Draw, with_online
from datamodules.sets.order import WindowBatchSampler
from datamodules.sets.parts import splits_of
from datamodules.sets.said import check_found, counts, reader_of, shown_again, warnings
from datamodules.sets.samples import SetDataset, SizedForm, check_servable, servable, size_shares, sized_forms
from datamodules.sets.sizes import bucket_of, buckets_of, filled
from unigen.core.noise import mix
from unigen.core.types import Batch, ImageSlot


class SetGraphData(UserGraphData):
    """Samples of the tasks of `graph` on the records of data sets, in batches of `unigen.core.types.Batch`.

    train, val, test: the data set of each split, see `ImageSet`; that they share no image is up to who names them.
        They are not looked at before a loader is made, so this may be built before the data is there.
    held_out: what val and test are where they are null: of train, one part in so many each (see `sets.parts`); null
        for all of train.
    tasks: patterns (see `graph_sampling.matching`) for the tasks to train on; null for all that the graph trains on and
        records of `train` can serve. test_tasks: patterns for the tasks of the test; null draws them as in training.
    size, ratios: images have about size x size pixels (VisualCloze's resolution), in the aspect ratios of `ratios`
        that the data has, see `datamodules.sets.sizes`.
    rows, row_shares, test_rows, test_example_seed, instruction, shuffle_columns: as in
        `datamodules.emoji.data.EmojiGraphData`.
    shared_degradations: whether the rows of a sample share a degradation's kind and strength.
    val_items, test_items: at most this many samples (of every test task); always the same ones.
    window: null, or so many neighbours of one another that training goes through at a time, which a large set in
        parquet needs (see `datamodules.sets.order`); more than a sample has rows, by far.
    bad_share, report: how many records may be bad, and a folder for their names, see `Refusals`.

    Training batches are keyed and endless (see `datamodules.graph.keyed`); batch k has the same form on every rank.
    Raises ValueError, naming the argument, for a pattern that matches nothing, a task that no record can serve, and a
    number out of range.
    """

    def __init__(
        self,
        *,
        graph: AnnotationGraph,
        train: ImageSet,
        val: ImageSet | None = None,
        test: ImageSet | None = None,
        held_out: int | None = 50,
        tasks: Sequence[str] | None = None,
        test_tasks: Sequence[str] | None = None,
        size: int = 384,
        ratios: Sequence[str] = ("1:1",),
        rows: Sequence[int] = (0, 2),
        row_shares: Sequence[float] | None = None,
        test_rows: Sequence[int] | None = None,
        test_example_seed: int = 0,
        instruction: Instruction | None = None,
        shuffle_columns: bool = False,
        shared_degradations: bool = True,
        batch_size: int = 1,
        seed: int = 0,
        val_items: int = 64,
        test_items: int = 64,
        num_workers: int = 0,
        window: int | None = None,
        bad_share: float = 0.01,
        report: str | Path | None = None,
    ) -> None:
        super().__init__(batch_size, seed, num_workers)
        _check_readers(train=train, val=val, test=test)
        self.sources, self.held_out = splits_of(train, val, test, held_out), held_out
        self.not_given = tuple(name for name, source in (("val", val), ("test", test)) if source is None)
        named = {"train": train, "val": val, "test": test}
        self.kinds = {split: type(train if source is None else source).__name__ for split, source in named.items()}
        self.items = {"val": val_items, "test": test_items}
        self.buckets, self.rows, self.window = buckets_of(ratios, size), check_rows(rows), window
        self.row_shares = row_shares_of(rows, row_shares, test_rows)
        self.test_example_seed = test_example_seed
        self.graph, self.columns = graph, Columns(instruction, shuffle_columns)
        self.computed = annotators_of(train)
        self.shared_degradations, self.bad_share, self.refused = shared_degradations, bad_share, report
        self.training = _trained(graph, train, tasks)
        self.test_tasks = None if test_tasks is None else named_tasks(graph, test_tasks, "test_tasks")
        self._check()

    def _check(self) -> None:
        """Check the numbers. Raises ValueError for a negative number of items, and for a task that no record of val or
        test can serve.
        """
        if min(self.items.values()) < 0:
            raise ValueError(f"val_items={self.items['val']}, test_items={self.items['test']} must be at least 0")
        for name in ("val", "test"):
            check_servable(self.sources[name], tuple(self.training), name)
        check_servable(self.sources["test"], self.test_tasks or (), "test_tasks")

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks that training draws from."""
        return tuple(task.name for task in self.training)

    @property
    def slots(self) -> tuple[ImageSlot, ...]:
        """The slots of the training form that has the most images, in the first size: what a header shows."""
        forms = sized_forms(forms_of(self.training, self.rows), {self.buckets[0]: 1.0})
        return max((form.slots for form in forms.values()), key=len)

    @property
    def made(self) -> Collection[str]:
        """The conditions that are made of any image: those that every reader computes, and those that `train` does."""
        return (*ONLINE, *self.computed)

    def user_conditions(self, wanted: Sequence[Wanted]) -> list[np.ndarray]:
        """Conditions as those of a record whose target is the file, in the size that such a record has."""
        draw = Draw(SEED, 0, self.shared_degradations)
        records = [with_online(file_record(file, self.computed), draw) for _, file, _ in wanted]
        size = bucket_of(self._shape_of(wanted, records), self.buckets)
        shown = [
            image_file(file) if given else record.images[name]
            for (name, file, given), record in zip(wanted, records, strict=True)
        ]
        return [filled(image.read(), size) for image in shown]

    def _shape_of(self, wanted: Sequence[Wanted], records: Sequence[SetRecord]) -> Size:
        """The size of the first image that lies over the target: a reference of any kind may have another one."""
        own = [
            record
            for (name, _, _), record in zip(wanted, records, strict=True)
            if name == self.graph.node_of[name] and name not in self.graph.of_kind("reference")
        ]
        return (own or records)[0].size()

    def prepare_data(self) -> None:
        """Find all records, once for all processes. Lightning calls this on one process per machine.

        Raises ValueError if the user's own files lack what a task needs.
        """
        for source in self.sources.values():
            len(source)
        check_found(self.sources["train"], tuple(self.training), "train")
        for split in ("val", "test") if len(self.training) == 1 else ():  # with several tasks, not all need be drawn
            check_found(self.sources[split], tuple(self.training), split)
        check_found(self.sources["test"], self.test_tasks or (), "test")

    @property
    def on_training_images(self) -> tuple[str, ...]:
        """Those of val and test that show training images, because nothing was held out."""
        return shown_again(self.sources, self.not_given)

    @property
    def at_hand(self) -> bool:
        """True if all data are the user's own and present: then `said` needs file names alone, or refuses a root."""
        readers = [reader_of(source) for source in self.sources.values()]
        own = all(getattr(reader, "own", False) and not getattr(reader, "computed", None) for reader in readers)
        return own and all(reader.root.exists() for reader in readers)

    def said(self) -> str:
        """One line for a header: the number of records of each split, what was left out, and why."""
        return "; ".join([counts(self.sources), *warnings(self.sources, self.on_training_images, self.held_out)])

    def report(self) -> str | None:
        """A sentence on the records that could not be used so far, and on what was left out of the data.

        None without a folder `report`.
        """
        if self.refused is None:
            return None
        return "; ".join([summary(self.refused), *warnings(self.sources, self.on_training_images, self.held_out)])

    def fit_images(self, n: int) -> Tensor:
        """`n` targets of training, evenly spread and in the first size, uint8 (n, 3, H, W): to fit a codec on."""
        source, refusals = self.sources["train"], self._refusals("train")

        def target(index: int, seed: int) -> np.ndarray:
            return filled(source.record(index, seed).read(CENTRE), self.buckets[0])

        chosen = [(i * len(source) // n, mix("fit", i)) for i in range(n)]
        return torch.from_numpy(np.stack([refusals.read(target, item, len(source)) for item in chosen]))

    def dataset(self, split: str, forms: dict[str, SizedForm]) -> SetDataset:
        """Samples of these forms. Raises ValueError if the split has fewer records than a sample has rows."""
        source, most = self.sources[split], max(self.row_shares[split])
        if not len(source):
            raise ValueError(
                f"{split} has none of the {counts(self.sources)}; data.held_out={self.held_out} says how many are held "
                f"out of train, and data.{split} takes a reader of others"
            )
        if len(source) <= most:
            raise ValueError(
                f"{split} has {len(source)} of the {counts(self.sources)}, but data.rows asks for {most} "
                f"example rows and a query; data.rows=[0,{len(source) - 1}] is possible"
            )
        columns = self.columns._replace(training=split == "train")
        example_seed = self.test_example_seed if split == "test" else 0
        refusals = self._refusals(split)
        return SetDataset(source, forms, refusals, self.shared_degradations, self.window, columns, example_seed)

    def _refusals(self, split: str) -> Refusals:
        return Refusals(f"{split} ({self.kinds[split]})", share=self.bad_share, report=self.refused)

    def keyed_batches(self, n: int) -> KeyedBatchSampler:
        """Endless training batches over range(n), through windows if there are any, from where training starts."""
        batches = super().keyed_batches(n)
        if self.window is None:
            return batches
        return WindowBatchSampler(n, self.batch_size, self.seed, batches.start, self.window)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Endless keyed batches of this rank."""
        sizes = size_shares(self.sources["train"], self.buckets)
        dataset = self.dataset("train", sized_forms(forms_of(self.training, self.row_shares["train"]), sizes))
        return self.loader(dataset, FormBatchSampler(self.keyed_batches(len(dataset)), dataset.forms))

    def val_dataloader(self) -> DataLoader[Batch]:
        """The fixed validation batches, with every form's share of the samples; every rank gets all of them."""
        return self._fixed("val", [self.training])

    def test_dataloader(self) -> DataLoader[Batch]:
        """The fixed test batches, one test task after another, or drawn as in training; every rank gets all of them."""
        return self._fixed("test", [self.training] if self.test_tasks is None else [{t: 1.0} for t in self.test_tasks])

    def _fixed(self, split: str, parts: Sequence[dict[Task, float]]) -> DataLoader[Batch]:
        """For each part, batches whose queries are the first records of a split; every form has its share of them."""
        source = self.sources[split]
        sizes, count = size_shares(source, self.buckets), min(self.items[split], len(source))
        forms, batches = {}, []
        for number, shares in enumerate(parts):
            own = {
                f"part {number}, {k}": f
                for k, f in sized_forms(forms_of(shares, self.row_shares[split]), sizes).items()
            }
            forms |= own
            for name, items in apportioned(own, count).items():
                found = [(name, i, mix("set", split, i)) for i in items]
                batches += [found[i : i + self.batch_size] for i in range(0, len(found), self.batch_size)]
        return self.loader(self.dataset(split, forms), batches)


def _check_readers(**readers: Any) -> None:
    """Check the readers. Raises ValueError, naming the key, for a value that is none; val and test may be None."""
    for split, reader in readers.items():
        if not hasattr(reader, "record") and (reader is not None or split == "train"):
            raise ValueError(
                f"data.{split} is {reader!r}, which is no reader of images; legal is "
                f"data.{split}={{_target_:datamodules.sets.own_folder.OwnFolder,root:<folder>}}, or another reader"
            )


def _trained(graph: AnnotationGraph, source: ImageSet, tasks: Sequence[str] | None) -> dict[Task, float]:
    """The relative frequency of each task: of those named, or of all that the records can serve.

    Raises ValueError if a task that is named cannot be served, or none can.
    """
    shares = training_shares(graph, tasks)
    if tasks is not None:
        check_servable(source, tuple(shares), "tasks")
    served = {task: shares[task] for task in servable(source, tuple(shares))}
    if not served:
        names = listed([task.name for task in shares])
        raise ValueError(f"graph: records have {listed(source.names)}, with which none of its tasks can go: {names}")
    return served
