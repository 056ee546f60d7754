"""The two text encoders of HunyuanVideo-1.5: Qwen2.5-VL reads a prompt, and ByT5 spells its words in quotation marks.

Shapes: B prompts, T text tokens that the backbone sees, G glyph tokens, D width.
"""

import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from unigen.core.memo import Memo
from unigen.encoders.qwen_text import QwenText
from unigen.encoders.t5 import UNSEEN, load_tokenizer
from unigen.weights.loading import load_pretrained, stored_type

GLYPH_MEMORY = 2**27  # bytes of glyph features kept for prompts that come back


class HunyuanText(QwenText):
    """`QwenText` and behind its tokens those of `glyphs`, a `GlyphText`, in one text segment.

    `glyph_tokens`, the number of the latter, is what the backbone must know too (`backbone.glyphs`). Their features are
    narrower than those of the words, and zeros fill the rest. A prompt without quotation marks has none that is valid.
    Raises ValueError for glyph features that are wider than those of the words.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        tokenizer: str,
        window: int,
        template: str,
        drop: int,
        glyphs: nn.Module,
        pretrained: str | None = None,
        dtype: str = "float32",
        layers: int | None = None,
    ) -> None:
        super().__init__(config, tokenizer, window, template, drop, pretrained, dtype, layers)
        if glyphs.width > self.width:
            raise ValueError(
                f"encoder.text.glyphs.config.d_model is {glyphs.width}; legal is at most {self.width}, the width of "
                "the words' features (encoder.text.config.hidden_size), beside which they lie"
            )
        self.glyphs = glyphs.to(stored_type(dtype, "encoder.text.dtype"))
        self.glyph_tokens = glyphs.window
        self.tokens = window + glyphs.window

    def encode(self, prompts: list[str]) -> Tensor:
        """Return features (B, T, D), those of glyphs behind those of words."""
        spelt_BGD = self.glyphs(prompts)
        return torch.cat([super().encode(prompts), pad(spelt_BGD, (0, self.width - spelt_BGD.shape[2]))], dim=1)

    def valid(self, prompts: list[str]) -> Tensor:
        """Return (B, T) booleans, False for padding behind words and behind glyphs."""
        return torch.cat([super().valid(prompts), self.glyphs.valid(prompts)], dim=1)

    def keywords(self, prompts: list[str], subjects: list[tuple[str, ...]]) -> Tensor:
        """Return (B, T) booleans, True for tokens of words with a subject's words; no glyph is marked."""
        return pad(super().keywords(prompts, subjects), (0, self.glyph_tokens))

    def ids(self, prompts: list[str]) -> list[tuple[int, ...]]:
        """Return the ids of each message and then those of its glyphs."""
        both = zip(super().ids(prompts), self.glyphs.ids(prompts), strict=True)
        return [(*words, *spelt) for words, spelt in both]

    @property
    def identity(self) -> Mapping[str, Any]:
        """The settings on which features depend, besides the weights and a prompt's ids."""
        return {**super().identity, "glyphs": self.glyphs.identity}


class GlyphText(nn.Module):
    """A frozen ByT5 that spells the words in quotation marks, straight or curly, of a prompt in `window` tokens.

    It reads them as diffusers' pipeline writes them: Text "word". Text "other". Each is written once. `config` are
    arguments of `T5Config`; `tokenizer` is a folder, a repository id or "byt5", which needs no files. The first prompt
    whose words are cut raises a warning.
    """

    folders = "text_encoder_2", "tokenizer_2"  # of a pipeline's folder: the weights and the tokenizer

    def __init__(self, config: Mapping[str, Any], tokenizer: str, window: int, pretrained: str | None = None) -> None:
        from transformers import T5Config, T5EncoderModel

        super().__init__()
        key = "encoder.text.glyphs.pretrained"
        load = load_pretrained(T5EncoderModel, pretrained, key, self.folders[0], config)
        self.model = (load or T5EncoderModel(T5Config(**config))).requires_grad_(False).eval()
        self.window, self.width, self.source = window, self.model.config.d_model, tokenizer
        self._known, self._cut_said = Memo(GLYPH_MEMORY), False

    def forward(self, prompts: list[str]) -> Tensor:
        """Return features (B, G, D), zeros for padding. Each distinct prompt is encoded once."""
        with torch.no_grad(), torch.autocast(self.model.device.type, enabled=False):
            spelt = self._known(prompts, lambda missing: self._spelt([prompts[i] for i in missing]))
        return spelt.to(self.model.device)

    def valid(self, prompts: list[str]) -> Tensor:
        """Return (B, G) booleans, False for padding; all of a prompt without such words is padding."""
        ids_BG = torch.tensor(self.ids(prompts), device=self.model.device)
        return ids_BG != self.tokenizer.pad_token_id

    def ids(self, prompts: list[str]) -> list[tuple[int, ...]]:
        """Return `window` ids for each prompt, cut or padded."""
        return [self._ids(prompt) for prompt in prompts]

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, which is loaded at the first use, so that building on the meta device needs no files."""
        return load_tokenizer(self.source, "encoder.text.glyphs.tokenizer", self.folders[1])

    @property
    def identity(self) -> Mapping[str, Any]:
        """The settings on which features depend, besides the weights and the ids."""
        return {name: getattr(self.model.config, name) for name in UNSEEN}

    def _ids(self, prompt: str) -> tuple[int, ...]:
        from diffusers.pipelines.hunyuan_video1_5.pipeline_hunyuan_video1_5 import extract_glyph_texts

        said = extract_glyph_texts(prompt)
        ids = [] if said is None else self.tokenizer(said)["input_ids"]
        if len(ids) > self.window:
            ids = [*ids[: self.window - 1], self.tokenizer.eos_token_id]
            if not self._cut_said:
                self._cut_said = True
                warnings.warn(
                    f"the words in quotation marks of {prompt!r} take more than encoder.text.glyphs.window "
                    f"({self.window}) tokens and are cut; others are cut without a warning",
                    stacklevel=2,
                )
        return (*ids, *[self.tokenizer.pad_token_id] * (self.window - len(ids)))

    def _spelt(self, prompts: list[str]) -> Tensor:
        """Encode the words of prompts that have some; a prompt without any would leave attention no key."""
        ids_BG = torch.tensor(self.ids(prompts), device=self.model.device)
        valid_BG = ids_BG != self.tokenizer.pad_token_id
        found_BGD = torch.zeros(*ids_BG.shape, self.width, dtype=self.model.dtype, device=ids_BG.device)
        some_B = valid_BG.any(dim=1)
        if some_B.any():
            made = self.model(input_ids=ids_BG[some_B], attention_mask=valid_BG[some_B].float()).last_hidden_state
            found_BGD[some_B] = made * valid_BG[some_B, :, None].to(made.dtype)
        return found_BGD
