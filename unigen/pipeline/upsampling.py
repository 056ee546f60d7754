"""A second pass over a generated image: scaled up, noised in part and denoised again by the same model (SDEdit).

VisualCloze's second stage (visualcloze.py of its code): one image alone in the grid, all of it masked, and the
content prompt without layout and task. Shapes: F = 1 frame, H and W pixels.
"""

from dataclasses import dataclass, replace
from math import sqrt

import torch
from torch import Tensor

from unigen.core.infill import Fill
from unigen.core.layout import Geometry, Plan
from unigen.core.types import TARGET, Batch, ImageSlot, Signature
from unigen.pipeline.pipeline import Pipeline
from unigen.protocols import Formatter
from unigen.solvers.ddim import DDIM

STRENGTH, STEPS = 0.6, 9  # VisualCloze's: its `upsampling_noise` 0.4, and 10 points of time


@dataclass(frozen=True)
class Capped:
    """A formatter whose plans have every image's noise ceiling at `cap`, so that sampling starts there (Meng et al.,
    arXiv 2108.01073), since `t_s = min(t, cap_s)`.
    """

    inner: Formatter
    cap: float

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def roles(self) -> tuple[str, ...]:
        return self.inner.roles

    @property
    def axes(self) -> tuple[str, ...]:
        return self.inner.axes

    def __call__(self, signature: Signature, geometry: Geometry) -> Plan:
        plan = self.inner(signature, geometry)
        return replace(
            plan, layout=plan.layout.with_caps(dict.fromkeys((s.name for s in plan.layout.visual), self.cap))
        )


class Descent(DDIM):
    """Equal steps from noise level `start` to data, however many tokens there are: the second stage has no shift."""

    def __init__(self, start: float, steps: int) -> None:
        super().__init__(steps)
        self.start = start

    def times(self, tokens: int = 0) -> Tensor:
        """t_T from `start` to 0, T = steps + 1, fp32."""
        return self.start * super().times(tokens)


def upsampled_size(width: int, height: int, resolution: int, unit: tuple[int, int]) -> tuple[int, int]:
    """Return (width, height) of about resolution x resolution pixels in the same ratio, rounded down to multiples of
    `unit`, the pixels (down, across) of a token: 48 x 80 at 128 with units of 16 becomes 96 x 160.
    """
    scale = resolution / sqrt(width * height)
    down, across = unit
    return max(int(width * scale) // across, 1) * across, max(int(height * scale) // down, 1) * down


def check_strength(strength: float) -> float:
    """Return the strength itself. Raises ValueError if it is not in (0, 1]."""
    if not 0 < strength <= 1:
        raise ValueError(f"strength={strength:g} must be above 0 (nothing is drawn anew) and at most 1 (everything is)")
    return strength


def upsample(
    pipeline: Pipeline,
    image_F3HW: Tensor,
    prompt: str,
    resolution: int,
    strength: float = STRENGTH,
    seed: int = 0,
    steps: int = STEPS,
    blank: str = "grey",
    task: str = "",
    key: str = "",
) -> Tensor:
    """Draw a uint8 image (1, 3, H, W) anew at the size of `upsampled_size`; return it as uint8.

    `strength` in (0, 1] is the noise level t that the scaled image is set to and denoised from: the higher, the more
    is drawn anew, and at 1 nothing of the image is left. VisualCloze's `upsampling_noise` is 1 - strength: it calls
    0.4 what is 0.6 here. In diffusers' FluxFillPipeline `strength` is the share of its steps that are done, which its
    shift makes a higher noise level: 0.4 of 30 starts at t = 0.68 for 1024² pixels. `blank` is what an infill model
    sees behind its all-ones mask, "grey" (published) or "black". `task` and `key` are those of the image's
    sample. Noise is keyed by (seed, key).
    Raises ValueError for a strength out of range, and for what the grid and backbone cannot hold.
    """
    check_strength(strength)
    second = replace(
        pipeline,
        formatter=Capped(pipeline.formatter, strength),
        solver=Descent(strength, steps),
        fill=Fill(blank={"train": blank, "sample": blank}),
    )
    (ph, pw), stride = pipeline.backbone.patch[1:], pipeline.codec.stride
    size = upsampled_size(image_F3HW.shape[-1], image_F3HW.shape[-2], resolution, (stride * ph, stride * pw))
    slots = (ImageSlot(TARGET, TARGET, size[1], size[0]),)
    second.plan(slots)  # raises now, before drawing, for a size that it cannot hold
    batch = Batch(slots, {TARGET: scaled(image_F3HW, size)[None]}, [prompt], [()], [task], [f"{key}/upsampled"])
    return second.sample(batch, seed)[TARGET][0]


def scaled(image_F3HW: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a uint8 image (1, 3, H, W) to cover (width, height), bicubic, and crop it around its centre."""
    import numpy as np
    from PIL import Image, ImageOps

    image = Image.fromarray(image_F3HW[0].permute(1, 2, 0).cpu().numpy())
    return torch.from_numpy(np.array(ImageOps.fit(image, size, Image.Resampling.BICUBIC))).permute(2, 0, 1)[None]
