"""The codec of scenes: diffusers' `AutoencoderTiny` on images whose pixels become channels.

Shapes: N images, C latent channels, D = 3 * fold^2 folded channels, h and w latent cells.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

from unigen.core.canvas import to_unit
from unigen.encoders.folded import Folded, check_folded
from unigen.encoders.patch import principal_components
from unigen.encoders.vae import KEY
from unigen.weights.loading import load_pretrained

SPREAD = 0.2  # mean standard deviation of unnormalised latents: there the decoder's tanh(z / 3) * 3 is a straight line


class FoldedTiny(Folded):
    """`AutoencoderTiny` with one level of cells of fold×fold pixels: no convolution at a higher resolution.

    It has no normalisation layers, so a linear map passes through it unchanged, and `fit` sets the weights to the
    principal components of the cells: a channel z rides as the pair (z, -z), since relu(z) - relu(-z) = z. Training
    goes on from there.

    `config` holds the arguments of the class; `whiten` is that of `PatchPCA`, for the start alone. Training adds noise
    of standard deviation `noise` to unnormalised latents, whose own is about SPREAD; no other use adds it. `split` is
    explained at `Folded`; `channels` are those that this leaves, for parts that need their number. `pretrained` is a
    folder, a repository id or null.
    Raises ValueError if the channels do not fit the fold or each other.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        fold: int,
        whiten: float,
        noise: float,
        split: int = 1,
        channels: int | None = None,
        pretrained: str | None = None,
    ) -> None:
        from diffusers import AutoencoderTiny
        from diffusers.configuration_utils import FrozenDict

        super().__init__()
        check_folded(config, fold)
        _check_widths(config)
        _check_split(config, fold, split)
        if channels not in (None, config["latent_channels"] // split**2):
            raise ValueError(
                f"encoder.codec.channels is {channels}; {config['latent_channels']} latent channels laid out as "
                f"{split}×{split} cells make {config['latent_channels'] // split**2}"
            )
        load = load_pretrained(AutoencoderTiny, pretrained, KEY, self.folders[0], config)
        self.vae = (load or AutoencoderTiny(**config)).requires_grad_(False).eval()
        # The class registers a key that it does not take, and then warns of it whenever its own files are loaded.
        told = {key: value for key, value in self.vae.config.items() if key != "block_out_channels"}
        self.vae._internal_dict = FrozenDict(told)
        self.fold, self.split, self.stride = fold, split, fold // split
        self.whiten, self.noise = whiten, noise
        self.register_buffer("fitted", torch.tensor(load is not None))

    @torch.no_grad()
    def fit(self, images: Callable[[], Tensor]) -> None:
        """Begin as the principal components of uint8 images (N, 3, H, W); does nothing to a codec that has weights."""
        if bool(self.fitted):
            return
        count = self.vae.config.latent_channels
        cells = pixel_unshuffle(to_unit(images()), self.fold).movedim(1, -1).flatten(0, -2)
        mean, components, deviation = principal_components(cells, count)
        scale = deviation ** (1 - self.whiten) / deviation
        scale *= SPREAD / (deviation * scale).mean()
        inwards, outwards = components * scale[:, None], (components / scale[:, None]).T
        enter, *middle, leave = self.vae.encoder.layers
        _begin(enter, 2 * inwards, -inwards @ (mean + 1))  # diffusers maps pixels from [-1, 1] to [0, 1] before it
        _end(leave, torch.eye(count) * (1 if middle else 0.5), torch.zeros(count))
        convolutions = [layer for layer in self.vae.decoder.layers if isinstance(layer, nn.Conv2d)]
        _begin(convolutions[0], torch.eye(count), torch.zeros(count))
        _end(convolutions[-1], outwards / 2, (mean + 1) / 2)  # ... and back after it
        for block in (each for each in self.vae.modules() if hasattr(each, "fuse")):
            nn.init.zeros_(block.conv[-1].weight), nn.init.zeros_(block.conv[-1].bias)
        self.fitted.fill_(True)

    def posterior(self, pixels_N3HW: Tensor) -> Any:
        """Return unnormalised latents as diffusers' Gaussian, all of the standard deviation `noise`."""
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        mean = self.vae.encode(pixel_unshuffle(pixels_N3HW, self.fold)).latents
        spread = torch.full_like(mean, self.noise).square().log()
        return DiagonalGaussianDistribution(torch.cat([mean, spread], 1))


def _check_widths(config: Mapping[str, Any]) -> None:
    """Raise ValueError for more than one level, and for one that is too narrow for pairs of components."""
    key, channels = "encoder.codec.config", config["latent_channels"]
    for part in ("encoder", "decoder"):
        widths = config[f"{part}_block_out_channels"]
        if len(widths) != 1 or widths[0] < 2 * channels:
            raise ValueError(
                f"{key}.{part}_block_out_channels is {list(widths)}; legal is one number of at least {2 * channels}, "
                "twice latent_channels, since the principal components enter as pairs"
            )


def _check_split(config: Mapping[str, Any], fold: int, split: int) -> None:
    """Raise ValueError unless a cell's pixels and channels can be laid out as split×split cells."""
    channels = config["latent_channels"]
    if split < 1 or fold % split or channels % split**2:
        raise ValueError(
            f"encoder.codec.split is {split}; it must divide fold ({fold}), and its square latent_channels ({channels})"
        )


def _begin(convolution: nn.Conv2d, linear_CD: Tensor, bias_C: Tensor) -> None:
    """Let the first 2 C outputs be (Ax + b, -Ax - b); the rest keep their random weights."""
    count = len(bias_C)
    weight, bias = convolution.weight, convolution.bias
    nn.init.zeros_(weight[: 2 * count])
    weight[:count, :, 1, 1], weight[count : 2 * count, :, 1, 1] = linear_CD, -linear_CD
    bias.zero_()
    bias[:count], bias[count : 2 * count] = bias_C, -bias_C


def _end(convolution: nn.Conv2d, linear_DC: Tensor, bias_D: Tensor) -> None:
    """Let the outputs be A(x_1 - x_2) + b of the pair (x_1, x_2) that the first 2 C inputs hold."""
    count = linear_DC.shape[1]
    nn.init.zeros_(convolution.weight)
    convolution.weight[:, :count, 1, 1], convolution.weight[:, count : 2 * count, 1, 1] = linear_DC, -linear_DC
    convolution.bias.copy_(bias_D)
