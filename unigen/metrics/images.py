"""The inputs of metrics: checks on images, and sets of images that are read a few at a time.

Shapes: N items, C = 3 channels, H and W pixels.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from unigen.core.places import taken

CHUNK = 16
SUBJECT = "subject"  # a metric's `against`: truths with the words for their subjects and those of the outputs
FACTS = "facts"  # a metric's `against`: what is known of the true images, in JSON
SLOT = "slot "  # a metric's `against`, before the name of a condition slot: the images of that slot


class Images(Protocol):
    """uint8 images that can be sliced: a tensor (N, 3, H, W), or an object that reads such a tensor for a slice."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice) -> Tensor: ...


class Subjects:
    """Truths with the words for their subjects, and the words for the subjects of the outputs.

    A slice is (uint8 (N, 3, H, W), words of the truths, words of the outputs), with a sequence of words for each image.
    `moved` pairs outputs with the truths of other items; each output keeps the words for its own subject.
    """

    def __init__(
        self, truth: Images, words: Sequence[Sequence[str]], own: Sequence[Sequence[str]] | None = None
    ) -> None:
        self.truth, self.words, self.own = truth, list(words), list(words if own is None else own)

    def __len__(self) -> int:
        return len(self.truth)

    def __getitem__(self, part: slice) -> tuple[Tensor, list[Sequence[str]], list[Sequence[str]]]:
        return self.truth[part], self.words[part], self.own[part]

    def moved(self, here: Sequence[int], there: Sequence[int]) -> "Subjects":
        """Pair the outputs at the positions `here` with the truths at the positions `there`."""
        truth, own = taken(self.truth, there), [self.own[i] for i in here]
        return Subjects(truth, [self.words[i] for i in there], own)


def chunks(images: Images) -> Iterator[slice]:
    """Return slices of CHUNK images that cover all images in order."""
    return (slice(start, start + CHUNK) for start in range(0, len(images), CHUNK))


def require_images(output: Tensor, truth: Tensor) -> None:
    """Raise ValueError for inputs that would give a wrong score without an error.

    These are floats, shapes that broadcast, and images without three channels.
    """
    for name, x in (("output", output), ("truth", truth)):
        if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"{name} must be uint8 pixels of shape (N, 3, H, W), got {x.dtype} {tuple(x.shape)}")
    if output.shape != truth.shape:
        raise ValueError(f"output and truth differ in shape: {tuple(output.shape)} and {tuple(truth.shape)}")
