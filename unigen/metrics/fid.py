"""FID: the Fréchet distance of two sets of pictures in the features of a network (arXiv:1706.08500)."""

from collections.abc import Mapping
from importlib.metadata import version

from torch import Tensor

from unigen.metrics.extractors import Extractor
from unigen.metrics.pictures import Pictures, chunks
from unigen.protocols import WHOLE_SET
from unigen.weights import Unavailable


class FID:
    """torchmetrics' FID of all outputs to all truths, biased upwards by few pictures: equal numbers alone compare."""

    name = "fid"
    against = WHOLE_SET
    better = "lower"

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor

    @property
    def protocol(self) -> Mapping[str, str]:
        """Raises Unavailable if the extractor's weights or library are absent."""
        return {"library": "torchmetrics", "version": version("torchmetrics"), **self.extractor.protocol}

    def __call__(self, output: Pictures, truth: Pictures) -> Tensor:
        """One number, at least 0. Raises Unavailable for less than two pictures."""
        from torchmetrics.image.fid import FrechetInceptionDistance

        if min(len(output), len(truth)) < 2:
            raise Unavailable(f"the distance of two sets needs two pictures of each, got {len(output)}")
        distance = FrechetInceptionDistance(feature=self.extractor.network(), normalize=False)
        for pictures, real in ((truth, True), (output, False)):
            for part in chunks(pictures):
                distance.update(pictures[part], real=real)
        return distance.compute()
