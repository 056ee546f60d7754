"""Profiles each of the 32 degradations on one core."""

import dataclasses
import random
from functools import partial

import numpy as np

from datamodules.degradations import FAMILIES, apply, draw
from datamodules.degradations.base import Degradation
from datamodules.degradations.ice import fractal
from unigen.tools.bench.turns import Effort, Table, interleaved

SIDE = 512  # pixels: the size of the images that the released code degrades
DRAWS = 12  # the number of draws of each degradation; equal ones count once
COLUMNS = ("degradation", "family", "ms", "slowest ms", "slowest")
NOTE = (
    "ms: median over {draws} draws (equal ones count once) of a draw's median; slowest: the median of the slowest "
    "draw. The image shows bands of light with grain, which compress as a photograph does. Only the application is "
    "timed: drawing parameters takes microseconds."
)


def photo_like(side: int) -> np.ndarray:
    """Return an image of bands of all sizes with a grain of 3 levels, uint8 (3, side, side).

    At 512 pixels and JPEG quality 40 it takes 22 kB, and a portrait takes 24 kB; the time of JPEG 2000 depends on this.
    """
    chance = np.random.default_rng(0)
    light = 127.5 + 115 * np.sin(4 * np.pi * fractal(chance, side, side, 2, 9))
    return (light + 3 * chance.standard_normal((3, side, side))).clip(0, 255).astype(np.uint8)


def degradations_table(effort: Effort, side: int = SIDE, draws: int = DRAWS) -> Table:
    """Return a table with a row for each degradation, timed in one OpenCV thread, as in a loader's worker."""
    import cv2

    image = photo_like(side)
    drawn = {
        (family, name): {draw(name, random.Random(seed)) for seed in range(draws)}
        for family, members in FAMILIES.items()
        for name in members
    }
    runs = {(key, value): partial(apply, image, value) for key, values in drawn.items() for value in values}
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        times = interleaved(runs, effort)
    finally:
        cv2.setNumThreads(threads)
    table = Table(f"Degradations of an image of {side}×{side}, one thread", COLUMNS, note=NOTE.format(draws=draws))
    for key, values in drawn.items():
        spent = {value: 1e3 * times.median((key, value)) for value in values}
        slowest = max(spent, key=spent.__getitem__)
        table.add(key[1], key[0], float(np.median(list(spent.values()))), spent[slowest], _short(slowest))
    return table


def _short(value: Degradation) -> str:
    """Return a degradation as text, with short numbers and without its seed."""
    shown = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.name != "seed"}
    parts = (f"{name} {x:.3g}" if isinstance(x, float) else f"{name} {x}" for name, x in shown.items())
    return " ".join([type(value).__name__, ", ".join(parts)]).strip()
