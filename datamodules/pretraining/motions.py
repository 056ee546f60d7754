"""Procedural motions: what can happen to an image in the course of a clip, and the words that say it.

A motion is a function (image, amounts, rng) -> (words, frames):
- image: uint8 (3, H, W), what the clip shows at the start;
- amounts: how far the motion has come in each frame, from 0 (the image itself, untouched) to 1 (all of it);
- rng: decides direction and size before any frame is drawn, so a frame depends on its own amount alone;
- words: 'moving left', for a caption; frames: uint8 (3, H, W), one for each amount.

A new motion is one function and one name in its group; those that keep the layout are in
`datamodules.pretraining.restylings`. None may turn one kind of image into another (colour into grey, an image into
its edges): those pairs are what the ablations measure. What a motion uncovers is white, or black in an image that is
mostly black (edge maps), so the background stays what it was. Left and right are the viewer's, and turning right is
clockwise. Imports no torch: worker processes draw with this.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from datamodules.pretraining.colouring import FILLS
from datamodules.pretraining.restylings import RESTYLINGS, Moved, background, colourful, frames_of

FAMILY = "family"  # the motion that needs a second image: another glyph of the same base
SIDES = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
CORNERS = {f"{v} {h}": (0.7 * SIDES[h][0], 0.7 * SIDES[v][1]) for v in ("up", "down") for h in ("left", "right")}
DIRECTIONS = {**SIDES, **CORNERS}


class Pose(NamedTuple):
    """The place of an image: shifted by `right` and `down` (shares of its side), turned clockwise by `turn` degrees,
    scaled by `wide` and `high`, and its top pushed right by `lean` times its height.
    """

    right: float = 0.0
    down: float = 0.0
    turn: float = 0.0
    wide: float = 1.0
    high: float = 1.0
    lean: float = 0.0


def unlike(one: np.ndarray, other: np.ndarray) -> bool:
    """True if two images (3, H, W) visibly differ: by more than 3 of 255 on average."""
    return float(np.abs(one.astype(np.int16) - other).mean()) > 3


def random_pose(rng: random.Random) -> Pose:
    """A small change of layout: 65 to 95 % of the size, within the frame, and turned by up to 20 degrees."""
    size = rng.uniform(0.65, 0.95)
    room = (1 - size) / 2
    return Pose(rng.uniform(-room, room), rng.uniform(-room, room), rng.uniform(-20, 20), size, size)


def posed(image: np.ndarray, pose: Pose) -> np.ndarray:
    """An image (3, H, W) laid into its own frame anew."""
    return frames_of(image, (1.0,), lambda pixels, _: _place(pixels, pose))[0]


def move(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """The image moves straight in one of eight directions, by 15 to 30 % of the side."""
    words, end = _moving(rng)
    return words, _towards(image, amounts, end)


def turn(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """The image turns by 25 to 60 degrees, either way."""
    words, end = _turning(rng)
    return words, _towards(image, amounts, end)


def zoom(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """The image grows to 1.25 to 1.5 times its size, or shrinks to 0.6 to 0.75 times."""
    words, end = _zooming(rng)
    return words, _towards(image, amounts, end)


def two_at_once(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """Two of moving, turning and zooming happen at once."""
    (one, first), (other, second) = (part(rng) for part in rng.sample((_moving, _turning, _zooming), 2))
    return f"{one} and {other}", _towards(image, amounts, {**first, **second})


def stretch(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """One side changes to 1.3 to 1.5 times its length, or to 0.5 to 0.7 times."""
    words, side, grows = rng.choice(
        [("wider", "wide", True), ("taller", "high", True), ("narrower", "wide", False), ("flatter", "high", False)]
    )
    end = rng.uniform(1.3, 1.5) if grows else rng.uniform(0.5, 0.7)
    return f"getting {words}", _towards(image, amounts, {side: end})


def lean(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """The top goes sideways by 30 to 50 % of the height, the bottom stays level."""
    words, sign = rng.choice([("left", -1.0), ("right", 1.0)])
    return f"leaning {words}", _towards(image, amounts, {"lean": sign * rng.uniform(0.3, 0.5)})


def jump(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """The image goes up by 20 to 30 % of the side and down again, along a parabola."""
    height = rng.uniform(0.2, 0.3)
    return "jumping", _along(image, amounts, lambda a: Pose(down=-4 * height * a * (1 - a)))


def circle(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """The image goes once round a circle of radius 8 to 14 % of the side, upright, from its lowest point."""
    radius, sign = rng.uniform(0.08, 0.14), rng.choice((-1.0, 1.0))

    def path(a: float) -> Pose:
        angle = 2 * math.pi * a
        return Pose(right=sign * radius * math.sin(angle), down=radius * (math.cos(angle) - 1))

    return "going round in a circle", _along(image, amounts, path)


def sway(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """The image turns by 20 to 35 degrees to one side, then to the other: three quarters of a swing."""
    most = rng.choice((-1.0, 1.0)) * rng.uniform(20, 35)
    return "swaying", _along(image, amounts, lambda a: Pose(turn=most * math.sin(1.5 * math.pi * a)))


def wave(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """Rows shift along a sine of 6 to 10 % of the side, one to two periods high, which travels down."""
    size, periods, phase = rng.uniform(0.06, 0.1), rng.uniform(1, 2), rng.uniform(0, 2 * math.pi)

    def change(pixels: np.ndarray, a: float) -> np.ndarray:
        x, y = _grid(*pixels.shape[:2])
        return _sample(pixels, x + size * a * np.sin(2 * math.pi * (periods * y - a) + phase), y)

    return "waving", frames_of(image, amounts, change)


def twist(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """The middle turns by 90 to 180 degrees, the rim stays."""
    most = rng.choice((-1.0, 1.0)) * math.radians(rng.uniform(90, 180))

    def change(pixels: np.ndarray, a: float) -> np.ndarray:
        x, y = _grid(*pixels.shape[:2])
        angle = most * a * np.maximum(1 - 2 * np.hypot(x, y), 0)
        cos, sin = np.cos(angle), np.sin(angle)
        return _sample(pixels, cos * x + sin * y, cos * y - sin * x)

    return "twisting", frames_of(image, amounts, change)


def still(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """Nothing happens."""
    return "standing still", [image for _ in amounts]


def _moving(rng: random.Random) -> tuple[str, dict[str, float]]:
    words, (right, down) = rng.choice(list(DIRECTIONS.items()))
    far = rng.uniform(0.15, 0.3)
    return f"moving {words}", {"right": far * right, "down": far * down}


def _turning(rng: random.Random) -> tuple[str, dict[str, float]]:
    words, sign = rng.choice([("left", -1.0), ("right", 1.0)])
    return f"turning {words}", {"turn": sign * rng.uniform(25, 60)}


def _zooming(rng: random.Random) -> tuple[str, dict[str, float]]:
    words, least, most = rng.choice([("in", 1.25, 1.5), ("out", 0.6, 0.75)])
    size = rng.uniform(least, most)
    return f"zooming {words}", {"wide": size, "high": size}


def _towards(image: np.ndarray, amounts: Sequence[float], end: dict[str, float]) -> list[np.ndarray]:
    """Frames on the straight way from the untouched image to the pose `end`."""
    last = Pose(**end)
    return _along(image, amounts, lambda a: Pose(*(f + (g - f) * a for f, g in zip(Pose(), last, strict=True))))


def _along(image: np.ndarray, amounts: Sequence[float], path: Callable[[float], Pose]) -> list[np.ndarray]:
    """Frames in the poses of a path."""
    return frames_of(image, amounts, lambda pixels, a: _place(pixels, path(a)))


def _place(pixels: np.ndarray, pose: Pose) -> np.ndarray:
    """Draw (H, W, 3) in a pose about its centre."""
    import cv2

    height, width = pixels.shape[:2]
    angle = math.radians(pose.turn)
    cos, sin = math.cos(angle), math.sin(angle)
    a, b = cos * pose.wide, -cos * pose.lean - sin * pose.high
    c, d = sin * pose.wide, -sin * pose.lean + cos * pose.high
    x, y = (width - 1) / 2, (height - 1) / 2
    right, down = x + pose.right * width - a * x - b * y, y + pose.down * height - c * x - d * y
    matrix = np.array([[a, b, right], [c, d, down]])
    return cv2.warpAffine(pixels, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=[background(pixels)] * 3)


@lru_cache(maxsize=4)
def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """x (1, W) and y (H, 1) of every pixel, in shares of the side from the centre, -0.5 to 0.5."""
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    return (x[None] - (width - 1) / 2) / width, (y[:, None] - (height - 1) / 2) / height


def _sample(pixels: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(H, W, 3) read at `x` and `y`, in the units of `_grid`."""
    import cv2

    height, width = pixels.shape[:2]
    x, y = np.broadcast_arrays(x * width + (width - 1) / 2, y * height + (height - 1) / 2)
    columns, rows = np.ascontiguousarray(x, np.float32), np.ascontiguousarray(y, np.float32)
    return cv2.remap(pixels, columns, rows, cv2.INTER_LINEAR, borderValue=[background(pixels)] * 3)


Motion = Callable[[np.ndarray, Sequence[float], random.Random], Moved]
MOVES = (move, turn, zoom, two_at_once, stretch, lean, jump, circle, sway, wave, twist)
MOTIONS: dict[str, Motion] = {motion.__name__: motion for motion in (still, *MOVES, *RESTYLINGS, *FILLS)}
GROUPS: dict[str, tuple[str, ...]] = {
    "still": ("still",),
    "move": tuple(motion.__name__ for motion in MOVES),
    "restyle": tuple(motion.__name__ for motion in RESTYLINGS),
    "fill": tuple(motion.__name__ for motion in FILLS),
    "family": (FAMILY,),
}
NEEDS_COLOUR = frozenset({"recolour", "swap", "tint"})  # nothing to see without, or grey would turn into colour
# Line art and edges have two tones: most of these would not be seen, and a negative would turn one into the other.
NEEDS_FILL = frozenset({"negative", "posterise", "brighten", "contrast", "ground", "silhouette", "thin"})
NEEDS_NO_OUTLINE = frozenset({"thin"})  # without its outlines an OpenMoji comes close to the other style
NEEDS_LINES = frozenset({"colour_in"})  # lines alone, as an edge map has
MOTION_SHARES = {"still": 0.05, "move": 0.3, "restyle": 0.6, "fill": 0.0, "family": 0.05}
# The progress at which a restyling is complete: every form of several frames shows this moment or a later one, so it
# holds the whole change, and ends with the original if the clip runs backward.
RESTYLED = 1 / 2
# Backward these would look the same, or be named wrongly.
ONE_WAY = frozenset({"still", FAMILY, "jump", "circle", "colour_in"})


def fitting(image: np.ndarray, kind: str, related: bool) -> dict[str, list[str]]:
    """The motions of each group that can be seen on an image of this kind and leave its kind what it is.

    related: whether there is a second image for a family clip.
    """
    colour = colourful(image)
    barred = set() if related else {FAMILY}
    barred |= set() if colour else NEEDS_COLOUR
    barred |= set() if colour or kind == "grey" else NEEDS_FILL
    barred |= NEEDS_LINES if kind != "canny" else set()
    barred |= NEEDS_NO_OUTLINE if kind == "openmoji" else set()
    return {group: [name for name in names if name not in barred] for group, names in GROUPS.items()}


def choose(
    shares: Mapping[str, float], image: np.ndarray, kind: str, related: bool, rng: random.Random
) -> tuple[str, bool]:
    """A motion that fits the image, its group with these shares ('still' where no group has one); and whether it
    runs backward, as half of those do that can."""
    names = fitting(image, kind, related)
    left = {group: share for group, share in shares.items() if share and names[group]} or {"still": 1.0}
    name = rng.choice(names[rng.choices(list(left), list(left.values()))[0]])
    return name, rng.random() < 0.5 and name not in ONE_WAY


def shown(name: str, image: np.ndarray, progress: Sequence[float], backward: bool, rng: random.Random) -> Moved:
    """Wrap a motion to take progress in the clip instead of amounts: at its own pace, and from its end if
    `backward`.
    """
    amounts = [min(1.0, p / RESTYLED) for p in progress] if name in (*GROUPS["restyle"], *GROUPS["fill"]) else progress
    words, frames = MOTIONS[name](image, [1 - a for a in amounts] if backward else amounts, rng)
    return f"back from {words}" if backward else words, frames


def check_shares(table: str, shares: Mapping[str, Any], legal: Collection[str] = ()) -> dict[str, Any]:
    """Check a table of shares: every name must be in `legal` (if given), every share a number of 0 (never) or more."""
    unknown = [name for name in shares if legal and name not in legal]
    if unknown:
        raise ValueError(f"unknown {table[:-1]} '{unknown[0]}' in {table}: legal {table} are {', '.join(legal)}")
    for name, share in shares.items():
        if not isinstance(share, int | float) or not 0 <= share < float("inf"):
            raise ValueError(f"the share of '{name}' in {table} is {share!r}: it must be a number, 0 or above")
    if not any(shares.values()):
        raise ValueError(f"{table} names none with a share above 0")
    return dict(shares)
