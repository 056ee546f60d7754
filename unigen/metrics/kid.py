"""KID: the kernel distance of two sets of pictures in the features of a network, unbiased (arXiv:1801.01401)."""

import warnings
from collections.abc import Mapping
from importlib.metadata import version

import torch
from torch import Tensor

from unigen.metrics.extractors import Extractor
from unigen.metrics.pictures import Pictures, chunks
from unigen.protocols import WHOLE_SET
from unigen.weights import Unavailable


class KID:
    """torchmetrics' KID of all outputs to all truths: the mean over `subsets` draws of `subset_size` pictures of each.

    The draws are the same in every call. The kernel is (x.y / D + 1)^3.
    """

    name = "kid"
    against = WHOLE_SET
    better = "lower"

    def __init__(self, extractor: Extractor, subsets: int, subset_size: int) -> None:
        if subsets < 1 or subset_size < 2:
            raise ValueError(f"metric.{self.name}: subsets={subsets} must be at least 1, subset_size={subset_size} 2")
        self.extractor, self.subsets, self.subset_size = extractor, subsets, subset_size

    @property
    def protocol(self) -> Mapping[str, str]:
        """Raises Unavailable if the extractor's weights or library are absent."""
        return {
            "library": "torchmetrics",
            "version": version("torchmetrics"),
            "parameters": f"{self.subsets} subsets of {self.subset_size}, seed 0, cubic kernel",
            **self.extractor.protocol,
        }

    def __call__(self, output: Pictures, truth: Pictures) -> Tensor:
        """One number; about 0, and below it by chance, for equal distributions. Unavailable for too few pictures."""
        from torchmetrics.image.kid import KernelInceptionDistance

        if min(len(output), len(truth)) < self.subset_size:
            raise Unavailable(
                f"there are {len(output)} pictures, and metric.{self.name}.subset_size={self.subset_size}"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it keeps the features
            distance = KernelInceptionDistance(self.extractor.network(), self.subsets, self.subset_size)
        for pictures, real in ((truth, True), (output, False)):
            for part in chunks(pictures):
                distance.update(pictures[part], real=real)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return distance.compute()[0]
