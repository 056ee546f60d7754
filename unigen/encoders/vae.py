"""diffusers' autoencoders as codecs over clips; a still is a clip of one frame.

Shapes: B clips, F frames, f latent frames, N images, C latent channels, M moments of a latent cell,
H and W pixels, h and w latent cells.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from unigen.weights.loading import in_type, load_pretrained, stored_type

KEY = "encoder.codec.pretrained"


def sampled(parameters: Tensor, generator: Generator | None) -> Tensor:
    """Sample the Gaussian whose mean and log-variance lie along dimension 1; return its mean without a generator."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    posterior = DiagonalGaussianDistribution(parameters)
    return posterior.mode() if generator is None else posterior.sample(generator)


class FrameCodec(nn.Module):
    """A codec that encodes every frame of a clip by itself.

    A subclass encodes and decodes images: `image_moments` maps (N, 3, H, W) to (N, M, h, w), `image_latents` maps
    moments to latents (N, C, h, w), and `images` maps latents to (N, 3, H, W).
    """

    temporal_stride = 1
    clip_unit = 1  # a clip may have any number of frames

    def fit(self, images: Callable[[], Tensor]) -> None:
        """Do nothing: the weights are pretrained."""

    def moments(self, pixels_BF3HW: Tensor) -> Tensor:
        """Return the posteriors (B, F, M, h, w) of all frames."""
        return self.image_moments(pixels_BF3HW.flatten(0, 1)).unflatten(0, pixels_BF3HW.shape[:2])

    def draw(self, moments_BFMhw: Tensor, generator: Generator | None = None) -> Tensor:
        """Return latents (B, F, C, h, w): a posterior sample with a generator, the posterior's mean without."""
        return self.image_latents(moments_BFMhw.flatten(0, 1), generator).unflatten(0, moments_BFMhw.shape[:2])

    def encode(self, pixels_BF3HW: Tensor, generator: Generator | None = None) -> Tensor:
        """Return latents (B, F, C, h, w): a posterior sample with a generator, the posterior's mean without."""
        return self.draw(self.moments(pixels_BF3HW), generator)

    def decode(self, latents_BFChw: Tensor) -> Tensor:
        """Decode latents to pixels (B, F, 3, H, W), which are not clamped."""
        return self.images(latents_BFChw.flatten(0, 1)).unflatten(0, latents_BFChw.shape[:2])


class ImageVAE(FrameCodec):
    """`AutoencoderKL` (Flux and its kin): latent = (posterior - shift_factor) * scaling_factor.

    The arguments are those of `VideoVAE`.
    """

    folders = ("vae",)  # the part of a pipeline that `pretrained` may name
    stride = 8
    cacheable = False  # training samples the posterior

    def __init__(self, config: Mapping[str, Any], pretrained: str | None = None, dtype: str = "float32") -> None:
        super().__init__()
        stock, stored = self.stock(), stored_type(dtype, "encoder.codec.dtype")
        load = load_pretrained(stock, pretrained, KEY, self.folders[0], config, stored)
        self.vae = (load or in_type(stock(**config), stored)).requires_grad_(False).eval()

    @staticmethod
    def stock() -> type[nn.Module]:
        """Return the class of diffusers."""
        from diffusers import AutoencoderKL

        return AutoencoderKL

    def normalised(self, z_NChw: Tensor) -> Tensor:
        """Return the latents as the backbone takes them."""
        return (z_NChw - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor

    def denormalised(self, z_NChw: Tensor) -> Tensor:
        """Invert `normalised`."""
        return z_NChw / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)

    @property
    def channels(self) -> int:
        return self.vae.config.latent_channels

    @property
    def identity(self) -> Mapping[str, Any]:
        """The settings, besides the weights, on which the moments depend."""
        return self.vae.config

    @torch.no_grad()
    def image_moments(self, pixels_N3HW: Tensor) -> Tensor:
        """Return the posterior's mean and log-variance, (N, 2 C, h, w), unnormalised, in the weights' precision."""
        with torch.autocast(pixels_N3HW.device.type, enabled=False):
            return self.vae.encode(pixels_N3HW.to(self.vae.dtype)).latent_dist.parameters

    @torch.no_grad()
    def image_latents(self, moments_NMhw: Tensor, generator: Generator | None = None) -> Tensor:
        """Return normalised latents (N, C, h, w) in fp32: a sample with a generator, the mean without."""
        return self.normalised(sampled(moments_NMhw.float(), generator))

    @torch.no_grad()
    def images(self, latents_NChw: Tensor) -> Tensor:
        """Decode normalised latents to images (N, 3, H, W) in fp32."""
        return self.vae.decode(self.denormalised(latents_NChw).to(self.vae.dtype)).sample.float()


class Flux2VAE(ImageVAE):
    """`AutoencoderKLFlux2`: latent = (posterior - mean) / std, by channel and place in a cell of 2×2 latents.

    The statistics are those of a batch norm that came with the weights, over the channels of cells in the order
    (C, p_h, p_w), which is that of a token's features. They are never updated. Random weights have mean 0 and variance
    1. Latents have an even number of rows and columns.
    """

    @staticmethod
    def stock() -> type[nn.Module]:
        """Return the class of diffusers."""
        from diffusers import AutoencoderKLFlux2

        return AutoencoderKLFlux2

    def normalised(self, z_NChw: Tensor) -> Tensor:
        mean, std = self._statistics()
        return pixel_shuffle((pixel_unshuffle(z_NChw, self._side) - mean) / std, self._side)

    def denormalised(self, z_NChw: Tensor) -> Tensor:
        mean, std = self._statistics()
        return pixel_shuffle(pixel_unshuffle(z_NChw, self._side) * std + mean, self._side)

    @property
    def _side(self) -> int:
        return self.vae.config.patch_size[0]

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation (1, 4 C, 1, 1) in fp32."""
        mean, variance = (x.float().view(1, -1, 1, 1) for x in (self.vae.bn.running_mean, self.vae.bn.running_var))
        return mean, (variance + self.vae.config.batch_norm_eps).sqrt()


class VideoVAE(nn.Module):
    """An autoencoder of diffusers over clips, with a temporal stride. A still is a clip of one frame.

    `config` holds the arguments of the class `stock`; `pretrained` is a folder, a repository id or null. The weights
    are held and used in `dtype`, "float32" or "bfloat16"; posteriors are sampled, and pixels returned, in fp32.
    Raises ValueError for another `dtype`.
    """

    folders = ("vae",)  # the part of a pipeline that `pretrained` may name
    cacheable = False  # training samples the posterior

    def __init__(
        self, stock: type[nn.Module], config: Mapping[str, Any], pretrained: str | None, dtype: str = "float32"
    ) -> None:
        super().__init__()
        stored = stored_type(dtype, "encoder.codec.dtype")
        load = load_pretrained(stock, pretrained, KEY, self.folders[0], config, stored)
        self.vae = (load or in_type(stock(**config), stored)).requires_grad_(False).eval()
        # Clips are encoded one after the other: beyond 2^30 elements (ten images of 512²) diffusers splits CogVideoX's
        # convolutions along time, for which a still has too few frames. It also takes a tenth of the memory.
        self.vae.enable_slicing()

    def normalised(self, z_BCfhw: Tensor) -> Tensor:
        """Return the latents as the backbone takes them."""
        raise NotImplementedError

    def denormalised(self, z_BCfhw: Tensor) -> Tensor:
        """Invert `normalised`."""
        raise NotImplementedError

    def fit(self, images: Callable[[], Tensor]) -> None:
        """Do nothing: the weights are pretrained."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """The settings, besides the weights, on which the moments depend."""
        return self.vae.config

    @torch.no_grad()
    def moments(self, pixels_BF3HW: Tensor) -> Tensor:
        """Return the posterior's mean and log-variance, (B, f, 2 C, h, w), unnormalised, in the weights' precision."""
        with torch.autocast(pixels_BF3HW.device.type, enabled=False):
            posterior = self.vae.encode(pixels_BF3HW.transpose(1, 2).to(self.vae.dtype)).latent_dist
            return posterior.parameters.transpose(1, 2)

    @torch.no_grad()
    def draw(self, moments_BfMhw: Tensor, generator: Generator | None = None) -> Tensor:
        """Return latents (B, f, C, h, w): a posterior sample with a generator, the posterior's mean without."""
        return self.normalised(sampled(moments_BfMhw.transpose(1, 2).float(), generator)).transpose(1, 2)

    def encode(self, pixels_BF3HW: Tensor, generator: Generator | None = None) -> Tensor:
        """Return latents (B, f, C, h, w): a posterior sample with a generator, the posterior's mean without."""
        return self.draw(self.moments(pixels_BF3HW), generator)

    @torch.no_grad()
    def decode(self, latents_BfChw: Tensor) -> Tensor:
        """Decode latents to pixels (B, F, 3, H, W) in fp32."""
        z_BCfhw = self.denormalised(latents_BfChw.transpose(1, 2))
        return self.vae.decode(z_BCfhw.to(self.vae.dtype)).sample.transpose(1, 2).float()


class CogVideoXVAE(VideoVAE):
    """`AutoencoderKLCogVideoX`: latent = posterior * scaling_factor, as the authors train.

    A clip of 1 + 8 n frames has 1 + 2 n latent frames. (The model also encodes 5 or 13 frames, into an even number of
    latent frames, but decodes those into more frames than they came from.)
    """

    stride = 8

    def __init__(self, config: Mapping[str, Any], pretrained: str | None = None, dtype: str = "float32") -> None:
        from diffusers import AutoencoderKLCogVideoX

        super().__init__(AutoencoderKLCogVideoX, config, pretrained, dtype)

    @property
    def channels(self) -> int:
        return self.vae.config.latent_channels

    @property
    def temporal_stride(self) -> int:
        return round(self.vae.config.temporal_compression_ratio)

    @property
    def clip_unit(self) -> int:
        return 2 * self.temporal_stride

    def normalised(self, z_BCfhw: Tensor) -> Tensor:
        return z_BCfhw * self.vae.config.scaling_factor

    def denormalised(self, z_BCfhw: Tensor) -> Tensor:
        return z_BCfhw / self.vae.config.scaling_factor


class WanVAE(VideoVAE):
    """`AutoencoderKLWan` of Wan 2.1, and of 2.2 with 48 channels: latent = (posterior - mean) / std, by channel.

    A clip of 1 + 4 n frames has 1 + n latent frames. A still's latent equals the first one of any clip that starts
    with it.
    The VAE keeps state on itself during a call, so no two threads may use it at once. Its authors keep it in fp32.
    """

    def __init__(self, config: Mapping[str, Any], pretrained: str | None = None, dtype: str = "float32") -> None:
        super().__init__(self.stock(), config, pretrained, dtype)
        for name in ("latents_mean", "latents_std"):
            values = torch.tensor(self.vae.config[name], dtype=torch.float32)
            self.register_buffer(name, values.view(-1, 1, 1, 1), persistent=False)

    @staticmethod
    def stock() -> type[nn.Module]:
        """Return the class of diffusers."""
        from diffusers import AutoencoderKLWan

        return AutoencoderKLWan

    @property
    def stride(self) -> int:
        return self.vae.config.scale_factor_spatial

    @property
    def temporal_stride(self) -> int:
        return self.vae.config.scale_factor_temporal

    @property
    def clip_unit(self) -> int:
        return self.temporal_stride

    @property
    def channels(self) -> int:
        return self.vae.config.z_dim

    def normalised(self, z_BCfhw: Tensor) -> Tensor:
        return (z_BCfhw - self.latents_mean) / self.latents_std

    def denormalised(self, z_BCfhw: Tensor) -> Tensor:
        return z_BCfhw * self.latents_std + self.latents_mean


class QwenImageVAE(WanVAE):
    """`AutoencoderKLQwenImage`: with the same weights the same numbers as Wan 2.1's, normalised in the same way.

    Qwen-Image has it encode stills alone.
    """

    @staticmethod
    def stock() -> type[nn.Module]:
        """Return the class of diffusers."""
        from diffusers import AutoencoderKLQwenImage

        return AutoencoderKLQwenImage

    @property
    def stride(self) -> int:
        return 2 ** len(self.vae.config.temperal_downsample)

    @property
    def temporal_stride(self) -> int:
        return 2 ** sum(self.vae.config.temperal_downsample)


class HunyuanVideo15VAE(VideoVAE):
    """`AutoencoderKLHunyuanVideo15`: latent = posterior * scaling_factor.

    A clip of 1 + 4 n frames has 1 + n latent frames. A still's latent equals the first one of any clip that starts
    with it. diffusers cannot encode or decode several clips in one call; slicing has them one after the other.
    """

    def __init__(self, config: Mapping[str, Any], pretrained: str | None = None, dtype: str = "float32") -> None:
        from diffusers import AutoencoderKLHunyuanVideo15

        super().__init__(AutoencoderKLHunyuanVideo15, config, pretrained, dtype)

    @property
    def channels(self) -> int:
        return self.vae.config.latent_channels

    @property
    def stride(self) -> int:
        return self.vae.config.spatial_compression_ratio

    @property
    def temporal_stride(self) -> int:
        return self.vae.config.temporal_compression_ratio

    @property
    def clip_unit(self) -> int:
        return self.temporal_stride

    def normalised(self, z_BCfhw: Tensor) -> Tensor:
        return z_BCfhw * self.vae.config.scaling_factor

    def denormalised(self, z_BCfhw: Tensor) -> Tensor:
        return z_BCfhw / self.vae.config.scaling_factor
