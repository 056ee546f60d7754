"""A texture of frost on glass, made from a seed: ferns of ice that branch at 60 degrees, bent, in patches of haze."""

from __future__ import annotations

import math

import numpy as np

STEMS, BRANCHES, TWIGS = 32, 20, 8  # ferns; branches on each side of a stem; twigs on each side of a branch
PATCHES = (2, 3)  # patches of frost: cells on the longer side at the coarsest octave, number of octaves
HAZE = (4, 7)
BENDS, BENT = (3, 4), 0.12  # bending of lines: cells and octaves, and its size as a share of the longer side


def frost_texture(height: int, width: int, seed: int) -> np.ndarray:
    """The brightness of ice, float32 (height, width) in [0, 1]: on average 0.3, close to 0 where there is none."""
    import cv2

    chance = np.random.default_rng(seed)
    side = max(height, width)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    right, down = (BENT * side * (fractal(chance, height, width, *BENDS) - 0.5) for _ in range(2))
    lines = cv2.remap(_ferns(chance, height, width), x + right, y + down, cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT)
    crystals = lines.astype(np.float32) / 255
    glow = cv2.GaussianBlur(crystals, (0, 0), max(side / 128, 0.3))
    haze = fractal(chance, height, width, *HAZE)
    grown = ((fractal(chance, height, width, *PATCHES) - 0.15) * 1.8).clip(0, 1)
    return (grown * (0.2 * haze + 0.5 * glow + 0.6 * crystals) + 0.4 * haze * haze).clip(0, 1)


def fractal(chance: np.random.Generator, height: int, width: int, cells: int, octaves: int) -> np.ndarray:
    """Fractal noise, float32 (height, width) from 0 to 1: octaves of `cells`, 2 `cells`, ... cells, each 1.6 weaker."""
    import cv2

    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        scale = cells * 2**octave / max(height, width)
        grid = chance.random((math.ceil(height * scale) + 1, math.ceil(width * scale) + 1), np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR) / 1.6**octave
    total -= total.min()
    return total / total.max()


def _ferns(chance: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw stems with branches and twigs, uint8 (height, width), older ones brighter."""
    canvas = np.zeros((height, width), np.uint8)
    lengths = max(height, width) * chance.uniform(0.1, 0.5, STEMS)
    angles = chance.uniform(0, 2 * math.pi, STEMS)
    stems = np.stack([chance.uniform(0, width, STEMS), chance.uniform(0, height, STEMS), angles, lengths])
    branches = _grown(chance, stems.astype(np.float32), BRANCHES, 0.42)
    twigs = _grown(chance, branches, TWIGS, 0.4)
    for lines, value in ((twigs, 120), (branches, 170), (stems, 220)):
        _draw(canvas, lines, value)
    return canvas


def _grown(chance: np.random.Generator, lines: np.ndarray, count: int, share: float) -> np.ndarray:
    """Children of lines (4: x, y, angle, length; N): `count` on each side, with up to `share` of the length."""
    x, y, angle, length = lines
    shape = (count, 2, x.size)
    along = (np.arange(count, dtype=np.float32)[:, None, None] + 0.9 * chance.random(shape, np.float32)) / count
    turn = math.pi / 3 + 0.12 * chance.standard_normal(shape, np.float32)
    longs = share * length * (1 - 0.8 * along) * (0.3 + 0.7 * chance.random(shape, np.float32))
    starts = x + along * length * np.cos(angle), y + along * length * np.sin(angle)
    return np.stack([*starts, angle + turn * np.array([[-1], [1]], np.float32), longs]).reshape(4, -1)


def _draw(canvas: np.ndarray, lines: np.ndarray, value: int) -> None:
    """Draw lines (4, N), one pixel thick and antialiased."""
    import cv2

    x, y, angle, length = lines
    far = x + length * np.cos(angle), y + length * np.sin(angle)
    ends = np.rint(16 * np.stack([np.stack([x, y], -1), np.stack(far, -1)], 1)).astype(np.int32)
    cv2.polylines(canvas, list(ends), False, value, 1, cv2.LINE_AA, 4)
