"""Whether UCE finds what it looks up: in how many prompts of the training data the subject's word is, and which miss.

RealGeneral's UCE (section 3.2) takes the text tokens of a keyword. Where the prompt does not say the word, it adds the
task's bias alone; so a data set whose words and captions differ trains without half of the module, and says nothing.
"""

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any

from torch.utils.data import DataLoader

from unigen.encoders.keywords import spans
from unigen.pipeline import Pipeline

COUNTED = 128  # training samples whose prompts are looked at
NAMED = 3  # misses that are named
LONGEST = 60  # letters of a prompt that are shown
FATE = "a miss gets the task's bias alone"
Said = tuple[str, tuple[str, ...]]  # a prompt, and the words for its subject


def uce_line(pipeline: Pipeline, loader: DataLoader) -> str:
    """What a header says of the first COUNTED training samples; "" where the embedding looks nothing up.

    No image is decoded. Raises ValueError or OSError if the text encoder's tokenizer cannot be had.
    """
    if not getattr(pipeline.embedding, "reads_subjects", False):
        return ""
    if not hasattr(loader.dataset, "said"):
        return f"UCE: not counted: {type(loader.dataset).__name__} cannot say its prompts without its images"
    items = islice(chain.from_iterable(loader.batch_sampler), COUNTED)
    return f"UCE: {counted(pipeline.text, [loader.dataset.said(item) for item in items])}"


def counted(text: Any, said: Sequence[Said]) -> str:
    """In how many of these prompts the text encoder finds the subject's word, and the first misses, in a sentence."""
    named = [(prompt, subjects) for prompt, subjects in said if any(subjects)]
    without = len(said) - len(named)
    if not named:
        return f"none of the first {len(said)} training samples names a subject; {FATE}"
    marked = text.keywords([prompt for prompt, _ in named], [subjects for _, subjects in named]).any(1).tolist()
    missed = [pair for pair, hit in zip(named, marked, strict=True) if not hit]
    line = f"the subject's word is in {len(named) - len(missed)} of {len(named)} prompts"
    line += f" (the first {len(said)} training samples" + (f"; {without} name no subject)" if without else ")")
    return f"{line}; {FATE}; first misses: {', '.join(map(_miss, missed[:NAMED]))}" if missed else line


def miss_line(pipeline: Pipeline, prompt: str, subject: str) -> str:
    """What sample.py says if this prompt does not show UCE the subject's word; "" if it does, or is not asked to."""
    if not getattr(pipeline.embedding, "reads_subjects", False) or pipeline.text.keywords([prompt], [(subject,)]).any():
        return ""
    return f"UCE does not find subject={_miss((prompt, (subject,)))}: {FATE}"


def _miss(said: Said) -> str:
    """'pot' in 'a pan on a table'."""
    prompt, subjects = said
    shown = prompt if len(prompt) <= LONGEST else f"{prompt[:LONGEST]}..."
    where = " (beyond the text encoder's window)" if spans(prompt, subjects) else ""
    return f"{_listed(subjects)} in {shown!r}{where}"


def _listed(subjects: Iterable[str]) -> str:
    return " and ".join(repr(word) for word in subjects)
