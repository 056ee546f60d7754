"""The three ways of sampling with own images: conditions, a visual prompt of rows, and a sheet of held-out samples."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unigen.config.arguments import one_of, parse

KEYS = ("run", "prompt", "out", "subject", "task", "seed", "steps", "guidance", "negative")
OWN = {
    "condition": ("prepared",),
    "rows": ("columns", "instruction", "upsample", "strength"),
    "sheet": ("tasks", "items", "examples"),
}  # the keys that go with one of them alone
EMPTY = ("prompt", "subject", "instruction", "negative")


def sampled(words: Sequence[str], **means: Callable[..., Any]) -> dict[str, Path]:
    """Generate and write the images; return each path by what its file holds. `words` are those of sample.py.

    `means` are `load` and `say` of `unigen.inference.sampling.sample_user_image`, for a program that keeps its models
    loaded. Raises ValueError, one sentence, for a bad line.
    """
    given = parse(words, legal=(*KEYS, *OWN, *sum(OWN.values(), ())), required=("run",), empty=EMPTY)
    alone = any(key in given for key in (*OWN, *sum(OWN.values(), ())))
    which = one_of(given, OWN) if alone else "condition"
    if which == "sheet":
        from unigen.inference.sheet import sample_sheet

        return sample_sheet(given)
    if which == "rows":
        from datamodules.graph.visual_prompt import instructed, visual_prompt
        from unigen.inference.visual_prompt import sample_visual_prompt

        return sample_visual_prompt(given, visual_prompt, instructed, **means)
    from unigen.inference.sampling import sample_user_image

    return sample_user_image(given, **means)
