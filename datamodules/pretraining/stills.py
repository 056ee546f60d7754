"""StillsData: single images of every kind, for training and judging a codec.

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

from datamodules.emoji.cache import EmojiImages
from datamodules.emoji.names import caption, subject
from datamodules.emoji.splits import EmojiSplits
from datamodules.graph.keyed import KeyedData
from datamodules.pretraining.clips import check_kinds
from unigen.core.types import TARGET, Batch, ImageSlot, Sample

SHIFT = 0.125  # largest shift in each direction, as a share of the side


def varied(image: np.ndarray, rng: random.Random) -> np.ndarray:
    """An image (3, H, W) mirrored, shifted around the border and with its colour channels exchanged, each sometimes.

    A codec has to draw any shape in any colour at any place; what the image shows does not matter to it.
    """
    if rng.random() < 0.5:
        image = image[..., ::-1]
    if rng.random() < 0.5:
        most = int(SHIFT * image.shape[-1])
        image = np.roll(image, (rng.randint(-most, most), rng.randint(-most, most)), (1, 2))
    if rng.random() < 0.3:
        image = image[rng.sample(range(3), 3)]
    return image


class StillsDataset(Dataset):
    """One image by (index into `indices`, item seed): of one kind, or of kinds drawn by their shares and varied."""

    def __init__(self, images: EmojiImages, indices: Sequence[int], kinds: Mapping[str, float], vary: bool) -> None:
        self.images, self.indices, self.kinds, self.vary = images, tuple(indices), dict(kinds), vary
        self.slots = (ImageSlot("image", TARGET, images.size, images.size),)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        number, seed = item
        rng, index = random.Random(seed), self.indices[number]
        (kind,) = rng.choices(list(self.kinds), list(self.kinds.values()))
        pixels = self.images.image(kind, index)
        pixels = varied(pixels, rng) if self.vary else pixels
        glyph = self.images.names[index]
        image = torch.from_numpy(np.array(pixels))[None]
        return Sample(self.slots, {"image": image}, caption(glyph), (subject(glyph),), kind, f"{glyph}/{kind}")


class StillsData(KeyedData):
    """Images of `size` × `size` pixels; training draws their kinds by the shares `kinds` and varies them.

    Held-out images are as drawn: validation goes through the kinds in turn, the test is one loader for each kind.
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
        """The one slot of every sample, `image`."""
        return self._dataset("train", self.kinds, vary=True).slots

    def prepare_data(self) -> None:
        """Draw the image cache if it is not there."""
        self.emoji.prepare()

    def fit_images(self, n: int) -> Tensor:
        """`n` training images of all kinds, see `EmojiSplits.fit_images`."""
        return self.emoji.fit_images(n)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Endless keyed batches of this rank."""
        dataset = self._dataset("train", self.kinds, vary=True)
        return self.loader(dataset, self.keyed_batches(len(dataset)))

    def val_dataloader(self) -> DataLoader[Batch]:
        """Held-out images of all kinds, the same ones every time."""
        return self._fixed("val", self.kinds)

    def test_dataloaders_by_kind(self) -> dict[str, DataLoader[Batch]]:
        """The same held-out glyphs in every kind."""
        return {kind: self._fixed("test", {kind: 1.0}) for kind in self.kinds}

    def _dataset(self, split: str, kinds: Mapping[str, float], vary: bool) -> StillsDataset:
        indices = self.emoji.indices[split]
        return StillsDataset(self.emoji.images, indices if vary else indices[: self.emoji.items[split]], kinds, vary)

    def _fixed(self, split: str, kinds: Mapping[str, float]) -> DataLoader[Batch]:
        dataset = self._dataset(split, kinds, vary=False)
        return self.loader(dataset, self.fixed_batches(len(dataset), "still", split))
