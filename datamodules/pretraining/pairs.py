"""PairsData: two views of one emoji and its caption, for training a judge of images (`unigen.learners.judge`).

A view is a drawing of the glyph (see `datamodules.emoji.cache`) under an augmentation of its own. What a judge should
overlook (place, size, tilt, small changes of colour, slight blur and noise) differs between the two views; what it
should see (glyph, skin tone, direction) does not, so nothing is mirrored.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.emoji.cache import EmojiImages
from datamodules.emoji.names import caption, subject
from datamodules.emoji.splits import EmojiSplits
from datamodules.graph.keyed import KeyedData
from unigen.core.types import CONDITION, TARGET, Batch, ImageSlot, Sample

STYLES = ("openmoji", "twemoji")
SAME_STYLE = 0.15  # share of training pairs that are one drawing twice
STYLE_SAID = 0.5  # share of training prompts that name the style of the second image
LONGEST = 79  # bytes of a prompt; a style that does not fit is left out
GREY, BLUR, NOISE = 0.1, 0.15, 0.15  # chances that a view loses its colours, is blurred, gets noise


def pair_slots(size: int) -> tuple[ImageSlot, ...]:
    """The two images of every sample; the prompt is about the second one."""
    return (ImageSlot("first", CONDITION, size, size), ImageSlot("second", TARGET, size, size))


def augmented(image: np.ndarray, rng: random.Random) -> np.ndarray:
    """A view of uint8 (3, H, W): placed anew, other light and saturation, sometimes grey, blurred or noisy."""
    import cv2

    pixels = _recoloured(_placed(np.ascontiguousarray(image.transpose(1, 2, 0)), rng), rng)
    if rng.random() < BLUR:
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.006, 0.018) * pixels.shape[0])
    if rng.random() < NOISE:
        noise = np.random.default_rng(rng.getrandbits(63)).standard_normal(pixels.shape, np.float32)
        pixels = pixels + rng.uniform(3, 15) * noise
    return np.ascontiguousarray(pixels.round().clip(0, 255).astype(np.uint8).transpose(2, 0, 1))


def _placed(pixels: np.ndarray, rng: random.Random) -> np.ndarray:
    """(H, W, 3), showing 70 to 130 % of its area, turned by up to 12 degrees and shifted by up to 8 %.

    What that uncovers has the colour of the border.
    """
    import cv2

    height, width = pixels.shape[:2]
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    scale, aspect = 1 / math.sqrt(rng.uniform(0.7, 1.3)), math.exp(rng.uniform(-0.1, 0.1))
    angle = math.radians(rng.uniform(-12, 12))
    cos, sin, wide, high = math.cos(angle), math.sin(angle), scale * aspect, scale / aspect
    matrix = np.array([[cos * wide, -sin * high, 0.0], [sin * wide, cos * high, 0.0]])
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = np.array([rng.uniform(-0.08, 0.08) * width, rng.uniform(-0.08, 0.08) * height])
    matrix[:, 2] = centre + shift - matrix[:, :2] @ centre
    return cv2.warpAffine(
        pixels, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=np.median(border, axis=0).tolist()
    )


def _recoloured(pixels: np.ndarray, rng: random.Random) -> np.ndarray:
    """(H, W, 3) as fp32 of about [0, 255]: contrast, brightness and saturation changed, or no saturation at all."""
    contrast, brightness = rng.uniform(0.8, 1.2), rng.uniform(-25, 25)
    saturation = 0.0 if rng.random() < GREY else rng.uniform(0.7, 1.3)
    luma = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    colour = luma[..., None] + saturation * (pixels - luma[..., None])
    return (contrast * (colour - 128) + 128 + brightness).astype(np.float32)


class PairDataset(Dataset):
    """Samples by (index into `indices`, item seed); the seed alone decides what a training sample shows.

    Without `varied` a sample is the glyph in both styles as drawn (openmoji, then twemoji) with its plain caption.
    """

    def __init__(self, images: EmojiImages, indices: Sequence[int], varied: bool) -> None:
        self.images, self.indices, self.varied = images, tuple(indices), varied
        self.slots = pair_slots(images.size)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        index, rng = self.indices[item[0]], random.Random(item[1])
        glyph = self.images.names[index]
        kinds, prompt = self._choices(caption(glyph), rng) if self.varied else (STYLES, caption(glyph))
        views = [self.images.image(kind, index) for kind in kinds]
        views = [augmented(view, rng) if self.varied else np.array(view) for view in views]
        images = {slot.name: torch.from_numpy(view)[None] for slot, view in zip(self.slots, views, strict=True)}
        return Sample(self.slots, images, prompt, (subject(glyph),), "pair", f"{glyph}/{'>'.join(kinds)}")

    @staticmethod
    def _choices(words: str, rng: random.Random) -> tuple[tuple[str, str], str]:
        """The styles of the two images and the prompt."""
        first, second = rng.sample(STYLES, 2)
        if rng.random() < SAME_STYLE:
            first = second
        styled = f"{words}, {second} style"
        return (first, second), styled if rng.random() < STYLE_SAID and len(styled.encode()) <= LONGEST else words


class PairsData(KeyedData):
    """Pairs of views, `first` and `second`, of `size` x `size` pixels in batches of `unigen.core.types.Batch`.

    In training the order of the styles is random, 15 in 100 pairs are one drawing twice, every image is augmented
    by itself, and half of the prompts end in the style of the second image (', twemoji style').
    Validation and test pairs are openmoji, then twemoji, as drawn, with the plain caption.
    size, cache, limit and the splits (disjoint by base glyph): as in `EmojiSplits`; the rest: as in `KeyedData`.
    """

    def __init__(
        self,
        *,
        size: int = 64,
        batch_size: int = 128,
        seed: int = 0,
        val_items: int = 128,
        test_items: int = 256,
        num_workers: int = 0,
        cache: str | Path | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(batch_size, seed, num_workers)
        self.emoji = EmojiSplits(size=size, val_items=val_items, test_items=test_items, cache=cache, limit=limit)
        self.size = size

    @property
    def slots(self) -> tuple[ImageSlot, ...]:
        """The slots of every sample: `first` and `second`."""
        return pair_slots(self.size)

    def prepare_data(self) -> None:
        """Draw the image cache if it is not there. Lightning calls this on one process per machine."""
        self.emoji.prepare()

    def fit_images(self, n: int) -> Tensor:
        """`n` training images of all kinds in turn, uint8 (n, 3, size, size), as drawn (see `EmojiSplits`)."""
        return self.emoji.fit_images(n)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Endless keyed batches of this rank."""
        dataset = PairDataset(self.emoji.images, self.emoji.indices["train"], varied=True)
        return self.loader(dataset, self.keyed_batches(len(dataset)))

    def val_dataloader(self) -> DataLoader[Batch]:
        """The fixed validation batches; every rank gets all of them."""
        return self._fixed("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """The fixed test batches; every rank gets all of them."""
        return self._fixed("test")

    def _fixed(self, split: str) -> DataLoader[Batch]:
        """The first glyphs of a held-out split, in its order."""
        dataset = PairDataset(self.emoji.images, self.emoji.indices[split][: self.emoji.items[split]], varied=False)
        if not len(dataset):
            raise ValueError(
                f"the {split} split of {len(self.emoji.images.names)} glyphs is empty: raise or drop `limit`"
            )
        return self.loader(dataset, self.fixed_batches(len(dataset), "pair", split))
