"""Metrics that compare an output with its truth pixel by pixel. Shapes: N items, C = 3 channels, H and W pixels."""

from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor

from unigen.metrics.images import require_images


class PSNR:
    """10 log10(255^2 / MSE) in dB, per image over all channels and pixels; infinite for equal images."""

    name = "psnr"
    against = "truth"
    better = "higher"

    def __init__(self) -> None:
        self.protocol = {
            "library": "torchmetrics",
            "version": version("torchmetrics"),
            "parameters": "RGB, range [0, 255], per picture",
        }

    def __call__(self, output: Tensor, truth: Tensor) -> Tensor:
        """Return scores (N,)."""
        from torchmetrics.functional.image import peak_signal_noise_ratio

        require_images(output, truth)
        return peak_signal_noise_ratio(output.float(), truth.float(), data_range=255.0, reduction="none", dim=(1, 2, 3))


class RMSE:
    """sqrt(mean((output - truth)^2)) on [0, 255], per image over all channels and pixels."""

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
        """Return scores (N,)."""
        require_images(output, truth)
        return (output.float() - truth.float()).square().mean(dim=(1, 2, 3)).sqrt()


class SSIM:
    """SSIM of Wang et al. 2004 (IEEE TIP 13(4)), averaged over channels and over the pixels whose window lies inside.

    Wang's code is `filter2(window, image, 'valid')`, so an image of H x W has (H - 10) x (W - 10) values. His code
    takes grey images; here each channel of RGB has its own map, as with skimage's `channel_axis`, and images are not
    downsampled first.
    """

    name = "ssim"
    against = "truth"
    better = "higher"

    def __init__(self, sigma: float) -> None:
        if not 0 < sigma <= 5:
            raise ValueError(f"sigma of the SSIM window must be in (0, 5] pixels (the paper uses 1.5), got {sigma}")
        self.sigma = sigma
        self.protocol = {
            "library": "torchmetrics",
            "version": version("torchmetrics"),
            "parameters": f"Gaussian window, sigma {sigma}, {self.window} pixels wide; k1 0.01, k2 0.03; "
            "each of RGB, range [0, 255], float64; valid region alone",
        }

    @property
    def window(self) -> int:
        """The width of the Gaussian window. torchmetrics derives it from sigma and ignores its own `kernel_size`."""
        return int(3.5 * self.sigma + 0.5) * 2 + 1

    def __call__(self, output: Tensor, truth: Tensor) -> Tensor:
        """Return scores (N,), computed in float64.

        In fp32 the variances of flat regions are mostly rounding errors (equal images would score 0.9999).
        Raises ValueError for images smaller than the window.
        """
        from torchmetrics.functional.image import structural_similarity_index_measure

        require_images(output, truth)
        if min(output.shape[2:]) < self.window:
            raise ValueError(f"SSIM needs images of at least {self.window} pixels, got {tuple(output.shape[2:])}")
        _, map_NCHW = structural_similarity_index_measure(
            output.double(),
            truth.double(),
            sigma=self.sigma,
            data_range=255.0,
            reduction="none",
            return_full_image=True,
        )
        border, (height, width) = self.window // 2, map_NCHW.shape[2:]  # torchmetrics counts a reflected border
        return map_NCHW[..., border : height - border, border : width - border].mean((1, 2, 3)).float()


class CannyF1:
    """F1 between the Canny edges of output and truth, which measures how well a canny-to-image model keeps edges.

    An edge pixel matches only an edge at exactly the same pixel (no tolerance). Two images without any edge score 1;
    if only one of them has edges, they score 0.
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

    def edges(self, image_CHW: Tensor) -> np.ndarray:
        """Return the boolean edge map (H, W) of a uint8 image, with grey = 0.299 R + 0.587 G + 0.114 B."""
        import cv2

        grey = cv2.cvtColor(np.ascontiguousarray(image_CHW.permute(1, 2, 0).cpu().numpy()), cv2.COLOR_RGB2GRAY)
        return cv2.Canny(grey, self.low, self.high) > 0

    def __call__(self, output: Tensor, truth: Tensor) -> Tensor:
        """Return scores (N,), F1 = 2 |A and B| / (|A| + |B|)."""
        require_images(output, truth)
        scores = []
        for output_CHW, truth_CHW in zip(output, truth, strict=True):
            ours, theirs = self.edges(output_CHW), self.edges(truth_CHW)
            count = int(ours.sum()) + int(theirs.sum())
            scores.append(2 * int((ours & theirs).sum()) / count if count else 1.0)
        return torch.tensor(scores, dtype=torch.float32)
