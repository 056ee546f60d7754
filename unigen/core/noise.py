"""Clocks and keyed randomness. t in [0, 1], 1 is noise, 0 is data; all of it fp32.

Shapes: B batch, S segments.
"""

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from unigen.core.layout import Layout


def mix(*keys: int | str) -> int:
    """Return a 63-bit seed made of any keys: by BLAKE2b, which unlike hash() is the same in every process."""
    text = "\x1f".join(f"{type(key).__name__}:{key}" for key in keys)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1


def generator(*keys: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator that is a pure function of its keys, e.g. (seed, "train", step, rank).

    Keyed randomness needs nothing in a checkpoint, and gives every arm of an ablation the same noise.
    """
    return torch.Generator(device=device).manual_seed(mix(*keys))


def normal(shape: Sequence[int], generator: torch.Generator | Sequence[torch.Generator]) -> Tensor:
    """Draw standard normal fp32 (B, ...) from one generator, or from one for each sample, which is then independent."""
    if isinstance(generator, torch.Generator):
        return torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=torch.float32)
    return torch.stack([normal(shape[1:], g) for g in generator])


def clock(layout: Layout, t_B: Tensor) -> Tensor:
    """Return t_s = min(t, cap_s), (B, S): the one rule for noising, own-time modulation and sampling."""
    caps_S = torch.tensor([s.cap for s in layout.segments], dtype=torch.float32, device=t_B.device)
    return torch.minimum(t_B.float()[:, None], caps_S[None, :])
