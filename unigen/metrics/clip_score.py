"""CLIP score: likeness of a picture to its prompt in hundredths (arXiv:2104.08718, without its factor 2.5)."""

from collections.abc import Sequence

from torch import Tensor

from unigen.metrics.clip_t import ClipT


class ClipScore(ClipT):
    """100 max(cos(f(output), h(prompt)), 0), as torchmetrics scales it; ControlNet++ measures with ViT-B/16."""

    name = "clip_score"

    @property
    def parameters(self) -> str:
        return f"100 max(x, 0), x the {super().parameters}"

    def __call__(self, output: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (N,), 0 to 100."""
        return 100 * super().__call__(output, prompts).clamp(min=0)
