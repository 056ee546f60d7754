"""Role tables by hand: visibility, groups, closure, what is static, and what a bad table says."""

import pytest
import torch
from tiny import choices, mask

from unigen.layout import Layout, Segment, text_segment
from unigen.masks import Mask, attended_pairs, closure, dense, groups, static_segments, visible

LAYOUT = Layout(
    (
        text_segment(2),
        Segment("c0", "condition", "visual", (1, 1, 3), cap=0.0),
        Segment("c1", "condition", "visual", (1, 1, 4), cap=0.0),
        Segment("x", "target", "visual", (1, 1, 5)),
    )
)
OWN = {"text": "own", "condition": "own", "target": "own"}


def test_same_means_the_segment_itself():
    apart, together = (visible(LAYOUT, LAYOUT, mask(n)) for n in ("fcd_a_apart", "fcd_a"))
    assert apart[1] == (False, True, False, True) and together[1] == (False, True, True, True)


@pytest.mark.parametrize("name", choices("mask"))
def test_dense_is_the_table_token_by_token(name):
    owner = [s for s in LAYOUT.segments for _ in range(s.tokens)]
    by_hand = [[mask(name).sees(q, k) for k in owner] for q in owner]
    assert dense(LAYOUT, LAYOUT, mask(name)).tolist() == by_hand
    assert attended_pairs(LAYOUT, LAYOUT, mask(name)) == sum(map(sum, by_hand))
    assert dense(LAYOUT, LAYOUT, mask("fcd_b")).tolist() != dense(LAYOUT, LAYOUT, mask("fcd_a")).tolist()


@pytest.mark.parametrize("name", choices("mask"))
def test_groups_hold_every_query_once_with_what_it_sees(name):
    found = {q: seen for names, seen in groups(LAYOUT, LAYOUT, mask(name)) for q in names}
    rows = dict(zip(LAYOUT.names, visible(LAYOUT, LAYOUT, mask(name)), strict=True))
    assert found == {q: tuple(k for k, yes in zip(LAYOUT.names, rows[q], strict=True) if yes) for q in LAYOUT.names}
    key_sets = [seen for _, seen in groups(LAYOUT, LAYOUT, mask(name))]
    assert len(set(key_sets)) == len(key_sets) == len(set(found.values()))


def test_under_mask_a_text_reaches_the_condition_in_two_hops_only():
    one, two = closure(LAYOUT, mask("fcd_a"), 1), closure(LAYOUT, mask("fcd_a"), 2)
    assert not one[1, 0] and two[1, 0] and closure(LAYOUT, mask("fcd_a")).all()
    assert not closure(LAYOUT, mask("fcd_b"))[1, 0] and not closure(LAYOUT, mask("fcd_b"))[1, 3]


def test_closure_of_depth_zero_is_the_input_itself():
    assert torch.equal(closure(LAYOUT, mask("fcd_d"), 0), torch.eye(4, dtype=torch.bool))


def test_static_needs_clean_input_and_own_time():
    b = mask("fcd_b")
    assert static_segments(LAYOUT, b, OWN) == ("c0", "c1")
    assert static_segments(LAYOUT, b, OWN | {"text": "shared"}) == ("c0", "c1")
    assert static_segments(LAYOUT, b, OWN | {"condition": "shared"}) == ()
    assert static_segments(LAYOUT.with_caps({"c1": 0.25}), b, OWN) == (), "c0 reads c1, which is noised"
    assert static_segments(LAYOUT, mask("fcd_a"), OWN) == ()


def test_a_word_that_is_not_legal_is_named():
    with pytest.raises(ValueError, match=r"mask 'm': rows.a.b is 'some'; legal are all, same, none"):
        Mask("m", {"a": {"b": "some"}})


def test_a_missing_row_or_column_is_named():
    table = Mask("m", {"text": {"text": "all"}, "target": {"text": "all", "target": "all"}})
    with pytest.raises(ValueError, match=r"mask 'm' has no row for role 'buffer' \(from F\); it knows text, target"):
        table.check(("text", "buffer"), "F")
    with pytest.raises(
        ValueError, match=r"mask 'm': row 'text' has no column for role 'target' \(from F\); it knows text"
    ):
        table.check(("text", "target"), "F")
    Mask("m", {"text": {"text": "all"}}).check(("text",), "F")


def test_masks_are_values():
    rows = {"text": {"text": "all"}}
    assert Mask("m", rows) == Mask("m", rows) and hash(Mask("m", rows)) == hash(Mask("m", rows))
    assert Mask("m", rows) != Mask("m", {"text": {"text": "none"}})
