"""The motion that colours in edge maps at random: lines become areas, as in an ablation's task, but not its answers.

The colours have nothing to do with the image that the edges came from, nor with its caption, so no clip shows the
condition and the target of an ablation's task; what a base can learn from it is where areas lie between lines.
Imports no torch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from datamodules.pretraining.restylings import Moved, frames_of

# Colours that OpenMoji's style guide (openmoji.org/styleguide) and Twemoji's images use, 0xRRGGBB.
PALETTE = (
    0x92D3F5, 0x61B2E4, 0x1E50A0, 0xEA5A47, 0xD22F27, 0xB1CC33, 0x5C9E31, 0xFCEA2B, 0xF1B31C, 0xFFA7C0, 0xE67A94,
    0xB399C8, 0x8967AA, 0xA57939, 0x6A462F, 0xE27022, 0xD0CFCE, 0x9B9B9A, 0x3F3F3F, 0xFFFFFF, 0xFFCC4D, 0xDD2E44,
    0x55ACEE, 0x3B88C3, 0x77B255, 0x5C913B, 0xF4900C, 0xFFAC33, 0xAA8DD8, 0x9266CC, 0xBE1931, 0x292F33, 0x66757F,
    0x99AAB5, 0xCCD6DD, 0xE1E8ED, 0xC1694F, 0x662113, 0xFFDC5D, 0xF5F8FA, 0xEA596E, 0xF4ABBA,
)  # fmt: skip
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
WHITE_AROUND = 0.75  # share of clips that end with white around the shape, as emoji have; the others stay black
INKED = 0.6  # share of clips that keep their lines, in black; in the others the areas meet


def colour_in(image: np.ndarray, amounts: Sequence[float], rng: random.Random) -> Moved:
    """Give the areas between the lines of an edge map random colours, one after the other; the lines turn last.

    image: (3, H, W), lines white on black; gaps of up to two pixels in them are taken as closed. What holds a corner
    lies around the shape.
    """
    import cv2

    lines = (image.max(axis=0) > 127).astype(np.uint8)
    count, areas = cv2.connectedComponents(1 - cv2.dilate(lines, CROSS), connectivity=4)
    chance = np.random.default_rng(rng.getrandbits(32))
    palette = np.array([tuple(colour.to_bytes(3)) for colour in PALETTE], np.uint8)
    colours, turns = palette[chance.integers(0, len(palette), count)], chance.random(count)
    corners = areas[[0, 0, -1, -1], [0, -1, 0, -1]]
    white, inked = chance.random(2) < (WHITE_AROUND, INKED)
    colours[corners], turns[corners] = 255 * white, chance.random()
    beside = _spread(areas)
    end = np.where((lines > 0)[..., None] & inked & white, np.uint8(0), colours[beside])
    when = np.where(lines > 0, 1 - 1e-6, turns[beside])

    def change(pixels: np.ndarray, a: float) -> np.ndarray:
        return np.where((when < a)[..., None], end, pixels)

    return "getting coloured in", frames_of(image, amounts, change)


def _spread(areas: np.ndarray) -> np.ndarray:
    """Give each line pixel (0) of the labels (H, W) the greatest label next to it, until all pixels have one."""
    import cv2

    spread = areas.astype(np.float32)
    while not spread.all() and spread.any():
        spread = np.where(spread > 0, spread, cv2.dilate(spread, CROSS))
    return spread.astype(int)


FILLS = (colour_in,)
