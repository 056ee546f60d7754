"""The way from pixels over latents to tokens and back: stitching, cutting, temporal padding and patches.

Shapes: B batch, F frames, f latent frames, C channels, H and W pixels, h and w latent cells, L tokens,
P = C * pt * ph * pw features of a token, in the order (C, pt, ph, pw) in which every backbone takes and gives them.
"""

from collections.abc import Callable, Mapping
from hashlib import blake2b

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from unigen.core.layout import Plan
from unigen.core.types import ImageSlot


def to_unit(pixels_u8: Tensor) -> Tensor:
    """Convert uint8 pixels of any shape to the codecs' range: fp32 in [-1, 1]."""
    return pixels_u8.float() / 127.5 - 1


def to_pixels(unit: Tensor) -> Tensor:
    """Undo `to_unit`: round, clamp, and return uint8 pixels on the CPU."""
    return ((unit.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def digest(pixels_u8: Tensor) -> bytes:
    """Return a key for uint8 pixels of any shape. Two keys are equal only if shapes and pixels are."""
    shape = "x".join(map(str, pixels_u8.shape)).encode()
    return blake2b(shape + pixels_u8.contiguous().cpu().numpy().tobytes(), digest_size=16).digest()


def stitch(images: Mapping[str, Tensor], plan: Plan) -> list[Tensor]:
    """Lay the slots' images (B, F, C, H, W) on their canvases; a canvas is what the codec encodes as one clip.

    An image that the plan has encoded at another size than its own is resized first.
    """
    return _lay(
        {slot.name: resized(images[slot.name], slot) for slot in plan.slots if slot.name in images}, plan, scale=1
    )


def resized(image_BFCHW: Tensor, slot: ImageSlot) -> Tensor:
    """Return uint8 images at the size of a slot: unchanged, or by bicubic interpolation with antialias."""
    size = slot.height, slot.width
    if image_BFCHW.shape[-2:] == size:
        return image_BFCHW
    found = interpolate(image_BFCHW.flatten(0, 1).float(), size, mode="bicubic", antialias=True)
    return found.round().clamp(0, 255).to(torch.uint8).unflatten(0, image_BFCHW.shape[:2])


def cut(canvases: list[Tensor], plan: Plan) -> dict[str, Tensor]:
    """Cut canvas latents (B, f, C, h, w) into one latent box for each slot, by slot name."""
    return _cut(canvases, plan, [slot.name for slot in plan.slots], plan.geometry.stride)


def paste(latents: Mapping[str, Tensor], plan: Plan) -> list[Tensor]:
    """Undo `cut`: lay the latent boxes (B, f, C, h, w) of all slots back on their canvases."""
    return _lay(latents, plan, scale=plan.geometry.stride)


def tokens(latents: Mapping[str, Tensor], plan: Plan, padding: str | None = None) -> dict[str, Tensor]:
    """Turn latent boxes (B, f, C, h, w) by slot into tokens (B, L, P): pad in time, then patchify.

    `padding` is "replicate" or "zero", by default as the plan says.
    """
    patch, how = plan.geometry.patch, padding or plan.padding
    return {name: to_tokens(pad(z, patch[0], how), patch) for name, z in latents.items()}


def decoded(tokens: Mapping[str, Tensor], plan: Plan, decode: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Turn tokens back into pixels (B, F, C, H, W) of the target slots; `decode` takes the latents of one canvas."""
    latents = {}
    for slot in plan.slots:
        box = from_tokens(tokens[slot.name], plan.layout[slot.name].grid, plan.geometry.patch)
        latents[slot.name] = unpad(box, plan.geometry.latent_frames(slot.frames), plan.padding)
    wanted = {p.canvas for p in plan.placements if p.slot in plan.targets}
    canvases = paste(latents, plan)
    return _cut([decode(z) if i in wanted else z for i, z in enumerate(canvases)], plan, plan.targets, scale=1)


def by_clip(canvas_BFCHW: Tensor, temporal_stride: int) -> Tensor:
    """Return the clips that a codec encodes, (N, F, C, H, W): single frames if it has no temporal stride."""
    return canvas_BFCHW.flatten(0, 1)[:, None] if temporal_stride == 1 else canvas_BFCHW


def by_canvas(clips_NfChw: Tensor, batch: int) -> Tensor:
    """Undo `by_clip` on the codec's output for the clips; return (B, f, C, h, w)."""
    return clips_NfChw.flatten(0, 1).unflatten(0, (batch, -1))


def pad(z_BfChw: Tensor, patch_t: int, how: str) -> Tensor:
    """Pad latent frames to whole temporal patches: with copies of the first one in front, or with zeros behind.

    RealGeneral section 3.2 replicates a still so that a patch never mixes two images; CogVideoX1.5's own pipeline puts
    copies of the first latent frame in front of a clip that does not fill its patches.
    """
    missing = -z_BfChw.shape[1] % patch_t
    if not missing:
        return z_BfChw
    if how == "zero":
        return torch.cat([z_BfChw, z_BfChw.new_zeros(z_BfChw[:, :1].shape).repeat(1, missing, 1, 1, 1)], dim=1)
    return torch.cat([z_BfChw[:, :1].repeat(1, missing, 1, 1, 1), z_BfChw], dim=1)


def unpad(z_BfChw: Tensor, frames: int, how: str) -> Tensor:
    """Undo `pad`: return the mean of a still's copies, or a clip's own frames. Zeros are dropped."""
    if z_BfChw.shape[1] == frames:
        return z_BfChw
    if how == "zero":
        return z_BfChw[:, :frames]
    return z_BfChw.mean(dim=1, keepdim=True) if frames == 1 else z_BfChw[:, -frames:]


def to_tokens(z_BfChw: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Patchify to (B, L, P): raster order over (t, h, w), features in the order (C, pt, ph, pw)."""
    pt, ph, pw = patch
    b, f, c, h, w = z_BfChw.shape
    z = z_BfChw.reshape(b, f // pt, pt, c, h // ph, ph, w // pw, pw)
    return z.permute(0, 1, 4, 6, 3, 2, 5, 7).reshape(b, -1, c * pt * ph * pw)


def from_tokens(x_BLP: Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int]) -> Tensor:
    """Undo `to_tokens` for tokens that fill `grid` = (t, h, w)."""
    (t, h, w), (pt, ph, pw) = grid, patch
    b, _, features = x_BLP.shape
    x = x_BLP.reshape(b, t, h, w, features // (pt * ph * pw), pt, ph, pw)
    return x.permute(0, 1, 5, 4, 2, 6, 3, 7).reshape(b, t * pt, -1, h * ph, w * pw)


def _cut(canvases: list[Tensor], plan: Plan, names: list[str] | tuple[str, ...], scale: int) -> dict[str, Tensor]:
    """Return the boxes of these slots, whose places and sizes in pixels are divided by `scale`."""
    boxes = {}
    for p in plan.placements:
        if p.slot in names:
            y, x, slot = p.y // scale, p.x // scale, plan.slot(p.slot)
            boxes[p.slot] = canvases[p.canvas][..., y : y + slot.height // scale, x : x + slot.width // scale]
    return boxes


def _lay(boxes: Mapping[str, Tensor], plan: Plan, scale: int) -> list[Tensor]:
    """Undo `_cut`: lay the boxes (B, F, C, H, W) of all slots on their canvases."""
    canvases = []
    for number in range(1 + max(p.canvas for p in plan.placements)):
        placed = [p for p in plan.placements if p.canvas == number and not p.copy]
        if len(placed) == 1 and placed[0].y == placed[0].x == 0:
            canvases.append(boxes[placed[0].slot])
            continue
        height = max(p.y + plan.slot(p.slot).height for p in placed) // scale
        width = max(p.x + plan.slot(p.slot).width for p in placed) // scale
        like = boxes[placed[0].slot]
        canvas = like.new_zeros(*like.shape[:3], height, width)
        for p in placed:
            box = boxes[p.slot]
            y, x = p.y // scale, p.x // scale
            canvas[..., y : y + box.shape[-2], x : x + box.shape[-1]] = box
        canvases.append(canvas)
    return canvases
