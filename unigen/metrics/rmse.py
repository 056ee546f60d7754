"""Root mean square error. Shapes: N items, C = 3 channels, H and W pixels."""

import torch
from torch import Tensor

from unigen.metrics.pictures import require_pictures


class RMSE:
    """sqrt(mean((output - truth)^2)) on [0, 255], per picture over all channels and pixels."""

    name = "rmse"
    against = "truth"
    better = "lower"

    def __init__(self) -> None:
        self.protocol = {
            "library": "torch",
            "version": torch.__version__.split("+")[0],  # the build does not matter
            "parameters": "RGB, range [0, 255], per picture",
        }

    def __call__(self, output: Tensor, truth: Tensor) -> Tensor:
        """Scores (N,)."""
        require_pictures(output, truth)
        return (output.float() - truth.float()).square().mean(dim=(1, 2, 3)).sqrt()
