"""StillsData: single pictures of every kind, for training and judging a codec.

Shapes: C = 3 channels, H and W pixels.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.clips import check_kinds
from datamodules.emoji import EmojiSplits
from datamodules.emoji_cache import EmojiPictures
from datamodules.emoji_names import caption, subject
from datamodules.keyed import KeyedData
from unigen.types import TARGET, Batch, ImageSlot, Sample

SHIFT = 0.125  # of the side, at most, in each direction


def varied(picture: np.ndarray, rng: random.Random) -> np.ndarray:
    """A picture (3, H, W) mirrored, shifted around the border and with its colour channels exchanged, each sometimes.

    A codec has to draw any shape in any colour at any place; what the picture shows does not matter to it.
    """
    if rng.random() < 0.5:
        picture = picture[..., ::-1]
    if rng.random() < 0.5:
        most = int(SHIFT * picture.shape[-1])
        picture = np.roll(picture, (rng.randint(-most, most), rng.randint(-most, most)), (1, 2))
    if rng.random() < 0.3:
        picture = picture[rng.sample(range(3), 3)]
    return picture


class StillsDataset(Dataset):
    """One picture by (index into `indices`, item seed): of one kind, or of kinds drawn by their shares and varied."""

    def __init__(self, pictures: EmojiPictures, indices: Sequence[int], kinds: Mapping[str, float], vary: bool) -> None:
        self.pictures, self.indices, self.kinds, self.vary = pictures, tuple(indices), dict(kinds), vary
        self.slots = (ImageSlot("picture", TARGET, pictures.size, pictures.size),)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        number, seed = item
        rng, index = random.Random(seed), self.indices[number]
        (kind,) = rng.choices(list(self.kinds), list(self.kinds.values()))
        picture = self.pictures.picture(kind, index)
        picture = varied(picture, rng) if self.vary else picture
        glyph = self.pictures.names[index]
        image = torch.from_numpy(np.array(picture))[None]
        return Sample(self.slots, {"picture": image}, caption(glyph), (subject(glyph),), kind, f"{glyph}/{kind}")


class StillsData(KeyedData):
    """Pictures of `size` × `size` pixels; training draws their kinds by the shares `kinds` and varies them.

    Held-out pictures are as drawn: validation goes through the kinds in turn, the test is one loader for each kind.
    Splits, `cache` and `limit` are EmojiSplits'; training batches are keyed and resume as all KeyedData's do.
    Raises ValueError for an unknown kind or a number out of range.
    """

    def __init__(
        self,
        *,
        size: int,
        kinds: Mapping[str, float],
        batch_size: int,
        seed: int,
        val_items: int,
        test_items: int,
        num_workers: int = 0,
        cache: str | Path | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(batch_size, seed, num_workers)
        self.kinds = check_kinds(kinds)
        self.emoji = EmojiSplits(size=size, val_items=val_items, test_items=test_items, cache=cache, limit=limit)

    @property
    def slots(self) -> tuple[ImageSlot, ...]:
        """The one slot of every sample, `picture`."""
        return self._dataset("train", self.kinds, vary=True).slots

    def prepare_data(self) -> None:
        """Draw the picture cache if it is not there."""
        self.emoji.prepare()

    def fit_pictures(self, n: int) -> Tensor:
        """`n` training pictures of all kinds, see `EmojiSplits.fit_pictures`."""
        return self.emoji.fit_pictures(n)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Endless keyed batches of this rank."""
        dataset = self._dataset("train", self.kinds, vary=True)
        return self.loader(dataset, self.keyed_batches(len(dataset)))

    def val_dataloader(self) -> DataLoader[Batch]:
        """Held-out pictures of all kinds, the same ones every time."""
        return self._fixed("val", self.kinds)

    def test_dataloaders_by_kind(self) -> dict[str, DataLoader[Batch]]:
        """The same held-out glyphs in every kind."""
        return {kind: self._fixed("test", {kind: 1.0}) for kind in self.kinds}

    def _dataset(self, split: str, kinds: Mapping[str, float], vary: bool) -> StillsDataset:
        indices = self.emoji.indices[split]
        return StillsDataset(self.emoji.pictures, indices if vary else indices[: self.emoji.items[split]], kinds, vary)

    def _fixed(self, split: str, kinds: Mapping[str, float]) -> DataLoader[Batch]:
        dataset = self._dataset(split, kinds, vary=False)
        return self.loader(dataset, self.fixed_batches(len(dataset), "still", split))
