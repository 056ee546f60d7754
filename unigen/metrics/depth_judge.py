"""The depth judge of the mini family: a small estimator of the depth of scenes, and the metric that asks it.

It is transformers' `DepthAnythingForDepthEstimation`, trained by `unigen.learners.depth_judge` on scenes whose depth is
known. Shapes: N images, H and W pixels.
"""

import copy
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unigen.core.canvas import to_unit
from unigen.metrics.images import require_images
from unigen.weights.loading import load_pretrained, weights_hash, without_bars
from unigen.weights.repositories import SHIPPED, shipped_folder


class DepthJudge(nn.Module):
    """Estimates depth: 1 is the front layer of a scene, 0 is far.

    The constructor takes the model's configuration as a plain dictionary and draws weights from torch's generator.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation

        super().__init__()
        self.model = DepthAnythingForDepthEstimation(DepthAnythingConfig(**config))

    def forward(self, images_N3HW: Tensor) -> Tensor:
        """Return the depth (N, H, W) in [0, 1] of uint8 images, which are resized to its own size; gradients flow."""
        size = self.model.config.backbone_config.image_size
        pixels = to_unit(images_N3HW.to(self.model.device))
        if pixels.shape[2:] != (size, size):
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        depth = self.model(pixel_values=pixels).predicted_depth.float()
        if depth.shape[1:] != images_N3HW.shape[2:]:
            depth = F.interpolate(depth[:, None], images_N3HW.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        return depth

    def save(self, folder: Path) -> None:
        """Save the model in transformers' format, fp16. Raises OSError if it cannot be written."""
        with without_bars():
            copy.deepcopy(self.model).half().save_pretrained(folder)


@lru_cache(maxsize=2)
def load_depth_judge(source: str, key: str) -> DepthJudge:
    """Load a judge from a folder that `save` wrote, or from "shipped:NAME" of this package, in fp32 for inference.

    Raises ValueError naming `source` and the config key `key` if the weights are absent.
    """
    from transformers import DepthAnythingForDepthEstimation

    model = load_pretrained(DepthAnythingForDepthEstimation, source, key)
    with torch.device("meta"):
        judge = DepthJudge(model.config.to_dict())
    judge.model = model
    return judge.eval().requires_grad_(False)


class SceneDepth:
    """RMSE, on 0 to 255, between the depth of the output, as the depth judge sees it, and the true layers.

    The true layers are the condition image in slot `image` of a task that shows the depth of its target. `judge` is
    "shipped:NAME" or a folder that `DepthJudge.save` wrote; it is read at the first use.
    """

    name = "scene_depth"
    better = "lower"

    def __init__(self, judge: str, image: str) -> None:
        self.source, self.against = judge, f"slot {image}"

    @property
    def protocol(self) -> Mapping[str, str]:
        """The protocol, which names the judge by its weights. Raises ValueError if they are absent."""
        import transformers

        load_depth_judge(self.source, "metric.scene_depth.judge")
        folder = shipped_folder(self.source) if self.source.startswith(SHIPPED) else Path(self.source)
        return {
            "library": "transformers",
            "version": transformers.__version__,
            "parameters": "RMSE on 0 to 255 between the judge's depth of the output and the true layers; no scaling",
            "judge": f"{self.source}, SHA-256 {weights_hash(folder)[:12]}",
        }

    @torch.no_grad()
    def __call__(self, output: Tensor, layers: Tensor) -> Tensor:
        """Return scores (N,), on the CPU. `layers` are grey images, uint8 (N, 3, H, W)."""
        require_images(output, layers)
        depth = load_depth_judge(self.source, "metric.scene_depth.judge")(output).cpu() * 255
        return (depth - layers[:, 0].cpu().float()).square().mean((1, 2)).sqrt()
