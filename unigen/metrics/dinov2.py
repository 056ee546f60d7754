"""DINOv2: likeness of two pictures to a model that knows no words (arXiv:2304.07193); not comparable with DINO's."""

from torch import Tensor

from unigen.metrics.pretrained import Likeness


class DinoV2(Likeness):
    """cos(f(output), f(truth)), f the class token of DINOv2 after its last norm."""

    name = "dinov2"
    architecture = "Dinov2Model"
    embedding = "class token after the last norm"

    def embed(self, pixels: Tensor) -> Tensor:
        """(N, D)."""
        return self.model(pixel_values=pixels).last_hidden_state[:, 0]
