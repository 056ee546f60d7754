"""Mistral Small 3, the language model whose hidden states FLUX.2-dev reads prompts with.

Shapes as in `unigen.encoders.qwen3`.
"""

from typing import Any

from torch import nn

from unigen.encoders.qwen3 import UNSEEN, Qwen3Text

PLACE = "[IMG]"  # of an image in a message; in a prompt it is left out, as diffusers does


class LanguageModel:
    """The language model of a stored Mistral Small 3. Its vision tower and its head are not kept."""

    def __new__(cls, config: Any) -> nn.Module:
        from transformers import MistralModel

        return MistralModel(config)

    @staticmethod
    def from_pretrained(folder: Any) -> nn.Module:
        from transformers import Mistral3ForConditionalGeneration

        return Mistral3ForConditionalGeneration.from_pretrained(folder).model.language_model


class MistralText(Qwen3Text):
    """`MistralModel`, frozen, as `Qwen3Text` is but for the message: the system's words and then the user's, of which
    the features are the hidden states behind `layers` (10, 20 and 30 as published), and no answer begins behind it.
    The system's words are those of diffusers' Flux2Pipeline.
    """

    unseen = (*UNSEEN, "sliding_window")

    @staticmethod
    def classes() -> tuple[type, type]:
        """Return the classes of transformers for the configuration and the model."""
        from transformers import MistralConfig

        return MistralConfig, LanguageModel

    def _chat(self, prompt: str) -> str:
        """Return the prompt in the chat template, as diffusers' Flux2Pipeline calls it."""
        from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

        said = {"system": SYSTEM_MESSAGE, "user": prompt.replace(PLACE, "")}
        messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said.items()]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
