"""Placement by rules: RealGeneral's frames, where image i is frame i, and the placements of other methods."""

from fractions import Fraction

import pytest
import torch
from tiny import composed

from unigen.core import canvas
from unigen.core.layout import Geometry, Placement, positions
from unigen.core.types import ImageSlot, Signature
from unigen.formatters.placed import Placed

GEOMETRY = Geometry(8, (2, 2, 2), ("t", "h", "w"), (11, 150, 150))
CAPS = {"condition": 0.0, "target": 1.0, "example": 0.0}


def slot(name: str, role: str, frames: int = 1, height: int = 512, width: int = 512, row: int = 0) -> ImageSlot:
    return ImageSlot(name, role, height, width, frames, row)


def plan(*slots: ImageSlot, geometry: Geometry = GEOMETRY, **options):
    return Placed(**({"caps": CAPS, "places": {"all": {"run": "t"}}, "name": "frames"} | options))(
        Signature(slots, 226), geometry
    )


def test_the_papers_pair():
    """Section 3.2 at 512²: 226 text tokens, 1024 of the condition at t = 0, 1024 of the target at t = 1."""
    found = plan(slot("c", "condition"), slot("x", "target"))
    assert [(s.name, s.role, s.tokens, s.origin, s.cap) for s in found.layout.segments] == [
        ("text", "text", 226, (0, 0, 0), 0.0),
        ("c", "condition", 1024, (0, 0, 0), 0.0),
        ("x", "target", 1024, (1, 0, 0), 1.0),
    ]
    assert found.placements == (Placement("c", 0, 0, 0), Placement("x", 1, 0, 0))
    assert (found.padding, found.copy_noise) == ("replicate", "same")


@pytest.mark.parametrize("conditions", [0, 1, 2, 5])
def test_images_follow_each_other_in_time(conditions):
    slots = [slot(f"c{i}", "condition") for i in range(conditions)] + [slot("x", "target")]
    segments = plan(*slots).layout.visual
    assert [s.origin for s in segments] == [(i, 0, 0) for i in range(conditions + 1)]
    assert all(s.grid == (1, 32, 32) for s in segments)
    turned = plan(*slots[::-1]).layout.visual
    assert turned[0].name == "x" and turned[0].origin == (0, 0, 0)


def test_in_context_rows_come_before_the_query_and_stay_clean():
    rows = [slot(f"e{row}{i}", "example", row=row) for row in range(2) for i in range(2)]
    found = plan(*rows, slot("c", "condition", row=2), slot("x", "target", row=2)).layout.visual
    assert [s.name for s in found] == ["e00", "e01", "e10", "e11", "c", "x"]
    assert [(s.origin, s.cap) for s in found] == [((i, 0, 0), float(i == 5)) for i in range(6)]
    with pytest.raises(ValueError, match=r"12 images take 12 temporal positions; .* 11; take fewer example rows"):
        plan(*(slot(f"e{i}", "example") for i in range(11)), slot("x", "target", row=1))


def test_buffers_stand_between_condition_and_target_and_hold_the_conditions_latents():
    """TIC-FT: [R, B1, B2, B3, T], each buffer noised up to its own ceiling; its content is R's."""
    found = plan(slot("c", "condition"), slot("x", "target"), buffers=(0.25, 0.5, 0.75))
    assert [(s.name, s.role, s.origin[0], s.cap) for s in found.layout.visual] == [
        ("c", "condition", 0, 0.0),
        *((f"buffer{i}", "buffer", i + 1, cap) for i, cap in enumerate((0.25, 0.5, 0.75))),
        ("x", "target", 4, 1.0),
    ]
    images = {name: torch.randn(2, 1, 3, 512, 512) for name in ("c", "x")}
    boxes = canvas.cut([page[..., ::8, ::8] for page in canvas.stitch(images, found)], found)
    assert all(torch.equal(boxes[f"buffer{i}"], boxes["c"]) for i in range(3))
    assert not torch.equal(boxes["buffer0"], boxes["x"]), "negative control"
    with pytest.raises(ValueError, match=r"formatter\.buffers needs a condition right before the target"):
        plan(slot("x", "target"), buffers=(0.5,))
    with pytest.raises(ValueError, match=r"formatter\.buffers has 1\.0; a buffer's noise ceiling lies between 0 and 1"):
        plan(slot("c", "condition"), slot("x", "target"), buffers=(1.0,))


def test_a_clip_takes_one_position_for_each_temporal_patch():
    c, x = plan(slot("c", "condition", frames=6), slot("x", "target")).layout.visual
    assert c.grid == (3, 32, 32) and x.origin == (3, 0, 0)
    with pytest.raises(ValueError, match=r"'c' has 3 frames \(data\.forms\.NAME\.frames\); .* multiples of .* patch 2"):
        plan(slot("c", "condition", frames=3), slot("x", "target"))


def test_a_backbones_reach_is_refused_with_its_key():
    small = GEOMETRY._replace(reach=(1, 150, 150), reach_key="backbone.reach")
    with pytest.raises(ValueError, match=r"2 temporal positions; the backbone holds 1 \(backbone\.reach\)$"):
        plan(slot("c", "condition"), slot("x", "target"), geometry=small)
    flat = small._replace(reach=(11, 2, 2))
    with pytest.raises(
        ValueError, match=r"the backbone holds 2×2 \(backbone\.reach\); take smaller images \(data\.size"
    ):
        plan(slot("x", "target"), geometry=flat)
    assert plan(slot("x", "target"), geometry=small), "negative control"


def test_a_clip_of_a_codec_with_a_temporal_stride_takes_fewer_positions():
    """9 frames are 3 latent frames, which fill two temporal patches of 2 with one frame of padding."""
    causal = GEOMETRY._replace(temporal_stride=4, clip_unit=8)
    c, x = plan(slot("c", "condition", frames=9), slot("x", "target"), geometry=causal).layout.visual
    assert c.grid == (2, 32, 32) and x.origin == (2, 0, 0)
    with pytest.raises(
        ValueError, match=r"6 frames .*, which encoder.codec cannot hold: a clip has 1 \+ 8 n frames, such as 1 or 9"
    ):
        plan(slot("c", "condition", frames=6), slot("x", "target"), geometry=causal)


def test_images_may_have_different_sizes():
    c, x = plan(slot("c", "condition", height=64, width=32), slot("x", "target")).layout.visual
    assert c.grid == (1, 4, 2) and x.grid == (1, 32, 32)


def test_options_travel_in_the_plan():
    found = plan(slot("x", "target"), temporal_padding="zero", copy_noise="independent")
    assert (found.padding, found.copy_noise) == ("zero", "independent")


def test_equal_signatures_give_equal_plans():
    a, b = (plan(slot("c", "condition"), slot("x", "target")) for _ in range(2))
    assert a == b and hash(a.layout) == hash(b.layout)
    assert a != plan(slot("x", "target"), slot("c", "condition"))


def test_roles_are_text_and_the_caps():
    caps = {"condition": 0, "buffer": 0.5, "target": 1}
    assert Placed(caps, {"all": {}}).roles == ("text", "condition", "buffer", "target")


# --- rules ------------------------------------------------------------------------------------------------------


def where(places: dict, *slots: ImageSlot, geometry: Geometry = GEOMETRY) -> dict[str, tuple]:
    """The origin of every image under these rules."""
    return {s.name: s.origin for s in plan(*slots, places=places, geometry=geometry).layout.visual}


def shipped(name: str) -> dict:
    return composed(f"formatter={name}")["formatter"]["places"]


C, X = slot("c", "condition"), slot("x", "target")  # 32×32 tokens each


def test_the_placements_of_the_field_by_their_first_ids():
    """As read in the authors' code: OminiControl (-width on w), UNO (target's size on both axes), Kontext (t = 1)."""
    low = slot("low", "condition", height=256, width=384)  # 16×24 tokens
    assert where(shipped("frames"), C, X) == {"c": (0, 0, 0), "x": (1, 0, 0)}
    assert where(shipped("aligned"), C, X) == {"c": (0, 0, 0), "x": (0, 0, 0)}
    assert where(shipped("beside"), low, X) == {"low": (0, 0, -24), "x": (0, 0, 0)}
    found = where(shipped("diagonal"), C, low, slot("last", "condition"), X)
    assert found == {"c": (0, 32, 32), "low": (0, 64, 64), "last": (0, 80, 88), "x": (0, 0, 0)}
    kontext = {"target": {}, "condition": {"offset": [1, 0, 0], "run": "t"}}
    assert where(kontext, C, low, X) == {"c": (1, 0, 0), "low": (2, 0, 0), "x": (0, 0, 0)}
    far = GEOMETRY._replace(reach=(40, 150, 150))
    flux2 = {"target": {}, "condition": {"offset": [10, 0, 0], "run": [10, 0, 0]}}
    assert where(flux2, C, low, X, geometry=far) == {"c": (10, 0, 0), "low": (20, 0, 0), "x": (0, 0, 0)}
    easy = {"target": {}, "condition": {"offset": [0, 64, 0]}}
    assert where(easy, C, low, X) == {"c": (0, 64, 0), "low": (0, 64, 0), "x": (0, 0, 0)}
    before = {"target": {}, "condition": {"at": "target", "offset": ["-frames", 0, 0]}}
    assert where(before, slot("c", "condition", frames=6), X)["c"] == (-3, 0, 0)


def test_the_most_special_rule_holds():
    places = {"all": {"run": "t"}, "condition": {"at": "target"}, "c1": {"offset": [0, 5, 0]}}
    found = where(places, slot("c0", "condition"), slot("c1", "condition"), X)
    assert found == {"c0": (0, 0, 0), "c1": (0, 5, 0), "x": (0, 0, 0)}


def test_a_rule_may_set_the_ceiling_of_single_slots():
    places = {"all": {"run": "t"}, "c1": {"cap": 0.25}}
    slots = [slot("c0", "condition"), slot("c1", "condition"), X]
    assert [s.cap for s in plan(*slots, places=places).layout.visual] == [0.0, 0.25, 1.0]
    assert [s.cap for s in plan(*slots).layout.visual] == [0.0, 0.0, 1.0], "negative control"
    with pytest.raises(ValueError, match=r"places\.x\.cap is 0\.5; a target begins as noise"):
        plan(*slots, places={"all": {}, "x": {"cap": 0.5}})
    with pytest.raises(ValueError, match=r"places\.all\.cap is 2; legal are null and noise ceilings from 0 to 1"):
        plan(*slots, places={"all": {"cap": 2}})


def test_centred_images_share_their_middle():
    """Qwen-Image: h and w from -(n - n // 2); an odd row or column lies on the negative side."""
    places = {"all": {"centred": True, "run": "t"}}
    odd = slot("odd", "condition", height=48, width=80)  # 3×5 tokens
    assert where(places, odd, X) == {"odd": (0, -2, -3), "x": (1, -16, -16)}


def test_a_smaller_image_covers_the_same_area_with_wider_steps():
    """OminiControl2: half the size, step 2, the first token at 0.5; EasyControl: as wide as the target, from 0."""
    small = {"target": {}, "condition": {"at": "target", "size": "1/2", "step": 2, "align": "centre"}}
    c, _ = plan(C, X, places=small).layout.visual
    assert (c.grid, c.origin, c.step) == ((1, 16, 16), (0, Fraction(1, 2), Fraction(1, 2)), (1, 2, 2))
    rows = positions(plan(C, X, places=small).layout)[226 : 226 + 256]
    assert rows.dtype == torch.float64 and rows[0].tolist() == [0, 0.5, 0.5] and rows[-1].tolist() == [0, 30.5, 30.5]
    wide = slot("c", "condition", height=320, width=512)  # 20×32 tokens under 32×32: 1.6 on h, 1 on w
    c, _ = plan(wide, X, places={"target": {}, "condition": {"at": "target", "step": "fit"}}).layout.visual
    assert (c.origin, c.step) == ((0, 0, 0), (1, Fraction(8, 5), 1))
    whole = positions(plan(C, X).layout)
    assert whole.dtype == torch.int64, "negative control: whole numbers stay whole"


def test_an_image_is_encoded_at_the_size_of_its_rule():
    small = {"target": {}, "condition": {"at": "target", "size": 0.5, "step": 2}}
    found = plan(C, X, places=small)
    images = {name: torch.randint(0, 256, (2, 1, 3, 512, 512), dtype=torch.uint8) for name in ("c", "x")}
    pages = canvas.stitch(images, found)
    assert [tuple(page.shape[-2:]) for page in pages] == [(256, 256), (512, 512)] and pages[0].dtype == torch.uint8
    assert (
        torch.equal(pages[1], images["x"]) and canvas.cut([p[..., ::8, ::8] for p in pages], found)["c"].shape[-1] == 32
    )
    with pytest.raises(ValueError, match=r"condition.size is 3/1024, which makes 'c' 1\.5×1\.5 of 512×512 pixels"):
        plan(C, X, places={"all": {}, "condition": {"size": "3/1024"}})
    with pytest.raises(ValueError, match=r"target.size is 1/2; a target is generated at its own size"):
        plan(C, X, places={"all": {}, "target": {"size": "1/2"}})


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ({}, r"formatter\.places names no rule"),
        ({"condition": {}}, r"no rule for slot 'x' of role 'target'; formatter\.places knows condition"),
        ({"all": {"at": "left"}}, r"places\.all\.at is 'left'; legal are origin, target"),
        ({"all": {"at": "target"}}, r"places\.all\.at is target, and a target cannot lie by itself"),
        ({"all": {"run": "x"}}, r"places\.all\.run is 'x'; legal are t, h, w, diagonal"),
        ({"all": {"run": [1, 2]}}, r"places\.all\.run is \[1, 2\]; legal are three numbers"),
        (
            {"all": {"offset": [0, 0, "wide"]}},
            r"places\.all\.offset has 'wide'; legal are numbers and fractions .*-width",
        ),
        ({"all": {"step": 0}}, r"places\.all\.step is 0; legal are numbers above 0, and fit"),
        ({"all": {"sise": 1}}, r"places\.all\.sise is no part of a rule; legal are at, offset, run, size"),
        ({"all": {}, "text": {}}, r"places\.text: text has no place of its own"),
        ({"all": {"size": 2}}, r"places\.all\.size is 2; legal are shares above 0 and at most 1"),
        ({"all": {"offset": [0, 0, -200]}}, r"2 images take 200 positions wide below 0; the backbone holds 150"),
        ({"all": {"offset": [0, 0, 150]}}, r"2 images take 182 positions wide; the backbone holds 150"),
    ],
)
def test_what_is_no_rule_is_refused_with_its_key(places, said):
    with pytest.raises(ValueError, match=said):
        plan(C, X, places=places)
