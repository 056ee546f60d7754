"""LPIPS: a distance of two images in a network's features (arXiv:1801.03924). Shapes: N items, H and W pixels."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unigen.core.canvas import to_unit
from unigen.metrics.images import require_images
from unigen.weights.loading import Unavailable, file_hash

NETS = {"alex": "AlexNet_Weights", "vgg": "VGG16_Weights", "squeeze": "SqueezeNet1_1_Weights"}  # torchvision's


class LPIPS:
    """torchmetrics' LPIPS v0.1 of images at their own size in [-1, 1].

    The heads come with torchmetrics. The network under them, `net` (alex, vgg or squeeze), is torchvision's for
    ImageNet. It is loaded from torch's hub folder, and downloaded only if `download` is true.
    """

    name = "lpips"
    against = "truth"
    better = "lower"

    def __init__(self, net: str, download: bool) -> None:
        if net not in NETS:
            raise ValueError(f"metric.lpips.net={net} is unknown: it must be one of {', '.join(NETS)}")
        self.net, self.download = net, download

    @property
    def protocol(self) -> Mapping[str, str]:
        """The protocol. Raises Unavailable if the network's weights are absent."""
        return {
            "library": "torchmetrics",
            "version": version("torchmetrics"),
            "parameters": f"v0.1, net {self.net}, pictures at their own size in [-1, 1]",
            "model": f"torchvision {self.net}, SHA-256 {file_hash(self._weights())[:12]}",
        }

    def __call__(self, output: Tensor, truth: Tensor) -> Tensor:
        """Return scores (N,)."""
        require_images(output, truth)
        self._weights()
        with torch.no_grad():
            return _network(self.net)(to_unit(output), to_unit(truth)).flatten()

    def _weights(self) -> Path:
        """Return the network's weight file. Raises Unavailable, naming the path, if it is absent."""
        try:
            from torchvision import models
        except (ImportError, RuntimeError) as error:  # a torchvision of another build than torch
            raise Unavailable(f"torchvision cannot be imported: {error}") from error
        weights = getattr(models, NETS[self.net]).DEFAULT
        path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
        if not path.is_file():
            if not self.download:
                raise Unavailable(f"{path} is not there; download it with metric.lpips.download=true")
            try:
                weights.get_state_dict(progress=False)
            except OSError as error:
                raise Unavailable(f"{weights.url} cannot be downloaded: {error}") from error
        return path


@cache
def _network(net: str) -> Any:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity(net_type=net).net.eval()
