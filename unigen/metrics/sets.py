"""Distances of two sets of images in the features of a network: FID (arXiv:1706.08500) and KID (arXiv:1801.01401).

Shapes: N images, D features, C = 3 channels, H and W pixels.
"""

import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from unigen.metrics.images import Images, chunks
from unigen.protocols import WHOLE_SET
from unigen.weights.loading import Unavailable, file_hash


class Extractor(Protocol):
    """Returns a `network` that maps uint8 images (N, 3, H, W) to features (N, D), and has `num_features` D.

    `protocol` describes the features and names the weights. Both raise Unavailable if weights or a library are missing.
    """

    @property
    def protocol(self) -> Mapping[str, str]: ...
    def network(self) -> nn.Module: ...


class Inception:
    """The last pooled features (D = 2048) of FID's own Inception v3, by torch-fidelity (extra `fid`).

    `weights` is pt_inception-2015-12-05 as torch-fidelity's file weights-inception-2015-12-05-6726825d.pth; null stands
    for that file in torch's hub folder. Nothing is downloaded. torchmetrics scales images to 299 x 299, bilinear with
    antialias.
    """

    def __init__(self, weights: str | None) -> None:
        self.weights = weights

    @property
    def protocol(self) -> Mapping[str, str]:
        path = self._path()
        return {
            "features": "Inception v3 (2015-12-05), 2048; 299 x 299, bilinear with antialias",
            "model": f"torch-fidelity {version('torch-fidelity')}, SHA-256 {file_hash(path)[:12]}",
        }

    def network(self) -> nn.Module:
        from torchmetrics.image.fid import NoTrainInceptionV3

        found = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(self._path()))
        found.num_features = 2048
        return found

    def _path(self) -> Path:
        """Return the weight file. Raises Unavailable, naming the remedy, if the library or the file is missing."""
        try:
            version("torch-fidelity")
        except ImportError as error:
            raise Unavailable("torch-fidelity is not installed: pip install 'unigen[fid]'") from error
        usual = Path(torch.hub.get_dir()) / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
        path = usual if self.weights is None else Path(self.weights).expanduser()
        if not path.is_file():
            raise Unavailable(
                f"{path} is not there: take it from the releases of github.com/toshas/torch-fidelity, or give its path "
                "with extractor.weights=<file> of the metric"
            )
        return path


class FID:
    """torchmetrics' FID of all outputs to all truths.

    Few images bias it upwards, so only values over equal numbers of images can be compared.
    """

    name = "fid"
    against = WHOLE_SET
    better = "lower"

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor

    @property
    def protocol(self) -> Mapping[str, str]:
        """The protocol. Raises Unavailable if the extractor's weights or library are absent."""
        return {"library": "torchmetrics", "version": version("torchmetrics"), **self.extractor.protocol}

    def __call__(self, output: Images, truth: Images) -> Tensor:
        """Return one number, at least 0. Raises Unavailable for fewer than two images."""
        from torchmetrics.image.fid import FrechetInceptionDistance

        if min(len(output), len(truth)) < 2:
            raise Unavailable(f"the distance of two sets needs two images of each, got {len(output)}")
        distance = FrechetInceptionDistance(feature=self.extractor.network(), normalize=False)
        for images, real in ((truth, True), (output, False)):
            for part in chunks(images):
                distance.update(images[part], real=real)
        return distance.compute()


class KID:
    """torchmetrics' KID of all outputs to all truths: the mean over `subsets` draws of `subset_size` images of each.

    The draws are the same in every call. The kernel is (x.y / D + 1)^3.
    """

    name = "kid"
    against = WHOLE_SET
    better = "lower"

    def __init__(self, extractor: Extractor, subsets: int, subset_size: int) -> None:
        if subsets < 1 or subset_size < 2:
            raise ValueError(
                f"metric.{self.name}: subsets={subsets} must be at least 1, subset_size={subset_size} at least 2"
            )
        self.extractor, self.subsets, self.subset_size = extractor, subsets, subset_size

    @property
    def protocol(self) -> Mapping[str, str]:
        """The protocol. Raises Unavailable if the extractor's weights or library are absent."""
        return {
            "library": "torchmetrics",
            "version": version("torchmetrics"),
            "parameters": f"{self.subsets} subsets of {self.subset_size}, seed 0, cubic kernel",
            **self.extractor.protocol,
        }

    def __call__(self, output: Images, truth: Images) -> Tensor:
        """Return one number, which for equal distributions is near 0 and may be below it.

        Raises Unavailable for fewer images than `subset_size`.
        """
        from torchmetrics.image.kid import KernelInceptionDistance

        if min(len(output), len(truth)) < self.subset_size:
            raise Unavailable(f"there are {len(output)} images, and metric.{self.name}.subset_size={self.subset_size}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the warning that it keeps all features in memory
            distance = KernelInceptionDistance(self.extractor.network(), self.subsets, self.subset_size)
        for images, real in ((truth, True), (output, False)):
            for part in chunks(images):
                distance.update(images[part], real=real)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return distance.compute()[0]
