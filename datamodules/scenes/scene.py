"""Scene: the facts of a small composed image, and how they are drawn at random. There are no pixels here.

A scene has a background of a named colour and a pattern, sometimes a ground with a horizon, a subject (a glyph of the
bundled emoji), and sometimes a second object. All objects of a scene are drawn in one style, so that a style is a fact
of the whole image. Places are the cells of a grid of three by three, sizes are three, so that words can say all of it
and a measure can check all of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from datamodules.emoji.names import base_of
from unigen.core.colours import COLOURS

PATTERNS = {"plain": 0.4, "two-tone": 0.12, "stripes": 0.12, "dots": 0.12, "checks": 0.12, "gradient": 0.12}
GROUNDS = ("green", "brown", "yellow", "grey", "white")
HORIZONS = {"high": 0.6, "low": 0.78}  # where the ground begins, as a share of the height from the top
STYLES = ("twemoji", "openmoji")
PLACES: dict[str, tuple[int, int]] = {  # columns and rows from the middle
    "top left": (-1, -1),
    "top": (0, -1),
    "top right": (1, -1),
    "left": (-1, 0),
    "middle": (0, 0),
    "right": (1, 0),
    "bottom left": (-1, 1),
    "bottom": (0, 1),
    "bottom right": (1, 1),
}
SIZES = {"small": 20 / 64, "medium": 30 / 64, "large": 44 / 64}  # the longer side, as a share of the image's side
TILT = 20  # degrees, either way
MARGIN = 1 / 64  # between an object and the border
OVERLAP = 0.25  # at the most, of the smaller of two objects' boxes
GROUND, SECOND, FLIPPED, TILTED = 0.35, 0.4, 0.25, 0.2  # how often a scene has a ground, and so on

Clashes = Callable[[str, str], Collection[str]]  # (glyph, style) -> colours on which the glyph would not be seen


class Backdrop(NamedTuple):
    """A background: its colour, its pattern and the pattern's colour (None if it is plain)."""

    colour: str
    pattern: str = "plain"
    second: str | None = None

    @property
    def colours(self) -> frozenset[str]:
        """The named colours that it shows."""
        return frozenset({self.colour, self.second} - {None})


class Ground(NamedTuple):
    """The ground: its colour, and a horizon of HORIZONS."""

    colour: str
    horizon: str


class Thing(NamedTuple):
    """An object: a glyph at a place in a size, perhaps mirrored, tilted clockwise by so many degrees, or tinted."""

    glyph: str
    place: str
    size: str
    flip: bool = False
    tilt: int = 0
    tint: str | None = None

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The square that the object is given: left, top, right and bottom, as shares of the image's side."""
        (x, y), half = self.centre, SIZES[self.size] / 2
        return x - half, y - half, x + half, y + half

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of the object, as shares of the image's side from the left and from the top."""
        column, row = PLACES[self.place]
        reach = 0.5 - MARGIN - SIZES[self.size] / 2
        return 0.5 + column * reach, 0.5 + row * reach


class Scene(NamedTuple):
    """All facts of an image."""

    backdrop: Backdrop
    ground: Ground | None
    style: str
    subject: Thing
    second: Thing | None = None
    subject_in_front: bool = True

    @property
    def things(self) -> tuple[Thing, ...]:
        """The objects, the one in the back first."""
        if self.second is None:
            return (self.subject,)
        return (self.second, self.subject) if self.subject_in_front else (self.subject, self.second)

    @property
    def colours(self) -> frozenset[str]:
        """The named colours of background and ground."""
        return self.backdrop.colours | ({self.ground.colour} if self.ground else set())


def draw_scene(
    rng: random.Random,
    subject: str,
    others: Sequence[str],
    style: str,
    clashes: Clashes,
    other_than: Scene | None = None,
    posed: Thing | None = None,
) -> Scene:
    """A random scene of this subject in this style.

    others: glyphs for a second object. other_than: a scene with which the new one shares nothing but the subject and
    the style: neither a colour of background or ground, nor the pattern (unless it is plain), place or size of the
    subject, nor the second object. posed: the subject, if its pose is not to be drawn.
    """
    barred = frozenset() if other_than is None else other_than.colours
    shown = posed or draw_thing(rng, subject, None if other_than is None else other_than.subject)
    second = None
    if rng.random() < SECOND:
        gone = {base_of(thing.glyph) for thing in (shown, other_than and other_than.second) if thing}
        second = draw_second(rng, shown, [glyph for glyph in few(rng, others) if base_of(glyph) not in gone])
    things = [thing.glyph for thing in (shown, second) if thing]
    hidden = [clashes(glyph, style) for glyph in things]
    backdrop = draw_backdrop(rng, barred, hidden, () if other_than is None else (other_than.backdrop.pattern,))
    ground = draw_ground(rng, barred | backdrop.colours) if rng.random() < GROUND else None
    return Scene(backdrop, ground, style, shown, second, rng.random() < 0.5)


def draw_thing(rng: random.Random, glyph: str, other_than: Thing | None = None) -> Thing:
    """The glyph at a random place in a random size, both other than another object's."""
    place = rng.choice([name for name in PLACES if other_than is None or name != other_than.place])
    size = rng.choice([name for name in SIZES if other_than is None or name != other_than.size])
    return Thing(glyph, place, size, rng.random() < FLIPPED, _tilt(rng))


def draw_second(rng: random.Random, subject: Thing, glyphs: Sequence[str]) -> Thing | None:
    """A second object beside the subject, which it hardly overlaps; None if there is no glyph or no room."""
    free = [
        (place, size)
        for place in PLACES
        for size in ("small", "medium")
        if place != subject.place and overlap(Thing("", place, size), subject) <= OVERLAP
    ]
    if not free or not glyphs:
        return None
    place, size = rng.choice(free)
    return Thing(rng.choice(glyphs), place, size, rng.random() < FLIPPED, _tilt(rng))


def draw_backdrop(
    rng: random.Random,
    barred: Collection[str] = (),
    hidden: Sequence[Collection[str]] = (),
    patterns_barred: Collection[str] = (),
) -> Backdrop:
    """A random background without the `barred` colours, and if possible without those in which an object is `hidden`.

    patterns_barred: patterns that it does not have; a plain one is never barred.
    """
    free = [name for name in COLOURS if name not in barred]
    seen = [name for name in free if not any(name in colours for colours in hidden)] or free
    shares = {name: share for name, share in PATTERNS.items() if name == "plain" or name not in patterns_barred}
    pattern = rng.choices(list(shares), list(shares.values()))[0]
    colour = rng.choice(seen)
    if pattern == "plain":
        return Backdrop(colour)
    return Backdrop(colour, pattern, rng.choice([name for name in free if name != colour]))


def draw_ground(rng: random.Random, barred: Collection[str] = ()) -> Ground | None:
    """A random ground, of none of the `barred` colours; None if all are."""
    free = [name for name in GROUNDS if name not in barred]
    return Ground(rng.choice(free), rng.choice(list(HORIZONS))) if free else None


def overlap(one: Thing, other: Thing) -> float:
    """The common area of two objects' squares, as a share of the smaller one."""
    a, b = one.box, other.box
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, wide) * max(0.0, high) / min(SIZES[one.size], SIZES[other.size]) ** 2


def nearest_place(x: float, y: float, size: str) -> str:
    """The place whose middle is nearest to a point, in shares of the image's side, for an object of this size."""
    middles = {name: Thing("", name, size).centre for name in PLACES}
    return min(middles, key=lambda name: (middles[name][0] - x) ** 2 + (middles[name][1] - y) ** 2)


def _tilt(rng: random.Random) -> int:
    return rng.choice((-TILT, TILT)) if rng.random() < TILTED else 0


def few(rng: random.Random, glyphs: Sequence[str], count: int = 8) -> list[str]:
    """Some of the glyphs, at random: there are thousands, of which one is needed."""
    return [glyphs[int(rng.random() * len(glyphs))] for _ in range(count)] if glyphs else []
