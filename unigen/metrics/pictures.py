"""What every metric of pictures asks of its input, and how many it takes at a time.

Shapes: N items, C = 3 channels, H and W pixels.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

CHUNK = 16


class Pictures(Protocol):
    """uint8 pictures, a few at a time: a tensor (N, 3, H, W), or what reads them when it is sliced."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice) -> Tensor: ...


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
