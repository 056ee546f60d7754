"""Likeness of two pictures to a judge that knows no words. Shapes: N items, C = 3 channels, H and W pixels."""

from collections.abc import Mapping

import torch
from torch import Tensor

from unigen.judge import judge_protocol, load_judge
from unigen.metrics.pictures import require_pictures


class MiniDino:
    """cos(g(output), g(truth)) with g the mini judge's `dino`, trained on pictures alone; DINO's part at mini scale.

    `judge` is "shipped:NAME" or a folder that `unigen.judge.Judge` was saved in, read at the first use.
    """

    name = "mini_dino"
    better = "higher"
    against = "truth"

    def __init__(self, judge: str) -> None:
        self.judge = judge

    @property
    def protocol(self) -> Mapping[str, str]:
        """Names the judge by its weights. Raises ValueError if they are absent."""
        return judge_protocol(self.judge, f"metric.{self.name}.judge", "output and truth by dino")

    @torch.no_grad()
    def __call__(self, output: Tensor, truth: Tensor) -> Tensor:
        """Scores (N,), on the CPU."""
        require_pictures(output, truth)
        judge = load_judge(self.judge, f"metric.{self.name}.judge")
        return (judge.view_embed(output) * judge.view_embed(truth)).sum(-1)
