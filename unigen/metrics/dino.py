"""DINO: likeness of two pictures to a model that knows no words (arXiv:2104.14294), as DreamBench has it."""

from torch import Tensor

from unigen.metrics.pretrained import Likeness


class Dino(Likeness):
    """cos(f(output), f(truth)), f the class token of DINO's ViT after its last norm (v1; DreamBench: ViT-S/16)."""

    name = "dino"
    architecture = "ViTModel"
    options = {"add_pooling_layer": False}  # else one would be drawn at random: the checkpoint has none
    embedding = "class token after the last norm"

    def embed(self, pixels: Tensor) -> Tensor:
        """(N, D)."""
        return self.model(pixel_values=pixels).last_hidden_state[:, 0]
