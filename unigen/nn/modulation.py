"""AdaLN with one modulation branch for each role: the mechanism behind SC-AdaLN (RealGeneral section 3.3).

Shapes: B batch, L tokens, D width, E width of the time embedding.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unigen.core.layout import TEXT_STREAM, Layout, Segment, one_object


class Modulation(NamedTuple):
    """The modulation of a block's tokens: the layout, the distinct time embeddings (B, E), and the one of each segment.

    `clock_of[i]` is the index in `clocks` of segment i's embedding. A `Modulation` is passed as the stock argument
    `temb`, so no mutable state is shared and gradient checkpointing recomputes with the very same layout. Indices, not
    the identity of tensors, say which segments share a clock: a compiled block is compiled again for every new tensor.
    """

    layout: Layout
    clocks: tuple[Tensor, ...]
    clock_of: tuple[int, ...]

    @classmethod
    def of(cls, layout: Layout, temb: Mapping[str, Tensor]) -> "Modulation":
        """Make one from each segment's time embedding by name; segments on one clock have the very same tensor."""
        distinct = {id(temb[name]): temb[name] for name in layout.names}
        places = {key: i for i, key in enumerate(distinct)}
        return cls(layout, tuple(distinct.values()), tuple(places[id(temb[name])] for name in layout.names))

    @classmethod
    def at(cls, layout: Layout, times: Mapping[str, Tensor], embed: Callable[[Tensor], Tensor]) -> "Modulation":
        """Make one from each segment's time t_B by name; a clock that segments share is embedded once."""
        own = cls.of(layout, times)
        return own._replace(clocks=tuple(embed(t_B) for t_B in own.clocks))

    def coarsest(self, table: Mapping[str, str]) -> "Modulation":
        """Join neighbours of one stream that have the same branch, by role in `table`, and the same clock.

        The layouts of equal results are the very same object, as in `unigen.core.masks.coarsest`.
        """
        role_of = {branch: role for role, branch in reversed(table.items())}
        runs: list[tuple[tuple[str, str, int], int]] = []
        for segment, clock in zip(self.layout.segments, self.clock_of, strict=True):
            key = (segment.stream, role_of[table[segment.role]], clock)
            before = runs.pop()[1] if runs and runs[-1][0] == key else 0
            runs.append((key, before + segment.tokens))
        segments = (
            Segment(f"run {i}", role, stream, grid=(1, 1, tokens)) for i, ((stream, role, _), tokens) in enumerate(runs)
        )
        return Modulation(one_object(Layout(tuple(segments))), self.clocks, tuple(clock for (_, _, clock), _ in runs))

    @property
    def temb(self) -> dict[str, Tensor]:
        """Each segment's time embedding."""
        return {s.name: self.clocks[i] for s, i in zip(self.layout.segments, self.clock_of, strict=True)}


def by_clock(
    function: Callable[[Tensor, Any], Tensor], x_BLD: Tensor, segments: Sequence[Segment], clocks: Sequence[Any]
) -> Tensor:
    """Apply function(tokens, clock) to each segment's tokens at its clock, in one call if all are one object."""
    if all(clock is clocks[0] for clock in clocks):
        return function(x_BLD, clocks[0])
    parts = x_BLD.split([s.tokens for s in segments], dim=1)
    return torch.cat([function(part, clock) for part, clock in zip(parts, clocks, strict=True)], dim=1)


class BranchedLayerNormZero(nn.Module):
    """`CogVideoXLayerNormZero` with named branches (RealGeneral Eqs. 4-5): LN(x) * (1 + scale_k) + shift_k.

    `branches` maps a role to a branch name. A branch starts as the stock text half or video half,
    by the stream of its roles, so at initialisation the outputs equal the stock module's bit for bit
    for every table. `tied` branches share the frozen stock parameters and differ by their LoRA alone;
    otherwise each branch is a trainable copy. The shared affine LayerNorm is the stock one.
    """

    def __init__(self, stock: nn.Module, branches: Mapping[str, str], tied: bool) -> None:
        super().__init__()
        self.silu, self.norm = stock.silu, stock.norm
        self.table = dict(branches)
        visual, text = _halves(stock.linear)
        streams = {name: text if _is_text(name, self.table) else visual for name in dict.fromkeys(branches.values())}
        self.branches = nn.ModuleDict({name: new_branch(half, tied) for name, half in streams.items()})

    def forward(self, visual_BLD: Tensor, text_BLD: Tensor, modulation: Modulation) -> tuple[Tensor, ...]:
        """Return modulated visual and text tokens, then their gates: broadcastable to (B, L, D)."""
        made: dict[tuple[str, int], tuple[Tensor, ...]] = {}
        streams: dict[bool, list[tuple[int, tuple[str, int]]]] = {True: [], False: []}
        for segment, clock in zip(modulation.layout.segments, modulation.clock_of, strict=True):
            key = (self.table[segment.role], clock)
            if key not in made:
                made[key] = self.branches[key[0]](self.silu(modulation.clocks[clock]))[:, None, :].chunk(3, dim=-1)
            streams[segment.stream == TEXT_STREAM].append((segment.tokens, key))
        x, gate = self._modulate(visual_BLD, streams[False], made)
        text, text_gate = self._modulate(text_BLD, streams[True], made)
        return x, text, gate, text_gate

    def _modulate(
        self, x_BLD: Tensor, runs: list[tuple[int, tuple[str, int]]], made: dict[tuple[str, int], tuple[Tensor, ...]]
    ) -> tuple[Tensor, Tensor]:
        """Modulate: `runs` has (tokens, key) of each segment, `made` has (shift, scale, gate) of each key.

        A key is a branch and a clock.
        """
        if not runs:
            return x_BLD, x_BLD.new_ones(())
        x = self.norm(x_BLD)
        if all(key == runs[0][1] for _, key in runs):
            shift, scale, gate = made[runs[0][1]]
            return x * (1 + scale) + shift, gate
        outs, gates = [], []
        for part, (tokens, key) in zip(x.split([tokens for tokens, _ in runs], dim=1), runs, strict=True):
            shift, scale, gate = made[key]
            outs.append(part * (1 + scale) + shift)
            gates.append(gate.expand(-1, tokens, -1))
        return torch.cat(outs, dim=1), torch.cat(gates, dim=1)


class BranchedProjection(nn.Module):
    """A linear that makes the modulation of all blocks (of Wan or FLUX.2), with one branch for each name.

    Each branch starts as the stock linear, shared or copied.
    """

    def __init__(self, stock: nn.Linear, names: Sequence[str], tied: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({name: new_branch(stock, tied) for name in names})


def joined_state(state: Mapping[str, Tensor], table: Mapping[str, str]) -> dict[str, Tensor]:
    """Make a stock state dict from one with `BranchedLayerNormZero` norms: the inverse of splitting them.

    Raises ValueError if `table` has more than one visual branch: no stock model can hold two.
    """
    visual = sorted({name for role, name in table.items() if role != "text"})
    if len(visual) != 1:
        raise ValueError(
            f"conditioning.modulation.branches has the visual branches {', '.join(visual)}; "
            "only a model with one can be saved as a stock model (conditioning/modulation=shared)"
        )
    joined = {}
    for name, tensor in state.items():
        head, dot, tail = name.partition(f".branches.{visual[0]}.")
        if dot:
            text = state[f"{head}.branches.{table['text']}.{tail}"]
            joined[f"{head}.linear.{tail}"] = torch.cat([tensor, text])
        elif f".branches.{table['text']}." not in name:
            joined[name] = tensor
    return joined


def _is_text(branch: str, table: Mapping[str, str]) -> bool:
    """Return whether a branch serves the text stream. Raises ValueError if it serves both: it starts from one half."""
    roles = [role for role, name in table.items() if name == branch]
    if "text" in roles and len(roles) > 1:
        raise ValueError(
            f"conditioning.modulation.branches: branch '{branch}' serves {', '.join(roles)}, "
            "but text starts from other weights than images; give text a branch of its own"
        )
    return roles == ["text"]


def _halves(linear: nn.Linear) -> tuple[nn.Linear, nn.Linear]:
    """Split the stock linear E -> 6D into its video half and its text half (chunk order of diffusers), E -> 3D each."""
    weights = linear.weight.detach().chunk(2, dim=0)
    biases = linear.bias.detach().chunk(2, dim=0)
    halves = []
    for weight, bias in zip(weights, biases, strict=True):
        half = nn.Linear(1, 1, device="meta")
        half.in_features, half.out_features = weight.shape[1], weight.shape[0]
        half.weight = nn.Parameter(weight.clone())
        half.bias = nn.Parameter(bias.clone())
        halves.append(half)
    return halves[0], halves[1]


def new_branch(stock: nn.Linear, tied: bool) -> nn.Linear:
    """Return a linear that is a module of its own, on shared parameters (tied) or on a copy of them."""
    branch = nn.Linear(1, 1, device="meta")
    branch.in_features, branch.out_features = stock.in_features, stock.out_features
    branch.weight = stock.weight if tied else nn.Parameter(stock.weight.detach().clone())
    branch.bias = stock.bias if tied or stock.bias is None else nn.Parameter(stock.bias.detach().clone())
    return branch
