"""LoRA for the tokens of some roles only: several named adapters of peft on one linear, each with its own rows.

peft adds every active adapter to all tokens. Here a linear is told, right before its block runs, which rows of its
input belong to which adapter; the others pass as if there were no adapter.

Shapes: B batch, L tokens, I inputs and O outputs of a linear.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from unigen.core.layout import Layout, kept
from unigen.core.types import TEXT

Table = tuple[tuple[str, str | None], ...]  # role, name of its adapter


class RoleLinear:
    """A mixin for peft's LoRA layers that adds each adapter to the rows that `told` gives it; None means all rows."""

    told: Sequence[tuple[str, Tensor | None]] = ()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map (B, L, I) to (B, L, O), or (B, I) to (B, O) if every adapter takes all rows."""
        out = self.base_layer(x)
        for name, rows_R in self.told:
            down, up = self.lora_A[name], self.lora_B[name]
            part = x if rows_R is None else x.index_select(1, rows_R)
            delta = up(down(self.lora_dropout[name](part.to(down.weight.dtype)))) * self.scaling[name]
            out = out + delta.to(out.dtype) if rows_R is None else out.index_add(1, rows_R, delta.to(out.dtype))
        return out


class RoleAdapters:
    """The adapted linears of a backbone's blocks, and which adapter each role has.

    `takes` says by its name which tokens a linear takes (see `DiffusersTransformer._takes`); "one" means a linear that
    makes modulation once a sample, for the roles that `served` gives.
    Raises ValueError for a branch whose roles have different adapters, and for a linear that serves all roles at once.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[nn.Module],
        table: Mapping[str, str | None],
        takes: Callable[[str], str],
        served: Callable[[str], Sequence[str]],
    ) -> None:
        self.table: Table = tuple(table.items())
        self._of_block: dict[int, list[tuple[nn.Module, str]]] = {id(block): [] for block in blocks}
        homes = {id(m): id(block) for block in blocks for m in block.modules()}
        for name, module in model.named_modules():
            if not hasattr(module, "lora_A") or not len(module.lora_A):
                continue
            module.__class__ = _with_roles(type(module))
            word = takes(name)
            if word == "one":
                module.told = _of_branch(name, table, served(name))
                _keep(module, [adapter for adapter, _ in module.told])
            elif id(module) in homes:
                _keep(module, _of_stream(word, table))
                self._of_block[homes[id(module)]].append((module, word))
            else:
                raise ValueError(
                    f"conditioning.adapter.adapters cannot be told apart in '{name}', outside the blocks; leave "
                    "embedders out of conditioning.adapter.parts"
                )

    def tell(self, block: nn.Module, taken: Callable[[str], Layout], device: torch.device) -> None:
        """Tell the block's linears the rows of each adapter; `taken` gives the tokens by the words of `takes`."""
        for module, word in self._of_block[id(block)]:
            module.told = rows(taken(word), self.table, device)


@kept(maxsize=256)
def rows(layout: Layout, table: Table, device: torch.device) -> tuple[tuple[str, Tensor | None], ...]:
    """Return each adapter's rows, or None if all tokens have it. Adapters without a token are left out."""
    adapter, found = dict(table), {}
    for segment in layout.segments:
        if (name := adapter[segment.role]) is not None:
            at = layout.slices[segment.name]
            found.setdefault(name, []).append(torch.arange(at.start, at.stop))
    made = {name: torch.cat(parts) for name, parts in found.items()}
    return tuple((name, None if len(r) == len(layout) else r.to(device)) for name, r in made.items())


def _of_stream(word: str, table: Mapping[str, str | None]) -> list[str]:
    """Return the adapters that a linear of these tokens can need."""
    if word == "every":
        return list(filter(None, table.values()))
    text = word in ("text", "read")
    return [name for role, name in table.items() if name is not None and (role == TEXT) == text]


def _keep(module: nn.Module, adapters: Sequence[str]) -> None:
    """Remove the other adapters: training on several devices fails for a trained weight that no token reaches."""
    for name in [name for name in module.lora_A if name not in adapters]:
        remove(module, name)


def remove(module: nn.Module, adapter: str) -> None:
    """Remove an adapter from a linear. peft's warning that it was active is not shown: `told` says what is applied."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.delete_adapter(adapter)


def _of_branch(name: str, table: Mapping[str, str | None], roles: Sequence[str]) -> tuple[tuple[str, None], ...]:
    """Return the adapter of a modulation branch's linear: that of the roles which the branch serves."""
    key = "conditioning.adapter.adapters"
    adapters = {role: table[role] for role in roles if role in table}
    if not adapters:
        raise ValueError(
            f"{key} cannot be told apart in '{name}', which modulates all roles; leave modulation and embedders out of "
            "conditioning.adapter.parts, or take conditioning/modulation=sc_adaln"
        )
    if len(set(adapters.values())) > 1:
        said = ", ".join(f"{role}: {adapter or 'null'}" for role, adapter in adapters.items())
        raise ValueError(
            f"{key} gives the roles that '{name}' modulates different adapters ({said}); take "
            "conditioning/modulation=sc_adaln, or leave modulation out of conditioning.adapter.parts"
        )
    return tuple((adapter, None) for adapter in dict.fromkeys(adapters.values()) if adapter is not None)


@cache
def _with_roles(kind: type) -> type:
    return kind if issubclass(kind, RoleLinear) else type(f"Role{kind.__name__}", (RoleLinear, kind), {})
