"""What is trained: LoRA on SC-AdaLN and attention only (RealGeneral section 3.5), or everything."""

from unigen.protocols import Backbone


class LoRA:
    """peft's LoRA on the linears that the backbone names; the base is frozen, so branches may share it."""

    freezes_base = True

    def __init__(self, rank: int, alpha: int, dropout: float = 0.0) -> None:
        self.rank, self.alpha, self.dropout = rank, alpha, dropout

    def apply(self, backbone: Backbone) -> None:
        """Freeze the backbone, then add the adapters (peft would leave the base trainable otherwise)."""
        from peft import LoraConfig

        backbone.model.requires_grad_(False)
        backbone.model.add_adapter(
            LoraConfig(
                r=self.rank,
                lora_alpha=self.alpha,
                lora_dropout=self.dropout,
                target_modules=backbone.lora_targets(),
            )
        )


class Full:
    """Every parameter of the backbone is trained: small models from scratch."""

    freezes_base = False

    def apply(self, backbone: Backbone) -> None:
        backbone.model.requires_grad_(True)
