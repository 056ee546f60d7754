"""Agreement of edges. Shapes: N items, C = 3 channels, H and W pixels."""

from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor

from unigen.metrics.pictures import require_pictures


class CannyF1:
    """F1 between the Canny edges of output and truth: how well a canny-to-image model keeps its edges.

    An edge pixel counts only where the other has one at exactly that pixel (no tolerance). Two pictures without any
    edge agree fully: 1. If only one has edges nothing agrees: 0.
    """

    name = "canny_f1"
    against = "truth"
    better = "higher"

    def __init__(self, low: float, high: float) -> None:
        if not 0 <= low <= high:
            raise ValueError(f"Canny thresholds must satisfy 0 <= low <= high, got {low} and {high}")
        self.low = low
        self.high = high
        self.protocol = {
            "library": "opencv",
            "version": version("opencv-python-headless"),
            "parameters": f"cv2.Canny(grey, {low:g}, {high:g}), aperture 3, L1 gradient; exact pixels, no tolerance; "
            "two empty edge maps score 1, one empty 0",
        }

    def edges(self, picture_CHW: Tensor) -> np.ndarray:
        """Boolean edge map (H, W) of a uint8 picture, grey = 0.299 R + 0.587 G + 0.114 B."""
        import cv2

        grey = cv2.cvtColor(np.ascontiguousarray(picture_CHW.permute(1, 2, 0).cpu().numpy()), cv2.COLOR_RGB2GRAY)
        return cv2.Canny(grey, self.low, self.high) > 0

    def __call__(self, output: Tensor, truth: Tensor) -> Tensor:
        """F1 = 2 |A and B| / (|A| + |B|), scores (N,)."""
        require_pictures(output, truth)
        scores = []
        for output_CHW, truth_CHW in zip(output, truth, strict=True):
            ours, theirs = self.edges(output_CHW), self.edges(truth_CHW)
            count = int(ours.sum()) + int(theirs.sum())
            scores.append(2 * int((ours & theirs).sum()) / count if count else 1.0)
        return torch.tensor(scores, dtype=torch.float32)
