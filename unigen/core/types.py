"""The plain values that cross the data loader: ints, strings, uint8 pixels. Nothing here is floating point.

Shapes: B batch, F frames, C = 3 channels, H and W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import NamedTuple

import torch
from torch import Tensor

TEXT, EXAMPLE, CONDITION, TARGET, BUFFER = "text", "example", "condition", "target", "buffer"


class ImageSlot(NamedTuple):
    """One image (or clip) of a sample. `height` and `width` are pixels; `row` is its in-context row.

    `arrangement` is the way in which the sample wants its images placed, for a formatter that knows several; "": its
    usual one. All slots of a sample have the same.
    """

    name: str
    role: str
    height: int
    width: int
    frames: int = 1
    row: int = 0
    arrangement: str = ""


class Signature(NamedTuple):
    """All that a formatter may know of a sample: hashable, and the key by which batches are bucketed."""

    slots: tuple[ImageSlot, ...]
    text_tokens: int


class Sample(NamedTuple):
    """One training item. `images` maps a slot's name to uint8 pixels (F, C, H, W), in slot order.

    `caption` describes the image that is asked for, if the prompt says other things too; None: the prompt does.
    `clusters` are the groups of like items that a test item belongs to, one in each way of grouping them, such as
    {"subject": "backpack", "prompt": "in the jungle"}: items that share one are no independent evidence
    (`unigen.evaluation.clusters`). {}: the item is like no other.
    `facts` say in JSON what the first target shows, for metrics that check it; "": nothing is known.
    """

    slots: tuple[ImageSlot, ...]
    images: dict[str, Tensor]
    prompt: str
    subjects: tuple[str, ...]
    task: str
    key: str
    caption: str | None = None
    clusters: Mapping[str, str] = {}
    facts: str = ""


@dataclass(frozen=True)
class Illustrated:
    """A prompt with the images that it is about, for a text encoder that reads both (`TextEncoder.looks_at`).

    `images` are uint8 (3, H, W) on any device. Two are equal, and the same key, if their words and their pixels are:
    `pixels` has the SHA-256 of each image's shape and bytes.
    """

    words: str
    images: tuple[Tensor, ...] = field(default=(), compare=False, repr=False)
    pixels: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pixels", tuple(_digest(image) for image in self.images))


def _digest(image_3HW: Tensor) -> str:
    return sha256(f"{tuple(image_3HW.shape)} ".encode() + image_3HW.cpu().contiguous().numpy().tobytes()).hexdigest()


@dataclass
class Batch:
    """The only thing that the loader and Lightning handle; mutable because Lightning refuses frozen dataclasses.

    `images` maps a slot's name to uint8 pixels (B, F, C, H, W). `subjects` are the keywords that UCE looks up in the
    prompt (RealGeneral, section 3.2); `subjects_of` says which condition has which. `key` names the image for splits
    and reports. `captions` are what metrics hold images against; none: the prompts. `clusters` are those of `Sample`,
    with the key for an item without any; `facts` are those of `Sample`.
    """

    slots: tuple[ImageSlot, ...]
    images: dict[str, Tensor]
    prompts: list[str]
    subjects: list[tuple[str, ...]]
    tasks: list[str]
    keys: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    clusters: list[dict[str, str]] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.prompts)

    def pin_memory(self) -> "Batch":
        """Return the batch with pixels in page-locked memory, so that copies to a GPU overlap; loaders call this."""
        return replace(self, images={name: x.pin_memory() for name, x in self.images.items()})

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with pixels on a device; copies from page-locked memory to CUDA overlap with work."""
        there = torch.device(device)
        wait = there.type != "cuda"  # elsewhere, values could be read before they have arrived
        return replace(self, images={name: x.to(there, non_blocking=not wait) for name, x in self.images.items()})


def subjects_of(subjects: tuple[str, ...], number: int, conditions: int) -> tuple[str, ...]:
    """Return the keywords of condition `number` of a sample that has `conditions` of them.

    If there are as many keywords as conditions, each condition has its own; otherwise every condition has all.
    """
    return (subjects[number],) if len(subjects) == conditions > 1 else subjects


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one signature. Raises ValueError, naming both samples, if their slots differ."""
    first = samples[0]
    for other in samples[1:]:
        if other.slots != first.slots:
            raise ValueError(
                f"samples '{first.key}' and '{other.key}' have different slots and cannot share a batch: "
                f"{first.slots} and {other.slots}"
            )
    return Batch(
        slots=first.slots,
        images={slot.name: torch.stack([s.images[slot.name] for s in samples]) for slot in first.slots},
        prompts=[s.prompt for s in samples],
        subjects=[tuple(s.subjects) for s in samples],
        tasks=[s.task for s in samples],
        keys=[s.key for s in samples],
        captions=[s.prompt if s.caption is None else s.caption for s in samples],
        clusters=[dict(s.clusters) or {"key": s.key} for s in samples],
        facts=[s.facts for s in samples],
    )


def rows_of(batch: Batch, rows: Sequence[int]) -> Batch:
    """Return some samples of a batch, by their positions in it."""
    lists = {
        key: getattr(batch, key) for key in ("prompts", "subjects", "tasks", "keys", "captions", "clusters", "facts")
    }
    lists = {key: [values[i] for i in rows] if values else values for key, values in lists.items()}
    return replace(batch, images={name: x[list(rows)] for name, x in batch.images.items()}, **lists)


def shown_images(batch: Batch, outputs: Mapping[str, Tensor], row: int) -> list[Tensor]:
    """Return the images (F, C, H, W) of one sample in the order of its slots, a target's output before its truth."""
    shown = []
    for slot in batch.slots:
        shown += [outputs[slot.name][row]] if slot.role == TARGET else []
        shown.append(batch.images[slot.name][row])
    return shown
