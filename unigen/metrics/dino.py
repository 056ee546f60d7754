"""Similarity of two images by DINO (arXiv:2104.14294), as in DreamBench, and by DINOv2 (arXiv:2304.07193).

Both models were trained on images alone. Their values cannot be compared with each other. Shapes: N items, D width of
an embedding.
"""

from torch import Tensor

from unigen.metrics.pretrained import Likeness


class Dino(Likeness):
    """cos(f(output), f(truth)), f the class token of DINO's ViT after its last norm (v1; DreamBench: ViT-S/16)."""

    name = "dino"
    architecture = "ViTModel"
    options = {"add_pooling_layer": False}  # the checkpoint has none, so it would have random weights
    embedding = "class token after the last norm"

    def embed(self, pixels: Tensor) -> Tensor:
        """Embed prepared images, (N, D)."""
        return self.model(pixel_values=pixels).last_hidden_state[:, 0]


class DinoV2(Likeness):
    """cos(f(output), f(truth)), f the class token of DINOv2 after its last norm."""

    name = "dinov2"
    architecture = "Dinov2Model"
    embedding = "class token after the last norm"

    def embed(self, pixels: Tensor) -> Tensor:
        """Embed prepared images, (N, D)."""
        return self.model(pixel_values=pixels).last_hidden_state[:, 0]
