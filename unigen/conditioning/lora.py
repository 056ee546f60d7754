"""What is trained: LoRA on some parts (attention and SC-AdaLN: RealGeneral section 3.5), or everything."""

from collections.abc import Sequence

from unigen.protocols import Backbone


class LoRA:
    """peft's LoRA on the linears of some `parts` of the backbone; the base is frozen, so branches may share it.

    parts: names that the backbone's `lora_targets` knows; RealGeneral adapts attention and modulation.
    """

    freezes_base = True

    def __init__(
        self, rank: int, alpha: int, dropout: float = 0.0, parts: Sequence[str] = ("attention", "modulation")
    ) -> None:
        self.rank, self.alpha, self.dropout, self.parts = rank, alpha, dropout, tuple(parts)

    def targets(self, backbone: Backbone) -> str:
        """A regular expression over module names. Raises ValueError for no part, or one the backbone does not have."""
        legal = backbone.lora_targets()
        unknown = [part for part in self.parts if part not in legal]
        if unknown or not self.parts:
            said = f"has the unknown part '{unknown[0]}'" if unknown else "is empty"
            raise ValueError(f"conditioning.adapter.parts {said}; legal are {', '.join(legal)}")
        return "|".join(legal[part] for part in self.parts)

    def apply(self, backbone: Backbone) -> None:
        """Freeze the backbone, then add the adapters (peft would leave the base trainable otherwise)."""
        from peft import LoraConfig

        targets = self.targets(backbone)

        backbone.model.requires_grad_(False)
        backbone.model.add_adapter(
            LoraConfig(
                r=self.rank,
                lora_alpha=self.alpha,
                lora_dropout=self.dropout,
                target_modules=targets,
            )
        )


class Full:
    """Every parameter of the backbone is trained: small models from scratch."""

    freezes_base = False

    def apply(self, backbone: Backbone) -> None:
        backbone.model.requires_grad_(True)
