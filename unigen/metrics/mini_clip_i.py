"""Likeness of two pictures to a judge that knows words. Shapes: N items, C = 3 channels, H and W pixels."""

import torch
from torch import Tensor

from unigen.metrics.likeness import Judged
from unigen.metrics.pictures import require_pictures


class MiniClipI(Judged):
    """cos(f(output), f(truth)) with f the vision tower of the mini judge's `clip`; CLIP-I's part at mini scale."""

    name = "mini_clip_i"
    compares = "output and truth by the vision tower of clip"

    @torch.no_grad()
    def __call__(self, output: Tensor, truth: Tensor) -> Tensor:
        """Scores (N,), on the CPU."""
        require_pictures(output, truth)
        return (self.judge.embed_pictures(output) * self.judge.embed_pictures(truth)).sum(-1)
