"""Likeness of a picture to its prompt. Shapes: N items, C = 3 channels, H and W pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from unigen.metrics.likeness import Judged
from unigen.metrics.pictures import require_pictures


class MiniClipT(Judged):
    """cos(f(output), h(prompt)) with f and h the towers of the mini judge's `clip`; CLIP-T's part at mini scale."""

    name = "mini_clip_t"
    against = "prompt"
    compares = "output and whole prompt (style words included) by the two towers of clip"

    @torch.no_grad()
    def __call__(self, output: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (N,), on the CPU."""
        require_pictures(output, output)
        if isinstance(prompts, str) or len(prompts) != len(output):
            raise ValueError(f"{len(output)} outputs need as many prompts, got {prompts!r:.80}")
        return (self.judge.embed_pictures(output) * self.judge.embed_texts(prompts)).sum(-1)
