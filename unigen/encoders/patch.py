"""A linear patch codec fitted in seconds: PCA of 8×8 patches. A stand-in until a trained codec is shipped.

Shapes: N images, C latent channels, H and W pixels.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from unigen.core.canvas import to_unit
from unigen.encoders.vae import FrameCodec


def principal_components(x_ND: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (D,), first components (count, D) and the standard deviations along them (count,), in fp32."""
    mean = x_ND.double().mean(0)
    x_ND = x_ND - mean.float()
    values, vectors = torch.linalg.eigh((x_ND.T @ x_ND).double() / len(x_ND))
    top = vectors.flip(1)[:, :count].T
    signs = top.gather(1, top.abs().argmax(1, keepdim=True)).sign()  # eigenvectors have no sign of their own
    deviation = values.flip(0)[:count].clamp(min=1e-12).sqrt()
    return mean.float(), (top * signs).float(), deviation.float()


class PatchPCA(FrameCodec):
    """Each stride×stride×3 patch becomes its first `channels` principal components; decoding is the transpose.

    Component c is divided by scale_c = std_c^whiten * std_all^(1 - whiten). With `whiten` 1 every channel has unit
    variance; with 0 channels keep their proportions, so that errors weigh as they do in pixels. Values in between keep
    strong components strong without drowning the weak ones in noise. There is no randomness: `generator` is not used.
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
    def fit(self, images: Callable[[], Tensor]) -> None:
        """Fit mean, components and scales to uint8 images (N, 3, H, W); does nothing on a fitted codec."""
        if bool(self.fitted):
            return
        x = self._patches(to_unit(images())).movedim(1, -1).flatten(0, -2)
        mean, components, deviation = principal_components(x, self.channels)
        self.mean.copy_(mean)
        self.components.copy_(components)
        overall = deviation.square().mean().sqrt()
        self.scale.copy_(deviation**self.whiten * overall ** (1 - self.whiten))
        self.fitted.fill_(1)

    @property
    def identity(self) -> Mapping[str, Any]:
        """The settings, besides the buffers, on which the latents depend."""
        return {"stride": self.stride}

    def image_moments(self, pixels_N3HW: Tensor) -> Tensor:
        """Return the latents (N, C, H / stride, W / stride) themselves, in fp32."""
        with torch.autocast(pixels_N3HW.device.type, enabled=False):
            x = self._patches(pixels_N3HW).movedim(1, -1)
            return (((x - self.mean) @ self.components.T) / self.scale).movedim(-1, 1)

    def image_latents(self, moments_NChw: Tensor, generator: Generator | None = None) -> Tensor:
        """Return the moments unchanged: they are the latents."""
        return moments_NChw

    def images(self, latents_NChw: Tensor) -> Tensor:
        """Decode latents to images, up to the components that are left out; the result is not clamped."""
        x = (latents_NChw.movedim(1, -1) * self.scale) @ self.components + self.mean
        return pixel_shuffle(x.movedim(-1, 1), self.stride)

    def _patches(self, pixels_N3HW: Tensor) -> Tensor:
        return pixel_unshuffle(pixels_N3HW, self.stride)
