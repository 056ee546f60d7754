"""What the metrics that ask CLIP share: pictures and words as vectors of one space (arXiv:2103.00020).

Shapes: N items, D width of an embedding, C = 3 channels, H and W pixels.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unigen.metrics.pretrained import Likeness
from unigen.weights import Unavailable


class Clip(Likeness):
    """Both towers of a CLIPModel. Texts are cut to its positions (77) with their end token kept, where CLIP reads."""

    architecture = "CLIPModel"
    embedding = "projected embedding of the vision tower"
    mean = (0.48145466, 0.4578275, 0.40821073)  # OpenAI's
    std = (0.26862954, 0.26130258, 0.27577711)

    def embed(self, pixels: Tensor) -> Tensor:
        """(N, D) by the vision tower."""
        return self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (N, D) of texts, on the CPU."""
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
