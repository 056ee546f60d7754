"""Computes images from a record's target when it is drawn: the 32 degradations, canny edges, and grey."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from datamodules import degradations
from datamodules.graph.graph import CENTRE
from datamodules.reading.drawing import canny, grey
from datamodules.reading.images import BadImage
from datamodules.sets.base import LazyImage, SetRecord
from unigen.core.noise import mix

COMPUTED: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"canny": canny, "grey": grey}
ONLINE = (*COMPUTED, *degradations.NAMES)


class Draw(NamedTuple):
    """The random choices of a row's computed images.

    sample: a seed that all rows of a sample share. row: the number of the row. shared: whether the rows share the kind
    and the strength of a degradation; its noise is drawn for every row either way. Else every row draws all of it, as
    VisualCloze's released code does.
    """

    sample: int
    row: int = 0
    shared: bool = True


def with_online(record: SetRecord, draw: Draw) -> SetRecord:
    """Add the images of ONLINE that the record does not store; nothing is computed before it is read.

    A record without a target is returned as it is.
    """
    target = record.images.get(CENTRE)
    if target is None:
        return record
    computed = {name: _computed(name, target, draw) for name in ONLINE if name not in record.images}
    return record._replace(images={**record.images, **computed})


def _computed(name: str, target: LazyImage, draw: Draw) -> LazyImage:
    if name in COMPUTED:
        return LazyImage(lambda: COMPUTED[name](target.read()), target.size)
    return LazyImage(lambda: degraded(target.read(), name, draw), target.size)


def degraded(target: np.ndarray, name: str, draw: Draw) -> np.ndarray:
    """uint8 (3, H, W) under one of the 32 degradations; `rotate_90` and `rotate_270` exchange its sides.

    Raises BadImage if the image is too small for it.
    """
    own = random.Random(mix(draw.sample, name, draw.row))
    drawn = degradations.draw(name, own if not draw.shared else random.Random(mix(draw.sample, name)))
    try:
        return degradations.apply(target, degradations.reseeded(drawn, own) if draw.shared else drawn)
    except ValueError as error:
        raise BadImage.of(name, " ".join(str(error).split()), "the target must be larger") from error
