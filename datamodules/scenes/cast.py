"""The glyphs of a split as subjects of scenes: every base alike, for a third of all glyphs are skin tones of people."""

from __future__ import annotations

import random
from collections.abc import Sequence

from datamodules.emoji.names import base_of, subject
from unigen.core.noise import mix

LONGEST_NAME = 22  # bytes of a second object's name, so that captions have room for both


class Cast:
    """The glyphs of a split, by base.

    `bases` are in a fixed mixed order; `plain` has the first glyph of each whose name is short: second
    objects are drawn from these.
    Raises ValueError if the split has no glyph.
    """

    def __init__(self, split: str, glyphs: Sequence[str]) -> None:
        if not glyphs:
            raise ValueError(f"the {split} split has no glyph: raise or drop `limit`")
        self.split = split
        by_base: dict[str, list[str]] = {}
        for glyph in glyphs:
            by_base.setdefault(base_of(glyph), []).append(glyph)
        self.bases = tuple(sorted(by_base, key=lambda base: mix("scene base", base)))
        self.by_base = {base: tuple(sorted(by_base[base])) for base in self.bases}
        first = (found[0] for found in self.by_base.values())
        self.plain = tuple(glyph for glyph in first if len(subject(glyph).encode()) <= LONGEST_NAME)

    def subject(self, number: int, rng: random.Random) -> str:
        """The subject of scene `number`: its base by the number, a glyph of the base at random."""
        return rng.choice(self.by_base[self.bases[number % len(self.bases)]])
