"""Networks whose features set-level metrics compare. Shapes: N pictures, D features, C = 3 channels, H and W pixels."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from unigen.judge import judge_protocol, load_judge
from unigen.weights import Unavailable, file_hash


class Extractor(Protocol):
    """`network` maps uint8 pictures (N, 3, H, W) to features (N, D), and has `num_features` D.

    `protocol` says what they are, weights included. Both raise Unavailable if something is not here.
    """

    @property
    def protocol(self) -> Mapping[str, str]: ...
    def network(self) -> nn.Module: ...


class Inception:
    """The last pooled features (D = 2048) of FID's own Inception v3, by torch-fidelity (extra `fid`).

    weights: pt_inception-2015-12-05 as torch-fidelity's weights-inception-2015-12-05-6726825d.pth; null looks for it in
    torch's hub folder. Nothing is downloaded. torchmetrics scales pictures to 299 x 299, bilinear with antialias.
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
        """Raises Unavailable, saying what to install or where to put it, without the library or the file."""
        try:
            version("torch-fidelity")
        except ImportError as error:
            raise Unavailable("torch-fidelity is not installed: pip install 'unigen[fid]'") from error
        usual = Path(torch.hub.get_dir()) / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
        path = usual if self.weights is None else Path(self.weights).expanduser()
        if not path.is_file():
            raise Unavailable(
                f"{path} is not there: take it from the releases of github.com/toshas/torch-fidelity, or say where it "
                "is with extractor.weights=<file> of the metric"
            )
        return path


class JudgeFeatures:
    """The unit vectors of the mini judge's `dino` times the root of D. `judge` as in the metrics mini_*.

    Then x.y / D, of which KID's kernel is made, is their cosine, as the judge was trained.
    """

    def __init__(self, judge: str, key: str) -> None:
        self.source, self.key = judge, key

    @property
    def protocol(self) -> Mapping[str, str]:
        said = judge_protocol(self.source, self.key, "")
        return {"features": "unit vectors of the mini judge's dino times sqrt(D)", "model": said["judge"]}

    def network(self) -> nn.Module:
        return _Judged(self.source, self.key)


class _Judged(nn.Module):
    def __init__(self, source: str, key: str) -> None:
        super().__init__()
        self.judge = load_judge(source, key)
        self.num_features = self.judge.dino.config.projection_dim

    @torch.no_grad()
    def forward(self, pictures_N3HW: Tensor) -> Tensor:
        return self.judge.view_embed(pictures_N3HW) * self.num_features**0.5
