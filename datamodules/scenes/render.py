"""Renders a scene: the image, and what is known of every pixel.

A `Stage` is a scene made continuous: its objects have centres, sizes and turns in numbers, so that a clip can move
them, and its background is an array. A scene is one stage; each moment of a clip is another.

Shapes: C = 3 channels, H and W pixels, the sides of the image. Images are uint8.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from datamodules.scenes.scene import HORIZONS, SIZES, Backdrop, Ground, Scene, Thing
from datamodules.scenes.sprites import Sprites
from unigen.core.colours import COLOURS

SUPER = 2  # objects are drawn so much larger, and then averaged
EDGEWISE = 0.02  # an object that is so narrow is not seen
# Depth as in depth maps of photographs: 0 is far, 255 near.
FAR, GROUND_FAR, GROUND_NEAR, BACK, FRONT = 20, 50, 150, 185, 240


class Actor(NamedTuple):
    """An object on the stage; lengths are shares of the image's side.

    wide: its width as a share of what it would be, below 0 if it is mirrored (a flip passes through 0). turn: degrees
    clockwise. fade: how opaque it is, from 0 to 1.
    """

    glyph: str
    x: float
    y: float
    size: float
    wide: float = 1.0
    turn: float = 0.0
    tint: str | None = None
    fade: float = 1.0


class Stage(NamedTuple):
    """What is rendered: the background with its ground, uint8 (H, W, 3), the horizon as a share of the height (1: there
    is no ground), the way objects are drawn (see `sprites.DRAWINGS`), and the objects, the one in the back first.
    """

    background: np.ndarray
    horizon: float
    drawing: str
    actors: tuple[Actor, ...]


class Rendered(NamedTuple):
    """The image (C, H, W) of a stage; how much of each pixel is each actor's, those in front of it taken off, uint8
    (actors, H, W); and the horizon's row, H if there is no ground.
    """

    image: np.ndarray
    masks: np.ndarray
    horizon: int

    @property
    def covered(self) -> np.ndarray:
        """Where an object is, bool (H, W)."""
        return (self.masks >= 128).any(0)


def actor_of(thing: Thing) -> Actor:
    """The object as the scene has it."""
    x, y = thing.centre
    return Actor(thing.glyph, x, y, SIZES[thing.size], -1.0 if thing.flip else 1.0, float(thing.tilt), thing.tint)


def stage_of(scene: Scene, side: int, drawing: str | None = None) -> Stage:
    """The scene on a stage of `side` pixels; drawing: another way to draw its objects."""
    background = background_of(scene.backdrop, scene.ground, side)
    horizon = HORIZONS[scene.ground.horizon] if scene.ground else 1.0
    return Stage(background, horizon, drawing or scene.style, tuple(actor_of(thing) for thing in scene.things))


def render(sprites: Sprites, stage: Stage) -> Rendered:
    """Render a stage. Objects outside the image are cut off."""
    canvas, side = stage.background.copy(), stage.background.shape[0]
    masks = np.zeros((len(stage.actors), side, side), np.uint8)
    for number, actor in enumerate(stage.actors):
        found = _drawn(sprites, stage.drawing, actor, side)
        if found is None:
            continue
        (top, left), sprite = found
        area = np.s_[top : top + sprite.shape[0], left : left + sprite.shape[1]]
        clear = 255 - sprite[..., 3:].astype(np.uint16)
        canvas[area] = sprite[..., :3] + ((canvas[area] * clear + 127) // 255).astype(np.uint8)
        if number:
            behind = masks[:number, area[0], area[1]]
            masks[:number, area[0], area[1]] = (behind * clear[None, ..., 0] + 127) // 255
        masks[number][area] = sprite[..., 3]
    return Rendered(np.ascontiguousarray(canvas.transpose(2, 0, 1)), masks, round(stage.horizon * side))


def render_scene(sprites: Sprites, scene: Scene, side: int, drawing: str | None = None) -> Rendered:
    """Render a scene at `side` pixels; `masks` are in the order of `scene.things`."""
    return render(sprites, stage_of(scene, side, drawing))


def box_of(mask_HW: np.ndarray) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom (exclusive) of what is 128 or more; None if nothing is."""
    rows, columns = (np.flatnonzero((mask_HW >= 128).any(axis)) for axis in (1, 0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1) if len(rows) else None


def depth_of(rendered: Rendered) -> np.ndarray:
    """Depth in layers, uint8 (H, W): the background far, the ground coming nearer, then the objects, back to front."""
    side = rendered.masks.shape[-1]
    rows = np.arange(side)
    reach = (rows - rendered.horizon + 1) / max(1, side - rendered.horizon)
    ground = GROUND_FAR + (GROUND_NEAR - GROUND_FAR) * reach
    column = np.where(rows < rendered.horizon, FAR, ground).astype(np.uint8)
    depth = np.repeat(column[:, None], side, axis=1)
    levels = (FRONT,) if len(rendered.masks) == 1 else (BACK, FRONT)
    for mask, level in zip(rendered.masks, levels, strict=False):
        depth[mask >= 128] = level
    return depth


@lru_cache(maxsize=1024)
def background_of(backdrop: Backdrop, ground: Ground | None, side: int) -> np.ndarray:
    """Background and ground, uint8 (side, side, 3), read-only."""
    horizon = round(HORIZONS[ground.horizon] * side) if ground else side
    image = np.empty((side, side, 3), np.float32)
    image[:] = COLOURS[backdrop.colour]
    if backdrop.second is not None:
        share = _pattern(backdrop.pattern, side, horizon)[..., None]
        image += share * (np.array(COLOURS[backdrop.second], np.float32) - image)
    if ground:
        light = np.linspace(0.82, 1.0, side - horizon, dtype=np.float32)[:, None, None]
        image[horizon:] = light * np.array(COLOURS[ground.colour], np.float32)
    found = np.rint(image).astype(np.uint8)
    found.flags.writeable = False
    return found


@lru_cache(maxsize=64)
def _pattern(name: str, side: int, horizon: int) -> np.ndarray:
    """How much each pixel has of the second colour, (side, side) in [0, 1], smoothed; the first has the most pixels."""
    import cv2

    many = 4 * side
    y, x = np.mgrid[:many, :many].astype(np.float32) / many
    if name == "gradient":
        return np.clip((y[::4, ::4] * side / horizon - 0.25) / 0.75, 0, 1)
    if name == "two-tone":
        found = x >= 0.6
    elif name == "stripes":
        found = ((x + y) * 4) % 1 >= 0.6
    elif name == "dots":
        rows = np.floor(y * 5)
        found = np.hypot((x * 5 + 0.5 * (rows % 2)) % 1 - 0.5, (y * 5) % 1 - 0.5) < 0.3
    elif name == "checks":
        even = (np.floor(x * 8) + np.floor(y * 8)) % 2 == 0
        found = even & (np.abs((x * 8) % 1 - 0.5) < 0.45) & (np.abs((y * 8) % 1 - 0.5) < 0.45)
    else:
        raise ValueError(f"there is no pattern '{name}'")
    return cv2.resize(found.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)


def _drawn(sprites: Sprites, drawing: str, actor: Actor, side: int) -> tuple[tuple[int, int], np.ndarray] | None:
    """(top, left) and the pixels, uint8 (h, w, 4), of an object; None if nothing of it is to be seen."""
    import cv2

    sprite = sprites.sprite(actor.glyph, drawing)
    if actor.tint:
        sprite = tinted(sprite, actor.tint)
    high, wide = sprite.shape[:2]
    scale = actor.size * side / (max(high, wide) - 2)  # a pixel around the sprite is nothing
    angle = math.radians(actor.turn)
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    a, b, c, d = cos * actor.wide, -sin, sin * actor.wide, cos
    x, y = actor.x * side, actor.y * side
    across, down = (abs(a) * wide + abs(b) * high) / 2, (abs(c) * wide + abs(d) * high) / 2
    left, top = max(0, math.floor(x - across)), max(0, math.floor(y - down))
    right, bottom = min(side, math.ceil(x + across)), min(side, math.ceil(y + down))
    if right <= left or bottom <= top or not actor.fade or abs(actor.wide) < EDGEWISE:
        return None
    # from the sprite's pixels to the enlarged patch; the centre of pixel i lies at i + 0.5
    half_x, half_y = (wide - 1) / 2, (high - 1) / 2
    matrix = np.array(
        [
            [SUPER * a, SUPER * b, SUPER * (x - left - a * half_x - b * half_y) - 0.5],
            [SUPER * c, SUPER * d, SUPER * (y - top - c * half_x - d * half_y) - 0.5],
        ]
    )
    shape = (right - left, bottom - top)
    patch = cv2.warpAffine(sprite, matrix, (SUPER * shape[0], SUPER * shape[1]), flags=cv2.INTER_LINEAR)
    patch = cv2.resize(patch, shape, interpolation=cv2.INTER_AREA)
    if actor.fade < 1:
        patch = np.rint(patch * np.float32(actor.fade)).astype(np.uint8)
    return (top, left), patch


def tinted(sprite: np.ndarray, colour: str) -> np.ndarray:
    """A sprite painted in a named colour: dark stays dark, light becomes the colour."""
    light = sprite[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    alpha = sprite[..., 3].astype(np.float32) / 255
    strong = np.minimum(alpha, 0.25 * alpha + 0.95 * light)[..., None]
    painted = np.rint(strong * np.array(COLOURS[colour], np.float32))
    return np.concatenate([painted, sprite[..., 3:]], axis=2).astype(np.uint8)
