"""Trains the codec of the mini family, an autoencoder.

Shapes: N images, C latent channels.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from unigen.config.values import averages
from unigen.core import canvas, noise
from unigen.core.types import Batch, ImageSlot
from unigen.evaluation.scoring import bounded, metric_cards, through_codec
from unigen.pipeline.build import build
from unigen.pipeline.learner import Learner, parameters
from unigen.weights.loading import round_to_half

FIT_IMAGES = 4000  # training images whose latents set the scale


class CodecLearner(Learner):
    """Trains `encoder.codec` to reconstruct images; it must have posterior, reconstruct and normalise (FoldedVAE,
    FoldedTiny).

    loss = mean((x - y)^2) + l1 * mean(|x - y|) + kl * KL(posterior || N(0, 1)), means over all elements. Pixels are in
    [-1, 1]. After training the latents are normalised to mean 0 and variance 1 over training images.
    """

    def __init__(self, config: Mapping[str, Any], l1: float, kl: float) -> None:
        super().__init__(config)
        self.l1, self.kl = l1, kl
        self.codec = build(config["encoder"]["codec"])
        self.codec.vae.requires_grad_(True).train()
        self.parts.update({"codec": self.codec})

    def print_header(self, slots: tuple[ImageSlot, ...], config: Mapping[str, Any]) -> None:
        """Print the number of parameters, and the sizes of images and latents."""
        console, count = Console(highlight=False), parameters(self.codec)
        console.print(f"[bold]{config['name']}[/bold], seed {config['seed']}")
        console.print(f"{type(self.codec.vae).__name__}: {count['trained']:,} parameters, all trained")
        slot, stride = slots[0], self.codec.stride
        box = f"{slot.height // stride}×{slot.width // stride}×{self.codec.channels}"
        console.print(f"latents: {slot.height}×{slot.width}×3 pixels to {box}")

    def prepare(self, data: Any) -> None:
        """Give a codec without weights its start, if it has one."""
        self.codec.fit(lambda: data.fit_images(FIT_IMAGES))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss on the batch's images, and log it with its parts."""
        losses = self._losses(canvas.to_unit(_images(batch)), self.chance("codec"))
        for name, value in losses.items():
            self.log(f"train/{name}", value.detach(), batch_size=len(batch))
        self.log("step", self.trainer.global_step + 1.0, batch_size=len(batch))
        return losses["loss"]

    def _losses(self, pixels_N3HW: Tensor, chance: torch.Generator) -> dict[str, Tensor]:
        posterior = self.codec.posterior(pixels_N3HW)
        mean, deviation = posterior.mean.float(), posterior.std.float()
        z = mean + deviation * noise.normal(mean.shape, chance).to(mean.device)
        error = self.codec.reconstruct(z).float() - pixels_N3HW
        kl = 0.5 * (mean.square() + deviation.square() - 1 - 2 * deviation.log()).mean()
        mse, l1 = error.square().mean(), error.abs().mean()
        return {"loss": mse + self.l1 * l1 + self.kl * kl, "mse": mse, "kl": kl}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the mean squared error of reconstruction from the posterior's mean."""
        pixels = canvas.to_unit(_images(batch))
        error = self.codec.reconstruct(self.codec.posterior(pixels).mode()).float() - pixels
        self.log("val/loss", error.square().mean(), batch_size=len(batch), sync_dist=True)
        self.log("step", float(self.trainer.global_step), batch_size=len(batch), sync_dist=True)

    @torch.no_grad()
    def settle(self, data: Any) -> None:
        """Round the weights to fp16, as they will be saved, and normalise the latents."""
        round_to_half(self.codec)
        chunks = canvas.to_unit(data.fit_images(FIT_IMAGES)).split(64)
        self.codec.normalise(torch.cat([self.codec.posterior(x.to(self.device)).mode().cpu() for x in chunks]))

    def measure(self, data: Any, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return every metric on each kind of held-out image, named metric_kind; `low` compares with another image."""
        metrics = {name: build(node) for name, node in config["metric"].items()}
        scores: dict[str, Any] = {}
        for kind, batches in data.test_dataloaders_by_kind().items():
            truth = torch.cat([_images(batch) for batch in batches])
            chunks = truth.split(64)
            output = torch.cat([through_codec(self.codec, x, self.device) for x in chunks])
            found = bounded(metrics, output, truth, {"truth": truth})
            scores |= {f"{name}_{kind}": score for name, score in found.items()}
        protocol = {
            "data": config["data"]["_target_"].rpartition(".")[2],
            "split": "test",
            "items": max((s["items"] for s in scores.values()), default=0),
            "size": config["data"]["size"],
            "weights": "EMA" if averages(config) else "last",
            **metric_cards(metrics),
        }
        return {"metrics": scores, "bounds": {"low": "another image", "high": "the image"}, "protocol": protocol}

    def export(self, folder: Path, config: Mapping[str, Any]) -> list[Path]:
        """Save the autoencoder in diffusers' format, fp16; return its folder."""
        folder = folder / config["name"].removeprefix("mini_")
        copy.deepcopy(self.codec.vae).half().save_pretrained(folder)
        return [folder]

    def sample(self, batch: Batch, seed: int) -> dict[str, Tensor]:
        """Return the images after one pass through the codec."""
        with torch.no_grad():
            pixels = _images(batch)
            z = self.codec.posterior(canvas.to_unit(pixels).to(self.device)).mode()
            return {batch.slots[0].name: canvas.to_pixels(self.codec.reconstruct(z))[:, None]}


def _images(batch: Batch) -> Tensor:
    """Return the images of the batch's only slot, uint8 (N, 3, H, W)."""
    return batch.images[batch.slots[0].name].flatten(0, 1)
