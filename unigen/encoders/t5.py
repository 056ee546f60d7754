"""A T5 encoder for prompts, with the spans of keywords that UCE asks for.

Shapes: B prompts, W window in tokenizer tokens, T text tokens after pooling, D width.
"""

import warnings
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from unigen.core.memo import Memo
from unigen.encoders.keywords import spans
from unigen.weights.loading import in_type, load_pretrained, stored_type

FEATURE_MEMORY = 2**29  # bytes of a frozen encoder's features kept for prompts that come back
# Settings on which T5's features depend and which the shapes of its weights do not show.
UNSEEN = (
    "d_kv",
    "num_heads",
    "feed_forward_proj",
    "layer_norm_epsilon",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
)


class T5Text(nn.Module):
    """`T5EncoderModel`: a prompt is padded or cut to `window` tokens, and `pool` neighbours enter the encoder as one.

    As in CogVideoX, padding is encoded and attended to like any token; with `mask_padding` the backbone does not attend
    to it.
    `tokenizer` is a folder, a repository id or "byt5", which reads bytes and needs no files. `pool` shortens byte
    sequences for small models (published models have 1): neighbours are summed, each embedded by its byte and by its
    place among them, which is a strided convolution over bytes and keeps their order.
    If `trained`, the encoder learns with the backbone. A prompt longer than the window is cut; the first one that is
    cut is named in a warning. A frozen encoder's weights are held and used in `dtype`: "float32", or "bfloat16", which
    takes half the memory and rounds the features.
    Raises ValueError for a window that `pool` does not divide, for another `dtype`, and for a trained encoder in
    bfloat16.
    """

    folders = "text_encoder", "tokenizer"  # of a pipeline's folder: the weights and the tokenizer

    def __init__(
        self,
        config: Mapping[str, Any],
        tokenizer: str,
        vocabulary: int,
        window: int,
        pool: int,
        trained: bool,
        pretrained: str | None = None,
        dtype: str = "float32",
        mask_padding: bool = False,
    ) -> None:
        super().__init__()
        self.mask_padding = mask_padding
        config_class, model_class = self.classes()
        if window % pool:
            raise ValueError(f"encoder.text.window is {window}; it must be a multiple of encoder.text.pool ({pool})")
        stored = stored_type(dtype, "encoder.text.dtype")
        if trained and stored != torch.float32:
            raise ValueError(f"encoder.text.dtype is {dtype}, but encoder.text.trained is true: legal is float32")
        load = load_pretrained(model_class, pretrained, "encoder.text.pretrained", self.folders[0], config, stored)
        if load and load.config.vocab_size != vocabulary * pool:
            raise ValueError(
                f"encoder.text.vocabulary is {vocabulary}, but the weights of '{pretrained}' have "
                f"{load.config.vocab_size // pool}"
            )
        self.model = load or in_type(model_class(config_class(**config, vocab_size=vocabulary * pool)), stored)
        self.vocabulary = vocabulary
        self.model.requires_grad_(trained).train(trained)
        self.window, self.pool, self.trained = window, pool, trained
        self.tokens, self.width = window // pool, self.model.config.hidden_size
        self.source = tokenizer
        self._known, self._cut_said = Memo(FEATURE_MEMORY), False

    @staticmethod
    def classes() -> tuple[type, type]:
        """Return the classes of transformers for the configuration and the model."""
        from transformers import T5Config, T5EncoderModel

        return T5Config, T5EncoderModel

    def encode(self, prompts: list[str]) -> Tensor:
        """Return features (B, T, D). A frozen encoder encodes each distinct prompt once, in its weights' precision."""
        if self.trained:
            return self._features(prompts)
        with torch.no_grad(), torch.autocast(self.model.device.type, enabled=False):
            features = self._known(prompts, lambda missing: self._features([prompts[i] for i in missing]))
        return features.to(self.model.device)

    def valid(self, prompts: list[str]) -> Tensor | None:
        """Return (B, T) booleans, False for tokens of padding alone; None if padding is attended to like any token."""
        if not self.mask_padding:
            return None
        ids_BW = torch.tensor(self.ids(prompts), device=self.model.device)
        return (ids_BW != self.tokenizer.pad_token_id).unflatten(1, (self.tokens, self.pool)).any(2)

    @property
    def pooled_width(self) -> int:
        return self.width

    def pooled(self, prompts: list[str]) -> Tensor:
        """Return (B, D), the mean of each prompt's features over its T tokens, for small models without CLIP."""
        return self.encode(prompts).mean(dim=1)

    def _features(self, prompts: list[str]) -> Tensor:
        ids_BW = torch.tensor(self.ids(prompts), device=self.model.device)
        if self.pool == 1:
            return self.model(input_ids=ids_BW).last_hidden_state
        place_W = torch.arange(self.window, device=ids_BW.device) % self.pool
        x_BWD = self.model.get_input_embeddings()(ids_BW + self.vocabulary * place_W)
        x_BTD = x_BWD.unflatten(1, (self.tokens, self.pool)).sum(2) * self.pool**-0.5
        return self.model(inputs_embeds=x_BTD).last_hidden_state

    def keywords(self, prompts: list[str], subjects: list[tuple[str, ...]]) -> Tensor:
        """Return (B, T) booleans, True for tokens with a subject's words (see `unigen.encoders.keywords`)."""
        hits = torch.zeros(len(prompts), self.window, dtype=torch.bool)
        for row, (prompt, words) in enumerate(zip(prompts, subjects, strict=True)):
            found = spans(prompt, words)
            for token, (a, b) in enumerate(self._offsets(prompt)[: self.window - 1] if found else ()):
                hits[row, token] = any(a < stop and b > start for start, stop in found)  # the last one is the end token
        return hits.unflatten(1, (self.tokens, self.pool)).any(2)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, which is loaded at the first use, so that building on the meta device needs no files."""
        return load_tokenizer(self.source, "encoder.text.tokenizer", self.folders[1])

    @property
    def identity(self) -> Mapping[str, Any]:
        """The settings on which features depend, besides the weights and a prompt's ids."""
        return {"pool": self.pool, **{name: getattr(self.model.config, name) for name in UNSEEN}}

    def ids(self, prompts: list[str]) -> list[tuple[int, ...]]:
        """Return `window` token ids for each prompt, cut or padded; the first prompt that is cut raises a warning."""
        found = [self._ids(prompt) for prompt in prompts]
        for ids, length in found:
            if length > self.window and not self._cut_said:
                self._cut_said = True
                warnings.warn(
                    f"the prompt has {length} tokens and encoder.text.window is {self.window}, so it is cut after "
                    f"{self.tokenizer.decode(ids[:-1])!r}; other prompts are cut without a warning",
                    stacklevel=2,
                )
        if (most := max((max(ids) for ids, _ in found), default=0)) >= self.vocabulary:
            raise ValueError(f"encoder.text.vocabulary is {self.vocabulary}, and the tokenizer has ids up to {most}")
        return [ids for ids, _ in found]

    def _ids(self, prompt: str) -> tuple[tuple[int, ...], int]:
        """Return a prompt's ids, cut or padded to the window, and the number of its ids before that."""
        return _cached_ids(self.tokenizer, self.window, prompt)

    def _offsets(self, prompt: str) -> list[tuple[int, int]]:
        """Return each token's span (first, last + 1) in characters of the prompt."""
        if self.source != "byt5":
            return self.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
        return [(i, i + 1) for i, letter in enumerate(prompt) for _ in letter.encode()]


def load_tokenizer(source: str, key: str, folder: str) -> Any:
    """Return ByT5's tokenizer of bytes, which needs no files, for "byt5", else that of a folder or repository id.

    If `source` is a whole pipeline, its part `folder` is read. Raises ValueError naming the config key `key` if there
    is no tokenizer.
    """
    from transformers import AutoTokenizer, ByT5Tokenizer

    return ByT5Tokenizer() if source == "byt5" else load_pretrained(AutoTokenizer, source, key, folder)


@lru_cache(maxsize=65536)
def _cached_ids(tokenizer: Any, window: int, prompt: str) -> tuple[tuple[int, ...], int]:
    """Return a prompt's ids, cut or padded to the window, and the number of its ids before that."""
    ids = tokenizer(prompt)["input_ids"]
    length = len(ids)
    if length > window:
        ids = [*ids[: window - 1], tokenizer.eos_token_id]
    return tuple(ids + [tokenizer.pad_token_id] * (window - len(ids))), length
