"""diffusers' AdaLayerNormZero and AdaLayerNormZeroSingle (Flux's) with one modulation branch for each role.

Shapes: B batch, L tokens, D width.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from unigen.core.layout import Segment
from unigen.core.types import TEXT
from unigen.nn.modulation import BranchedProjection, Modulation, new_branch

VISUAL, EVERY = "visual", "every"  # beside TEXT, what a norm may serve


class PerToken:
    """A modulation (B, L, D) where a stock block expects (B, D).

    A block inserts the token axis in one of two ways. Here both return the tensor, which has that axis already, so the
    block's forward stays the stock one.
    """

    def __init__(self, x_BLD: Tensor) -> None:
        self.x_BLD = x_BLD

    def unsqueeze(self, axis: int) -> Tensor:
        assert axis == 1
        return self.x_BLD

    def __getitem__(self, index: tuple[slice, None]) -> Tensor:
        assert index == (slice(None), None)
        return self.x_BLD


class BranchedAdaLayerNorm(nn.Module):
    """LN(x) * (1 + scale_k) + shift_k, with k the branch of a token's role (RealGeneral Eqs. 4-5, on Flux).

    `serves`: the "text" or the "visual" segments (the two norms of a double block), or "every" one (the norm of a
    single block, which text and images share). `branches` maps a role to a branch name; each branch of a served
    segment starts as the stock linear, so at initialisation the outputs equal the stock module's bit for bit for every
    table. `tied` branches share the frozen stock parameters and differ by their LoRA alone; otherwise each is a copy.
    """

    def __init__(self, stock: nn.Module, branches: Mapping[str, str], tied: bool, serves: str) -> None:
        super().__init__()
        self.silu, self.norm, self.serves = stock.silu, stock.norm, serves
        self.table = {role: name for role, name in branches.items() if serves in (EVERY, _stream(role))}
        self.chunks = stock.linear.out_features // stock.linear.in_features
        self.branches = nn.ModuleDict({n: new_branch(stock.linear, tied) for n in dict.fromkeys(self.table.values())})

    def forward(self, x_BLD: Tensor, emb: Modulation) -> tuple[Tensor | PerToken, ...]:
        """Return the modulated tokens, then the gate and all else that the stock linear makes, (B, D) or `PerToken`."""
        served, keys = [], []
        for segment, clock in zip(emb.layout.segments, emb.clock_of, strict=True):
            if self.serves in (EVERY, _stream(segment.role)):
                served.append(segment)
                keys.append((self.table[segment.role], clock))
        if not served:
            return x_BLD, *[PerToken(x_BLD)] * (self.chunks - 2)
        made = {key: self._chunks(*key, emb) for key in dict.fromkeys(keys)}
        if len(made) == 1:
            shift, scale, *rest = made[keys[0]]
            return self.norm(x_BLD) * (1 + scale[:, None]) + shift[:, None], *rest
        out = []
        for x, key in zip(self.norm(x_BLD).split([s.tokens for s in served], dim=1), keys, strict=True):
            shift, scale, *_ = made[key]
            out.append(x * (1 + scale[:, None]) + shift[:, None])
        rest = [_spread(served, [made[key][i] for key in keys]) for i in range(2, self.chunks)]
        return torch.cat(out, dim=1), *rest

    def _chunks(self, branch: str, clock: int, emb: Modulation) -> tuple[Tensor, ...]:
        """Return (shift, scale, gate, ...) of a branch at a clock, each (B, D)."""
        return self.branches[branch](self.silu(emb.clocks[clock])).chunk(self.chunks, dim=1)


def stock_names(model: nn.Module) -> dict[str, str]:
    """Return the stock model's name of each branch's linear; several branches of a norm are one linear there."""
    names = {}
    for name, module in model.named_modules():
        if isinstance(module, BranchedAdaLayerNorm | BranchedProjection):
            stock = f"{name}.linear" if isinstance(module, BranchedAdaLayerNorm) else name
            names |= {f"{name}.branches.{branch}": stock for branch in module.branches}
    return names


def stock_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of `model` with stock norms. Raises ValueError if one of its norms has several branches."""
    names = stock_names(model)
    for name, module in model.named_modules():
        if isinstance(module, BranchedAdaLayerNorm) and len(module.branches) > 1:
            raise ValueError(
                f"conditioning.modulation.branches gives {name} the branches {', '.join(module.branches)}; "
                "only a model in which all images share one can be saved as a stock model"
            )
    state = {}
    for key, tensor in model.state_dict().items():
        head, dot, tail = key.rpartition(".")
        state[names.get(head, head) + dot + tail] = tensor
    return state


def _stream(role: str) -> str:
    return TEXT if role == TEXT else VISUAL


def _spread(served: Sequence[Segment], values_BD: Sequence[Tensor]) -> PerToken:
    """Repeat each segment's value for all of its tokens."""
    expanded = [value[:, None].expand(-1, s.tokens, -1) for s, value in zip(served, values_BD, strict=True)]
    return PerToken(torch.cat(expanded, dim=1))
