"""Stitching, cutting and patches on hand-made plans, and the feature order of diffusers' patch embedding."""

import dataclasses

import pytest
import torch
from diffusers.models.embeddings import CogVideoXPatchEmbed

from unigen.core import canvas
from unigen.core.layout import Geometry, Layout, Placement, Plan, Segment
from unigen.core.types import ImageSlot

A, B, C = (ImageSlot(n, "condition", h, w) for n, h, w in [("a", 16, 32), ("b", 16, 16), ("c", 32, 48)])
SIDE_BY_SIDE = (A, B), (Placement("a", 0, 0, 0), Placement("b", 0, 0, 32))
STACKED = (A, B, C), (Placement("c", 0, 16, 0), Placement("a", 0, 0, 0), Placement("b", 0, 0, 32))
TWO_PAGES = (A, B, C), (Placement("a", 1, 0, 0), Placement("b", 1, 0, 32), Placement("c", 0, 0, 0))


def plan_of(slots, placements, stride: int = 8, padding: str = "replicate") -> Plan:
    geometry = Geometry(stride, (2, 2, 2), ("t", "h", "w"), (9, 99, 99), temporal_stride=4, clip_unit=4)
    return Plan(Layout(()), placements, slots, geometry, padding)


def images_of(slots, scale: int = 1) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {s.name: torch.randn(2, 1, 3, s.height // scale, s.width // scale, generator=g) for s in slots}


@pytest.mark.parametrize(("slots", "placements"), [SIDE_BY_SIDE, STACKED, TWO_PAGES])
def test_cut_undoes_stitch_and_paste_undoes_cut(slots, placements):
    plan, whole, images = plan_of(slots, placements), plan_of(slots, placements, stride=1), images_of(slots)
    pages = canvas.stitch(images, plan)
    boxes = canvas.cut(pages, whole)
    assert all(torch.equal(boxes[n], images[n]) for n in images)
    latents = [page[..., ::8, ::8].clone() for page in pages]
    again = canvas.paste(canvas.cut(latents, plan), plan)
    assert all(torch.equal(x, y) for x, y in zip(again, latents, strict=True))
    shifted = plan_of(slots, tuple(p._replace(x=max(0, p.x - 8)) for p in placements), stride=1)
    assert not torch.equal(canvas.cut(pages, shifted)["b"], images["b"]), "negative control"


def test_pixels_lie_where_the_placement_says():
    slots, placements = STACKED
    images = images_of(slots)
    (page,) = canvas.stitch(images, plan_of(slots, placements))
    assert page.shape[-2:] == (48, 48)
    assert torch.equal(page[..., 3, 5], images["a"][..., 3, 5])
    assert torch.equal(page[..., 3, 37], images["b"][..., 3, 5])
    assert torch.equal(page[..., 19, 5], images["c"][..., 3, 5])


def test_a_lone_image_may_lie_off_the_corner():
    slots, placements = (B,), (Placement("b", 0, 16, 32),)
    plan, images = plan_of(slots, placements, stride=1), images_of(slots)
    (page,) = canvas.stitch(images, plan)
    assert page.shape[-2:] == (32, 48) and (page[..., :16, :] == 0).all()
    assert torch.equal(canvas.cut([page], plan)["b"], images["b"])


def test_what_is_not_covered_is_zero():
    slots, placements = (A, B), (Placement("a", 0, 0, 0), Placement("b", 0, 16, 0))
    (page,) = canvas.stitch(images_of(slots), plan_of(slots, placements))
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
    padded = canvas.pad(z, 4, how)
    assert padded.shape == (2, 4, 3, 4, 4) and torch.equal(padded[:, :1], z)
    assert torch.equal(padded[:, 1:], z.expand(-1, 3, -1, -1, -1) if how == "replicate" else torch.zeros(2, 3, 3, 4, 4))
    torch.testing.assert_close(canvas.unpad(padded, 1, how), z)


def test_the_copies_are_averaged_and_zero_filling_is_not():
    z = torch.randn(2, 2, 3, 4, 4)
    assert torch.equal(canvas.unpad(z, 1, "replicate"), z.mean(1, keepdim=True))
    assert torch.equal(canvas.unpad(z, 1, "zero"), z[:, :1])


def test_a_clip_of_whole_patches_is_left_alone():
    z = torch.randn(2, 4, 3, 4, 4)
    assert canvas.pad(z, 2, "replicate") is z and canvas.unpad(z, 4, "replicate") is z


@pytest.mark.parametrize("how", ["replicate", "zero"])
def test_a_clip_that_does_not_fill_its_patches_is_padded_and_read_back(how):
    """CogVideoX1.5's pipeline repeats the first latent frame in front, and drops it again after sampling."""
    z = torch.randn(2, 3, 3, 4, 4)
    padded = canvas.pad(z, 2, how)
    assert padded.shape[1] == 4 and torch.equal(canvas.unpad(padded, 3, how), z)
    assert torch.equal(padded[:, 0], z[:, 0])
    assert torch.equal(padded[:, 1], z[:, 0]) == (how == "replicate"), "zeros stand behind"


def test_pixels_are_read_back_from_tokens_for_the_targets_alone():
    """A codec that only changes the size: 5 frames make 2 latent frames, which fill one temporal patch."""
    slots = (ImageSlot("a", "condition", 16, 16), ImageSlot("b", "target", 16, 32, frames=5))
    segments = [Segment(s.name, s.role, "visual", (1, 1, s.width // 16)) for s in slots]
    placements = (Placement("a", 0, 0, 0), Placement("b", 1, 0, 0))
    plan = dataclasses.replace(plan_of(slots, placements), layout=Layout(tuple(segments)))
    latents = {"a": torch.randn(2, 1, 3, 2, 2), "b": torch.randn(2, 2, 3, 2, 4)}
    tokens = canvas.tokens(latents, plan)
    assert {name: x.shape for name, x in tokens.items()} == {"a": (2, 1, 24), "b": (2, 2, 24)}
    grown = canvas.decoded(tokens, plan, lambda z: z[:, :1].repeat(1, 5, 1, 8, 8))
    assert grown.keys() == {"b"} and torch.equal(grown["b"], latents["b"][:, :1].repeat(1, 5, 1, 8, 8))
    assert not torch.equal(grown["b"], latents["b"].flip(1)[:, :1].repeat(1, 5, 1, 8, 8)), "negative control"
