"""What an infill backbone reads: packed as diffusers packs it, to the bit, and masked as often as VisualCloze masks."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import FluxFillPipeline
from diffusers.pipelines.visualcloze.pipeline_visualcloze_generation import VisualClozeGenerationPipeline

from unigen.core import canvas, infill
from unigen.core.infill import Fill
from unigen.core.layout import Geometry
from unigen.core.types import ImageSlot, Signature
from unigen.formatters.grid import Grid

PATCH, STRIDE = (1, 2, 2), 8
GRID = Grid({"example": 1.0, "condition": 1.0, "target": 1.0})


def row(images: int, targets: int = 1, number: int = 0, height: int = 32, width: int = 48) -> list[ImageSlot]:
    roles = ["condition"] * (images - targets) + ["target"] * targets
    return [ImageSlot(f"{role}{i}", role, height, width, row=number) for i, role in enumerate(roles)]


def two_rows(images: int, targets: int = 1) -> tuple[ImageSlot, ...]:
    """An example row, and a query row of another size."""
    examples = [ImageSlot(f"example{i}", "example", 16, 64, row=0) for i in range(images)]
    return (*examples, *row(images, targets, number=1))


def plan_of(slots: tuple[ImageSlot, ...]):
    return GRID(Signature(slots, 4), Geometry(STRIDE, PATCH, ("t", "h", "w"), (64, 256, 256)))


def encode(x_N3HW: torch.Tensor) -> torch.Tensor:
    """Sixteen of each square's own pixels: what stands in for a codec."""
    return torch.nn.functional.pixel_unshuffle(x_N3HW, STRIDE)[:, 5:21]


def in_raster_order(found: dict[str, torch.Tensor], slots: tuple[ImageSlot, ...], number: int) -> torch.Tensor:
    """A row's tokens as one image has them."""
    cells = [(s, found[s.name]) for s in slots if s.row == number]
    lines = [x.unflatten(1, (s.height // 16, s.width // 16)) for s, x in cells]
    return torch.cat(lines, dim=2).flatten(1, 2)


# --- packing -----------------------------------------------------------------------------------------------------


def ours_and_visualclozes(ours_mask=lambda m: m):
    """(our features of all rows, diffusers' cat(condition latents, mask)) of two rows with masks by the pixel."""
    g, slots = torch.Generator().manual_seed(0), two_rows(3)
    plan = plan_of(slots)
    drawn = {s.name: torch.randn(1, 1, 3, s.height, s.width, generator=g) for s in slots}
    masked = {s.name: torch.rand(1, 1, 1, s.height, s.width, generator=g) < 0.5 for s in slots}
    pages = [encode(page.flatten(0, 1)).unflatten(0, (1, 1)) for page in canvas.stitch(drawn, plan)]
    masks = [ours_mask(mask) for mask in canvas.stitch(masked, plan)]
    found = infill.features(canvas.cut(pages, plan), masks, plan)
    ours = torch.cat([in_raster_order(found, slots, number) for number in (0, 1)], dim=1)

    stock = VisualClozeGenerationPipeline
    stub = SimpleNamespace(
        _prepare_latent_image_ids=stock._prepare_latent_image_ids,
        _pack_latents=stock._pack_latents,
        _encode_vae_image=lambda image, generator: encode(image),
    )
    rows = [[s.name for s in slots if s.row == number] for number in (0, 1)]
    images, pixels = ([[part[n][0].float() for n in names] for names in rows] for part in (drawn, masked))
    _, shown, mask, _ = stock._prepare_latents(stub, images, pixels, None, STRIDE, "cpu", torch.float32)
    return ours, torch.cat([shown, mask], dim=-1)


def test_the_context_is_visualclozes_to_the_bit():
    ours, theirs = ours_and_visualclozes()
    assert ours.shape == (1, 12 + 18, 320) and torch.equal(ours, theirs)


@pytest.mark.parametrize("wrong", [lambda m: m.flip(-1), lambda m: m.transpose(-1, -2).reshape(m.shape), lambda m: ~m])
def test_another_mask_is_another_context(wrong):
    """Negative control: within a cell of eight pixels too."""
    ours, theirs = ours_and_visualclozes(wrong)
    assert torch.equal(ours[..., :64], theirs[..., :64]) and not torch.equal(ours[..., 64:], theirs[..., 64:])


def test_the_context_is_flux_fills_to_the_bit():
    g, slots = torch.Generator().manual_seed(1), (ImageSlot("x", "target", 32, 48),)
    plan, latents = plan_of(slots), torch.randn(2, 1, 16, 4, 6, generator=g)
    mask = torch.rand(2, 1, 1, 32, 48, generator=g) < 0.5
    config = SimpleNamespace(shift_factor=0.0, scaling_factor=1.0)
    stub = SimpleNamespace(
        vae_scale_factor=STRIDE, vae=SimpleNamespace(config=config), _pack_latents=FluxFillPipeline._pack_latents
    )
    theirs = FluxFillPipeline.prepare_mask_latents(
        stub, mask[:, 0].float(), latents[:, 0], 2, 16, 1, 32, 48, torch.float32, "cpu", None
    )
    ours = infill.features({"x": latents}, [mask], plan)["x"]
    assert torch.equal(ours, torch.cat(theirs[::-1], dim=-1))
    assert not torch.equal(ours, torch.cat(theirs, dim=-1)), "negative control: mask first"
    averaged = torch.nn.functional.avg_pool2d(mask[:, 0].float(), 8).repeat_interleave(64, 1)[:, None]
    packed = canvas.to_tokens(averaged, PATCH)
    assert packed.shape == theirs[0].shape and not torch.equal(ours[..., 64:], packed), "a mask that is resized"


@pytest.mark.parametrize(
    ("width", "channels", "stride", "patch"), [(320, 16, 8, PATCH), (640, 16, 8, (2, 2, 2)), (0, 4, 4, PATCH)]
)
def test_a_context_that_does_not_fit_the_backbone_is_refused(width, channels, stride, patch):
    geometry = Geometry(stride, patch, ("t", "h", "w"), (8, 8, 8))
    infill.check_width(width, infill.FILL, channels, geometry)
    with pytest.raises(ValueError, match=r"context width: the backbone takes 321, but a codec of \d+ channels"):
        infill.check_width(321, infill.FILL, channels, geometry)


def test_the_parts_of_a_context_stand_in_their_order_and_zero_blanks_the_latents():
    """Wan2.2-I2V-A14B has 4 channels of 1 where the image is given, then the latents. CogVideoX's image-to-video form
    has latents alone, which are 0 where nothing is given.
    """
    g, names = torch.Generator().manual_seed(0), ("c", "x")
    slots = (ImageSlot("c", "condition", 32, 48), ImageSlot("x", "target", 32, 48))
    plan = plan_of(slots)
    plan = replace(plan, geometry=plan.geometry._replace(temporal_stride=4))
    latents = {name: torch.randn(1, 1, 16, 4, 6, generator=g) for name in names}
    masks = [torch.cat([torch.zeros(1, 1, 1, 32, 48), torch.ones(1, 1, 1, 32, 48)], dim=-1).bool()]
    found = infill.features(latents, masks, plan, (infill.GIVEN, infill.LATENTS))
    boxes = {name: canvas.from_tokens(found[name], (1, 2, 3), PATCH) for name in names}
    for name, given in (("c", 1.0), ("x", 0.0)):
        assert (boxes[name][:, :, :4] == given).all() and torch.equal(boxes[name][:, :, 4:], latents[name])
    assert infill.context_width((infill.GIVEN, infill.LATENTS), 16, plan.geometry) == found["c"].shape[-1] == 80
    zeroed = infill.features(latents, masks, plan, (infill.LATENTS,), zero=True)
    assert (zeroed["x"] == 0).all() and torch.equal(zeroed["c"], canvas.tokens(latents, plan)["c"])
    assert not torch.equal(zeroed["x"], canvas.tokens(latents, plan)["x"]), "negative control"


# --- which cells -------------------------------------------------------------------------------------------------


def share_of(rule: str, images: int, share: float = 0.5, targets: int = 1, size: int = 8000) -> dict[str, float]:
    slots = two_rows(images, targets)
    cells = Fill(rule, share).draw(slots, size, torch.Generator().manual_seed(0))
    assert cells.keys() == {s.name for s in slots} and all(x.shape == (size,) for x in cells.values())
    assert not any(cells[s.name].any() for s in slots if s.row == 0), "examples are never generated"
    return {s.name: cells[s.name].float().mean().item() for s in slots if s.row == 1}


@pytest.mark.parametrize("images", [2, 3, 4])
def test_the_released_codes_rule(images):
    """One cell, with probability 1/2 any of them: the target .5 + .5 / L of the time."""
    found = share_of("code", images)
    expected = {f"condition{i}": 0.5 / images for i in range(images - 1)}
    assert found == pytest.approx({**expected, f"target{images - 1}": 0.5 + 0.5 / images}, abs=0.02)
    assert sum(found.values()) == pytest.approx(1), "exactly one"


@pytest.mark.parametrize("images", [2, 3, 4])
def test_the_papers_rule(images):
    """The target always, and with probability 1/2 one of the others."""
    found = share_of("paper", images)
    expected = {f"condition{i}": 0.5 / (images - 1) for i in range(images - 1)}
    assert found == pytest.approx({**expected, f"target{images - 1}": 1.0}, abs=0.02)
    cells = Fill("paper").draw(two_rows(images), 200, torch.Generator().manual_seed(3))
    assert set(torch.stack(list(cells.values())).sum(0).tolist()) == {1, 2}


def test_the_rules_differ_and_their_share_is_an_option():
    assert share_of("targets", 3) == {"condition0": 0, "condition1": 0, "target2": 1}
    assert share_of("code", 3, share=0.0) == share_of("paper", 3, share=0.0) == share_of("targets", 3)
    always = share_of("code", 4, share=1.0)
    assert always == pytest.approx(dict.fromkeys(always, 0.25), abs=0.02)
    several = share_of("code", 3, targets=2)
    assert several == pytest.approx({"condition0": 1 / 6, "target1": 2 / 3, "target2": 2 / 3}, abs=0.02)


def test_with_nothing_but_targets_the_paper_has_nothing_to_add():
    assert share_of("paper", 2, targets=2) == {"target0": 1, "target1": 1}


def test_draws_are_a_function_of_the_generator():
    slots = two_rows(3)
    a, b, c = (Fill("code").draw(slots, 50, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert all(torch.equal(a[n], b[n]) for n in a) and any(not torch.equal(a[n], c[n]) for n in a)


# --- what masked cells show ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "value"), [("grey", 0.0), ("black", -1.0)])
@pytest.mark.parametrize("stage", ["train", "sample"])
def test_masked_cells_are_blank_and_others_untouched(word, value, stage):
    other = {"grey": "black", "black": "grey"}[word]
    made = Fill(blank={stage: word, {"train": "sample", "sample": "train"}[stage]: other})
    slots = two_rows(2)
    plan = plan_of(slots)
    images = {s.name: torch.randint(1, 255, (2, 1, 3, s.height, s.width), dtype=torch.uint8) for s in slots}
    cells = infill.targets(slots, 2) | {
        "condition0": torch.tensor([True, False]),
        "target1": torch.tensor([False, True]),
    }
    pages, masks = canvas.stitch(images, plan), infill.pixel_masks(cells, plan)
    assert masks[1].shape == (2, 1, 1, 32, 96) and not masks[0].any()
    assert made.blanked(pages[0], masks[0], stage) is pages[0], "a row of examples is what it was, and is kept as such"
    page = made.blanked(pages[1], masks[1], stage)
    page = page if page.is_floating_point() else canvas.to_unit(page)
    plain = canvas.to_unit(pages[1])
    assert (page[0, ..., :48] == value).all() and torch.equal(page[0, ..., 48:], plain[0, ..., 48:])
    assert (page[1, ..., 48:] == value).all() and torch.equal(page[1, ..., :48], plain[1, ..., :48])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rule": "last"}, "fill.rule is 'last'; legal are targets, paper, code, random"),
        ({"share": 1.5}, "fill.share is 1.5; it must be a probability"),
        ({"blank": {"train": "white", "sample": "black"}}, "fill.blank.train is 'white'; legal are grey, black"),
        ({"blank": {"train": "grey"}}, "fill.blank.sample is None"),
    ],
)
def test_wrong_words_are_refused(options, said):
    with pytest.raises(ValueError) as caught:
        Fill(**options)
    assert said in str(caught.value)


# --- random masks --------------------------------------------------------------------------------------------------


def test_random_masks_are_whole_cells_boxes_or_nothing():
    slots = two_rows(2)
    masks = Fill("random").draw(slots, 4000, torch.Generator().manual_seed(0))
    for slot in slots:
        mask = masks[slot.name]
        assert mask.shape == (4000, slot.height, slot.width) and mask.dtype == torch.bool
        rows, columns = mask.any(2), mask.any(1)
        assert torch.equal(mask, rows[:, :, None] & columns[:, None, :]), "a box"
        whole, none = mask.flatten(1).all(1).float().mean(), (~mask.flatten(1).any(1)).float().mean()
        assert 0.4 <= whole <= 0.47 and none == pytest.approx(0.2, abs=0.025)
        sides = rows.sum(1)[mask.flatten(1).any(1)]
        assert sides.min() >= slot.height / 4 - 0.5 and sides.max() == slot.height
        starts = [int(found) for found in rows[rows.any(1) & ~rows.all(1)].int().argmax(1).unique()]
        assert starts[0] == 0 and len(starts) > slot.height // 2, "anywhere"


def test_random_masks_always_leave_something_to_generate():
    slots, g = row(1), torch.Generator().manual_seed(0)
    masks = Fill("random").draw(slots, 500, g)
    assert infill.generated(masks)["target0"].all()
    pair = Fill("random").draw(row(2), 500, g)
    found = infill.generated(pair)
    assert (found["condition0"] | found["target1"]).all() and not found["condition0"].all(), "not every cell, though"


def test_masks_by_the_pixel_reach_the_canvas_and_whole_cells_are_a_case_of_them():
    slots = row(2)
    plan = plan_of(slots)
    cells = {"condition0": torch.tensor([True, False]), "target1": torch.tensor([True, True])}
    pixels = {name: x[:, None, None].expand(-1, 32, 48) for name, x in cells.items()}
    (a,), (b,) = infill.pixel_masks(cells, plan), infill.pixel_masks(pixels, plan)
    assert torch.equal(a, b) and infill.generated(pixels).keys() == cells.keys()
    assert all(torch.equal(infill.generated(pixels)[name], x) for name, x in cells.items())
    pixels["target1"] = pixels["target1"].clone()
    pixels["target1"][0, 3, 5] = False
    assert infill.pixel_masks(pixels, plan)[0].ne(a).nonzero().tolist() == [[0, 0, 0, 3, 53]], "negative control"
