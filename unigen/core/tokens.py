"""The features of one step, by segment. `Tokens` exist inside a step and are never part of a batch."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unigen.core.layout import Layout


@dataclass(frozen=True)
class Tokens:
    """Features (B, L_segment, width) by segment name, in the space that the backbone's embedders take.

    Text segments hold text embeddings, visual segments patchified latents. `valid` marks real tokens,
    (B, L_segment) booleans by segment name, if a backbone masks padding; None: all are real.
    `pooled` is the prompt as one vector, (B, pooled_width), for a backbone that has a `pooled_width`.
    `context` is what a backbone with a `context_width` reads beside the visual features, (B, L_segment,
    context_width) by segment name; it is never noised.
    `sampling` is True in a solver's step and False in training and validation; guidance-distilled backbones differ.
    """

    layout: Layout
    features: dict[str, Tensor]
    valid: dict[str, Tensor] | None = None
    pooled: Tensor | None = None
    context: dict[str, Tensor] | None = None
    sampling: bool = False

    def only(self, layout: Layout) -> "Tokens":
        """Return the tokens of a smaller or reordered layout."""
        context = self.context and {n: self.context[n] for n in layout.names if n in self.context}
        return replace(self, layout=layout, features={n: self.features[n] for n in layout.names}, context=context)

    def updated(self, features: dict[str, Tensor]) -> "Tokens":
        """Return the same tokens with other features for some segments."""
        return replace(self, features=self.features | features)

    def beside(self, other: "Tokens") -> "Tokens":
        """Return these samples and then those of `other`, which has the same layout, along the batch."""
        pooled = None if self.pooled is None else torch.cat([self.pooled, other.pooled])
        parts = {part: _joined(getattr(self, part), getattr(other, part)) for part in ("features", "context")}
        return replace(self, pooled=pooled, valid=_both_valid(self, other), **parts)

    def valid_keys(self) -> Tensor | None:
        """Return (B, L) booleans in attention order, True for real tokens, or None if nothing is padding."""
        if self.valid is None:
            return None
        parts = []
        for s in self.layout.segments:
            x = self.features[s.name]
            parts.append(self.valid.get(s.name, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)))
        return torch.cat(parts, dim=1)


def _both_valid(a: Tokens, b: Tokens) -> dict[str, Tensor] | None:
    """Return the real tokens of both, by segment. A segment that only one of them marks is real in the other."""
    if a.valid is None and b.valid is None:
        return None
    names = dict.fromkeys([*(a.valid or {}), *(b.valid or {})])

    def marks(of: Tokens, name: str) -> Tensor:
        x = of.features[name]
        return (of.valid or {}).get(name, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))

    return {name: torch.cat([marks(a, name), marks(b, name)]) for name in names}


def _joined(a: dict[str, Tensor] | None, b: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
    return None if a is None else {name: torch.cat([x, b[name]]) for name, x in a.items()}
