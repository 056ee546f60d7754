"""The plain values that cross the data loader: ints, strings, uint8 pixels. Nothing here is floating point.

Shapes: B batch, F frames, C = 3 channels, H and W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

TEXT, EXAMPLE, CONDITION, TARGET, BUFFER = "text", "example", "condition", "target", "buffer"


class ImageSlot(NamedTuple):
    """One image (or clip) of a sample. `height` and `width` are pixels; `row` is its in-context row."""

    name: str
    role: str
    height: int
    width: int
    frames: int = 1
    row: int = 0


class Signature(NamedTuple):
    """All that a formatter may know of a sample: hashable, and the key by which batches are bucketed."""

    slots: tuple[ImageSlot, ...]
    text_tokens: int


class Sample(NamedTuple):
    """One training item. `images` maps a slot's name to uint8 pixels (F, C, H, W), in slot order.

    `caption` describes the picture that is asked for, where the prompt says other things too; None: the prompt does.
    `clusters` are the groups of like items that a test item belongs to, one in each way of grouping them, such as
    {"subject": "backpack", "prompt": "in the jungle"}: items that share one are no independent evidence
    (`unigen.clusters`). {}: the item is like no other.
    """

    slots: tuple[ImageSlot, ...]
    images: dict[str, Tensor]
    prompt: str
    subjects: tuple[str, ...]
    task: str
    key: str
    caption: str | None = None
    clusters: Mapping[str, str] = {}


@dataclass
class Batch:
    """The only thing that the loader and Lightning handle; mutable because Lightning refuses frozen dataclasses.

    `images` maps a slot's name to uint8 pixels (B, F, C, H, W). `subjects` are the keywords that
    UCE looks up in the prompt (RealGeneral, section 3.2); `key` names the picture for splits and reports.
    `captions` are what metrics hold pictures against; none: the prompts. `clusters` are those of `Sample`, with the
    key for an item without any.
    """

    slots: tuple[ImageSlot, ...]
    images: dict[str, Tensor]
    prompts: list[str]
    subjects: list[tuple[str, ...]]
    tasks: list[str]
    keys: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    clusters: list[dict[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.prompts)

    def pin_memory(self) -> "Batch":
        """With pixels in page-locked memory: what a loader with pin_memory calls, so that copies to a GPU overlap."""
        return replace(self, images={name: x.pin_memory() for name, x in self.images.items()})

    def to(self, device: torch.device | str) -> "Batch":
        """With pixels on a device; a copy to CUDA does not wait (from page-locked memory it can go on beside work)."""
        there = torch.device(device)
        wait = there.type != "cuda"  # elsewhere, values could be read before they have arrived
        return replace(self, images={name: x.to(there, non_blocking=not wait) for name, x in self.images.items()})


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
    )


def rows_of(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some samples of a batch, by their places in it."""
    lists = {key: getattr(batch, key) for key in ("prompts", "subjects", "tasks", "keys", "captions", "clusters")}
    lists = {key: [values[i] for i in rows] if values else values for key, values in lists.items()}
    return replace(batch, images={name: x[list(rows)] for name, x in batch.images.items()}, **lists)
