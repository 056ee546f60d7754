"""Tokenizer folders as published: T5's `spiece.model`, with or without `tokenizer.json`; CLIP's words and merges."""

import json
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from datamodules.emoji.cache import glyphs
from datamodules.emoji.names import caption

PIECES = 400  # of the sentencepiece model; T5's has 32,000
EXTRA = 100  # sentinels behind them, as T5's
LETTERS = (  # CLIP's order of bytes: printable ones first
    [*range(33, 127), *range(161, 173), *range(174, 256)]
)


@cache
def sentencepiece_model() -> bytes:
    """A Unigram model trained on the bundled captions: padding 0, end 1, unknown 2, no start, as T5's."""
    from sentencepiece import SentencePieceTrainer

    model = BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([f"{caption(glyph)}." for glyph in glyphs(1000)]),
        model_writer=model,
        model_type="unigram",
        vocab_size=PIECES,
        normalization_rule_name="nmt_nfkc",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2))


def t5(folder: Path, longest: int, whole: bool) -> None:
    """`whole` also holds the tokenizer.json that FLUX.1 has and CogVideoX1.5 has not."""
    folder.mkdir(parents=True)
    (folder / "spiece.model").write_bytes(sentencepiece_model())
    sentinels = [f"<extra_id_{i}>" for i in range(EXTRA)]
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    first = {str(i): {"content": token, **flags, "special": True} for i, token in enumerate(("<pad>", "</s>", "<unk>"))}
    last = {
        str(PIECES + EXTRA - 1 - i): {"content": token, **flags, "special": True} for i, token in enumerate(sentinels)
    }
    objects = {name: {"content": token, **flags} for name, token in special.items()}
    write(folder / "special_tokens_map.json", {"additional_special_tokens": sentinels, **objects})
    write(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": True,
            "added_tokens_decoder": first | last,
            "additional_special_tokens": sentinels,
            "clean_up_tokenization_spaces": True,
            "extra_ids": EXTRA,
            "legacy": True,
            "model_max_length": longest,
            "sp_model_kwargs": {},
            "tokenizer_class": "T5Tokenizer",
            **special,
        },
    )
    if whole:
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))
    else:
        write(folder / "added_tokens.json", {token: PIECES + EXTRA - 1 - i for i, token in enumerate(sentinels)})


def clip_words() -> list[str]:
    """CLIP's vocabulary with two merges: every byte, every byte at a word's end, the merges, both ends."""
    letters = [chr(code) for code in LETTERS] + [chr(256 + i) for i in range(256 - len(LETTERS))]
    return [*letters, *(f"{c}</w>" for c in letters), "th", "the</w>", "<|startoftext|>", "<|endoftext|>"]


def clip(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    start, end = ({"content": f"<|{word}oftext|>", **flags} for word in ("start", "end"))
    write(folder / "vocab.json", {word: i for i, word in enumerate(clip_words())})
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e</w>\n")
    write(
        folder / "special_tokens_map.json",
        {"bos_token": start, "eos_token": end, "pad_token": "<|endoftext|>", "unk_token": end},
    )
    write(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "bos_token": "<|startoftext|>",
            "clean_up_tokenization_spaces": True,
            "do_lower_case": True,
            "eos_token": "<|endoftext|>",
            "errors": "replace",
            "model_max_length": 77,
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "CLIPTokenizer",
            "unk_token": "<|endoftext|>",
        },
    )


def qwen_words() -> list[str]:
    """Qwen's vocabulary without merges: every byte, and the tokens that begin and end a message and a text."""
    letters = [chr(code) for code in LETTERS] + [chr(256 + i) for i in range(256 - len(LETTERS))]
    return [*letters, "<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def qwen(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    words = qwen_words()
    write(folder / "vocab.json", {word: i for i, word in enumerate(words[:-3])})
    (folder / "merges.txt").write_text("#version: 0.2\n")
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {str(i): {"content": word, **flags} for i, word in enumerate(words) if i >= len(words) - 3}
    write(folder / "added_tokens.json", {word: i for i, word in enumerate(words) if i >= len(words) - 3})
    write(folder / "special_tokens_map.json", {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
    write(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "added_tokens_decoder": added,
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 131072,
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )
