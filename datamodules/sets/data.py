"""SetGraphData: keyed batches of an annotation graph's tasks on a data set, with in-context examples.

The samples are described in `datamodules.sets.samples`, data sets in `datamodules.sets.base`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import DataLoader

from datamodules.clips import FormBatchSampler
from datamodules.graph import AnnotationGraph
from datamodules.graph_data import apportioned, check_rows, named_tasks, training_shares
from datamodules.graph_samples import forms_of
from datamodules.graph_sampling import Task, listed
from datamodules.keyed import KeyedBatchSampler, KeyedData
from datamodules.records import Refusals
from datamodules.sets.base import PictureSet
from datamodules.sets.order import WindowBatchSampler
from datamodules.sets.samples import SetDataset, SizedForm, check_servable, servable, size_shares, sized_forms
from datamodules.sets.sizes import buckets_of
from unigen.noise import mix
from unigen.types import Batch, ImageSlot

SPLITS = ("train", "val", "test")


class SetGraphData(KeyedData):
    """Samples of the tasks of `graph` on the records of data sets, in batches of `unigen.types.Batch`.

    train, val, test: the data set of each split, see `PictureSet`; that they share no picture is up to who names them.
        They are not looked at before a loader is made, so this may be built before the data is there.
    tasks: patterns (see `graph_sampling.matching`) for the tasks to train on; null for all that the graph trains on and
        records of `train` can serve. test_tasks: patterns for the tasks of the test; null draws them as in training.
    resolution, ratios: pictures have about resolution x resolution pixels, in the aspect ratios of `ratios` that the
        data has, see `datamodules.sets.sizes`. rows: the least and the most example rows, every number equally likely.
    shared_degradations: whether the rows of a sample share a degradation's kind and strength.
    val_items, test_items: at most this many samples (of every test task); always the same ones.
    window: null, or so many neighbours of one another that training goes through at a time, which a large set in
        parquet needs (see `datamodules.sets.order`); more than a sample has rows, by far.
    bad_share, report: how many records may be bad, and a folder for their names, see `Refusals`.

    Training batches are keyed and endless (see `datamodules.keyed`); batch k has the same form on every rank.
    Raises ValueError, naming the argument, for a pattern that matches nothing, a task that no record can serve, and a
    number out of range.
    """

    def __init__(
        self,
        *,
        graph: AnnotationGraph,
        train: PictureSet,
        val: PictureSet,
        test: PictureSet,
        tasks: Sequence[str] | None = None,
        test_tasks: Sequence[str] | None = None,
        resolution: int = 384,
        ratios: Sequence[str] = ("1:1",),
        rows: Sequence[int] = (0, 2),
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
        self.sources = dict(zip(SPLITS, (train, val, test), strict=True))
        self.items = {"val": val_items, "test": test_items}
        if min(val_items, test_items) < 0:
            raise ValueError(f"val_items={val_items}, test_items={test_items} must be at least 0")
        self.window = window
        self.buckets, self.rows = buckets_of(ratios, resolution), check_rows(rows)
        self.shared_degradations, self.bad_share, self.report = shared_degradations, bad_share, report
        self.training = _trained(graph, train, tasks)
        self.test_tasks = None if test_tasks is None else named_tasks(graph, test_tasks, "test_tasks")
        for name in ("val", "test"):
            check_servable(self.sources[name], tuple(self.training), name)
        check_servable(test, self.test_tasks or (), "test_tasks")

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks that training draws from."""
        return tuple(task.name for task in self.training)

    @property
    def slots(self) -> tuple[ImageSlot, ...]:
        """The slots of the training form that has the most pictures, in the first size: what a header shows."""
        forms = sized_forms(forms_of(self.training, self.rows), {self.buckets[0]: 1.0})
        return max((form.slots for form in forms.values()), key=len)

    def prepare_data(self) -> None:
        """Find out which records there are, once for all. Lightning calls this on one process per machine."""
        for source in self.sources.values():
            len(source)

    def forms(self, split: str, shares: dict[Task, float]) -> dict[str, SizedForm]:
        """The forms of batches of these tasks, in the sizes that the split's records have."""
        return sized_forms(forms_of(shares, self.rows), size_shares(self.sources[split], self.buckets))

    def dataset(self, split: str, forms: dict[str, SizedForm]) -> SetDataset:
        """Samples of these forms. Raises ValueError if the split has fewer records than a sample has rows."""
        source = self.sources[split]
        if len(source) <= self.rows[-1]:
            raise ValueError(
                f"rows={self.rows[-1]}: {split} has {len(source)} records, too few for so many and a query"
            )
        refusals = Refusals(f"{split} ({type(source).__name__})", share=self.bad_share, report=self.report)
        return SetDataset(source, forms, refusals, self.shared_degradations, self.window)

    def keyed_batches(self, n: int) -> KeyedBatchSampler:
        """Endless training batches over range(n), through windows if there are any, from where training starts."""
        batches = super().keyed_batches(n)
        if self.window is None:
            return batches
        return WindowBatchSampler(n, self.batch_size, self.seed, batches.start, self.window)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Endless keyed batches of this rank."""
        dataset = self.dataset("train", self.forms("train", self.training))
        return self.loader(dataset, FormBatchSampler(self.keyed_batches(len(dataset)), dataset.forms))

    def val_dataloader(self) -> DataLoader[Batch]:
        """The fixed validation batches, with every form's share of the samples; every rank gets all of them."""
        return self._fixed("val", self.training)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The fixed test batches, drawn as in training; every rank gets all of them."""
        return self._fixed("test", self.training)

    def test_dataloaders_by_task(self) -> dict[str, DataLoader[Batch]]:
        """The fixed test batches of each test task, by its name; without `test_tasks`, of each training task."""
        return {task.name: self._fixed("test", {task: 1.0}) for task in self.test_tasks or tuple(self.training)}

    def _fixed(self, split: str, shares: dict[Task, float]) -> DataLoader[Batch]:
        """Batches of the first records of a split as queries; every form has its share of them."""
        dataset, batches = self.dataset(split, self.forms(split, shares)), []
        for name, items in apportioned(dataset.forms, min(self.items[split], len(dataset))).items():
            found = [(name, i, mix("set", split, i)) for i in items]
            batches += [found[i : i + self.batch_size] for i in range(0, len(found), self.batch_size)]
        return self.loader(dataset, batches)


def _trained(graph: AnnotationGraph, source: PictureSet, tasks: Sequence[str] | None) -> dict[Task, float]:
    """How often each task is drawn, against the others: those named, or all that the records can serve.

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
