"""A linear patch codec fitted in seconds: PCA of 8×8 patches. A stand-in until a trained codec is shipped.

Shapes: N pictures, C latent channels, H and W pixels.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from unigen.canvas import to_unit


class PatchPCA(nn.Module):
    """Each stride×stride×3 patch becomes its first `channels` principal components; decoding is the transpose.

    Component c is divided by scale_c = std_c^whiten * std_all^(1 - whiten): whiten 1 gives every channel
    unit variance, 0 keeps their proportions, so that errors weigh as they do in pixels. In between, as here,
    the strong components stay strong without drowning the weak ones in noise. No randomness: `generator` is unused.
    """

    cacheable = False  # encoding costs less than looking it up

    def __init__(self, channels: int, stride: int, whiten: float) -> None:
        super().__init__()
        width = 3 * stride * stride
        self.channels, self.stride, self.whiten = channels, stride, whiten
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("components", torch.eye(width)[:channels].clone())
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.uint8))

    @torch.no_grad()
    def fit(self, pictures: Callable[[], Tensor]) -> None:
        """Fit mean, components and scales to uint8 pictures (N, 3, H, W); does nothing on a fitted codec."""
        if bool(self.fitted):
            return
        x = self._patches(to_unit(pictures())).movedim(1, -1).flatten(0, -2)
        self.mean.copy_(x.double().mean(0))
        x -= self.mean
        covariance = (x.T @ x).double() / len(x)
        values, vectors = torch.linalg.eigh(covariance)
        top = vectors.flip(1)[:, : self.channels].T
        signs = top.gather(1, top.abs().argmax(1, keepdim=True)).sign()  # eigenvectors have no sign of their own
        self.components.copy_(top * signs)
        deviation = values.flip(0)[: self.channels].clamp(min=1e-12).sqrt()
        overall = deviation.square().mean().sqrt()
        self.scale.copy_(deviation**self.whiten * overall ** (1 - self.whiten))
        self.fitted.fill_(1)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What besides the buffers decides the latents."""
        return {"stride": self.stride}

    def moments(self, pixels_N3HW: Tensor) -> Tensor:
        """The latents themselves, in fp32."""
        with torch.autocast(pixels_N3HW.device.type, enabled=False):
            x = self._patches(pixels_N3HW).movedim(1, -1)
            return (((x - self.mean) @ self.components.T) / self.scale).movedim(-1, 1)

    def draw(self, moments: Tensor, generator: Generator | None = None) -> Tensor:
        """The latents as they are."""
        return moments

    def encode(self, pixels_N3HW: Tensor, generator: Generator | None = None) -> Tensor:
        """(N, 3, H, W) in [-1, 1] to latents (N, C, H / stride, W / stride)."""
        return self.moments(pixels_N3HW)

    def decode(self, latents_NCHW: Tensor) -> Tensor:
        """The inverse, up to the components left out; not clamped."""
        x = (latents_NCHW.movedim(1, -1) * self.scale) @ self.components + self.mean
        return pixel_shuffle(x.movedim(-1, 1), self.stride)

    def _patches(self, pixels_N3HW: Tensor) -> Tensor:
        return pixel_unshuffle(pixels_N3HW, self.stride)
