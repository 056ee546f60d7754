"""An autoencoder that is cheap on a CPU: diffusers' `AutoencoderKL` on pictures folded into channels.

Shapes: N pictures, C latent channels, K = 3 * fold^2 folded channels, h and w rows and columns of latents.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from unigen.encoders.vae import ImageVAE


class FoldedVAE(ImageVAE):
    """`AutoencoderKL` whose input channels are the pixels of fold×fold squares: no convolution at full resolution.

    (Wan2.2's VAE and SANA's DC-AE start in the same way.) latent = (posterior mean - shift_factor) * scaling_factor;
    the mean, not a sample, so encoding has no randomness and what was encoded once may be kept. `config` are the
    class's arguments, in_channels and out_channels 3 * fold^2; `pretrained` a folder, repository id, or null.
    Raises ValueError if the channels do not fit the fold.
    """

    cacheable = True

    def __init__(self, config: Mapping[str, Any], fold: int, pretrained: str | None = None) -> None:
        super().__init__(config, pretrained)
        if {config["in_channels"], config["out_channels"]} != {3 * fold * fold}:
            raise ValueError(
                f"encoder.codec.config: in_channels and out_channels are {config['in_channels']} and "
                f"{config['out_channels']}; with encoder.codec.fold {fold} both must be {3 * fold * fold}"
            )
        self.fold = fold
        self.stride = fold * 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What besides the weights decides the moments."""
        return {**self.vae.config, "fold": self.fold}

    @torch.no_grad()
    def moments(self, pixels_N3HW: Tensor) -> Tensor:
        """The posterior's mean (N, C, h, w) alone: its variance is never used."""
        with torch.autocast(pixels_N3HW.device.type, enabled=False):
            return self.posterior(pixels_N3HW).mode()

    @torch.no_grad()
    def draw(self, moments: Tensor, generator: Generator | None = None) -> Tensor:
        """Normalised latents (N, C, h, w) in fp32; `generator` is unused."""
        return (moments - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor

    def encode(self, pixels_N3HW: Tensor, generator: Generator | None = None) -> Tensor:
        """(N, 3, H, W) in [-1, 1] to normalised latents (N, C, h, w) in fp32; `generator` is unused."""
        return self.draw(self.moments(pixels_N3HW))

    @torch.no_grad()
    def decode(self, latents_NCHW: Tensor) -> Tensor:
        """The inverse, not clamped."""
        return self.reconstruct(latents_NCHW / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0))

    def posterior(self, pixels_N3HW: Tensor) -> Any:
        """diffusers' `DiagonalGaussianDistribution` over unnormalised latents."""
        return self.vae.encode(pixel_unshuffle(pixels_N3HW, self.fold)).latent_dist

    def reconstruct(self, z_NCHW: Tensor) -> Tensor:
        """Pixels from unnormalised latents."""
        return pixel_shuffle(self.vae.decode(z_NCHW).sample, self.fold)

    def normalise(self, z_NCHW: Tensor) -> None:
        """Set shift_factor and scaling_factor so that these unnormalised latents have mean 0 and variance 1."""
        shift, scale = float(z_NCHW.double().mean()), 1 / float(z_NCHW.double().std())
        self.vae.register_to_config(shift_factor=shift, scaling_factor=scale)
