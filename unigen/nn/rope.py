"""Rotary position tables from explicit integer positions, one share of the head width for each axis.

Shapes: L tokens, A axes, D head width.
"""

import torch
from torch import Tensor

from unigen.layout import Layout, kept, positions


def rotary(positions_LA: Tensor, widths: tuple[int, ...], theta: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """(cos, sin), each fp32 (L, D) with interleaved pairs: angle = position * theta^(-2i / width), axis by axis.

    `widths` are the even shares of D for the axes, e.g. (16, 24, 24) of 64 in CogVideoX1.5.
    """
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    tables = [
        get_1d_rotary_pos_embed(width, positions_LA[:, axis].float(), theta, use_real=True)
        for axis, width in enumerate(widths)
    ]
    cos, sin = zip(*tables, strict=True)
    return torch.cat(cos, dim=-1), torch.cat(sin, dim=-1)


@kept(maxsize=64)
def layout_rotary(layout: Layout, widths: tuple[int, ...], theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """`rotary` for a whole layout, kept per device."""
    cos, sin = rotary(positions(layout), widths, theta)
    return cos.to(device), sin.to(device)
