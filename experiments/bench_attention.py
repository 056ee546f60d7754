"""The attention section of the bench: dense, grouped and flex under the masks of the config folder.

Shapes: B batch, H heads, L tokens, D head width.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from unigen import attention, masks
from unigen.bench import Table, dtypes, interleaved
from unigen.layout import Layout
from unigen.masks import Mask

COLUMNS = (
    "mask, pass",
    "dense ms",
    "grouped ms",
    "flex ms",
    "grouped / dense",
    "flex / dense",
    "floor",
    "dense GFLOP/s",
    "grouped GFLOP/s",
    "dense mask MiB",
    "flex mask MiB",
)
NOTE = (
    "floor = attended pairs / all pairs, what an ideal kernel would need of the unmasked work. GFLOP/s counts attended "
    "pairs only (4 D a pair and head forward, 12 D with backward). Mask MiB: the (L, L) booleans and the copy of q's "
    "type that SDPA makes of them, or the block mask; grouped needs none. Under a mask that hides nothing the dense "
    "lowering drops it."
)


class Shape(NamedTuple):
    """What attention is run on: a layout of roles, batch, heads and head width."""

    name: str
    layout: Layout
    batch: int
    heads: int
    width: int

    def __str__(self) -> str:
        sizes = ", ".join(f"{s.role} {s.tokens}" for s in self.layout.segments)
        return f"{self.name} shape ({sizes}; {self.heads} heads × {self.width}, batch {self.batch})"


def attention_tables(
    shapes: list[Shape], tables: list[Mask], device: torch.device, rounds: int, limit: float
) -> list[Table]:
    """One table for each shape and number type, a row for each mask and pass."""
    made = []
    for shape in shapes:
        for dtype in dtypes(device):
            table = Table(f"Attention, {shape}, {str(dtype).removeprefix('torch.')}", COLUMNS)
            for mask in tables:
                for backward in (False, True):
                    table.add(*_row(shape, mask, dtype, backward, device, rounds, limit))
            made.append(table)
    made[-1].note = NOTE
    return made


def _row(
    shape: Shape, mask: Mask, dtype: torch.dtype, backward: bool, device: torch.device, rounds: int, limit: float
) -> tuple:
    layout = shape.layout
    pairs = masks.attended_pairs(layout, layout, mask)
    flops = pairs * shape.heads * shape.width * shape.batch * (12 if backward else 4)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*flex_attention.*", category=UserWarning)
        t = interleaved(candidates(shape, mask, dtype, backward, device), device, rounds, limit)
    flex = "flex" in t.seconds
    return (
        f"{mask.name}, forward{' + backward' if backward else ''}",
        1e3 * t.median("dense"),
        1e3 * t.median("grouped"),
        1e3 * t.median("flex") if flex else None,
        t.ratio("grouped", "dense"),
        t.ratio("flex", "dense") if flex else None,
        pairs / len(layout) ** 2,
        flops / t.median("dense") / 1e9,
        flops / t.median("grouped") / 1e9,
        dense_mask_bytes(layout, mask, dtype) / 2**20,
        _flex_mask_bytes(layout, mask, device) / 2**20 if flex else None,
    )


def candidates(
    shape: Shape, mask: Mask, dtype: torch.dtype, backward: bool, device: torch.device
) -> dict[str, Callable[[], object]]:
    """The lowerings that can run here. Without a compiler for the device flex is eager: it writes out every
    score and has no backward, so on a CPU it is left out of large shapes and of the backward pass.
    """
    size = shape.batch, shape.heads, len(shape.layout), shape.width
    chance = torch.Generator(device).manual_seed(0)
    q, k, v = (torch.randn(size, generator=chance, device=device).to(dtype).requires_grad_(backward) for _ in range(3))
    grad = torch.randn(size, generator=chance, device=device).to(dtype)
    lowerings = {"dense": attention.dense, "grouped": attention.grouped}
    small = shape.batch * shape.heads * len(shape.layout) ** 2 < 2**24
    if device.type == "cuda" or (small and not backward):
        lowerings["flex"] = attention.flex

    def run(lowering: Callable[..., Tensor]) -> Tensor | tuple[Tensor, ...]:
        with torch.set_grad_enabled(backward):
            out = lowering(q, k, v, shape.layout, shape.layout, mask)
            return torch.autograd.grad(out, (q, k, v), grad) if backward else out

    return {name: (lambda lowering=lowering: run(lowering)) for name, lowering in lowerings.items()}


def dense_mask_bytes(layout: Layout, mask: Mask, dtype: torch.dtype) -> int:
    """Bytes of a boolean (L, L) and of the additive copy that SDPA makes of it; 0 if nothing is hidden."""
    allowed = masks.dense(layout, layout, mask)
    return 0 if bool(allowed.all()) else allowed.numel() * (1 + dtype.itemsize)


def _flex_mask_bytes(layout: Layout, mask: Mask, device: torch.device) -> int:
    block = attention._block_mask(layout, layout, mask, device)
    return sum(x.numel() * x.element_size() for x in block.as_tuple(flatten=True) if isinstance(x, Tensor))
