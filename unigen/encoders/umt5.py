"""UMT5, the multilingual T5 that Wan reads prompts with.

Shapes: B prompts, W window in tokenizer tokens, D width.
"""

import html
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unigen.encoders.t5 import T5Text


class UMT5Text(T5Text):
    """`UMT5EncoderModel`, frozen: prompts are cleaned, padding is hidden from the encoder, and its features are zero.

    Wan attends to the zeros behind a prompt as to any other features, so the `window` (512 as published) is part of
    what the model was trained with. diffusers' pipeline also repairs broken characters if ftfy is installed; that is
    left out here, so that features depend on the prompt alone.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        tokenizer: str,
        vocabulary: int,
        window: int,
        pretrained: str | None = None,
        dtype: str = "float32",
    ) -> None:
        super().__init__(config, tokenizer, vocabulary, window, 1, False, pretrained, dtype)

    @staticmethod
    def classes() -> tuple[type, type]:
        """Return the classes of transformers for the configuration and the model."""
        from transformers import UMT5Config, UMT5EncoderModel

        return UMT5Config, UMT5EncoderModel

    def ids(self, prompts: list[str]) -> list[tuple[int, ...]]:
        """Clean the prompts and return `window` token ids for each, cut or padded; the first cut raises a warning."""
        return super().ids([cleaned(prompt) for prompt in prompts])

    def keywords(self, prompts: list[str], subjects: list[tuple[str, ...]]) -> Tensor:
        """Return (B, T) booleans, True for tokens of the cleaned prompts with a subject's words."""
        return super().keywords([cleaned(prompt) for prompt in prompts], subjects)

    def _features(self, prompts: list[str]) -> Tensor:
        """Encode the prompts; tokens behind a prompt's end token are padding, which is masked and set to zero."""
        ids_BW = torch.tensor(self.ids(prompts), device=self.model.device)
        place_W = torch.arange(1, self.window + 1, device=ids_BW.device)
        length_B1 = (place_W * (ids_BW != self.tokenizer.pad_token_id)).amax(dim=1, keepdim=True)
        valid_BW = place_W <= length_B1
        features_BWD = self.model(input_ids=ids_BW, attention_mask=valid_BW.long()).last_hidden_state
        return features_BWD * valid_BW[..., None].to(features_BWD.dtype)


def cleaned(prompt: str) -> str:
    """Clean a prompt as diffusers' WanPipeline does: resolve HTML entities twice, make whitespace single spaces."""
    return " ".join(html.unescape(html.unescape(prompt)).split())
