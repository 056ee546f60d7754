"""Likeness of two pictures to a judge that knows no words. Shapes: N items, C = 3 channels, H and W pixels."""

import torch
from torch import Tensor

from unigen.metrics.likeness import Judged
from unigen.metrics.pictures import require_pictures


class MiniDino(Judged):
    """cos(g(output), g(truth)) with g the mini judge's `dino`, trained on pictures alone; DINO's part at mini scale."""

    name = "mini_dino"
    compares = "output and truth by dino"

    @torch.no_grad()
    def __call__(self, output: Tensor, truth: Tensor) -> Tensor:
        """Scores (N,), on the CPU."""
        require_pictures(output, truth)
        return (self.judge.view_embed(output) * self.judge.view_embed(truth)).sum(-1)
