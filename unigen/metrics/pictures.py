"""What every metric of pictures asks of its input, and how many it takes at a time.

Shapes: N items, C = 3 channels, H and W pixels.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from unigen.places import taken

CHUNK = 16
SUBJECT = "subject"  # a metric's `against`: truths, and where to look in them and in the outputs
SLOT = "slot "  # and the same before the name of a condition slot: what is shown there


class Pictures(Protocol):
    """uint8 pictures, a few at a time: a tensor (N, 3, H, W), or what reads them when it is sliced."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice) -> Tensor: ...


class Subjects:
    """Truths with the words for their subjects, and those for the subjects of the outputs.

    A slice gives (uint8 (N, 3, H, W), words of the truths, words of the outputs), words a sequence for each picture.
    `moved` gives outputs the truths of others, and not what the outputs show.
    """

    def __init__(
        self, truth: Pictures, words: Sequence[Sequence[str]], own: Sequence[Sequence[str]] | None = None
    ) -> None:
        self.truth, self.words, self.own = truth, list(words), list(words if own is None else own)

    def __len__(self) -> int:
        return len(self.truth)

    def __getitem__(self, part: slice) -> tuple[Tensor, list[Sequence[str]], list[Sequence[str]]]:
        return self.truth[part], self.words[part], self.own[part]

    def moved(self, here: Sequence[int], there: Sequence[int]) -> "Subjects":
        """For the outputs at the positions `here`, the truths at `there`."""
        truth, own = taken(self.truth, there), [self.own[i] for i in here]
        return Subjects(truth, [self.words[i] for i in there], own)


def chunks(pictures: Pictures) -> Iterator[slice]:
    """Slices that cover all pictures in order."""
    return (slice(start, start + CHUNK) for start in range(0, len(pictures), CHUNK))


def require_pictures(output: Tensor, truth: Tensor) -> None:
    """Refuse what would give a wrong score without an error: floats, broadcasting shapes, missing channels."""
    for name, x in (("output", output), ("truth", truth)):
        if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"{name} must be uint8 pixels of shape (N, 3, H, W), got {x.dtype} {tuple(x.shape)}")
    if output.shape != truth.shape:
        raise ValueError(f"output and truth differ in shape: {tuple(output.shape)} and {tuple(truth.shape)}")
