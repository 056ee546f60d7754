"""Likeness of a picture to its style reference (VisualCloze, style transfer). Shapes: N items."""

from torch import Tensor

from unigen.metrics.clip import Clip
from unigen.metrics.pictures import SLOT


class StyleImage(Clip):
    """cos(f(output), f(style reference)), f CLIP's vision tower.

    `picture` is the slot that shows the style, by name. VisualCloze reports such a score ("image") and says
    neither model nor preparation: CLIP-I's are our reading. A copy of the reference scores 1, so it is read beside
    CLIP-T (its "text"), which a copy does not please.
    """

    name = "style_image"

    def __init__(self, picture: str, model: str, resize: int, crop: int, download: bool) -> None:
        super().__init__(model, resize, crop, download)
        self.against = SLOT + picture

    @property
    def parameters(self) -> str:
        return f"cosine of output and {self.against}, {self.embedding}; {self.preparation}"

    def __call__(self, output: Tensor, reference: Tensor) -> Tensor:
        """Scores (N,)."""
        return super().__call__(output, reference)
