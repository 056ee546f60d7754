"""Qwen2.5-VL, the language model whose hidden states are the text of Qwen-Image and of HunyuanVideo-1.5.

Shapes: B prompts, L tokens of a whole message, T text tokens that the backbone sees, D width.
"""

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from unigen.core.memo import Memo
from unigen.encoders.keywords import spans
from unigen.encoders.t5 import FEATURE_MEMORY, load_tokenizer
from unigen.weights.loading import in_type, load_pretrained, stored_type

PLACE = "{}"  # of the prompt in the template
# Settings on which features depend and which the shapes of the weights do not show.
UNSEEN = ("num_attention_heads", "num_key_value_heads", "rms_norm_eps")


class LanguageModel:
    """The language model of a stored Qwen2.5-VL. Its vision tower and its head are not kept: prompts alone are read."""

    @staticmethod
    def from_pretrained(folder: Any) -> nn.Module:
        """Load it from a folder that has all parts, or from one that has the language model alone."""
        from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLTextModel

        if AutoConfig.from_pretrained(folder).model_type == Qwen2_5_VLTextModel.config_class.model_type:
            return Qwen2_5_VLTextModel.from_pretrained(folder)
        return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).model.language_model


class QwenText(nn.Module):
    """A prompt in the `template` of a chat message, encoded by a frozen Qwen2.5-VL without images.

    The features of the first `drop` tokens, which are the template's in front of the prompt, are left out; `window`
    tokens after those are kept, with zeros behind a shorter message, which the backbone does not attend to (`valid`).
    `layers` is the number of the model's layers whose output the features are, which is not normed then; null: those
    behind all layers and the last norm. Layers above are not kept.
    The model is causal, so the features of a prompt depend neither on padding nor on what is cut off behind it.
    `config` are arguments of `Qwen2_5_VLTextConfig`; `tokenizer` is a folder, a repository id or "byt5", which reads
    bytes and needs no files. Weights are held and used in `dtype`, "float32" or "bfloat16". The first message that is
    cut is named in a warning.
    Raises ValueError for a template that does not have one place for a prompt, for more layers than the model has, and
    for another `dtype`.
    """

    folders = "text_encoder", "tokenizer"  # of a pipeline's folder: the weights and the tokenizer
    trained = False
    pooled_width = None

    def __init__(
        self,
        config: Mapping[str, Any],
        tokenizer: str,
        window: int,
        template: str,
        drop: int,
        pretrained: str | None = None,
        dtype: str = "float32",
        layers: int | None = None,
    ) -> None:
        super().__init__()
        if layers is not None and layers > config["num_hidden_layers"]:
            raise ValueError(
                f"encoder.text.layers is {layers}; legal are null and 1 to num_hidden_layers "
                f"({config['num_hidden_layers']})"
            )
        if template.count(PLACE) != 1:
            raise ValueError(
                f"encoder.text.template has {template.count(PLACE)} places {PLACE!r} for a prompt; legal is 1"
            )
        stored = stored_type(dtype, "encoder.text.dtype")
        self.model = self._model(config, pretrained, stored).requires_grad_(False).eval()
        if layers is not None:
            self.language.layers, self.language.norm = self.language.layers[:layers], nn.Identity()
        self.window = self.tokens = window
        self.drop, self.template, self.layers = drop, template, layers
        self.width, self.source = self.language.config.hidden_size, tokenizer
        self._known, self._cut_said = Memo(FEATURE_MEMORY), False

    def _model(self, config: Mapping[str, Any], pretrained: str | None, dtype: torch.dtype) -> nn.Module:
        """Return what encodes: stored weights, or random ones."""
        load = load_pretrained(LanguageModel, pretrained, "encoder.text.pretrained", self.folders[0], config, dtype)
        return load or in_type(_made(config), dtype)

    @property
    def language(self) -> nn.Module:
        """The language model."""
        return self.model

    def encode(self, prompts: list[str]) -> Tensor:
        """Return features (B, T, D). Each distinct prompt is encoded once, in the weights' precision."""
        with torch.no_grad(), torch.autocast(self.model.device.type, enabled=False):
            features = self._known(prompts, lambda missing: self._features([prompts[i] for i in missing]))
        return features.to(self.model.device)

    def valid(self, prompts: list[str]) -> Tensor:
        """Return (B, T) booleans, False behind the end of a message."""
        return self._valid(torch.tensor(self._cut_ids(prompts), device=self.model.device))[:, self.drop :]

    def pooled(self, prompts: list[str]) -> None:
        """Return None: the backbone takes no prompt as one vector."""

    def keywords(self, prompts: list[str], subjects: list[tuple[str, ...]]) -> Tensor:
        """Return (B, T) booleans, True for tokens with a subject's words (see `unigen.encoders.keywords`)."""
        hits = torch.zeros(len(prompts), self.window, dtype=torch.bool)
        for row, (prompt, words) in enumerate(zip(prompts, subjects, strict=True)):
            before, said = self._place(prompt)
            found = [(start + before, stop + before) for start, stop in spans(said, words)]
            said = self._offsets(prompt)[self.drop : self.drop + self.window] if found else ()
            for token, (a, b) in enumerate(said):
                hits[row, token] = any(a < stop and b > start for start, stop in found)
        return hits

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, which is loaded at the first use, so that building on the meta device needs no files."""
        return load_tokenizer(self.source, "encoder.text.tokenizer", self.folders[1])

    @property
    def identity(self) -> Mapping[str, Any]:
        """The settings on which features depend, besides the weights and a message's ids."""
        config = self.language.config
        theta = config.rope_parameters["rope_theta"]
        return {
            "drop": self.drop,
            "layers": self.layers,
            "rope_theta": theta,
            **{name: getattr(config, name) for name in UNSEEN},
        }

    def ids(self, prompts: list[str]) -> list[tuple[int, ...]]:
        """Return the ids of each message, cut or padded to drop + window; the first one that is cut raises a warning.

        Raises ValueError for ids that the model does not have.
        """
        return self._cut_ids(prompts)

    def _cut_ids(self, prompts: list[str]) -> list[tuple[int, ...]]:
        """See `ids`, to which a subclass may add those of another tokenizer."""
        size, found = self.drop + self.window, []
        for prompt in prompts:
            ids = self._message_ids(prompt)
            if len(ids) > size and not self._cut_said:
                self._cut_said = True
                warnings.warn(
                    f"the prompt has {len(ids) - self.drop} tokens with the end of its template and "
                    f"encoder.text.window is {self.window}, so it is cut after {self.tokenizer.decode(ids[:size])!r}; "
                    "other prompts are cut without a warning",
                    stacklevel=2,
                )
            found.append((*ids[:size], *[self.tokenizer.pad_token_id] * (size - len(ids))))
        if (most := max((max(ids) for ids in found), default=0)) >= self.language.config.vocab_size:
            held = self.language.config.vocab_size
            raise ValueError(f"encoder.text.config.vocab_size is {held}, and the tokenizer has ids up to {most}")
        return found

    def _message(self, prompt: str) -> str:
        return self.template.replace(PLACE, prompt)

    def _message_ids(self, prompt: str) -> Sequence[int]:
        """Return the ids of the whole message."""
        return _cached_ids(self.tokenizer, self._message(prompt))

    def _place(self, prompt: str) -> tuple[int, str]:
        """Return how many characters of the message stand before the prompt's words, and those words."""
        return self.template.index(PLACE), prompt

    def _valid(self, ids_BL: Tensor) -> Tensor:
        """Return (B, L) booleans, True up to the last token that is not padding."""
        place_L = torch.arange(1, ids_BL.shape[1] + 1, device=ids_BL.device)
        return place_L <= (place_L * (ids_BL != self.tokenizer.pad_token_id)).amax(dim=1, keepdim=True)

    def _features(self, prompts: list[str]) -> Tensor:
        """Encode messages no longer than the longest of them; what is behind each is zero."""
        ids_BL = torch.tensor(self._cut_ids(prompts), device=self.model.device)
        valid_BL = self._valid(ids_BL)
        used = max(int(valid_BL.sum(1).max()), self.drop)
        made = self._states(ids_BL[:, :used], valid_BL[:, :used].long(), prompts)
        kept = (made * valid_BL[:, :used, None].to(made.dtype))[:, self.drop :]
        return nn.functional.pad(kept, (0, 0, 0, self.window - kept.shape[1]))

    def _states(self, ids_BL: Tensor, mask_BL: Tensor, prompts: list[str]) -> Tensor:
        """Return the last hidden states (B, L, D) of messages, whose prompts are given too."""
        return self.model(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state

    def _offsets(self, prompt: str) -> list[tuple[int, int]]:
        """Return the span (first, last + 1) of each token of the message in its characters."""
        message = self._message(prompt)
        if self.source != "byt5":
            return self.tokenizer(message, return_offsets_mapping=True)["offset_mapping"]
        return [(i, i + 1) for i, letter in enumerate(message) for _ in letter.encode()]


@lru_cache(maxsize=65536)
def _cached_ids(tokenizer: Any, message: str) -> tuple[int, ...]:
    return tuple(tokenizer(message).input_ids)


def _made(config: Mapping[str, Any]) -> nn.Module:
    """Return a language model with random weights. For text all three of its position axes say the same, so how they
    share a head's angles is of no importance, and one of them has all."""
    from transformers import Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel

    angles = config["hidden_size"] // config["num_attention_heads"] // 2
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [angles]}
    return Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**config, rope_parameters=rope))
