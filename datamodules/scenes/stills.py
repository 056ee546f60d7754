"""SceneStills: single images of scenes, of their maps and of glyphs on white, for training and judging a codec."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.emoji.names import base_of, caption, subject
from datamodules.pretraining.motions import check_shares
from datamodules.pretraining.stills import StillsData, varied
from datamodules.scenes import maps
from datamodules.scenes.cast import Cast
from datamodules.scenes.graph import in_style
from datamodules.scenes.render import render_scene
from datamodules.scenes.scene import STYLES, draw_scene
from datamodules.scenes.sprites import Sprites
from unigen.core.types import TARGET, ImageSlot, Sample

DRAWN = ("line", "colour_layer", "night", "sepia")
GLYPHS = ("twemoji", "openmoji")
KINDS = (*maps.KINDS, "normal", "segmentation", *DRAWN, *GLYPHS)


class SceneStillsDataset(Dataset):
    """One image by (number, item seed), of a kind drawn by its share; `vary` mirrors and shifts it, and so on."""

    def __init__(self, sprites: Sprites, size: int, cast: Cast, kinds: Mapping[str, float], vary: bool, n: int) -> None:
        self.sprites, self.size, self.cast, self.kinds, self.vary, self.n = sprites, size, cast, dict(kinds), vary, n
        self.slots = (ImageSlot("image", TARGET, size, size),)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        number, seed = item
        rng = random.Random(seed)
        (kind,) = rng.choices(list(self.kinds), list(self.kinds.values()))
        glyph = self.cast.subject(number, rng)
        image = self.still(kind, glyph, rng)
        image = torch.from_numpy(np.array(varied(image, rng) if self.vary else image))[None]
        key = f"{glyph}/{kind}/{number}"
        return Sample(self.slots, {"image": image}, caption(glyph), (subject(glyph),), kind, key)

    def still(self, kind: str, glyph: str, rng: random.Random) -> np.ndarray:
        """An image of this kind, uint8 (3, size, size)."""
        if kind in GLYPHS:
            return self.sprites.over_white(glyph, kind)
        scene = draw_scene(rng, glyph, self.cast.plain, rng.choice(STYLES), self.sprites.clashes)
        if kind in DRAWN:
            return in_style(self.sprites, scene, kind, self.size)
        rendered = render_scene(self.sprites, scene, self.size)
        if kind == "segmentation":
            return maps.segmentation(rendered, scene.things.index(scene.subject))
        return maps.normal(rendered) if kind == "normal" else maps.KINDS[kind][0](rendered)


class SceneStills(StillsData):
    """Images of `size` × `size` pixels; training draws their kinds by the shares `kinds`, and varies them.

    scenes: how many images an epoch has, each with new scenes. All else is as in `StillsData`.
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
        scenes: int = 1048576,
        num_workers: int = 0,
        cache: str | Path | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(
            size=size,
            kinds={"twemoji": 1.0},
            batch_size=batch_size,
            seed=seed,
            val_items=val_items,
            test_items=test_items,
            num_workers=num_workers,
            cache=cache,
            limit=limit,
        )
        if scenes < 1:
            raise ValueError(f"scenes={scenes} leaves no data: it must be at least 1")
        self.size, self.scenes, self.kinds = size, scenes, check_shares("kinds", kinds, KINDS)
        self.sprites = Sprites(size, self.emoji.images.names, cache)

    def prepare_data(self) -> None:
        """Draw the image caches that are not there."""
        self.sprites.prepare()

    def fit_images(self, n: int) -> Tensor:
        """`n` training images, uint8 (n, 3, size, size), the same for every seed."""
        self.prepare_data()
        dataset = self._dataset("train", self.kinds, vary=False)
        return torch.cat([dataset[number, number].images["image"] for number in range(n)])

    def _dataset(self, split: str, kinds: Mapping[str, float], vary: bool) -> SceneStillsDataset:
        names: Sequence[str] = [self.emoji.images.names[index] for index in self.emoji.indices[split]]
        cast = Cast(split, names)
        n = self.scenes if split == "train" else min(self.emoji.items[split], len({base_of(name) for name in names}))
        return SceneStillsDataset(self.sprites, self.size, cast, kinds, vary, n)
