"""Qwen3, the language model whose hidden states FLUX.2-klein reads prompts with.

Shapes: B prompts, W window in tokenizer tokens, D width: those of several hidden states side by side.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from unigen.encoders.t5 import T5Text

# Settings on which features depend and which the shapes of the weights do not show.
UNSEEN = ("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "rope_parameters")


class Qwen3Text(T5Text):
    """`Qwen3Model`, frozen: a prompt is a user's message in the tokenizer's chat template, behind which an answer is to
    begin without thinking, cut or padded to `window` tokens (512 as published), on the side that the tokenizer pads.

    The features of a token are the hidden states behind each of `layers` (9, 18 and 27 as published), side by side.
    Layers above the last of them are dropped after loading. Padding is hidden from the language model and attended to
    by the backbone, so the window is part of what that was trained with. The template counts towards the window. A
    prompt that is too long is cut, and with it the end of the template, as diffusers' pipeline does.
    Raises ValueError for `layers` that the model does not have.
    """

    unseen = UNSEEN

    def __init__(
        self,
        config: Mapping[str, Any],
        tokenizer: str,
        vocabulary: int,
        window: int,
        layers: Sequence[int],
        pretrained: str | None = None,
        dtype: str = "float32",
    ) -> None:
        most = config["num_hidden_layers"]
        if not layers or any(isinstance(n, bool) or not isinstance(n, int) or not 0 < n < most for n in layers):
            raise ValueError(
                f"encoder.text.layers is {list(layers)}; legal are whole numbers from 1 to {most - 1}, since "
                f"encoder.text.config.num_hidden_layers is {most} and the last one's output is normalised"
            )
        super().__init__(config, tokenizer, vocabulary, window, 1, False, pretrained, dtype)
        self.layers = tuple(layers)
        self.width = len(layers) * self.model.config.hidden_size
        self.model.layers = self.model.layers[: max(layers)]
        self.model.norm = nn.Identity()  # it would normalise the last of the hidden states

    @staticmethod
    def classes() -> tuple[type, type]:
        """Return the classes of transformers for the configuration and the model."""
        from transformers import Qwen3Config, Qwen3Model

        return Qwen3Config, Qwen3Model

    @property
    def identity(self) -> Mapping[str, Any]:
        """The settings on which features depend, besides the weights and a prompt's ids."""
        return {"layers": list(self.layers), **{name: getattr(self.model.config, name) for name in self.unseen}}

    def _features(self, prompts: list[str]) -> Tensor:
        """Encode the prompts; the padding beside each of them is hidden from the other tokens."""
        found = [self._ids(prompt) for prompt in prompts]
        ids_BW = torch.tensor(self.ids(prompts), device=self.model.device)
        length_B = torch.tensor([length for _, length in found], device=ids_BW.device)
        place_W = torch.arange(self.window, device=ids_BW.device)
        valid_BW = (place_W.flip(0) if self._pads_left() else place_W) < length_B[:, None]
        states = self.model(
            input_ids=ids_BW, attention_mask=valid_BW.long(), output_hidden_states=True, use_cache=False
        ).hidden_states
        return torch.cat([states[n] for n in self.layers], dim=-1)

    def _chat(self, prompt: str) -> str:
        """Return the prompt in the chat template, as diffusers' Flux2KleinPipeline calls it."""
        message = {"role": "user", "content": prompt}
        how = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        return self.tokenizer.apply_chat_template([message], **how)

    def _pads_left(self) -> bool:
        return self.tokenizer.padding_side == "left"

    def _ids(self, prompt: str) -> tuple[tuple[int, ...], int]:
        return _chat_ids(self.tokenizer, self.window, self._chat(prompt))

    def _offsets(self, prompt: str) -> list[tuple[int, int]]:
        """Return each token's span (first, last + 1) in characters of the prompt; the template lies outside of it."""
        before = self._chat("\0").index("\0")
        how = {"return_offsets_mapping": True, "add_special_tokens": False}
        offsets = self.tokenizer(self._chat(prompt), **how)["offset_mapping"]
        padding = [(-1, -1)] * (self.window - len(offsets)) if self._pads_left() else []
        return padding + [(first - before, last - before) for first, last in offsets]


@lru_cache(maxsize=65536)
def _chat_ids(tokenizer: Any, window: int, message: str) -> tuple[tuple[int, ...], int]:
    """Return the ids of a message in its template, cut or padded to the window, and the number of them before that."""
    ids = tokenizer(message, add_special_tokens=False)["input_ids"]
    length, padding = len(ids), [tokenizer.pad_token_id] * (window - len(ids))
    return tuple(padding + ids if tokenizer.padding_side == "left" else ids + padding)[:window], length
