"""The codecs of the mini family, cheap on a CPU: autoencoders of diffusers on images whose pixels become channels.

Shapes: N images, C latent channels, K = 3 * fold^2 folded channels, h and w rows and columns of latents.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from unigen.encoders.vae import FrameCodec, ImageVAE


class Folded(FrameCodec):
    """A codec whose `vae` takes the pixels of fold×fold squares as channels: no convolution at full resolution.

    latent = (posterior mean - shift_factor) * scaling_factor. It is the mean and not a sample, so encoding has no
    randomness and latents may be cached. With `split` above 1 each latent cell is laid out as split×split cells with
    a share of the channels each, which are as fine as those of the published codecs: a backbone that joins 2×2 cells
    to one token reads one cell of the autoencoder. A subclass sets `vae`, a diffusers autoencoder, `fold` and `stride`,
    and says in `posterior` what the autoencoder makes of images.
    """

    folders = ("vae",)  # the part of a pipeline that `pretrained` may name
    cacheable = True
    vae: Any
    fold: int
    split: int = 1

    @property
    def channels(self) -> int:
        return self.vae.config.latent_channels // self.split**2

    @property
    def identity(self) -> Mapping[str, Any]:
        """The settings, besides the weights, on which the moments depend."""
        return {**self.vae.config, "fold": self.fold} | ({"split": self.split} if self.split > 1 else {})

    @torch.no_grad()
    def image_moments(self, pixels_N3HW: Tensor) -> Tensor:
        """Return unnormalised latents (N, C, h, w): the posterior's mean alone, since its variance is never used."""
        with torch.autocast(pixels_N3HW.device.type, enabled=False):
            return pixel_shuffle(self.posterior(pixels_N3HW).mode(), self.split)

    @torch.no_grad()
    def image_latents(self, moments_NChw: Tensor, generator: Generator | None = None) -> Tensor:
        """Return normalised latents (N, C, h, w) in fp32; `generator` is not used."""
        return (moments_NChw - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor

    @torch.no_grad()
    def images(self, latents_NChw: Tensor) -> Tensor:
        """Decode normalised latents to images (N, 3, H, W), which are not clamped."""
        z_NChw = latents_NChw / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        return self.reconstruct(pixel_unshuffle(z_NChw, self.split))

    def posterior(self, pixels_N3HW: Tensor) -> Any:
        """Return diffusers' `DiagonalGaussianDistribution` over unnormalised latents."""
        raise NotImplementedError

    def reconstruct(self, z_NCHW: Tensor) -> Tensor:
        """Decode unnormalised latents to pixels."""
        return pixel_shuffle(self.vae.decode(z_NCHW).sample, self.fold)

    def normalise(self, z_NCHW: Tensor) -> None:
        """Set shift_factor and scaling_factor so that these unnormalised latents have mean 0 and variance 1."""
        shift, scale = float(z_NCHW.double().mean()), 1 / float(z_NCHW.double().std())
        self.vae.register_to_config(shift_factor=shift, scaling_factor=scale)


def check_folded(config: Mapping[str, Any], fold: int) -> None:
    """Raise ValueError unless the autoencoder takes and gives the channels of images that are folded by `fold`."""
    if {config["in_channels"], config["out_channels"]} != {3 * fold * fold}:
        raise ValueError(
            f"encoder.codec.config: in_channels and out_channels are {config['in_channels']} and "
            f"{config['out_channels']}; with encoder.codec.fold {fold} both must be {3 * fold * fold}"
        )


class FoldedVAE(Folded):
    """`AutoencoderKL` on folded images. (Wan2.2's VAE and SANA's DC-AE start in the same way.)

    `config` holds the arguments of the class, with in_channels and out_channels 3 * fold^2; `pretrained` is a folder, a
    repository id or null. Raises ValueError if the channels do not fit the fold.
    """

    def __init__(self, config: Mapping[str, Any], fold: int, pretrained: str | None = None) -> None:
        super().__init__()
        check_folded(config, fold)
        self.vae, self.fold = ImageVAE(config, pretrained).vae, fold
        self.stride = fold * 2 ** (len(self.vae.config.block_out_channels) - 1)

    def posterior(self, pixels_N3HW: Tensor) -> Any:
        """Return diffusers' `DiagonalGaussianDistribution` over unnormalised latents."""
        return self.vae.encode(pixel_unshuffle(pixels_N3HW, self.fold)).latent_dist
