"""The word pieces of the family that draws scenes, learned from captions of training scenes and saved as a tokenizer.

python -m datamodules.scenes.words unigen/shipped/words

Byte-pair encoding of lower-case words. A published T5 reads pieces of words too; bytes, eight to a token wherever these
begin, have to be put together to words by the model first, which costs more samples than it learns from here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from string import printable
from typing import Any

from datamodules.emoji.names import caption as full_name
from datamodules.scenes.clips import SceneClips

VOCABULARY = 2048
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"  # T5's, with its ids 0, 1 and 2
CAPTIONS = 20_000


def captions(count: int = CAPTIONS) -> Iterator[str]:
    """The prompts of the first training clips, and the name of every training glyph."""
    data = SceneClips()
    data.prepare_data()
    dataset = data.dataset("train")
    yield from (dataset.prompt(dataset.plan(i), moving=True) for i in range(count))
    yield from (full_name(data.emoji.images.names[index]) for index in data.emoji.indices["train"])


def learned(texts: Iterable[str], vocabulary: int = VOCABULARY) -> Any:
    """A transformers tokenizer with pieces of these texts, which reads any printable ASCII."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    pieces = Tokenizer(models.BPE(unk_token=UNKNOWN))
    pieces.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    words = pre_tokenizers.Metaspace(prepend_scheme="first")
    pieces.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(",", "isolated"), words])
    pieces.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, UNKNOWN],
        initial_alphabet=sorted(set(printable.lower()) - set(" \t\n\r\x0b\x0c")),
        show_progress=False,
    )
    pieces.train_from_iterator(texts, trainer)
    end = (END, pieces.token_to_id(END))
    pieces.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[end])
    return PreTrainedTokenizerFast(tokenizer_object=pieces, pad_token=PAD, eos_token=END, unk_token=UNKNOWN)


def main(words: list[str]) -> int:
    if len(words) != 1 or Path(words[0]).exists():
        print(f"error: give one folder that is not there yet, not {' '.join(words) or 'nothing'}", file=sys.stderr)
        return 1
    learned(captions()).save_pretrained(words[0])
    print(f"tokenizer: {words[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
