"""The degradations section of the bench: what each of the 32 costs on one core."""

import dataclasses
import random
from functools import partial

import numpy as np

from datamodules.degradations import FAMILIES, apply, draw
from datamodules.degradations.base import Degradation
from datamodules.degradations.ice import fractal
from unigen.bench import Effort, Table, interleaved

SIDE = 512  # pixels: what the released code degrades
DRAWS = 12  # of each degradation; equal ones count once
COLUMNS = ("degradation", "family", "ms", "slowest ms", "slowest")
NOTE = (
    "ms: median over {draws} draws (equal ones count once) of a draw's median; slowest: that of the slowest draw. On "
    "bands of light with grain, which compress as a photograph does. Applying only: drawing takes microseconds."
)


def photo_like(side: int) -> np.ndarray:
    """Bands of all sizes with a grain of 3 levels, uint8 (3, side, side).

    At 512 pixels and JPEG quality 40 it takes 22 kB, and a portrait 24 kB: the time of JPEG 2000 depends on that.
    """
    chance = np.random.default_rng(0)
    light = 127.5 + 115 * np.sin(4 * np.pi * fractal(chance, side, side, 2, 9))
    return (light + 3 * chance.standard_normal((3, side, side))).clip(0, 255).astype(np.uint8)


def degradations_table(effort: Effort, side: int = SIDE, draws: int = DRAWS) -> Table:
    """A row for each degradation, in one OpenCV thread, as a loader's worker should run."""
    import cv2

    picture = photo_like(side)
    drawn = {
        (family, name): {draw(name, random.Random(seed)) for seed in range(draws)}
        for family, members in FAMILIES.items()
        for name in members
    }
    runs = {(key, value): partial(apply, picture, value) for key, values in drawn.items() for value in values}
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        times = interleaved(runs, effort)
    finally:
        cv2.setNumThreads(threads)
    table = Table(f"Degradations of a picture of {side}×{side}, one thread", COLUMNS, note=NOTE.format(draws=draws))
    for key, values in drawn.items():
        spent = {value: 1e3 * times.median((key, value)) for value in values}
        slowest = max(spent, key=spent.__getitem__)
        table.add(key[1], key[0], float(np.median(list(spent.values()))), spent[slowest], _short(slowest))
    return table


def _short(value: Degradation) -> str:
    """A degradation with short numbers and without its seed."""
    shown = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.name != "seed"}
    parts = (f"{name} {x:.3g}" if isinstance(x, float) else f"{name} {x}" for name, x in shown.items())
    return " ".join([type(value).__name__, ", ".join(parts)]).strip()
