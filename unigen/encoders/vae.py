"""diffusers' autoencoders as codecs, one picture at a time (a clip's frames are encoded one by one).

Shapes: N pictures, C latent channels.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn

from unigen.weights import in_type, load_pretrained, stored_type

KEY = "encoder.codec.pretrained"


def sampled(parameters: Tensor, generator: Generator | None) -> Tensor:
    """A sample of the Gaussian whose mean and log-variance lie along dimension 1, its mean without a generator."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    posterior = DiagonalGaussianDistribution(parameters)
    return posterior.mode() if generator is None else posterior.sample(generator)


class CogVideoXVAE(nn.Module):
    """`AutoencoderKLCogVideoX` on stills: latent = posterior * scaling_factor, as the authors train.

    Stills are decoded one latent frame at a time: two frames together would decode to eight.
    `config` are the class's arguments, `pretrained` a folder or repository id, or null. `dtype` is what the weights are
    held and used in: "float32" or "bfloat16"; posteriors are drawn, and pictures given back, in fp32.
    Raises ValueError for another `dtype`.
    """

    folders = ("vae",)  # where a pipeline keeps what `pretrained` names
    stride = 8
    cacheable = False  # training samples the posterior

    def __init__(self, config: Mapping[str, Any], pretrained: str | None = None, dtype: str = "float32") -> None:
        from diffusers import AutoencoderKLCogVideoX

        super().__init__()
        stored = stored_type(dtype, "encoder.codec.dtype")
        load = load_pretrained(
            AutoencoderKLCogVideoX, pretrained, "encoder.codec.pretrained", self.folders[0], config, stored
        )
        self.vae = (load or in_type(AutoencoderKLCogVideoX(**config), stored)).requires_grad_(False).eval()
        # One picture after the other: beyond 2^30 elements (ten pictures of 512²) diffusers splits a convolution along
        # time, of which a still does not have enough; and it takes a tenth of the memory.
        self.vae.enable_slicing()

    @property
    def channels(self) -> int:
        return self.vae.config.latent_channels

    def fit(self, pictures: Callable[[], Tensor]) -> None:
        """Pretrained: nothing to fit."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What besides the weights decides the moments."""
        return self.vae.config

    @torch.no_grad()
    def moments(self, pixels_N3HW: Tensor) -> Tensor:
        """The posterior's mean and log-variance before scaling, (N, 2 C, h, w), in the weights' precision."""
        with torch.autocast(pixels_N3HW.device.type, enabled=False):
            return self.vae.encode(pixels_N3HW[:, :, None].to(self.vae.dtype)).latent_dist.parameters[:, :, 0]

    @torch.no_grad()
    def draw(self, moments: Tensor, generator: Generator | None = None) -> Tensor:
        """Latents (N, C, h, w): a posterior sample with a generator, the posterior's mean without."""
        return sampled(moments[:, :, None].float(), generator)[:, :, 0] * self.vae.config.scaling_factor

    def encode(self, pixels_N3HW: Tensor, generator: Generator | None = None) -> Tensor:
        """A posterior sample with a generator, the posterior's mean without."""
        return self.draw(self.moments(pixels_N3HW), generator)

    @torch.no_grad()
    def decode(self, latents_NCHW: Tensor) -> Tensor:
        z = latents_NCHW[:, :, None] / self.vae.config.scaling_factor
        return self.vae.decode(z.to(self.vae.dtype)).sample[:, :, 0].float()


class ImageVAE(nn.Module):
    """`AutoencoderKL` (Flux and its kin): latent = (posterior - shift_factor) * scaling_factor.

    Arguments are those of `CogVideoXVAE`.
    """

    folders = ("vae",)  # where a pipeline keeps what `pretrained` names
    stride = 8
    cacheable = False  # training samples the posterior

    def __init__(self, config: Mapping[str, Any], pretrained: str | None = None, dtype: str = "float32") -> None:
        from diffusers import AutoencoderKL

        super().__init__()
        stored = stored_type(dtype, "encoder.codec.dtype")
        load = load_pretrained(AutoencoderKL, pretrained, KEY, self.folders[0], config, stored)
        self.vae = (load or in_type(AutoencoderKL(**config), stored)).requires_grad_(False).eval()

    @property
    def channels(self) -> int:
        return self.vae.config.latent_channels

    def fit(self, pictures: Callable[[], Tensor]) -> None:
        """Pretrained: nothing to fit."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What besides the weights decides the moments."""
        return self.vae.config

    @torch.no_grad()
    def moments(self, pixels_N3HW: Tensor) -> Tensor:
        """The posterior's mean and log-variance before shift and scale, (N, 2 C, h, w), in the weights' precision."""
        with torch.autocast(pixels_N3HW.device.type, enabled=False):
            return self.vae.encode(pixels_N3HW.to(self.vae.dtype)).latent_dist.parameters

    @torch.no_grad()
    def draw(self, moments: Tensor, generator: Generator | None = None) -> Tensor:
        """Latents (N, C, h, w): a posterior sample with a generator, the posterior's mean without."""
        z = sampled(moments.float(), generator)
        return (z - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor

    def encode(self, pixels_N3HW: Tensor, generator: Generator | None = None) -> Tensor:
        """A posterior sample with a generator, the posterior's mean without."""
        return self.draw(self.moments(pixels_N3HW), generator)

    @torch.no_grad()
    def decode(self, latents_NCHW: Tensor) -> Tensor:
        z = latents_NCHW / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        return self.vae.decode(z.to(self.vae.dtype)).sample.float()
