"""What a backbone remembers of static segments, to attend to them without computing them again.

Shapes: B batch, H heads, L tokens, D head width.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from unigen.layout import Layout
from unigen.tokens import Tokens


@dataclass
class Memory:
    """Keys and values (B, H, L, D) of static segments, one pair for each block, computed once and reused."""

    layout: Layout
    valid: Tensor | None = None
    blocks: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def valid_keys(tokens: Tokens, memory: Memory | None) -> Tensor | None:
    """(B, L) booleans over what is remembered and then these tokens; None if nothing is padding."""
    now = tokens.valid_keys()
    if memory is None or (now is None and memory.valid is None):
        return now
    known = now if now is not None else memory.valid
    parts = [(memory.valid, memory.layout), (now, tokens.layout)]
    return torch.cat([known.new_ones(len(known), len(of)) if v is None else v for v, of in parts], dim=1)
