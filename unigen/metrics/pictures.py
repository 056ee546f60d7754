"""What every pixel metric asks of its input. Shapes: N items, C = 3 channels, H and W pixels."""

import torch
from torch import Tensor


def require_pictures(output: Tensor, truth: Tensor) -> None:
    """Refuse what would give a wrong score without an error: floats, broadcasting shapes, missing channels."""
    for name, x in (("output", output), ("truth", truth)):
        if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"{name} must be uint8 pixels of shape (N, 3, H, W), got {x.dtype} {tuple(x.shape)}")
    if output.shape != truth.shape:
        raise ValueError(f"output and truth differ in shape: {tuple(output.shape)} and {tuple(truth.shape)}")
