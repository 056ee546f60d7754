"""No-reference metrics of image quality by pyiqa, whose licence is non-commercial (extra `quality`).

Shapes: N items.
"""

from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unigen.metrics.images import require_images
from unigen.protocols import NOTHING
from unigen.weights.loading import Unavailable, file_hash


class Quality:
    """A no-reference metric of pyiqa, which a subclass names in `metric`. `weights` is its file from pyiqa's releases.

    pyiqa is PolyForm-Noncommercial: install it yourself, for research alone. pyiqa would download the weights by
    itself; here they have to be given as a file, so that nothing is downloaded silently and the protocol names them.
    """

    name: str
    metric: str
    against = NOTHING
    better = "higher"

    def __init__(self, weights: str | None) -> None:
        self.weights = weights

    @property
    def protocol(self) -> Mapping[str, str]:
        """The protocol. Raises Unavailable if pyiqa or the weight file is missing."""
        file = self._file()
        return {
            "library": "pyiqa (non-commercial)",
            "version": version("pyiqa"),
            "parameters": f"{self.metric}, pictures at their own size in [0, 1]",
            "model": f"SHA-256 {file_hash(file)[:12]}",
        }

    @torch.no_grad()
    def __call__(self, output: Tensor, _: object) -> Tensor:
        """Return scores (N,), computed one image at a time, so that no score depends on its batch."""
        require_images(output, output)
        metric = _load(self.metric, self._file())
        return torch.cat([metric(image[None].float() / 255).flatten().cpu() for image in output])

    def _file(self) -> Path:
        try:
            version("pyiqa")
        except ImportError as error:
            raise Unavailable("pyiqa is not installed: pip install 'unigen[quality]' (non-commercial)") from error
        if self.weights is None or not Path(self.weights).expanduser().is_file():
            raise Unavailable(f"set metric.{self.name}.weights=<file of pyiqa's {self.metric}>: {self.weights} is none")
        return Path(self.weights).expanduser()


@lru_cache(maxsize=4)
def _load(metric: str, file: Path) -> Any:
    import pyiqa

    return pyiqa.create_metric(metric, pretrained_model_path=str(file)).eval()


class MANIQA(Quality):
    """pyiqa's MAN-IQA (arXiv:2204.08958), 0 to 1; releases before 0.1.16 drew its crops at random."""

    name = "man_iqa"
    metric = "maniqa"


class MUSIQ(Quality):
    """pyiqa's MUSIQ (arXiv:2108.05997), trained on KonIQ-10k, 0 to 100."""

    name = "musiq"
    metric = "musiq"
