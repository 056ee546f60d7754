"""CLIP-T: likeness of a picture to its prompt (DreamBooth, arXiv:2208.12242, section 4.1). Shapes: N items."""

from collections.abc import Sequence

from torch import Tensor

from unigen.metrics.clip import Clip
from unigen.metrics.pretrained import require_prompts


class ClipT(Clip):
    """cos(f(output), h(prompt)), f and h CLIP's towers; not clamped and not scaled."""

    name = "clip_t"
    against = "prompt"

    @property
    def parameters(self) -> str:
        return f"cosine of output and prompt, both projected, prompt cut with its end token kept; {self.preparation}"

    def __call__(self, output: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (N,)."""
        require_prompts(output, prompts)
        return (self.embed_pictures(output) * self.embed_texts(prompts)).sum(-1)
