"""Choices of what is trained: LoRA on some parts (attention and SC-AdaLN: RealGeneral section 3.5), or everything."""

import copy
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from unigen.nn.shards import sizes
from unigen.protocols import Backbone


class LoRA:
    """peft's LoRA on the linears of some `parts` of the backbone; the base is frozen, so branches may share it.

    parts: names that the backbone's `lora_targets` knows; RealGeneral adapts attention and modulation, VisualCloze
    every linear. The rank of a linear is `rank`, but at most its number of inputs or of outputs, beyond which a rank
    adds nothing; its scale stays `alpha` / `rank`. With `bias`, B has a trainable bias, zero at first (VisualCloze's
    lora.py).
    adapters: null, one adapter for all tokens; or a table from role to the name of its adapter, null for none, so that
    each adapter is applied only to the tokens of its roles. Its parts must lie in the blocks.
    start: null, or a LoRA to continue from: a .safetensors file of any program that `unigen.weights.lora_names` knows
    or a folder with one, or a .pth file of VisualCloze's own.
    """

    freezes_base = True

    def __init__(
        self,
        rank: int,
        alpha: int,
        dropout: float = 0.0,
        parts: Sequence[str] = ("attention", "modulation"),
        bias: bool = False,
        start: str | None = None,
        adapters: Mapping[str, str | None] | None = None,
    ) -> None:
        self.adapters = checked_adapters(adapters, start)
        self.rank, self.alpha, self.dropout, self.parts = rank, alpha, dropout, tuple(parts)
        self.bias, self.start = bias, start

    def targets(self, backbone: Backbone) -> str:
        """Return a regular expression over module names. Raises ValueError for no part, or one the backbone lacks."""
        legal = backbone.lora_targets()
        unknown = [part for part in self.parts if part not in legal]
        if unknown or not self.parts:
            said = f"has the unknown part '{unknown[0]}'" if unknown else "is empty"
            raise ValueError(f"conditioning.adapter.parts {said}; legal are {', '.join(legal)}")
        return "|".join(legal[part] for part in self.parts)

    def bounded(self, backbone: Backbone) -> Mapping[str, int]:
        """Return the lower rank of each linear that cannot have `rank`, by module name."""
        linears = {n: m for n, m in backbone.model.named_modules() if re.fullmatch(self.targets(backbone), n)}
        most = {name: min(sizes(m)) for name, m in linears.items()}
        return {name: rank for name, rank in most.items() if rank < self.rank}

    def apply(self, backbone: Backbone) -> None:
        """Freeze the backbone, then add the adapters (peft would leave the base trainable otherwise).

        Raises ValueError for a `start` that does not fill them all, holds more, or has numbers that are not finite, and
        for `adapters` that a linear cannot tell apart.
        """
        from unigen.weights.lora_files import begin

        config = self._config(backbone)
        backbone.model.requires_grad_(False)
        if self.adapters is None:
            backbone.model.add_adapter(config)
        else:
            self._apply_by_role(backbone, config)
        if self.start is not None and not torch.empty(0).is_meta:  # there shapes are enough
            begin(backbone.model, Path(self.start))

    def _config(self, backbone: Backbone) -> Any:
        from peft import LoraConfig

        targets, bounded = self.targets(backbone), self.bounded(backbone)
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            lora_bias=self.bias,
            target_modules=targets,
            rank_pattern={f"^{name}": rank for name, rank in bounded.items()},  # ^: whole names, not their ends
            alpha_pattern={f"^{name}": rank * self.alpha / self.rank for name, rank in bounded.items()},
        )

    def _apply_by_role(self, backbone: Backbone, config: Any) -> None:
        """Add every adapter to every linear, and let the backbone tell the linears which tokens each adapter has."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns of every adapter after the first
            for name in dict.fromkeys(filter(None, self.adapters.values())):
                backbone.model.add_adapter(copy.deepcopy(config), adapter_name=name)
        for name, parameter in backbone.model.named_parameters():
            parameter.requires_grad_(".lora_" in name)  # peft freezes the adapters before the last one
        backbone.tell_roles_apart(self.adapters)


def checked_adapters(table: Mapping[str, str | None] | None, start: str | None) -> dict[str, str | None] | None:
    """Return the table as it was given. Raises ValueError for illegal names, for no adapter at all, and a `start`."""
    if table is None:
        return None
    if not isinstance(table, Mapping):
        raise ValueError(f"conditioning.adapter.adapters is {table!r}; legal are null and a table from role to name")
    for role, name in table.items():
        if name is not None and not (isinstance(name, str) and name.isidentifier() and name != "default"):
            raise ValueError(
                f"conditioning.adapter.adapters.{role} is {name!r}; legal are null and names such as {role}"
            )
    if not any(table.values()):
        raise ValueError("conditioning.adapter.adapters gives no role an adapter; null itself is one adapter for all")
    if start is not None:
        raise ValueError("conditioning.adapter.start fills one adapter for all tokens; it needs adapters=null")
    return dict(table)


class Full:
    """Trains every parameter of the backbone, for small models from scratch."""

    freezes_base = False

    def apply(self, backbone: Backbone) -> None:
        backbone.model.requires_grad_(True)
