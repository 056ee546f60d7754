"""Trains an autoencoder of our own: the codec of the mini family.

Shapes: N pictures, C latent channels.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from unigen import canvas, noise
from unigen.build import build
from unigen.config import averages
from unigen.evaluation import bounded, metric_cards, through_codec
from unigen.learner import Learner, parameters
from unigen.types import Batch, ImageSlot
from unigen.weights import round_to_half

FIT_PICTURES = 4000  # training pictures whose latents set the scale


class CodecLearner(Learner):
    """Reconstruction: mean((x - y)^2) + l1 * mean(|x - y|) + kl * KL(posterior || N(0, 1)), means over all elements.

    Pixels are in [-1, 1]. After training the latents are normalised to mean 0 and variance 1 over
    training pictures. Trains `encoder.codec`, which must offer posterior, reconstruct and normalise (FoldedVAE).
    """

    def __init__(self, config: Mapping[str, Any], l1: float, kl: float) -> None:
        super().__init__(config)
        self.l1, self.kl = l1, kl
        self.codec = build(config["encoder"]["codec"])
        self.codec.vae.requires_grad_(True).train()
        self.parts.update({"codec": self.codec})

    def print_header(self, slots: tuple[ImageSlot, ...], config: Mapping[str, Any]) -> None:
        """Sizes."""
        console, count = Console(highlight=False), parameters(self.codec)
        console.print(f"[bold]{config['name']}[/bold], seed {config['seed']}")
        console.print(f"{type(self.codec.vae).__name__}: {count['trained']:,} parameters, all trained")
        slot, stride = slots[0], self.codec.stride
        box = f"{slot.height // stride}×{slot.width // stride}×{self.codec.channels}"
        console.print(f"latents: {slot.height}×{slot.width}×3 pixels to {box}")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss on the batch's pictures."""
        losses = self._losses(canvas.to_unit(_pictures(batch)), self.chance("codec"))
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
        """The mean squared error through the posterior's mean."""
        pixels = canvas.to_unit(_pictures(batch))
        error = self.codec.reconstruct(self.codec.posterior(pixels).mode()).float() - pixels
        self.log("val/loss", error.square().mean(), batch_size=len(batch), sync_dist=True)
        self.log("step", float(self.trainer.global_step), batch_size=len(batch), sync_dist=True)

    @torch.no_grad()
    def settle(self, data: Any) -> None:
        """The weights as they will be saved, and the latents normalised."""
        round_to_half(self.codec)
        chunks = canvas.to_unit(data.fit_pictures(FIT_PICTURES)).split(64)
        self.codec.normalise(torch.cat([self.codec.posterior(x.to(self.device)).mode().cpu() for x in chunks]))

    def measure(self, data: Any, config: Mapping[str, Any]) -> dict[str, Any]:
        """Every metric on each kind of held-out picture, as metric_kind; `low` is another picture's truth."""
        metrics = {name: build(node) for name, node in config["metric"].items()}
        scores: dict[str, Any] = {}
        for kind, batches in data.test_dataloaders_by_kind().items():
            truth = torch.cat([_pictures(batch) for batch in batches])
            chunks = truth.split(64)
            output = torch.cat([through_codec(self.codec, x, self.device) for x in chunks])
            found = bounded(metrics, output, truth, {"truth": truth})
            scores |= {f"{name}_{kind}": score for name, score in found.items()}
        protocol = {
            "data": config["data"]["_target_"],
            "split": "test",
            "items": max((s["items"] for s in scores.values()), default=0),
            "size": config["data"]["size"],
            "weights": "EMA" if averages(config) else "last",
            **metric_cards(metrics),
        }
        return {"metrics": scores, "bounds": {"low": "another picture", "high": "the picture"}, "protocol": protocol}

    def export(self, folder: Path, config: Mapping[str, Any]) -> list[Path]:
        """The autoencoder in diffusers' format, fp16."""
        copy.deepcopy(self.codec.vae).half().save_pretrained(folder / "codec")
        return [folder / "codec"]

    def sample(self, batch: Batch, seed: int) -> dict[str, Tensor]:
        """Pictures after one pass through the codec."""
        with torch.no_grad():
            pixels = _pictures(batch)
            z = self.codec.posterior(canvas.to_unit(pixels).to(self.device)).mode()
            return {batch.slots[0].name: canvas.to_pixels(self.codec.reconstruct(z))[:, None]}


def _pictures(batch: Batch) -> Tensor:
    """uint8 (N, 3, H, W) of the one slot."""
    return batch.images[batch.slots[0].name].flatten(0, 1)
