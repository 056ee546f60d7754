"""Trains the depth judge of the mini family (`unigen.metrics.depth_judge`). Shapes: N images, H and W pixels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from unigen.config.values import averages
from unigen.core import noise
from unigen.core.types import Batch, ImageSlot
from unigen.metrics.depth_judge import DepthJudge
from unigen.pipeline.learner import Learner, parameters
from unigen.weights.loading import round_to_half


class DepthJudgeLearner(Learner):
    """Trains a depth estimator on the samples of a task that shows the depth of its target.

    loss = mean |estimate - depth|, over all pixels, depth in [0, 1]. Images get Gaussian noise of a standard deviation
    of up to `noise` grey levels, since the judge will see images that a model drew. `model` is the configuration of
    transformers' `DepthAnythingForDepthEstimation`.
    """

    def __init__(self, config: Mapping[str, Any], model: Mapping[str, Any], noise: float) -> None:
        super().__init__(config)
        self.judge, self.noise = DepthJudge(model), noise
        self.parts.update({"judge": self.judge})

    def print_header(self, slots: tuple[ImageSlot, ...], config: Mapping[str, Any]) -> None:
        """Print the number of parameters, and the size of the images."""
        console, slot = Console(highlight=False), slots[-1]
        console.print(f"[bold]{config['name']}[/bold], seed {config['seed']}")
        count = parameters(self.judge)["trained"]
        console.print(f"{type(self.judge.model).__name__}: {count:,} parameters, all trained")
        console.print(f"images of {slot.height}×{slot.width} pixels and their depth")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, and log it."""
        images, depth = _pairs(batch)
        chance = self.chance("judge")
        spread = self.noise * torch.rand(len(images), 1, 1, 1, generator=chance)
        speckle = noise.normal(images.shape, chance).to(images.device) * spread.to(images.device)
        seen = (images.float() + speckle).round().clamp(0, 255).to(torch.uint8)
        loss = (self.judge(seen) - depth).abs().mean()
        self.log("train/loss", loss.detach(), batch_size=len(batch))
        self.log("step", self.trainer.global_step + 1.0, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss without noise, and the root of the mean squared error in grey levels."""
        images, depth = _pairs(batch)
        error = self.judge(images) - depth
        values = {"val/loss": error.abs().mean(), "val/rmse": _rmse(error).mean()}
        self.log_dict(values | {"step": float(self.trainer.global_step)}, batch_size=len(batch), sync_dist=True)

    def settle(self, data: Any) -> None:
        """Round the weights to fp16, as they will be saved."""
        round_to_half(self.judge)

    @torch.no_grad()
    def measure(self, data: Any, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the RMSE on held-out scenes in grey levels; `low` is that of another scene's estimate."""
        pairs = [_pairs(batch) for batch in data.test_dataloader()]
        seen = torch.cat([self.judge(images).cpu() for images, _ in pairs])
        depth = torch.cat([depth.cpu() for _, depth in pairs])
        score = {
            "value": float(_rmse(seen - depth).mean()),
            "low": float(_rmse(seen.roll(1, 0) - depth).mean()),
            "high": 0.0,
            "better": "lower",
            "items": len(depth),
        }
        protocol = {
            "data": config["data"]["_target_"].rpartition(".")[2],
            "split": "test",
            "items": len(depth),
            "size": config["data"]["size"],
            "depth_rmse": "estimate against the true layers, 0 to 255, the mean over images",
            "precision": "weights rounded to fp16, computed in fp32",
            "weights": "EMA" if averages(config) else "last",
        }
        bounds = {"low": "another scene's estimate", "high": "the true layers"}
        return {"metrics": {"depth_rmse": score}, "bounds": bounds, "protocol": protocol}

    def export(self, folder: Path, config: Mapping[str, Any]) -> list[Path]:
        """Save the judge in transformers' format, fp16; return its folder."""
        self.judge.save(folder / "depth_judge")
        return [folder / "depth_judge"]


def _pairs(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the target images, uint8 (N, 3, H, W), and the depth that their conditions show, (N, H, W) in [0, 1]."""
    shown, drawn = batch.slots[-2].name, batch.slots[-1].name
    return batch.images[drawn].flatten(0, 1), batch.images[shown].flatten(0, 1)[:, 0].float() / 255


def _rmse(error_NHW: Tensor) -> Tensor:
    """Return the error of each image in grey levels."""
    return error_NHW.square().mean((1, 2)).sqrt() * 255
