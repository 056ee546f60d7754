"""SessionData: sessions of several turns on the bundled emoji, in which every turn makes another image of one glyph.

A session's task is a chain of images (`datamodules.emoji.images`) such as 'canny>line>target': turn 0 shows the edges
and asks for the line art, turn 1 asks for the drawing. Its slots are `condition`, `target0`, `target1`, ..., a row for
each turn. Its prompt has a line for each turn, which says the image that is asked for, the first one the caption too.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.emoji.images import OF_IMAGES, EmojiGraph, Row
from datamodules.emoji.names import base_of, caption, subject
from datamodules.emoji.samples import pool_of
from datamodules.emoji.splits import EmojiSplits
from datamodules.graph.instruction_words import word_of
from datamodules.graph.keyed import FormBatchSampler, KeyedData
from datamodules.graph.sampling import Task
from datamodules.graph.user import SEED
from datamodules.reading.drawing import read_image
from unigen.core.types import CONDITION, TARGET, Batch, ImageSlot, Sample

MOST_TURNS = 8


class Chain(NamedTuple):
    """The common form of a batch's sessions: the images of a chain. All chains are drawn equally often."""

    images: tuple[str, ...]

    share = 1.0

    @property
    def name(self) -> str:
        """The images in order: 'canny>line>target'."""
        return ">".join(self.images)

    @property
    def task(self) -> Task:
        """The chain as a task: its first image, and all that are asked for."""
        return Task(self.images[:1], self.images[1:], "session", "session")

    def slots(self, size: int) -> tuple[ImageSlot, ...]:
        """The condition in the row of the first turn, and the target of every turn in its own."""
        targets = (ImageSlot(f"{TARGET}{turn}", TARGET, size, size, row=turn) for turn in range(len(self.images) - 1))
        return ImageSlot(CONDITION, CONDITION, size, size), *targets

    def prompt(self, words: str) -> str:
        """A line for each turn: the image that it asks for; in the first one also what is shown, in words."""
        first, *rest = (word_of(name) for name in self.images[1:])
        return "\n".join([f"{first}: {words}" if words else first, *rest])


class SessionDataset(Dataset):
    """Sessions by (chain, index into `indices`, item seed). A glyph that lacks an image of the chain is replaced."""

    def __init__(self, records: EmojiGraph, indices: Sequence[int], chains: dict[str, Chain]) -> None:
        self.records, self.indices, self.chains = records, tuple(indices), chains
        needs = {chain.name: records.needs(chain.task) for chain in chains.values()}
        self.pools = {name: pool_of(records, indices, wanted).glyphs for name, wanted in needs.items()}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: tuple[str, int, int]) -> Sample:
        name, number, seed = item
        chain, glyph = self.chains[name], self.indices[number]
        if glyph not in self.pools[name]:
            glyph = random.Random(seed).choice(self.pools[name])
        row, said = Row(glyph, glyph, seed, 0), self.records.images.names[glyph]
        slots = chain.slots(self.records.images.size)
        pixels = [self.records.image(image, row) for image in chain.images]
        images = {slot.name: torch.from_numpy(np.array(x))[None] for slot, x in zip(slots, pixels, strict=True)}
        words, clusters = caption(said), {"base glyph": base_of(said)}
        return Sample(slots, images, chain.prompt(words), (subject(said),), name, f"{said}/{name}", words, clusters)


class SessionData(KeyedData):
    """Sessions of images of `size` x `size` pixels in batches of `unigen.core.types.Batch`; a batch has one chain.

    tasks: the chains, such as ['canny>line>target'], of the images that emoji have; each has one image that is shown,
        and from 2 to 8 turns. Validation and test show glyph k in chain k mod n of n.
    size, cache, limit and the splits: as in `EmojiSplits`; the rest: as in `KeyedData`.
    Raises ValueError, naming the chain, for an unknown image, a chain that is too short or too long, and a `limit` that
    leaves a chain no glyph.
    """

    unsampled = None

    def __init__(
        self,
        *,
        tasks: Sequence[str],
        size: int = 64,
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
        self.records = EmojiGraph(self.emoji.images, shared_degradations=True)
        chains = [Chain(tuple(name.strip() for name in task.split(">"))) for task in tasks or ()]
        for chain in chains:
            if not 3 <= len(chain.images) <= MOST_TURNS + 1 or any(name.endswith("_ref") for name in chain.images):
                raise ValueError(
                    f"data.tasks has '{chain.name}'; legal are chains of one image that is shown and 2 to {MOST_TURNS} "
                    "that are asked for in turn, none of them a style reference, such as canny>line>target"
                )
        if not chains:
            raise ValueError("data.tasks names no chain; legal are chains of images, such as [canny>line>target]")
        self.records.check([chain.task for chain in chains], "data.tasks")
        self.size, self.chains = size, {chain.name: chain for chain in chains}

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the chains."""
        return tuple(self.chains)

    @property
    def slots(self) -> tuple[ImageSlot, ...]:
        """The slots of the longest chain: what a header shows."""
        return max((chain.slots(self.size) for chain in self.chains.values()), key=len)

    def user_sample(
        self, files: str | Sequence[str], prompt: str, subjects: tuple[str, ...], task: str, prepared: bool
    ) -> Sample:
        """A user's own image as the first image of a chain; zeros stand in for the targets.

        `prompt` has a line for each turn; a prompt of one line is a caption, of which the lines are made. `prepared`
        says that the file shows the chain's first image already. Raises ValueError for another task, several files, a
        file that cannot be read, and a first image that is not made of another.
        """
        files = [files] if isinstance(files, str) else files
        if task not in self.chains or len(files) != 1:
            legal = ", ".join(self.tasks)
            raise ValueError(f"task={task} with {len(files)} images: a session begins with one; the tasks are {legal}")
        chain = self.chains[task]
        first, shown = chain.images[0], read_image(files[0], self.size)
        if not prepared and first in OF_IMAGES:
            shown = torch.from_numpy(np.array(self.records.of_image(first, shown[0].numpy(), SEED)))[None]
        slots = chain.slots(self.size)
        images = {slot.name: shown if slot.role == CONDITION else torch.zeros_like(shown) for slot in slots}
        return Sample(slots, images, prompt if "\n" in prompt else chain.prompt(prompt), subjects, task, "user")

    def prepare_data(self) -> None:
        """Draw the image caches of the chains if absent. Lightning calls this on one process per machine."""
        self.records.prepare([chain.task for chain in self.chains.values()])

    def fit_images(self, n: int) -> Tensor:
        """`n` training images of all kinds in turn, uint8 (n, 3, size, size), as in `EmojiSplits`."""
        return self.emoji.fit_images(n)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Endless keyed batches of this rank."""
        dataset = self.dataset("train")
        return self.loader(dataset, FormBatchSampler(self.keyed_batches(len(dataset)), self.chains))

    def val_dataloader(self) -> DataLoader[Batch]:
        """The fixed validation batches; every rank gets all of them."""
        return self._fixed("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """The fixed test batches, one chain after another; every rank gets all of them."""
        return self._fixed("test")

    def dataset(self, split: str) -> SessionDataset:
        """The sessions of a split. Raises ValueError if `limit` leaves a chain no glyph."""
        dataset = SessionDataset(self.records, self.emoji.indices[split], self.chains)
        if empty := [name for name, glyphs in dataset.pools.items() if not glyphs]:
            glyphs = len(self.emoji.images.names)
            raise ValueError(f"the {split} split of {glyphs} glyphs has none for {empty[0]}: raise or drop `limit`")
        return dataset

    def _fixed(self, split: str) -> DataLoader[Batch]:
        """The first glyphs of a held-out split, the chains by turns."""
        dataset, batches = self.dataset(split), []
        count = min(self.emoji.items[split], len(dataset))
        items = [item for part in self.fixed_batches(count, "session", split) for item in part]
        for number, name in enumerate(self.chains):
            found = [(name, *item) for item in items[number :: len(self.chains)]]
            batches += [found[i : i + self.batch_size] for i in range(0, len(found), self.batch_size)]
        return self.loader(dataset, batches)
