"""Rotary position tables from explicit positions, integer or fractional, one share of the head width for each axis.

Shapes: L tokens, A axes, D head width.
"""

import torch
from torch import Tensor

from unigen.core.layout import Layout, kept, positions


def rotary(
    positions_LA: Tensor, widths: tuple[int, ...], theta: float = 10_000.0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Return (cos, sin), each fp32 (L, D) with interleaved pairs: angle = position * theta^(-2i / width), axis by axis.

    `widths` are the even shares of D for the axes, e.g. (16, 24, 24) of 64 in CogVideoX1.5. Angles are computed in
    `dtype`, which a family decides: float32 and float64 differ by 7e-6 at position 500.
    """
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    tables = [
        get_1d_rotary_pos_embed(width, positions_LA[:, axis].to(dtype), theta, use_real=True, freqs_dtype=dtype)
        for axis, width in enumerate(widths)
    ]
    cos, sin = zip(*tables, strict=True)
    return torch.cat(cos, dim=-1), torch.cat(sin, dim=-1)


@kept(maxsize=64)
def layout_rotary(
    layout: Layout, widths: tuple[int, ...], theta: float, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Return `rotary` of a whole layout, kept for each device."""
    cos, sin = rotary(positions(layout), widths, theta, dtype)
    return cos.to(device), sin.to(device)
