"""Metrics of the mini family, which use its judge in the place of the models of CLIP-I, CLIP-T, DINO and KID.

Shapes: N items, D width of an embedding, C = 3 channels, H and W pixels.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from unigen.metrics.images import require_images
from unigen.metrics.judge import Judge, judge_protocol, load_judge
from unigen.metrics.sets import KID


class Judged:
    """A cosine of two of the mini judge's embeddings; a subclass names them in `compares`.

    `judge` is "shipped:NAME" or a folder that `unigen.metrics.judge.Judge.save` wrote; it is read at the first use.
    """

    name: str
    compares: str
    better = "higher"
    against = "truth"

    def __init__(self, judge: str) -> None:
        self.source = judge

    @property
    def protocol(self) -> Mapping[str, str]:
        """The protocol, which names the judge by its weights. Raises ValueError if they are absent."""
        return judge_protocol(self.source, self._key, self.compares)

    @property
    def judge(self) -> Judge:
        """The judge. Raises ValueError if its weights are absent."""
        return load_judge(self.source, self._key)

    @property
    def _key(self) -> str:
        return f"metric.{self.name}.judge"


class MiniClipI(Judged):
    """cos(f(output), f(truth)) with f the vision tower of the mini judge's `clip`; it stands for CLIP-I."""

    name = "mini_clip_i"
    compares = "output and truth by the vision tower of clip"

    @torch.no_grad()
    def __call__(self, output: Tensor, truth: Tensor) -> Tensor:
        """Return scores (N,), on the CPU."""
        require_images(output, truth)
        return (self.judge.embed_images(output) * self.judge.embed_images(truth)).sum(-1)


class MiniClipT(Judged):
    """cos(f(output), h(prompt)) with f and h the towers of the mini judge's `clip`; it stands for CLIP-T."""

    name = "mini_clip_t"
    against = "prompt"
    compares = "output and whole prompt (style words included) by the two towers of clip"

    @torch.no_grad()
    def __call__(self, output: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return scores (N,), on the CPU."""
        require_images(output, output)
        if isinstance(prompts, str) or len(prompts) != len(output):
            raise ValueError(f"{len(output)} outputs need as many prompts, got {prompts!r:.80}")
        return (self.judge.embed_images(output) * self.judge.embed_texts(prompts)).sum(-1)


class MiniDino(Judged):
    """cos(g(output), g(truth)) with g the mini judge's `dino`, trained on images alone; it stands for DINO."""

    name = "mini_dino"
    compares = "output and truth by dino"

    @torch.no_grad()
    def __call__(self, output: Tensor, truth: Tensor) -> Tensor:
        """Return scores (N,), on the CPU."""
        require_images(output, truth)
        return (self.judge.view_embed(output) * self.judge.view_embed(truth)).sum(-1)


class JudgeFeatures:
    """Features for KID: the unit vectors of the mini judge's `dino` times the root of D. `judge` is as in `Judged`.

    KID's kernel is a function of x.y / D, which then is the cosine that the judge was trained on.
    """

    def __init__(self, judge: str, key: str) -> None:
        self.source, self.key = judge, key

    @property
    def protocol(self) -> Mapping[str, str]:
        said = judge_protocol(self.source, self.key, "")
        return {"features": "unit vectors of the mini judge's dino times sqrt(D)", "model": said["judge"]}

    def network(self) -> nn.Module:
        return _Judged(self.source, self.key)


class _Judged(nn.Module):
    def __init__(self, source: str, key: str) -> None:
        super().__init__()
        self.judge = load_judge(source, key)
        self.num_features = self.judge.dino.config.projection_dim

    @torch.no_grad()
    def forward(self, images_N3HW: Tensor) -> Tensor:
        return self.judge.view_embed(images_N3HW) * self.num_features**0.5


class MiniKID(KID):
    """KID in the features of the mini judge's `dino`. `judge` is as in `Judged`."""

    name = "mini_kid"

    def __init__(self, judge: str, subsets: int, subset_size: int) -> None:
        super().__init__(JudgeFeatures(judge, "metric.mini_kid.judge"), subsets, subset_size)
