"""How the in-context examples of a test query are chosen: at random, as like the query as can be found, or unlike it.

VisualCloze draws them at random and names their choice as its limit (section 5). The judge of the mini family says how
alike two conditions are. Shapes: N images, D width of an embedding, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

RANDOM, NEAREST, FARTHEST, FIXED = CHOICES = ("random", "nearest", "farthest", "fixed")
CANDIDATES = 16  # examples that are drawn for each place, of which the nearest or farthest is taken
JUDGE = "shipped:judge"


def check_choice(choice: str) -> str:
    """Return the word itself. Raises ValueError for one that is none of CHOICES."""
    if choice not in CHOICES:
        raise ValueError(f"test_examples is {choice!r}; legal are {', '.join(CHOICES)}")
    return choice


Images = Sequence[np.ndarray]  # uint8 (3, H, W) each


def alike(query: Images, candidates: Sequence[Images], judge: Callable[[torch.Tensor], torch.Tensor]) -> list[float]:
    """Return how alike each candidate's conditions are to the query's: the mean cosine over the conditions.

    `judge` embeds (N, 3, H, W) as unit vectors (N, D).
    """
    with torch.inference_mode():
        images = torch.from_numpy(np.stack([image for row in (query, *candidates) for image in row]))
        embedded = judge(images).unflatten(0, (1 + len(candidates), len(query)))
        return (embedded[1:] * embedded[:1]).sum(-1).mean(-1).tolist()


def shipped_judge() -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function by which the mini family's judge embeds images."""
    from unigen.metrics.judge import load_judge

    return load_judge(JUDGE, "data.test_examples").view_embed
