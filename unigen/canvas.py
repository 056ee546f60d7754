"""Pixels to latents to tokens and back: stitching before the codec, cutting after it, patches, temporal fill.

Shapes: B batch, F frames, C channels, H and W rows and columns (pixels or latent cells), L tokens,
P = C * pt * ph * pw features of a token, in the order (C, pt, ph, pw) that CogVideoX, Flux and Wan share.
"""

from collections.abc import Mapping
from hashlib import blake2b

import torch
from torch import Tensor

from unigen.layout import Plan
from unigen.types import ImageSlot


def to_unit(pixels_u8: Tensor) -> Tensor:
    """uint8 pixels to the codecs' range: fp32 in [-1, 1], any shape."""
    return pixels_u8.float() / 127.5 - 1


def to_pixels(unit: Tensor) -> Tensor:
    """The inverse of `to_unit`, rounded and clamped, on the CPU."""
    return ((unit.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def digest(picture_u8: Tensor) -> bytes:
    """A key for a uint8 picture of any shape, equal for equal pictures alone."""
    shape = "x".join(map(str, picture_u8.shape)).encode()
    return blake2b(shape + picture_u8.contiguous().cpu().numpy().tobytes(), digest_size=16).digest()


def stitch(images: dict[str, Tensor], plan: Plan, slots: tuple[ImageSlot, ...]) -> list[Tensor]:
    """Lay the slots' pictures (B, F, C, H, W) on their canvases; a canvas is what the codec sees as one picture."""
    return _lay(images, plan, slots, scale=1)


def paste(latents: dict[str, Tensor], plan: Plan, slots: tuple[ImageSlot, ...], stride: int) -> list[Tensor]:
    """The inverse of `cut`: slot latents (B, F, C, H, W) back on their canvases."""
    return _lay(latents, plan, slots, scale=stride)


def cut(canvases: list[Tensor], plan: Plan, slots: tuple[ImageSlot, ...], stride: int) -> dict[str, Tensor]:
    """Canvas latents (B, F, C, H, W) into one latent box for each slot, by slot name."""
    sizes = {s.name: s for s in slots}
    boxes = {}
    for p in plan.placements:
        y, x, slot = p.y // stride, p.x // stride, sizes[p.slot]
        boxes[p.slot] = canvases[p.canvas][..., y : y + slot.height // stride, x : x + slot.width // stride]
    return boxes


def _lay(boxes: dict[str, Tensor], plan: Plan, slots: tuple[ImageSlot, ...], scale: int) -> list[Tensor]:
    sizes = {s.name: s for s in slots}
    count = 1 + max(p.canvas for p in plan.placements)
    canvases = []
    for number in range(count):
        placed = [p for p in plan.placements if p.canvas == number]
        if len(placed) == 1 and placed[0].y == placed[0].x == 0:
            canvases.append(boxes[placed[0].slot])
            continue
        height = max(p.y + sizes[p.slot].height for p in placed) // scale
        width = max(p.x + sizes[p.slot].width for p in placed) // scale
        like = boxes[placed[0].slot]
        canvas = like.new_zeros(*like.shape[:3], height, width)
        for p in placed:
            box = boxes[p.slot]
            y, x = p.y // scale, p.x // scale
            canvas[..., y : y + box.shape[-2], x : x + box.shape[-1]] = box
        canvases.append(canvas)
    return canvases


def hide(latents: dict[str, Tensor], slots: tuple[ImageSlot, ...], hidden: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Slot latents (B, F, C, H, W), zero in the samples where `hidden`, (B,) booleans by role, has the slot's role."""
    found = dict(latents)
    for slot in slots:
        if slot.role in hidden:
            z = latents[slot.name]
            found[slot.name] = z.masked_fill(hidden[slot.role].to(z.device)[:, None, None, None, None], 0)
    return found


def fill_patch(z_BFCHW: Tensor, patch_t: int, how: str) -> Tensor:
    """A still picture's latent fills a whole temporal patch: with copies ("replicate") or zeros ("zero").

    RealGeneral section 3.2 replicates so that a patch never mixes two pictures. A clip, whose frames
    divide by `patch_t`, is left alone.
    """
    frames = z_BFCHW.shape[1]
    if frames % patch_t == 0:
        return z_BFCHW
    assert frames == 1, "the formatter lets only stills and whole patches through"
    if how == "zero":
        return torch.cat([z_BFCHW, z_BFCHW.new_zeros(z_BFCHW.shape).repeat(1, patch_t - 1, 1, 1, 1)], dim=1)
    return z_BFCHW.repeat(1, patch_t, 1, 1, 1)


def read_patch(z_BFCHW: Tensor, frames: int, how: str) -> Tensor:
    """The inverse of `fill_patch`: the mean of the copies, or the first frame of a zero-filled patch."""
    if z_BFCHW.shape[1] == frames:
        return z_BFCHW
    return z_BFCHW[:, :1] if how == "zero" else z_BFCHW.mean(dim=1, keepdim=True)


def to_tokens(z_BFCHW: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Patchify to (B, L, P): raster order over (t, h, w), features in the order (C, pt, ph, pw)."""
    pt, ph, pw = patch
    b, f, c, h, w = z_BFCHW.shape
    z = z_BFCHW.reshape(b, f // pt, pt, c, h // ph, ph, w // pw, pw)
    return z.permute(0, 1, 4, 6, 3, 2, 5, 7).reshape(b, -1, c * pt * ph * pw)


def from_tokens(x_BLP: Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int]) -> Tensor:
    """The inverse of `to_tokens`, for tokens that fill `grid` = (t, h, w)."""
    (t, h, w), (pt, ph, pw) = grid, patch
    b, _, features = x_BLP.shape
    x = x_BLP.reshape(b, t, h, w, features // (pt * ph * pw), pt, ph, pw)
    return x.permute(0, 1, 5, 4, 2, 6, 3, 7).reshape(b, t * pt, -1, h * ph, w * pw)
