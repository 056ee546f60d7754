"""Keyed sampling: what a batch holds is a pure function of (seed, batch number), so a resumed run goes on exactly.

No state is saved or restored: whoever builds the loader says at which batch it starts. Item seeds travel with the
indices, so random choices inside a dataset do not depend on worker processes either.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Protocol

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from unigen.core.noise import mix
from unigen.core.types import Batch, Sample, collate
from unigen.launch.preemption import outlive_signals


class KeyedBatchSampler(Sampler[list[tuple[int, int]]]):
    """An endless stream of batches of (index, item seed).

    The stream is one permutation of range(n) after another, keyed by (seed, epoch); batch k of rank r is its slice
    of `batch_size` items from position (k * ranks + r) * batch_size. So the ranks part each global batch among
    themselves, no item is dropped, and item seeds, mix(seed, position), do not depend on the number of ranks as long
    as the global batch is the same. `ranks` and `rank` are read from torch.distributed if it is initialised when
    iteration begins; with Lightning set Trainer(use_distributed_sampler=False).
    """

    def __init__(
        self, n: int, batch_size: int, seed: int, start: int = 0, ranks: int | None = None, rank: int | None = None
    ) -> None:
        """`start` is the first batch: global_step * accumulate_grad_batches of a resumed run.

        Raises ValueError if there are no items, no batch, a negative start or a rank outside range(ranks).
        """
        if n < 1 or batch_size < 1 or start < 0:
            raise ValueError(
                f"cannot sample n={n}, batch_size={batch_size}, start={start}: n and batch_size >= 1, start >= 0"
            )
        if ranks is not None and not 0 <= (rank or 0) < ranks:
            raise ValueError(f"rank {rank} is outside range({ranks})")
        self.n, self.batch_size, self.seed, self.start = n, batch_size, seed, start
        self.ranks, self.rank = ranks, rank or 0
        self._permutation: tuple[int, list[int]] = (-1, [])

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        ranks, rank = (self.ranks, self.rank) if self.ranks is not None else _world()
        k = self.start
        while True:
            first = (k * ranks + rank) * self.batch_size
            yield [(self._index(p), mix(self.seed, p)) for p in range(first, first + self.batch_size)]
            k += 1

    def _index(self, position: int) -> int:
        """The item at a position of the endless stream."""
        epoch, offset = divmod(position, self.n)
        if self._permutation[0] != epoch:
            generator = torch.Generator().manual_seed(mix(self.seed, "epoch", epoch))
            self._permutation = (epoch, torch.randperm(self.n, generator=generator).tolist())
        return self._permutation[1][offset]


class Form(Protocol):
    """The common form of a batch's samples, so that they stack; `share` is how often a batch has it."""

    @property
    def share(self) -> float: ...


class FormBatchSampler(Sampler[list[tuple[str, int, int]]]):
    """The batches of a KeyedBatchSampler as (form, index, item seed), each of one form, so that it stacks.

    Batch k has the same form on every rank: it is drawn, with the forms' shares, from (seed, k).
    """

    def __init__(self, batches: KeyedBatchSampler, forms: Mapping[str, Form]) -> None:
        self.batches, self.forms, self.batch_size = batches, dict(forms), batches.batch_size

    def __iter__(self) -> Iterator[list[tuple[str, int, int]]]:
        names, shares = list(self.forms), [form.share for form in self.forms.values()]
        for k, batch in enumerate(self.batches, start=self.batches.start):
            name = random.Random(mix(self.batches.seed, "form", k)).choices(names, shares)[0]
            yield [(name, index, seed) for index, seed in batch]


def _world() -> tuple[int, int]:
    """(number of ranks, this rank); (1, 0) outside torch.distributed."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size(), distributed.get_rank()
    return 1, 0


class KeyedData(LightningDataModule):
    """Base of data modules with keyed training batches: start of training, loaders, and use of a user's own images.

    Training starts at `start_batch` if that is set before the loader is built, else at the attached trainer's
    global_step * accumulate_grad_batches, which Lightning restores before it asks for the loader.
    Use Trainer(use_distributed_sampler=False, max_steps=...). Raises ValueError for a number out of range.
    `tasks` are the names of the tasks that training draws from. `unsampled` says why no image of a user's own can be a
    condition of its samples, in half a sentence; None if one can.
    """

    tasks: Sequence[str] = ()
    unsampled: ClassVar[str | None] = "none of its samples has one image as its condition"

    def __init__(self, batch_size: int, seed: int, num_workers: int) -> None:
        for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
            if value < least:
                raise ValueError(f"{name}={value} is too small: it must be at least {least}")
        super().__init__()
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self.start_batch: int | None = None

    def user_sample(
        self, files: str | Sequence[str], prompt: str, subjects: tuple[str, ...], task: str, prepared: bool
    ) -> Sample:
        """A user's own image files as the conditions of a sample, as if it had been drawn in training.

        prepared: whether the files show the conditions already; otherwise these are made of them.
        Raises ValueError, in one sentence, for what cannot be.
        """
        raise ValueError(f"{type(self).__name__} takes no image of your own: {self.unsampled}")

    def keyed_batches(self, n: int) -> KeyedBatchSampler:
        """Endless training batches over range(n), from where training starts."""
        start = self.start_batch
        if start is None:
            start = self.trainer.global_step * self.trainer.accumulate_grad_batches if self.trainer else 0
        return KeyedBatchSampler(n, self.batch_size, self.seed, start)

    def fixed_batches(self, n: int, *keys: str) -> list[list[tuple[int, int]]]:
        """range(n) in order, in batches, each item with a seed of its own that keys and item decide."""
        items = [(i, mix(*keys, i)) for i in range(n)]
        return [items[i : i + self.batch_size] for i in range(0, n, self.batch_size)]

    def loader(self, dataset: Dataset, batches: Sampler | list) -> DataLoader[Batch]:
        """A loader of `Batch` in the order of `batches`."""
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=self.num_workers,
            worker_init_fn=outlive_signals,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else every new iterator would draw from the global one
        )
