"""Candidates: the true scene, and the same with one thing changed, for metrics that ask which an output is like."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.emoji.cache import glyphs
from datamodules.emoji.names import base_of
from datamodules.emoji.splits import split_of
from datamodules.scenes.cast import Cast
from datamodules.scenes.facts import scene_of
from datamodules.scenes.render import render_scene
from datamodules.scenes.scene import PLACES, Scene
from datamodules.scenes.sprites import Sprites
from unigen.core.noise import mix


class Candidates:
    """Images of a scene and of others that differ from it in one glyph, or in the place of the subject.

    count: how many they are where glyphs differ; these are of other bases of the true one's split. cache: folder of the
    rasterised images, as the data's. Raises ValueError for fewer than two candidates.
    """

    def __init__(self, count: int, cache: str | Path | None = None) -> None:
        if count < 2:
            raise ValueError(f"count={count} candidates leave no choice: it must be at least 2")
        self.count, self.cache = count, cache
        self._sprites: dict[int, Sprites] = {}
        self._casts: dict[str, Cast] = {}

    def __repr__(self) -> str:
        return f"{self.count}, the true scene and others with a glyph of another base of its split"

    def __call__(self, facts: dict[str, Any], side: int, which: str) -> np.ndarray:
        """uint8 (K, 3, side, side), the true scene first. which: what differs, "subject", "second" or "place"."""
        scene, sprites = scene_of(facts), self._at(side)
        scenes = self._places(scene) if which == "place" else self._others(scene, which)
        return np.stack([render_scene(sprites, found, side).image for found in (scene, *scenes)])

    def _places(self, scene: Scene) -> list[Scene]:
        """The scene with its subject at the other places."""
        subject = scene.subject
        return [scene._replace(subject=subject._replace(place=p)) for p in PLACES if p != subject.place]

    def _others(self, scene: Scene, which: str) -> list[Scene]:
        """The scene with other glyphs for one of its objects, the same ones for every scene of an object."""
        thing = getattr(scene, which)
        barred = {base_of(other.glyph) for other in scene.things}
        free = [glyph for glyph in self._cast(split_of(base_of(thing.glyph))).plain if base_of(glyph) not in barred]
        chosen = random.Random(mix("candidates", thing.glyph)).sample(free, min(self.count - 1, len(free)))
        return [scene._replace(**{which: thing._replace(glyph=glyph)}) for glyph in chosen]

    def _at(self, side: int) -> Sprites:
        if side not in self._sprites:
            self._sprites[side] = Sprites(side, glyphs(), self.cache)
            self._sprites[side].prepare()
        return self._sprites[side]

    def _cast(self, split: str) -> Cast:
        if split not in self._casts:
            self._casts[split] = Cast(split, [glyph for glyph in glyphs() if split_of(base_of(glyph)) == split])
        return self._casts[split]
