"""Sessions as slots, plans and prompts: what belongs to a turn, what its sampling has, and what is refused."""

import pytest
from tiny import mask, placing

from unigen.core.layout import Geometry
from unigen.core.turns import check_causal, copies, parts, prompts_by_turn, turns_of
from unigen.core.types import ImageSlot, Signature

FLUX = Geometry(8, (1, 2, 2), ("t", "h", "w"), (16, 64, 64))


def slots(turns: int) -> tuple[ImageSlot, ...]:
    """A condition and the targets of so many turns, 2 tokens each."""
    targets = (ImageSlot(f"x{turn}", "target", 16, 32, row=turn) for turn in range(turns))
    return ImageSlot("c", "condition", 16, 32), *targets


def plan(turns: int, formatter: str = "frames"):
    return placing(formatter)(Signature(slots(turns), 3), FLUX)


def test_a_finished_target_lies_on_itself_clean_and_in_the_next_turn():
    found = plan(3)
    assert [(s.name, s.role, s.turn, s.cap, s.origin[0]) for s in found.layout.segments] == [
        *((f"text{turn}", "text", turn, 0.0, 0) for turn in range(3)),
        ("c", "condition", 0, 0.0, 0),
        ("x0", "target", 0, 1.0, 1),
        ("x0_finished", "example", 1, 0.0, 1),
        ("x1", "target", 1, 1.0, 2),
        ("x1_finished", "example", 2, 0.0, 2),
        ("x2", "target", 2, 1.0, 3),
    ]
    assert [(p.slot, p.canvas, p.copy) for p in found.placements if p.copy] == [
        ("x0_finished", 1, True),
        ("x1_finished", 2, True),
    ]
    assert found.layout.target_tokens == 2 and found.layout.image_tokens == 12, "a turn has one target"


def test_the_part_of_a_turn_has_finished_targets_as_images_and_no_noised_one_but_its_own():
    first, second, third = parts(plan(3))
    assert first.layout.names == ("text0", "c", "x0")
    assert second.layout.names == ("text0", "text1", "c", "x0_finished", "x1")
    assert third.layout.names == ("text0", "text1", "text2", "c", "x0_finished", "x1_finished", "x2")
    for part, target in zip((first, second, third), ("x0", "x1", "x2"), strict=True):
        assert part.targets == (target,) and not any(p.copy for p in part.placements)
        assert [p.canvas for p in part.placements] == list(range(len(part.slots)))
        assert all(s in plan(3).layout.segments for s in part.layout.segments), "it lies where it lay in training"


def test_a_sample_of_one_turn_is_its_own_only_part():
    """Examples of other rows are no turns: their rows have no target. The one text belongs to the last row."""
    row = [ImageSlot(f"e{i}", "example", 16, 32) for i in range(2)]
    query = [ImageSlot("c", "condition", 16, 32, row=1), ImageSlot("x", "target", 16, 32, row=1)]
    found = placing("frames")(Signature((*row, *query), 3), FLUX)
    assert parts(found) == [found] and copies(found.slots) == {} and turns_of(found.slots) == (1,)
    assert found.layout.names[0] == "text" and [s.turn for s in found.layout.segments] == [1, 0, 0, 1, 1]
    assert prompts_by_turn(["a\nb"], found.slots) == [["a\nb"]]
    assert len(parts(plan(2))) == 2, "negative control"


def test_the_prompt_of_a_session_has_a_line_for_each_turn():
    assert prompts_by_turn(["a\nb", "c\nd"], slots(2)) == [["a", "c"], ["b", "d"]]
    with pytest.raises(ValueError, match="'a' has 1 lines; a session of 2 turns has one each"):
        prompts_by_turn(["a"], slots(2))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("full", "'x0' depends on 'text1', which belongs to a later turn"),
        ("conditions_alone", "'x0' depends on 'text1', which belongs to a later turn"),
        ("fcd_d", "take mask=turns, or the word earlier"),
    ],
)
def test_a_mask_that_shows_the_answer_is_refused(name, said):
    with pytest.raises(ValueError, match=said):
        check_causal(plan(2), mask(name))
    check_causal(plan(2), mask("turns"))
    check_causal(plan(1), mask(name))


def test_a_mask_that_reads_the_noise_of_an_earlier_turn_is_refused():
    from unigen.core.masks import Mask

    rows = {query: dict(row) for query, row in mask("turns").rows}
    rows["target"]["target"] = "earlier"
    with pytest.raises(ValueError, match="'x1' depends on 'x0', which is the noised target of an earlier one"):
        check_causal(plan(2), Mask("m", rows))


def test_a_grid_and_a_formatter_without_examples_refuse_sessions():
    with pytest.raises(ValueError, match="'x0' of row 0 is a target; only the last row, 1, may have any"):
        placing("grid")(Signature((*slots(2), ImageSlot("y", "condition", 16, 32, row=1)), 3), FLUX)
    bare = type(placing("frames"))({"condition": 0.0, "target": 1.0}, {"all": {"run": "t"}}, "bare")
    with pytest.raises(ValueError, match="formatter 'bare': a session shows finished targets as role 'example'"):
        bare(Signature(slots(2), 3), FLUX)
    assert bare(Signature(slots(1), 3), FLUX), "negative control"
