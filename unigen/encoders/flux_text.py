"""The text encoders of FLUX.1: T5-XXL encodes a prompt as a sequence, CLIP-L encodes it as one pooled vector.

Shapes: B prompts, W window in tokenizer tokens, D width.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from unigen.core.memo import Memo
from unigen.encoders.t5 import T5Text, load_tokenizer
from unigen.weights.loading import load_pretrained, stored_type

POOLED_MEMORY = 2**27  # bytes of pooled vectors kept for prompts that come back


class FluxText(T5Text):
    """A frozen T5 with a window of `window` tokens (512 as published), and `clip`, a `PooledCLIP`, beside it.

    Padding is attended to. Both encoders are held in `dtype`, "float32" or "bfloat16".
    """

    folders = "text_encoder_2", "tokenizer_2"

    def __init__(
        self,
        config: Mapping[str, Any],
        tokenizer: str,
        vocabulary: int,
        window: int,
        clip: nn.Module,
        pretrained: str | None = None,
        dtype: str = "float32",
    ) -> None:
        super().__init__(config, tokenizer, vocabulary, window, 1, False, pretrained, dtype)
        self.clip = clip.to(stored_type(dtype, "encoder.text.dtype"))

    @property
    def pooled_width(self) -> int:
        return self.clip.width

    def pooled(self, prompts: list[str]) -> Tensor:
        """Return CLIP's pooled vectors (B, D). CLIP sees the first 77 tokens of each prompt."""
        return self.clip(prompts)


class PooledCLIP(nn.Module):
    """`CLIPTextModel`'s pooled output: the end token's features after the final norm, not projected.

    `config` holds the arguments of `CLIPTextConfig`. `tokenizer` is a folder, a repository id or "byt5", which reads
    bytes and needs no files (`config` then has eos_token_id 1 and pad_token_id 0). A prompt longer than
    `max_position_embeddings` is cut without a warning, as VisualCloze's are: T5 reads the rest.
    """

    folders = "text_encoder", "tokenizer"

    def __init__(self, config: Mapping[str, Any], tokenizer: str, pretrained: str | None = None) -> None:
        from transformers import CLIPTextConfig, CLIPTextModel

        super().__init__()
        load = load_pretrained(CLIPTextModel, pretrained, "encoder.text.clip.pretrained", self.folders[0], config)
        self.model = (load or CLIPTextModel(CLIPTextConfig(**config))).requires_grad_(False).eval()
        self.width = self.model.config.hidden_size
        self.source = tokenizer
        self._known = Memo(POOLED_MEMORY)

    def forward(self, prompts: list[str]) -> Tensor:
        """Return (B, D). Each distinct prompt is encoded once, in the weights' precision."""
        with torch.no_grad(), torch.autocast(self.model.device.type, enabled=False):
            pooled = self._known(prompts, lambda missing: self._pooled([prompts[i] for i in missing]))
        return pooled.to(self.model.device)

    def ids(self, prompts: list[str]) -> Tensor:
        """Return token ids (B, W), cut or padded to the number of positions that the model has."""
        window = self.model.config.max_position_embeddings
        return self.tokenizer(
            prompts, padding="max_length", max_length=window, truncation=True, return_tensors="pt"
        ).input_ids

    def _pooled(self, prompts: list[str]) -> Tensor:
        return self.model(input_ids=self.ids(prompts).to(self.model.device)).pooler_output

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, which is loaded at the first use, so that building on the meta device needs no files."""
        return load_tokenizer(self.source, "encoder.text.clip.tokenizer", self.folders[1])
