"""Profiles the attention backends (dense, grouped, plain, flex) under the masks of the config folder.

Shapes: B batch, H heads, L tokens, D head width.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from unigen.core import attention, masks
from unigen.core.layout import Layout
from unigen.core.masks import Mask
from unigen.tools.bench.turns import Effort, Table, dtypes, interleaved

LOWERINGS = {
    "dense": attention.dense,
    "grouped": attention.grouped,
    "plain": attention.plain,
    "flex": attention.flex,
}
COLUMNS = (
    "mask, pass",
    *(f"{name} ms" for name in LOWERINGS),
    *(f"{name} /dense" for name in LOWERINGS if name != "dense"),
    "floor",
    "dense GFLOP/s",
    "grouped GFLOP/s",
    "mask MiB",
)
SHORT = 2**24  # number of scores; beyond it, attention backends that store all of them are not run
NOTE = (
    "floor = attended pairs / all pairs, the share of the unmasked work that an ideal kernel would need. GFLOP/s "
    "counts attended pairs only (4 D a pair and head forward, 12 D with backward). Mask MiB is the memory of dense's "
    "mask: the (L, L) booleans and the copy in q's type that SDPA makes of them; grouped needs none, and dense drops a "
    "mask that hides nothing. - : the backend cannot run here (eager flex has no backward on a CPU), or it would store "
    "all scores of a long sequence (plain, and flex on a CPU)."
)


class Shape(NamedTuple):
    """The sizes of an attention call: a layout of roles, batch, heads and head width."""

    name: str
    layout: Layout
    batch: int
    heads: int
    width: int

    def __str__(self) -> str:
        sizes = ", ".join(f"{s.role} {s.tokens}" for s in self.layout.segments)
        return f"{self.name} shape ({sizes}; {self.heads} heads × {self.width}, batch {self.batch})"


def attention_tables(shapes: list[Shape], tables: list[Mask], effort: Effort) -> Iterator[Table]:
    """Yield a table for each shape and number type, with a row for each mask and pass."""
    for shape in shapes:
        for dtype in dtypes():
            table = Table(f"Attention, {shape}, {str(dtype).removeprefix('torch.')}", COLUMNS)
            for mask in tables:
                for backward in (False, True):
                    table.add(*_row(shape, mask, dtype, backward, effort))
            table.note = NOTE if (shape, dtype) == (shapes[-1], dtypes()[-1]) else ""
            yield table


def _row(shape: Shape, mask: Mask, dtype: torch.dtype, backward: bool, effort: Effort) -> tuple:
    layout = shape.layout
    pairs = masks.attended_pairs(layout, layout, mask)
    flops = pairs * shape.heads * shape.width * shape.batch * (12 if backward else 4)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*flex_attention.*", category=UserWarning)
        t = interleaved(candidates(shape, mask, dtype, backward, effort.device), effort)
    medians = [1e3 * t.median(n) if n in t.seconds else None for n in LOWERINGS]
    ratios = [t.ratio(n, "dense") if n in t.seconds else None for n in LOWERINGS if n != "dense"]
    return (
        f"{mask.name}, fwd{' + bwd' if backward else ''}",
        *medians,
        *ratios,
        pairs / len(layout) ** 2,
        flops / t.median("dense") / 1e9,
        flops / t.median("grouped") / 1e9,
        dense_mask_bytes(layout, mask, dtype) / 2**20,
    )


def candidates(
    shape: Shape, mask: Mask, dtype: torch.dtype, backward: bool, device: torch.device
) -> dict[str, Callable[[], object]]:
    """Return the attention backends that can run here.

    Eager flex (on a CPU) has no backward, and backends that store all scores run on short sequences only.
    """
    size = shape.batch, shape.heads, len(shape.layout), shape.width
    chance = torch.Generator(device).manual_seed(0)
    q, k, v = (torch.randn(size, generator=chance, device=device).to(dtype).requires_grad_(backward) for _ in range(3))
    grad = torch.randn(size, generator=chance, device=device).to(dtype)
    short, gpu = shape.batch * shape.heads * len(shape.layout) ** 2 < SHORT, device.type == "cuda"
    runs = {"dense": True, "grouped": True, "plain": short, "flex": gpu or (short and not backward)}

    def run(lowering: Callable[..., Tensor]) -> Tensor | tuple[Tensor, ...]:
        with torch.set_grad_enabled(backward):
            out = lowering(q, k, v, shape.layout, shape.layout, mask)
            return torch.autograd.grad(out, (q, k, v), grad) if backward else out

    return {name: (lambda lowering=LOWERINGS[name]: run(lowering)) for name, possible in runs.items() if possible}


def dense_mask_bytes(layout: Layout, mask: Mask, dtype: torch.dtype) -> int:
    """Return the bytes of a boolean (L, L) mask and of the copy that SDPA makes of it; 0 if nothing is hidden."""
    allowed = masks.dense(layout, layout, mask)
    return 0 if bool(allowed.all()) else allowed.numel() * (1 + dtype.itemsize)
