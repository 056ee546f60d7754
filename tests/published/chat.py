"""A small tokenizer of Qwen's kind, byte by byte with two merges, and a chat template that lays out a user's message as
Qwen3's does."""

from pathlib import Path
from typing import Any

from published.tokenizers import LETTERS

TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")


def words() -> list[str]:
    """The vocabulary: every byte, two merges, and the special tokens behind them."""
    letters = [chr(code) for code in LETTERS] + [chr(256 + i) for i in range(256 - len(LETTERS))]
    return [*letters, "th", "the", *SPECIAL]


def tokenizer() -> Any:
    from transformers import Qwen2Tokenizer

    plain = {word: i for i, word in enumerate(words()) if word not in SPECIAL}
    made = Qwen2Tokenizer(vocab=plain, merges=[("t", "h"), ("th", "e")], eos_token="<|im_end|>")
    made.add_tokens(list(SPECIAL), special_tokens=True)
    made.chat_template = TEMPLATE
    return made


def qwen(folder: Path) -> None:
    tokenizer().save_pretrained(folder)
