"""Likeness of a picture to its prompt. Shapes: N items, C = 3 channels, H and W pixels."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unigen.judge import judge_protocol, load_judge
from unigen.metrics.pictures import require_pictures


class MiniClipT:
    """cos(f(output), h(prompt)) with f and h the towers of the mini judge's `clip`; CLIP-T's part at mini scale.

    `judge` is "shipped:NAME" or a folder that `unigen.judge.Judge` was saved in, read at the first use.
    """

    name = "mini_clip_t"
    better = "higher"
    against = "prompt"

    def __init__(self, judge: str) -> None:
        self.judge = judge

    @property
    def protocol(self) -> Mapping[str, str]:
        """Names the judge by its weights. Raises ValueError if they are absent."""
        compares = "output and whole prompt (style words included) by the two towers of clip"
        return judge_protocol(self.judge, f"metric.{self.name}.judge", compares)

    @torch.no_grad()
    def __call__(self, output: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (N,), on the CPU."""
        require_pictures(output, output)
        if isinstance(prompts, str) or len(prompts) != len(output):
            raise ValueError(f"{len(output)} outputs need as many prompts, got {prompts!r:.80}")
        judge = load_judge(self.judge, f"metric.{self.name}.judge")
        return (judge.embed_pictures(output) * judge.embed_texts(prompts)).sum(-1)
