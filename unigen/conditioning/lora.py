"""What is trained: LoRA on some parts (attention and SC-AdaLN: RealGeneral section 3.5), or everything."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from unigen.protocols import Backbone


class LoRA:
    """peft's LoRA on the linears of some `parts` of the backbone; the base is frozen, so branches may share it.

    parts: names that the backbone's `lora_targets` knows; RealGeneral adapts attention and modulation, VisualCloze
    every linear. No linear gets a higher `rank` than its inputs or outputs, beyond which a rank says nothing more; its
    scale stays `alpha` / `rank`. `bias`: B has a trainable bias, zero at first (VisualCloze's lora.py).
    start: null, or a LoRA to go on from: a .safetensors file of any program that `unigen.lora_names` knows or a folder
    with one, or a .pth file of VisualCloze's own.
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
    ) -> None:
        self.rank, self.alpha, self.dropout, self.parts = rank, alpha, dropout, tuple(parts)
        self.bias, self.start = bias, start

    def targets(self, backbone: Backbone) -> str:
        """A regular expression over module names. Raises ValueError for no part, or one the backbone does not have."""
        legal = backbone.lora_targets()
        unknown = [part for part in self.parts if part not in legal]
        if unknown or not self.parts:
            said = f"has the unknown part '{unknown[0]}'" if unknown else "is empty"
            raise ValueError(f"conditioning.adapter.parts {said}; legal are {', '.join(legal)}")
        return "|".join(legal[part] for part in self.parts)

    def bounded(self, backbone: Backbone) -> Mapping[str, int]:
        """The rank of each linear that cannot have `rank`, by module name."""
        linears = {n: m for n, m in backbone.model.named_modules() if re.fullmatch(self.targets(backbone), n)}
        most = {name: min(m.in_features, m.out_features) for name, m in linears.items()}
        return {name: rank for name, rank in most.items() if rank < self.rank}

    def apply(self, backbone: Backbone) -> None:
        """Freeze the backbone, then add the adapters (peft would leave the base trainable otherwise).

        Raises ValueError for a `start` that does not fill them all, holds more, or has numbers that are not finite.
        """
        from peft import LoraConfig

        from unigen.lora_files import begin

        targets, bounded = self.targets(backbone), self.bounded(backbone)
        backbone.model.requires_grad_(False)
        backbone.model.add_adapter(
            LoraConfig(
                r=self.rank,
                lora_alpha=self.alpha,
                lora_dropout=self.dropout,
                lora_bias=self.bias,
                target_modules=targets,
                rank_pattern={f"^{name}": rank for name, rank in bounded.items()},  # ^: whole names, not their ends
                alpha_pattern={f"^{name}": rank * self.alpha / self.rank for name, rank in bounded.items()},
            )
        )
        if self.start is not None and not torch.empty(0).is_meta:  # there shapes are enough
            begin(backbone.model, Path(self.start))


class Full:
    """Every parameter of the backbone is trained: small models from scratch."""

    freezes_base = False

    def apply(self, backbone: Backbone) -> None:
        backbone.model.requires_grad_(True)
