"""A count of the training prompts in which UCE finds the subject's word, with the first prompts that lack it.

RealGeneral's UCE (section 3.2) takes the text tokens of a keyword. If the prompt does not have the word, it adds only
the task's bias. So a data set whose words and captions differ trains only half of the module, and nothing else tells.
"""

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any

from torch.utils.data import DataLoader

from unigen.encoders.keywords import spans
from unigen.pipeline.pipeline import Pipeline

COUNTED = 128  # training samples whose prompts are looked at
NAMED = 3  # misses that are named
LONGEST = 60  # letters of a prompt that are shown
FATE = "a miss gets the task's bias alone"
Said = tuple[str, tuple[str, ...]]  # a prompt, and the words for its subject


def uce_line(pipeline: Pipeline, loader: DataLoader) -> str:
    """Return a header line on the first COUNTED training samples; "" if the embedding looks no word up.

    No image is decoded. Raises ValueError or OSError if the text encoder's tokenizer cannot be had.
    """
    if not getattr(pipeline.embedding, "reads_subjects", False):
        return ""
    if not hasattr(loader.dataset, "said"):
        return f"UCE: not counted: {type(loader.dataset).__name__} cannot say its prompts without its images"
    items = islice(chain.from_iterable(loader.batch_sampler), COUNTED)
    return f"UCE: {counted(pipeline.text, [loader.dataset.said(item) for item in items])}"


def counted(text: Any, said: Sequence[Said]) -> str:
    """Say in how many of these prompts the text encoder finds the subject's word, and name the first misses."""
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
    """Return a line for sample.py if UCE does not find the subject in this prompt; "" if it does or needs none."""
    if not getattr(pipeline.embedding, "reads_subjects", False) or pipeline.text.keywords([prompt], [(subject,)]).any():
        return ""
    return f"UCE does not find subject={_miss((prompt, (subject,)))}: {FATE}"


def _miss(said: Said) -> str:
    """Return a miss in words, such as 'pot' in 'a pan on a table'."""
    prompt, subjects = said
    shown = prompt if len(prompt) <= LONGEST else f"{prompt[:LONGEST]}..."
    where = " (beyond the text encoder's window)" if spans(prompt, subjects) else ""
    return f"{_listed(subjects)} in {shown!r}{where}"


def _listed(subjects: Iterable[str]) -> str:
    return " and ".join(repr(word) for word in subjects)
