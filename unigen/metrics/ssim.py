"""Structural similarity. Shapes: N items, C = 3 channels, H and W pixels."""

from importlib.metadata import version

from torch import Tensor

from unigen.metrics.pictures import require_pictures


class SSIM:
    """SSIM of Wang et al. 2004 (IEEE TIP 13(4)), averaged over channels and over the pixels whose window lies inside.

    Wang's code is `filter2(window, image, 'valid')`: an image of H x W has (H - 10) x (W - 10) values. It is of grey
    images; here each channel of RGB has its map, as with `channel_axis` of skimage, and none is downsampled first.
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
        """Width of the Gaussian window: torchmetrics derives it from sigma and ignores its own `kernel_size`."""
        return int(3.5 * self.sigma + 0.5) * 2 + 1

    def __call__(self, output: Tensor, truth: Tensor) -> Tensor:
        """Scores (N,). In float64: fp32 variances of flat regions are mostly rounding (equal pictures get 0.9999).

        Raises ValueError for images smaller than the window, which no window fits into.
        """
        from torchmetrics.functional.image import structural_similarity_index_measure

        require_pictures(output, truth)
        if min(output.shape[2:]) < self.window:
            raise ValueError(f"SSIM needs pictures of at least {self.window} pixels, got {tuple(output.shape[2:])}")
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
