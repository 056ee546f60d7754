"""Likeness of two pictures to a judge that knows words. Shapes: N items, C = 3 channels, H and W pixels."""

from collections.abc import Mapping

import torch
from torch import Tensor

from unigen.judge import judge_protocol, load_judge
from unigen.metrics.pictures import require_pictures


class MiniClipI:
    """cos(f(output), f(truth)) with f the vision tower of the mini judge's `clip`; CLIP-I's part at mini scale.

    `judge` is "shipped:NAME" or a folder that `unigen.judge.Judge` was saved in, read at the first use.
    """

    name = "mini_clip_i"
    better = "higher"
    against = "truth"

    def __init__(self, judge: str) -> None:
        self.judge = judge

    @property
    def protocol(self) -> Mapping[str, str]:
        """Names the judge by its weights. Raises ValueError if they are absent."""
        return judge_protocol(self.judge, f"metric.{self.name}.judge", "output and truth by the vision tower of clip")

    @torch.no_grad()
    def __call__(self, output: Tensor, truth: Tensor) -> Tensor:
        """Scores (N,), on the CPU."""
        require_pictures(output, truth)
        judge = load_judge(self.judge, f"metric.{self.name}.judge")
        return (judge.embed_pictures(output) * judge.embed_pictures(truth)).sum(-1)
