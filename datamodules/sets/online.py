"""Pictures that are computed from a record's target when it is drawn: the 32 degradations, canny edges, and grey."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from datamodules import degradations
from datamodules.graph import CENTRE
from datamodules.pictures import canny, grey
from datamodules.reading import BadPicture
from datamodules.sets.base import Picture, SetRecord
from unigen.noise import mix

COMPUTED: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"canny": canny, "grey": grey}
ONLINE = (*COMPUTED, *degradations.NAMES)


class Draw(NamedTuple):
    """What the computed pictures of a row are drawn by.

    sample: a seed that all rows of a sample share. row: the number of the row. shared: whether the rows share the kind
    and the strength of a degradation; its noise is drawn for every row either way. Else every row draws all of it, as
    VisualCloze's released code does.
    """

    sample: int
    row: int = 0
    shared: bool = True


def with_online(record: SetRecord, draw: Draw) -> SetRecord:
    """The record with those of ONLINE that it does not store; nothing is computed before it is read.

    A record without a target is returned as it is.
    """
    target = record.pictures.get(CENTRE)
    if target is None:
        return record
    computed = {name: _computed(name, target, draw) for name in ONLINE if name not in record.pictures}
    return record._replace(pictures={**record.pictures, **computed})


def _computed(name: str, target: Picture, draw: Draw) -> Picture:
    if name in COMPUTED:
        return Picture(lambda: COMPUTED[name](target.read()), target.size)
    return Picture(lambda: degraded(target.read(), name, draw), target.size)


def degraded(target: np.ndarray, name: str, draw: Draw) -> np.ndarray:
    """uint8 (3, H, W) under one of the 32 degradations; `rotate_90` and `rotate_270` exchange its sides.

    Raises BadPicture if the picture is too small for it.
    """
    own = random.Random(mix(draw.sample, name, draw.row))
    drawn = degradations.draw(name, own if not draw.shared else random.Random(mix(draw.sample, name)))
    try:
        return degradations.apply(target, degradations.reseeded(drawn, own) if draw.shared else drawn)
    except ValueError as error:
        raise BadPicture.of(name, " ".join(str(error).split()), "the target must be larger") from error
