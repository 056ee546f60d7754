"""What arrives: the features of one step, by segment. Lives inside a step and never in a batch."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unigen.layout import Layout


@dataclass(frozen=True)
class Tokens:
    """Features (B, L_segment, width) by segment name, in the space that the backbone's embedders take.

    Text segments hold text embeddings, visual segments patchified latents. `valid` marks real tokens,
    (B, L_segment) booleans by segment name, where a backbone masks padding; None: everything counts.
    """

    layout: Layout
    features: dict[str, Tensor]
    valid: dict[str, Tensor] | None = None
    pooled: Tensor | None = None

    def only(self, layout: Layout) -> "Tokens":
        """The tokens of a smaller or reordered layout."""
        return replace(self, layout=layout, features={n: self.features[n] for n in layout.names})

    def updated(self, features: dict[str, Tensor]) -> "Tokens":
        """The same tokens with other features for some segments."""
        return replace(self, features=self.features | features)

    def valid_keys(self) -> Tensor | None:
        """(B, L) booleans in attention order, or None if nothing is padding."""
        if self.valid is None:
            return None
        parts = []
        for s in self.layout.segments:
            x = self.features[s.name]
            parts.append(self.valid.get(s.name, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)))
        return torch.cat(parts, dim=1)
