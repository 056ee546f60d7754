"""Restylings: motions that keep the layout of an image and change its look (see `datamodules.pretraining.motions`).

Every place of every frame shows the same place of the image in another look, or is covered. No frame is an edge map,
line art or a grey version of a colour image: nothing here takes gradients, tones are never cut to black and white,
and no blend passes through grey. What is already colourless stays so. Imports no torch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np

DARK = 24  # a level of 255: a turned edge map is not quite black
Moved = tuple[str, list[np.ndarray]]
COLOURS = {
    "red": (214, 48, 49),
    "brown": (150, 90, 50),
    "yellow": (250, 210, 50),
    "green": (60, 160, 70),
    "blue": (50, 100, 210),
    "purple": (130, 70, 180),
    "pink": (240, 130, 180),
}
GREYS = {"light grey": (200,) * 3, "grey": (140,) * 3, "dark grey": (75,) * 3}
SWAPS = (
    (1, 0, 2),
    (0, 2, 1),
    (2, 1, 0),
)  # exchanges of channels; a rotation would only turn the hue, as `recolour` does
LEVELS = np.arange(256) / 255


def background(image: np.ndarray) -> int:
    """The level of the background: 0 for an edge map, of which more than half is black (64 % or more of each, others 48
    % or less), else 255.
    """
    return 0 if 2 * np.count_nonzero(image > DARK) < image.size else 255


def colourful(image: np.ndarray) -> bool:
    """True if enough of an image (3, H, W) is coloured for a turn of the hue to be visible: 8 % of its pixels."""
    return float((np.ptp(image, axis=0) > 50).mean()) > 0.08


def frames_of(
    image: np.ndarray, amounts: Sequence[float], change: Callable[[np.ndarray, float], np.ndarray]
) -> list[np.ndarray]:
    """Apply `change` to the image as (H, W, 3), as OpenCV wants it, for every amount; 0 gives the image itself."""
    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
    return [np.ascontiguousarray(change(pixels, a).transpose(2, 0, 1)) if a else image for a in amounts]


def recolour(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """The hue turns by 90 to 180 degrees; white, grey and black stay as they are."""
    most = rng.choice((-1.0, 1.0)) * rng.uniform(45, 90)  # OpenCV counts hues in steps of two degrees

    def change(pixels: np.ndarray, a: float) -> np.ndarray:
        import cv2

        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + round(most * a)) % 180
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)

    return "changing colour", frames_of(image, amounts, change)


def darken(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """Everything, the background too, darkens to 30 to 50 % of its brightness."""
    least = rng.uniform(0.3, 0.5)
    return "getting darker", frames_of(image, amounts, lambda pixels, a: _mixed(pixels, 0, a * (1 - least)))


def fade(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """The image fades into the background until 20 to 40 % of it are left."""
    left = rng.uniform(0.2, 0.4)
    ground = background(image)
    return "fading", frames_of(image, amounts, lambda pixels, a: _mixed(pixels, ground, a * (1 - left)))


def blur(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """A Gaussian blur grows to a deviation of 3 to 5 % of the side."""
    most = rng.uniform(0.03, 0.05) * image.shape[1]

    def change(pixels: np.ndarray, a: float) -> np.ndarray:
        import cv2

        return cv2.GaussianBlur(pixels, (0, 0), most * a, borderType=cv2.BORDER_REPLICATE)

    return "getting blurred", frames_of(image, amounts, change)


def pixelate(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """The image turns into squares that grow to 8 to 14 % of the side."""
    most = rng.uniform(0.08, 0.14)

    def change(pixels: np.ndarray, a: float) -> np.ndarray:
        import cv2

        height, width = pixels.shape[:2]
        cells = max(2, round(1 / (1 / width + most * a)))
        small = cv2.resize(pixels, (cells, cells), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)

    return "getting pixelated", frames_of(image, amounts, change)


def negative(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """Half-way, the image turns into its negative at once: a blend of the two would be plain grey there."""
    return "turning negative", _toned(image, amounts, lambda a: 255 * (1 - LEVELS if a >= 0.5 else LEVELS))


def posterise(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """The image is reduced to 4 or 5 levels a channel; with fewer, pale colours would turn white."""
    steps = rng.choice((3, 4))
    few = np.round(LEVELS * steps) / steps
    return "getting fewer shades", _toned(image, amounts, lambda a: 255 * (LEVELS + a * (few - LEVELS)))


def swap(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """Half-way, two channels change places at once, because a blend could be grey. Of two swaps, the one that changes
    more is taken.
    """
    first, second = (list(swap) for swap in rng.sample(SWAPS, 2))
    small = image.astype(np.int16)
    order = max(first, second, key=lambda order: int(np.abs(small[order] - small).sum()))
    return "swapping colours", frames_of(image, amounts, lambda pixels, a: pixels[..., order] if a >= 0.5 else pixels)


def brighten(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """A gamma of 1/2 to 1/3 brightens the image: black and white stay, and pale colours do not turn white."""
    most = rng.uniform(2, 3)
    return "getting brighter", _toned(image, amounts, lambda a: 255 * LEVELS ** (1 / (1 + a * (most - 1))))


def contrast(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """The contrast grows along a smooth step, or shrinks to 40 to 60 % about the middle grey."""
    words, end = rng.choice(
        [("gaining", LEVELS**2 * (3 - 2 * LEVELS)), ("losing", 0.5 + rng.uniform(0.4, 0.6) * (LEVELS - 0.5))]
    )
    return f"{words} contrast", _toned(image, amounts, lambda a: 255 * (LEVELS + a * (end - LEVELS)))


def tint(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """The image is seen through glass of one colour: everything is multiplied by 40 to 70 % of the way from white to
    it.
    """
    words, colour = rng.choice(list(COLOURS.items()))
    loss = rng.uniform(0.4, 0.7) * (1 - np.array(colour) / 255)
    return f"getting tinted {words}", _toned(image, amounts, lambda a: 255 * LEVELS[:, None] * (1 - a * loss))


def ground(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """The white around the shape takes a colour, by multiplying; so do the pale pixels of its smooth border."""
    import cv2

    words, colour = _colour(image, rng)
    around = cv2.dilate(_outside(image), np.ones((3, 3), np.uint8)) > 0
    pale = around * ((image.min(axis=0) - 160.0) / 95).clip(0, 1)  # the shape itself would get an outline
    loss = (pale[..., None] * (1 - colour / 255)).astype(np.float32)
    return f"getting a {words} ground", frames_of(
        image, amounts, lambda pixels, a: (pixels * (1 - a * loss) + 0.5).astype(np.uint8)
    )


def silhouette(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """The shape fills with one colour from its lowest row up; a blend of two colours could be grey."""
    words, colour = _colour(image, rng)
    shape = _outside(image) == 0
    rows = np.flatnonzero(shape.any(axis=1))
    top, bottom = (rows[0], rows[-1] + 1) if rows.size else (0, 0)
    below = np.arange(image.shape[1])[:, None]

    def change(pixels: np.ndarray, a: float) -> np.ndarray:
        return _covered(pixels, shape & (below >= bottom - a * (bottom - top)), colour)

    return f"turning into a {words} silhouette", frames_of(image, amounts, change)


def thick(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """Shapes and lines grow into the background."""
    return "getting thicker", _morphed(image, amounts, rng, grows=True)


def thin(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """The background grows into shapes and lines."""
    return "getting thinner", _morphed(image, amounts, rng, grows=False)


def noise(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """Normal noise of a deviation of 25 to 50 of 255, the same in every frame; grey on a colourless image."""
    size, seed = rng.uniform(25, 50), rng.getrandbits(32)
    shape = (*image.shape[1:], 3 if colourful(image) else 1)
    grain = size * np.random.default_rng(seed).standard_normal(shape, np.float32)
    return "getting noisy", frames_of(
        image, amounts, lambda pixels, a: (pixels + (a * grain + 0.5)).clip(0, 255).astype(np.uint8)
    )


def dissolve(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """Squares of 1/64, 1/16 or 1/8 of the side turn into background one by one, until 20 to 40 % are left."""
    import cv2

    cells, most, seed = rng.choice((64, 16, 8)), rng.uniform(0.6, 0.8), rng.getrandbits(32)
    turns = np.random.default_rng(seed).random((cells, cells), np.float32)
    turns = cv2.resize(turns, image.shape[:0:-1], interpolation=cv2.INTER_NEAREST)
    empty = background(image)
    return "dissolving", frames_of(image, amounts, lambda pixels, a: _covered(pixels, turns < a * most, empty))


def wipe(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """Background covers 50 to 70 % of the image, from one side."""
    words, most, empty = rng.choice(("left", "right", "top", "bottom")), rng.uniform(0.5, 0.7), background(image)

    def change(pixels: np.ndarray, a: float) -> np.ndarray:
        height, width = pixels.shape[:2]
        far = round(a * most * (width if words in ("left", "right") else height))
        across = {"left": slice(0, far), "right": slice(width - far, None)}.get(words, slice(None))
        down = {"top": slice(0, far), "bottom": slice(height - far, None)}.get(words, slice(None))
        return _covered(pixels, (down, across), empty)

    return f"being wiped from the {words}", frames_of(image, amounts, change)


def cover(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """A square or a disc of one colour grows over a part, until it is 35 to 60 % wide."""
    words, colour = _colour(image, rng)
    what, size = rng.choice(("block", "spot")), rng.uniform(0.35, 0.6)
    x, y = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7)

    def change(pixels: np.ndarray, a: float) -> np.ndarray:
        across = np.abs((np.arange(pixels.shape[1]) + 0.5) / pixels.shape[1] - x)[None]
        down = np.abs((np.arange(pixels.shape[0]) + 0.5) / pixels.shape[0] - y)[:, None]
        far = np.maximum(across, down) if what == "block" else np.hypot(across, down)
        return _covered(pixels, 2 * far < size * a**0.5, colour)

    return f"hiding under a {words} {what}", frames_of(image, amounts, change)


def _toned(image: np.ndarray, amounts: Sequence[float], curve: Callable[[float], np.ndarray]) -> list[np.ndarray]:
    """Frames in which each level 0 to 255 became `curve` of it: (256,), or (256, 3) for a curve per channel."""

    def change(pixels: np.ndarray, a: float) -> np.ndarray:
        import cv2

        table = np.broadcast_to(curve(a).reshape(256, 1, -1), (256, 1, 3))
        return cv2.LUT(pixels, (table + 0.5).clip(0, 255).astype(np.uint8))

    return frames_of(image, amounts, change)


def _covered(pixels: np.ndarray, mask: np.ndarray | tuple[slice, slice], colour: int | Sequence[int]) -> np.ndarray:
    """A copy of the pixels with one colour where the mask says so."""
    pixels = pixels.copy()
    pixels[mask] = colour
    return pixels


def _outside(image: np.ndarray) -> np.ndarray:
    """The mask (H, W) of the background that can be reached from the border: 255 there, 0 in the shape and
    its holes.
    """
    import cv2

    ground = background(image)
    around = np.pad(image.transpose(1, 2, 0), ((1, 1), (1, 1), (0, 0)), constant_values=ground)
    mask = np.zeros((around.shape[0] + 2, around.shape[1] + 2), np.uint8)
    flags = 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (255 << 8)
    cv2.floodFill(around, mask, (0, 0), (0, 0, 0), (40,) * 3, (40,) * 3, flags)
    return mask[2:-2, 2:-2]


def _colour(image: np.ndarray, rng: random.Random) -> tuple[str, np.ndarray]:
    """Choose a colour for this image (a grey for a colourless one): of two, the one less like what is drawn there."""
    shape = image[:, np.abs(image.astype(np.int16) - background(image)).max(axis=0) > DARK]
    own = shape.mean(axis=1) if shape.size else np.zeros(3)
    two = rng.sample(list((COLOURS if colourful(image) else GREYS).items()), 2)
    words, colour = max(two, key=lambda named: np.abs(own - named[1]).sum())
    return words, np.array(colour)


def _morphed(image: np.ndarray, amounts: Sequence[float], rng: random.Random, grows: bool) -> list[np.ndarray]:
    """Blend with the darkest, or brightest, value within 1 or 2 of 64 pixels, so that shapes grow or shrink."""
    import cv2

    radius = max(1, round(rng.choice((1, 2)) * image.shape[1] / 64))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    darkest = grows == (background(image) == 255)
    end = (cv2.erode if darkest else cv2.dilate)(np.ascontiguousarray(image.transpose(1, 2, 0)), kernel)
    return frames_of(image, amounts, lambda pixels, a: cv2.addWeighted(pixels, 1 - a, end, a, 0))


def _mixed(pixels: np.ndarray, value: int, share: float) -> np.ndarray:
    """(1 - share) of the pixels and `share` of one grey value."""
    import cv2

    return cv2.convertScaleAbs(pixels, alpha=1 - share, beta=value * share)


TONES = (recolour, darken, fade, negative, posterise, swap, brighten, contrast, tint, ground, silhouette)
TEXTURES = (blur, pixelate, thick, thin, noise)
COVERS = (dissolve, wipe, cover)
RESTYLINGS = (*TONES, *TEXTURES, *COVERS)
