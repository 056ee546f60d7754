"""Peak signal-to-noise ratio. Shapes: N items, C = 3 channels, H and W pixels."""

from importlib.metadata import version

from torch import Tensor

from unigen.metrics.pictures import require_pictures


class PSNR:
    """10 log10(255^2 / MSE) in dB, per picture over all channels and pixels; infinite for equal pictures."""

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
        """Scores (N,)."""
        from torchmetrics.functional.image import peak_signal_noise_ratio

        require_pictures(output, truth)
        return peak_signal_noise_ratio(output.float(), truth.float(), data_range=255.0, reduction="none", dim=(1, 2, 3))
