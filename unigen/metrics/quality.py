"""Quality of a picture without a reference, by pyiqa, whose licence is non-commercial (extra `quality`)."""

from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unigen.metrics.pictures import require_pictures
from unigen.protocols import NOTHING
from unigen.weights import Unavailable, file_hash


class Quality:
    """A no-reference metric of pyiqa; a subclass says which. weights: its file, from pyiqa's releases.

    pyiqa is PolyForm-Noncommercial: install it yourself, for research alone. It would download weights on its own; here
    a file is asked for, so that nothing is fetched unasked and the protocol can name it.
    """

    name: str
    metric: str
    against = NOTHING
    better = "higher"

    def __init__(self, weights: str | None) -> None:
        self.weights = weights

    @property
    def protocol(self) -> Mapping[str, str]:
        """Raises Unavailable without pyiqa or the file."""
        file = self._file()
        return {
            "library": "pyiqa (non-commercial)",
            "version": version("pyiqa"),
            "parameters": f"{self.metric}, pictures at their own size in [0, 1]",
            "model": f"SHA-256 {file_hash(file)[:12]}",
        }

    @torch.no_grad()
    def __call__(self, output: Tensor, _: object) -> Tensor:
        """Scores (N,), one picture at a time, so that no score depends on its batch."""
        require_pictures(output, output)
        metric = _load(self.metric, self._file())
        return torch.cat([metric(picture[None].float() / 255).flatten().cpu() for picture in output])

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
