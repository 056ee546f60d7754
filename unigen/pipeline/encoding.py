"""Encoding of canvases: each distinct image or clip is encoded once if a codec has no randomness.

Shapes: B batch, N clips, F frames, f latent frames, C channels, H and W pixels, h and w latent cells.
"""

import torch
from torch import Generator, Tensor

from unigen.cache.store import Cache
from unigen.core import canvas
from unigen.core.memo import Memo
from unigen.protocols import Codec

LATENT_MEMORY = 2**30  # bytes of latents that are kept for images that come back in the next epoch


class CanvasEncoder:
    """Encodes canvases with a codec, from memory, from a cache folder, or anew."""

    def __init__(self) -> None:
        self._memo = Memo(LATENT_MEMORY)

    def __call__(
        self,
        codec: Codec,
        canvas_BFCHW: Tensor,
        generator: Generator | None,
        cache: Cache | None,
        device: torch.device,
    ) -> Tensor:
        """Return latents (B, f, C, h, w). `generator` samples the codec's posterior; without one its mean is used.

        A canvas that is not uint8 (it has grey cells) is in the codec's range already, and is not kept.
        """
        clips = canvas.by_clip(canvas_BFCHW, codec.temporal_stride)

        def encode(positions: list[int] | slice) -> Tensor:
            return codec.encode(canvas.to_unit(clips[positions].to(device)), generator)

        if clips.is_floating_point():
            z = codec.encode(clips.to(device), generator)
        elif cache is not None:
            z = codec.draw(cache.moments(codec, clips, device), generator)
        elif codec.cacheable:
            z = self._memo([canvas.digest(x) for x in clips], encode).to(device)
        else:
            z = encode(slice(None))
        return canvas.by_canvas(z, len(canvas_BFCHW))
