"""RealGeneral's placement: image i is frame i."""

import pytest

from unigen.formatters.frames import Frames
from unigen.layout import Geometry, Placement
from unigen.types import ImageSlot, Signature

GEOMETRY = Geometry(8, (2, 2, 2), ("t", "h", "w"), (11, 150, 150))
CAPS = {"condition": 0.0, "target": 1.0, "example": 0.0}


def slot(name: str, role: str, frames: int = 1, height: int = 512, width: int = 512, row: int = 0) -> ImageSlot:
    return ImageSlot(name, role, height, width, frames, row)


def plan(*slots: ImageSlot, geometry: Geometry = GEOMETRY, **options):
    return Frames(CAPS, **options)(Signature(slots, 226), geometry)


def test_the_papers_pair():
    """Section 3.2 at 512²: 226 text tokens, 1024 of the condition at t = 0, 1024 of the target at t = 1."""
    found = plan(slot("c", "condition"), slot("x", "target"))
    assert [(s.name, s.role, s.tokens, s.origin, s.cap) for s in found.layout.segments] == [
        ("text", "text", 226, (0, 0, 0), 0.0),
        ("c", "condition", 1024, (0, 0, 0), 0.0),
        ("x", "target", 1024, (1, 0, 0), 1.0),
    ]
    assert found.placements == (Placement("c", 0, 0, 0), Placement("x", 1, 0, 0))
    assert (found.fill, found.copy_noise) == ("replicate", "same")


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


def test_a_clip_takes_one_position_for_each_temporal_patch():
    c, x = plan(slot("c", "condition", frames=6), slot("x", "target")).layout.visual
    assert c.grid == (3, 32, 32) and x.origin == (3, 0, 0)


def test_pictures_may_have_different_sizes():
    c, x = plan(slot("c", "condition", height=64, width=32), slot("x", "target")).layout.visual
    assert c.grid == (1, 4, 2) and x.grid == (1, 32, 32)


def test_options_travel_in_the_plan():
    found = plan(slot("x", "target"), temporal_fill="zero", copy_noise="independent")
    assert (found.fill, found.copy_noise) == ("zero", "independent")


def test_equal_signatures_give_equal_plans():
    a, b = (plan(slot("c", "condition"), slot("x", "target")) for _ in range(2))
    assert a == b and hash(a.layout) == hash(b.layout)
    assert a != plan(slot("x", "target"), slot("c", "condition"))


def test_roles_are_text_and_the_caps():
    assert Frames({"condition": 0, "buffer": 0.5, "target": 1}).roles == ("text", "condition", "buffer", "target")
