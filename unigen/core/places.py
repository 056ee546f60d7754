"""The places of the images that a metric measures: an item may have several targets, and a target several frames.

An item's score is the mean of its images' scores, so that every item counts once and statistics resample items. A
metric of whole sets sees all images. Shapes: N images.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from unigen.core.types import Batch


class Place(NamedTuple):
    """An image's line in scores.jsonl, the slot of its target, and which of the target's images it is.

    `number` is a frame, or in a benchmark a draw under other noise.
    """

    line: int
    target: str
    number: int = 0


def alone(count: int) -> list[Place]:
    """Return the places of `count` images, each of which is an item."""
    return [Place(i, "") for i in range(count)]


def places_of(batch: Batch, names: Sequence[str], first: int) -> list[Place]:
    """Return the places of a batch's target images in the order of `together`; its first item has line `first`."""
    frames = {name: batch.images[name].shape[1] for name in names}
    return [Place(first + i, name, f) for i in range(len(batch)) for name in names for f in range(frames[name])]


def together(images: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Return all frames of some slots (B, F, 3, H, W) as uint8 (N, 3, H, W): item by item, slot by slot.

    Raises ValueError if the slots have several sizes.
    """
    from torch import cat

    sizes = {name: tuple(images[name].shape[3:]) for name in names}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{name} {height} x {width}" for name, (height, width) in sizes.items())
        raise ValueError(f"targets of several sizes cannot be measured together: {said}")
    return cat([images[name] for name in names], dim=1).flatten(0, 1)


def others(places: Sequence[Place]) -> list[tuple[int, int]]:
    """Return pairs of positions: an image, and the image in the same place of the item before it.

    For the first item that is the last one. An image without a counterpart in another item is left out.
    """
    alike: dict[tuple[str, int], list[int]] = {}
    for i, place in enumerate(places):
        alike.setdefault(place[1:], []).append(i)
    return sorted((i, like[k - 1]) for like in alike.values() if len(like) > 1 for k, i in enumerate(like))


def taken(found: Any, order: Sequence[int]) -> Any:
    """Return the images or texts at these positions of a tensor, a list, or an object with its own method `taken`."""
    if isinstance(found, Tensor):
        return found[list(order)]
    return [found[i] for i in order] if isinstance(found, list) else found.taken(order)


def by_line(scores: Sequence[float], places: Sequence[Place]) -> list[float]:
    """Return the mean score of each line's images, in the order of lines."""
    lines: dict[int, list[float]] = {}
    for score, place in zip(scores, places, strict=True):
        lines.setdefault(place.line, []).append(score)
    return [mean(lines[line]) for line in sorted(lines)]


def by_target(scores: Sequence[float], places: Sequence[Place]) -> dict[str, dict[int, float]]:
    """Return, for each target, the mean score of its images by line; {} if there is only one target."""
    names = sorted({place.target for place in places})
    found = {}
    for name in names if len(names) > 1 else ():
        own = [i for i, place in enumerate(places) if place.target == name]
        kept = taken(list(places), own)
        found[name] = dict(zip(sorted({p.line for p in kept}), by_line(taken(list(scores), own), kept), strict=True))
    return found


def mean(values: Sequence[float]) -> float:
    """Return the mean, exact up to rounding."""
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else sum(values) / len(values)
