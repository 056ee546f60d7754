"""The context that an infill backbone reads: the image with the pixels blanked that it generates, and their mask.

Neither is ever noised. A family says of which parts it is made (`PARTS`): in FLUX.1-Fill, and so in VisualCloze, every
token carries the latents of the blanked image and then the mask; in Wan's image-to-video models a mask of what is given
comes first. How images are placed does not matter: grids and frames alike have a context.
Shapes: B batch, F frames, C channels, H and W pixels, h and w latent cells, L tokens.
"""

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Generator, Tensor
from torch.nn.functional import pixel_unshuffle

from unigen.core import canvas
from unigen.core.layout import Geometry, Plan
from unigen.core.types import TARGET, ImageSlot

RULES = ("targets", "paper", "code", "random")
BLANKS = {"grey": 0.0, "black": -1.0, "zero": -1.0}  # in the codecs' range; "zero" blanks the latents as well
# latents: those of the blanked image. pixels: 1 for each pixel of a latent cell that is generated, a channel each.
# given: 1 where no pixel of the cell is generated, a channel for each frame that the codec makes one latent frame of.
LATENTS, PIXELS, GIVEN = PARTS = ("latents", "pixels", "given")
FILL = (LATENTS, PIXELS)  # FLUX.1-Fill's
STAGES = ("train", "sample")
WHOLE, BOX = 0.4, 0.4  # rule "random": shares of the cells that are masked as a whole, and only in a box
# Booleans by slot name: (B,), True in samples that generate the cell; or (B, H, W), True for generated pixels.
Cells = dict[str, Tensor]


class Fill:
    """The rule by which training masks cells, and the value of masked pixels. Sampling always masks the targets.

    `rule` is one of
    - "targets": the targets, as in sampling
    - "paper": the targets and, with probability `share`, one other cell of the query row (VisualCloze's text: .5)
    - "code": the targets or, with probability `share`, one cell of the query row instead, so that a target may be shown
      (VisualCloze's released code: .5)
    - "random": each cell of the grid independently: all of it, a box in it, or nothing (`WHOLE`, `BOX`), as an
      infilling base model is pretrained
    `blank` is the value of masked pixels, "grey" (0 in [-1, 1]) or "black" (-1), in training ("train") and in sampling
    or validation ("sample"); with "zero" they are black, and the latents of every cell with one are 0.
    VisualCloze's released code has grey in training and black in sampling.
    Raises ValueError for other words, and for a share that is no probability.
    """

    def __init__(self, rule: str = "targets", share: float = 0.5, blank: Mapping[str, str] | None = None) -> None:
        if rule not in RULES:
            raise ValueError(f"fill.rule is {rule!r}; legal are {', '.join(RULES)}")
        if not 0 <= share <= 1:
            raise ValueError(f"fill.share is {share}; it must be a probability, between 0 and 1")
        blank = dict.fromkeys(STAGES, "black") if blank is None else dict(blank)
        for stage in STAGES:
            if blank.get(stage) not in BLANKS:
                raise ValueError(f"fill.blank.{stage} is {blank.get(stage)!r}; legal are {', '.join(BLANKS)}")
        self.rule, self.share, self.blank = rule, share, blank

    def draw(self, slots: tuple[ImageSlot, ...], size: int, generator: Generator) -> Cells:
        """Draw, by the rule, the cells that each of `size` training samples generates."""
        cells = targets(slots, size)
        if self.rule == "targets":
            return cells
        if self.rule == "random":
            return random_masks(slots, size, generator)
        last = max(slot.row for slot in slots)
        query = [slot for slot in slots if slot.row == last]
        drawn = [slot for slot in query if self.rule == "code" or slot.role != TARGET]
        chosen_B = torch.rand(size, generator=generator) < self.share
        which_B = torch.randint(max(1, len(drawn)), (size,), generator=generator)
        if self.rule == "code":
            cells = {name: masked_B & ~chosen_B for name, masked_B in cells.items()}
        for number, slot in enumerate(drawn):
            cells[slot.name] = cells[slot.name] | (chosen_B & (which_B == number))
        return cells

    def blanked(self, page_BFCHW: Tensor, mask_BF1HW: Tensor, stage: str) -> Tensor:
        """Blank the masked pixels of a uint8 canvas. Grey ones make it fp32 in [-1, 1]; otherwise it stays uint8.

        `stage` is "train" or "sample".
        """
        if not mask_BF1HW.any():
            return page_BFCHW
        mask_BF1HW = mask_BF1HW.to(page_BFCHW.device)
        if BLANKS[self.blank[stage]] == -1:
            return page_BFCHW.masked_fill(mask_BF1HW, 0)
        return canvas.to_unit(page_BFCHW).masked_fill(mask_BF1HW, BLANKS[self.blank[stage]])


def targets(slots: tuple[ImageSlot, ...], size: int) -> Cells:
    """Return the cells that sampling generates: every target, in every sample."""
    return {slot.name: torch.full((size,), slot.role == TARGET) for slot in slots}


def random_masks(slots: tuple[ImageSlot, ...], size: int, generator: Generator) -> Cells:
    """Draw the pixels (B, H, W) to generate: for each cell all of them, those in a box, or none.

    A sample for which no pixel was drawn generates its targets as a whole. Each side of a box is between a quarter of
    the cell's side and all of it, in whole pixels, each equally likely.
    """
    masks = {}
    for slot in slots:
        kind_B, sides_B2, places_B2 = (torch.rand(size, n, generator=generator) for n in (1, 2, 2))
        inside = torch.ones(size, slot.height, slot.width, dtype=torch.bool)
        for axis, length in enumerate((slot.height, slot.width)):
            side_B = (length * (0.25 + 0.75 * sides_B2[:, axis])).round()
            first_B = (places_B2[:, axis] * (length - side_B + 1)).floor()
            place_L = torch.arange(length)
            along_BL = (place_L >= first_B[:, None]) & (place_L < (first_B + side_B)[:, None])
            inside &= along_BL[:, :, None] if axis == 0 else along_BL[:, None, :]
        masks[slot.name] = (kind_B < WHOLE)[..., None] | ((kind_B < WHOLE + BOX)[..., None] & inside)
    idle_B = ~torch.stack(list(generated(masks).values())).any(0)
    return {s.name: masks[s.name] | (idle_B[:, None, None] if s.role == TARGET else False) for s in slots}


def generated(cells: Cells) -> Cells:
    """Return (B,) booleans by slot: True for the samples that generate any pixel of this cell."""
    return {name: masked.flatten(1).any(1) if masked.dim() > 1 else masked for name, masked in cells.items()}


def pixel_masks(cells: Cells, plan: Plan) -> list[Tensor]:
    """Return (B, F, 1, H, W) booleans for each canvas: True where pixels are generated."""
    whole = {}
    for s in plan.slots:
        masked = cells[s.name]
        masked = masked[:, None, None] if masked.dim() == 1 else masked
        whole[s.name] = masked[:, None, None].expand(-1, s.frames, 1, s.height, s.width)
    return canvas.stitch(whole, plan)


def mask_latents(mask_BF1HW: Tensor, geometry: Geometry) -> Tensor:
    """Return (B, f, stride², h, w): each pixel of a latent cell has its own channel, row by row; none are averaged.

    A latent frame gets the mask of its first frame: a cell is generated in all of its frames or in none.
    """
    first = mask_BF1HW[:, :: geometry.temporal_stride]
    return pixel_unshuffle(first.float().flatten(0, 1), geometry.stride).unflatten(0, first.shape[:2])


def features(
    shown: Mapping[str, Tensor], masks: Sequence[Tensor], plan: Plan, parts: Sequence[str] = FILL, zero: bool = False
) -> dict[str, Tensor]:
    """Return (B, L, context width) by slot: each token has the parts of the context in their order.

    On Flux these are 64 + 256 features, packed as its noised latents are. `shown` are the latents (B, f, C, h, w) by
    slot, and `masks` are made by `pixel_masks`. With `zero`, latents of cells with a masked pixel are 0.
    """
    pixels = canvas.cut([mask_latents(mask, plan.geometry) for mask in masks], plan)
    found = {}
    for name, z in shown.items():
        mask_BfShw = pixels[name].to(z)
        any_Bf1hw = mask_BfShw.amax(2, keepdim=True)
        given = (1 - any_Bf1hw).expand(-1, -1, plan.geometry.temporal_stride, -1, -1)
        made = {LATENTS: z * (1 - any_Bf1hw) if zero else z, PIXELS: mask_BfShw, GIVEN: given}
        found[name] = torch.cat([made[part] for part in parts], dim=2)
    return canvas.tokens(found, plan)


def context_width(parts: Sequence[str], channels: int, geometry: Geometry) -> int:
    """Return the number of features that these parts have in one token, for a codec of so many latent channels."""
    sizes = {LATENTS: channels, PIXELS: geometry.stride**2, GIVEN: geometry.temporal_stride}
    return prod(geometry.patch) * sum(sizes[part] for part in parts)


def check_width(width: int, parts: Sequence[str], channels: int, geometry: Geometry) -> None:
    """Raises ValueError if this codec and mask do not make the context that a backbone takes (0: it takes none)."""
    made = context_width(parts, channels, geometry)
    if width not in (0, made):
        raise ValueError(
            f"context width: the backbone takes {width}, but a codec of {channels} channels and stride "
            f"{geometry.stride} makes {made} ({' and '.join(parts)} of a {'×'.join(map(str, geometry.patch))} patch)"
        )
