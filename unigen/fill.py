"""What an infill backbone reads beside the noised tokens: which pixels it is to generate, and the picture without them.

FLUX.1-Fill and with it VisualCloze: on every token the latents of the blanked picture, then the mask, neither of
which is ever noised. Shapes: B batch, F frames, C channels, H and W pixels, h and w latent cells, L tokens.
"""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor
from torch.nn.functional import pixel_unshuffle

from unigen import canvas
from unigen.layout import Plan
from unigen.types import TARGET, ImageSlot

RULES = ("targets", "paper", "code", "random")
BLANKS = {"grey": 0.0, "black": -1.0}  # in the codecs' range
STAGES = ("train", "sample")
WHOLE, BOX = 0.4, 0.4  # rule "random": shares of the cells that are masked as a whole, and in a box alone
# By slot name: (B,) booleans, which samples generate this cell; or (B, H, W), which of its pixels.
Cells = dict[str, Tensor]


class Fill:
    """Which cells training masks, and what a masked cell looks like. Sampling always masks the targets.

    `rule` is one of
    - "targets": as in sampling
    - "paper": also one of the query row's other cells, any of them, with probability `share` (VisualCloze's text: .5)
    - "code": with probability `share` one cell of the query row instead, any of them, so that the target may be shown
      (VisualCloze's released code: .5)
    - "random": each cell of the grid by itself, whole, in a box of any size, or not at all: how an infilling base is
      pretrained (`WHOLE`, `BOX`)
    `blank`: what masked cells show, "grey" (0 in [-1, 1]) or "black" (-1), when training ("train") and when sampling
    or validating ("sample"). VisualCloze's released code has grey in training and black in sampling.
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
        """The cells that each of `size` training samples generates, by the rule."""
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
        """A uint8 canvas without what is masked: uint8 where that can be said in it, else fp32 in [-1, 1].

        `stage` is "train" or "sample".
        """
        if not mask_BF1HW.any():
            return page_BFCHW
        if self.blank[stage] == "black":
            return page_BFCHW.masked_fill(mask_BF1HW, 0)
        return canvas.to_unit(page_BFCHW).masked_fill(mask_BF1HW, BLANKS[self.blank[stage]])


def targets(slots: tuple[ImageSlot, ...], size: int) -> Cells:
    """The cells that sampling generates: every target, in every sample."""
    return {slot.name: torch.full((size,), slot.role == TARGET) for slot in slots}


def random_masks(slots: tuple[ImageSlot, ...], size: int, generator: Generator) -> Cells:
    """Pixels (B, H, W) to generate: of each cell all, those in a box, or none; of the targets all where that is all.

    A box has sides of a quarter of the cell's to all of it, in whole pixels, each equally likely.
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
    """(B,) booleans by slot: which samples generate any of this cell."""
    return {name: masked.flatten(1).any(1) if masked.dim() > 1 else masked for name, masked in cells.items()}


def pixel_masks(cells: Cells, plan: Plan, slots: tuple[ImageSlot, ...]) -> list[Tensor]:
    """For each canvas, (B, F, 1, H, W) booleans: True where pixels are generated."""
    whole = {}
    for s in slots:
        masked = cells[s.name]
        masked = masked[:, None, None] if masked.dim() == 1 else masked
        whole[s.name] = masked[:, None, None].expand(-1, s.frames, 1, s.height, s.width)
    return canvas.stitch(whole, plan, slots)


def mask_latents(mask_BF1HW: Tensor, stride: int) -> Tensor:
    """(B, F, stride², h, w): every pixel of a latent cell on a channel of its own, row by row; nothing is averaged."""
    return pixel_unshuffle(mask_BF1HW.float().flatten(0, 1), stride).unflatten(0, mask_BF1HW.shape[:2])


def features(
    shown: Mapping[str, Tensor],
    masks: list[Tensor],
    plan: Plan,
    slots: tuple[ImageSlot, ...],
    stride: int,
    patch: tuple[int, int, int],
) -> dict[str, Tensor]:
    """By slot (B, L, patch volume * (C + stride²)): on each token the blanked picture's latents, then its mask.

    On Flux 64 + 256, packed as its noised latents are. `shown` are the latents (B, F, C, h, w) by slot, `masks` those
    of `pixel_masks`.
    """
    masked = canvas.cut([mask_latents(mask, stride) for mask in masks], plan, slots, stride)
    found = {}
    for slot in slots:
        z = shown[slot.name]
        parts = (z, masked[slot.name].to(z))
        found[slot.name] = torch.cat([_packed(part, plan, patch) for part in parts], dim=-1)
    return found


def check_width(width: int, channels: int, stride: int, patch: tuple[int, int, int]) -> None:
    """Raises ValueError if this codec and mask do not make the context that a backbone takes (0: it takes none)."""
    made = patch[0] * patch[1] * patch[2] * (channels + stride**2)
    if width not in (0, made):
        raise ValueError(
            f"context width: the backbone takes {width}, but a codec of {channels} channels and stride {stride} makes "
            f"{made} (latents and mask of a {'×'.join(map(str, patch))} patch)"
        )


def _packed(z_BFCHW: Tensor, plan: Plan, patch: tuple[int, int, int]) -> Tensor:
    return canvas.to_tokens(canvas.fill_patch(z_BFCHW, patch[0], plan.fill), patch)
