"""Stitching, cutting and patches on hand-made plans, and the feature order of diffusers' patch embedding."""

import pytest
import torch
from diffusers.models.embeddings import CogVideoXPatchEmbed

from unigen import canvas
from unigen.layout import Layout, Placement, Plan
from unigen.types import ImageSlot

A, B, C = (ImageSlot(n, "condition", h, w) for n, h, w in [("a", 16, 32), ("b", 16, 16), ("c", 32, 48)])
SIDE_BY_SIDE = (A, B), (Placement("a", 0, 0, 0), Placement("b", 0, 0, 32))
STACKED = (A, B, C), (Placement("c", 0, 16, 0), Placement("a", 0, 0, 0), Placement("b", 0, 0, 32))
TWO_PAGES = (A, B, C), (Placement("a", 1, 0, 0), Placement("b", 1, 0, 32), Placement("c", 0, 0, 0))


def pictures(slots, scale: int = 1) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {s.name: torch.randn(2, 1, 3, s.height // scale, s.width // scale, generator=g) for s in slots}


@pytest.mark.parametrize(("slots", "placements"), [SIDE_BY_SIDE, STACKED, TWO_PAGES])
def test_cut_undoes_stitch_and_paste_undoes_cut(slots, placements):
    plan, images = Plan(Layout(()), placements), pictures(slots)
    pages = canvas.stitch(images, plan, slots)
    boxes = canvas.cut(pages, plan, slots, stride=1)
    assert all(torch.equal(boxes[n], images[n]) for n in images)
    latents = [page[..., ::8, ::8].clone() for page in pages]
    again = canvas.paste(canvas.cut(latents, plan, slots, stride=8), plan, slots, stride=8)
    assert all(torch.equal(x, y) for x, y in zip(again, latents, strict=True))
    shifted = Plan(Layout(()), tuple(p._replace(x=max(0, p.x - 8)) for p in placements))
    assert not torch.equal(canvas.cut(pages, shifted, slots, stride=1)["b"], images["b"]), "negative control"


def test_pixels_lie_where_the_placement_says():
    slots, placements = STACKED
    images = pictures(slots)
    (page,) = canvas.stitch(images, Plan(Layout(()), placements), slots)
    assert page.shape[-2:] == (48, 48)
    assert torch.equal(page[..., 3, 5], images["a"][..., 3, 5])
    assert torch.equal(page[..., 3, 37], images["b"][..., 3, 5])
    assert torch.equal(page[..., 19, 5], images["c"][..., 3, 5])


def test_a_lone_picture_may_lie_off_the_corner():
    slots, placements = (B,), (Placement("b", 0, 16, 32),)
    plan, images = Plan(Layout(()), placements), pictures(slots)
    (page,) = canvas.stitch(images, plan, slots)
    assert page.shape[-2:] == (32, 48) and (page[..., :16, :] == 0).all()
    assert torch.equal(canvas.cut([page], plan, slots, stride=1)["b"], images["b"])


def test_what_is_not_covered_is_zero():
    slots, placements = (A, B), (Placement("a", 0, 0, 0), Placement("b", 0, 16, 0))
    (page,) = canvas.stitch(pictures(slots), Plan(Layout(()), placements), slots)
    assert (page[..., 16:, 16:] == 0).all() and (page[..., 16:, :16] != 0).any()


@pytest.mark.parametrize("patch", [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 4, 2)])
def test_tokens_round_trip(patch):
    z = torch.randn(2, 4, 3, 8, 12)
    pt, ph, pw = patch
    tokens = canvas.to_tokens(z, patch)
    grid = 4 // pt, 8 // ph, 12 // pw
    assert tokens.shape == (2, grid[0] * grid[1] * grid[2], 3 * pt * ph * pw)
    assert torch.equal(canvas.from_tokens(tokens, grid, patch), z)
    assert not torch.equal(canvas.from_tokens(tokens.flip(1), grid, patch), z), "negative control"


def test_features_and_tokens_are_in_the_order_of_diffusers():
    embed = CogVideoXPatchEmbed(
        patch_size=2, patch_size_t=2, in_channels=3, embed_dim=24, text_embed_dim=8,
        use_positional_embeddings=False, use_learned_positional_embeddings=False,
    )  # fmt: skip
    torch.nn.init.eye_(embed.proj.weight), torch.nn.init.zeros_(embed.proj.bias)
    z = torch.randn(2, 4, 3, 8, 12)
    stock = embed(torch.zeros(2, 1, 8), z)[:, 1:]
    assert torch.equal(canvas.to_tokens(z, (2, 2, 2)), stock)
    assert not torch.equal(canvas.to_tokens(z.transpose(-1, -2), (2, 2, 2)), stock), "negative control"


@pytest.mark.parametrize("how", ["replicate", "zero"])
def test_a_still_fills_a_patch_and_is_read_back(how):
    z = torch.randn(2, 1, 3, 4, 4)
    filled = canvas.fill_patch(z, 4, how)
    assert filled.shape == (2, 4, 3, 4, 4) and torch.equal(filled[:, :1], z)
    assert torch.equal(filled[:, 1:], z.expand(-1, 3, -1, -1, -1) if how == "replicate" else torch.zeros(2, 3, 3, 4, 4))
    torch.testing.assert_close(canvas.read_patch(filled, 1, how), z)


def test_the_copies_are_averaged_and_zero_filling_is_not():
    z = torch.randn(2, 2, 3, 4, 4)
    assert torch.equal(canvas.read_patch(z, 1, "replicate"), z.mean(1, keepdim=True))
    assert torch.equal(canvas.read_patch(z, 1, "zero"), z[:, :1])


def test_a_clip_is_left_alone():
    z = torch.randn(2, 4, 3, 4, 4)
    assert canvas.fill_patch(z, 2, "replicate") is z and canvas.read_patch(z, 4, "replicate") is z
    with pytest.raises(AssertionError, match="stills and whole patches"):
        canvas.fill_patch(z[:, :3], 2, "replicate")
