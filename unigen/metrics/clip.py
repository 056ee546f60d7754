"""CLIP-I, CLIP-T, CLIP score and the similarity to a style image, from CLIP's embeddings of images and texts.

CLIP: arXiv:2103.00020. Shapes: N items, D width of an embedding, C = 3 channels, H and W pixels.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unigen.metrics.images import SLOT
from unigen.metrics.pretrained import Likeness, require_prompts
from unigen.weights.loading import Unavailable


class Clip(Likeness):
    """Both towers of a CLIPModel. Texts are cut to its 77 positions; the end token, which CLIP pools, is kept."""

    architecture = "CLIPModel"
    embedding = "projected embedding of the vision tower"
    mean = (0.48145466, 0.4578275, 0.40821073)  # OpenAI's
    std = (0.26862954, 0.26130258, 0.27577711)

    def embed(self, pixels: Tensor) -> Tensor:
        """Embed prepared images with the vision tower, (N, D)."""
        return self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as unit vectors (N, D), on the CPU."""
        model = self.model
        longest = model.config.text_config.max_position_embeddings
        tokens = _tokenizer(self.folder)(
            list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(model.device)
        pooled = model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
        return F.normalize(model.text_projection(pooled).float().cpu(), dim=-1)


@lru_cache(maxsize=8)
def _tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise Unavailable(f"{folder} holds no CLIP tokenizer: {str(error).splitlines()[0]}") from error


class ClipI(Clip):
    """cos(f(output), f(truth)), f CLIP's vision tower (DreamBooth, arXiv:2208.12242, section 4.1)."""

    name = "clip_i"


class ClipT(Clip):
    """cos(f(output), h(prompt)), f and h CLIP's towers; not clamped and not scaled (DreamBooth, section 4.1)."""

    name = "clip_t"
    against = "prompt"

    @property
    def parameters(self) -> str:
        return f"cosine of output and prompt, both projected, prompt cut with its end token kept; {self.preparation}"

    def __call__(self, output: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return scores (N,)."""
        require_prompts(output, prompts)
        return (self.embed_images(output) * self.embed_texts(prompts)).sum(-1)


class ClipScore(ClipT):
    """100 max(cos(f(output), h(prompt)), 0): arXiv:2104.08718 without its factor 2.5, as torchmetrics scales it.

    ControlNet++ measures with ViT-B/16.
    """

    name = "clip_score"

    @property
    def parameters(self) -> str:
        return f"100 max(x, 0), x the {super().parameters}"

    def __call__(self, output: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return scores (N,) from 0 to 100."""
        return 100 * super().__call__(output, prompts).clamp(min=0)


class StyleImage(Clip):
    """cos(f(output), f(style reference)), f CLIP's vision tower.

    `image` is the name of the slot that shows the style. VisualCloze reports such a score ("image") and names neither
    the model nor the preparation: we take those of CLIP-I. A copy of the reference scores 1, so the score has to be
    read beside CLIP-T (the paper's "text"), where a copy scores low.
    """

    name = "style_image"

    def __init__(self, image: str, model: str, resize: int, crop: int, download: bool) -> None:
        super().__init__(model, resize, crop, download)
        self.against = SLOT + image

    @property
    def parameters(self) -> str:
        return f"cosine of output and {self.against}, {self.embedding}; {self.preparation}"

    def __call__(self, output: Tensor, reference: Tensor) -> Tensor:
        """Return scores (N,)."""
        return super().__call__(output, reference)
