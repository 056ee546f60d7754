"""Role tables by hand: visibility, groups, closure, what is static, and what a bad table says."""

import pytest
import torch
from tiny import choices, mask

from unigen.core.layout import Layout, Segment, text_segment
from unigen.core.masks import (
    Mask,
    attended_pairs,
    closure,
    coarsest,
    dense,
    dense_bias,
    groups,
    static_segments,
    visible,
)

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


def session(*turns: int) -> Layout:
    """A text, a clean image and a target of each of these turns."""
    made = []
    for turn in turns:
        made.append(text_segment(1, turn, f"text{turn}"))
        made.append(Segment(f"c{turn}", "condition", "visual", (1, 1, 2), cap=0.0, turn=turn))
        made.append(Segment(f"x{turn}", "target", "visual", (1, 1, 3), turn=turn))
    return Layout(tuple(made))


def test_earlier_means_the_same_turn_or_one_before_it():
    """Token by token, by a rule that knows nothing of tables; with one turn it is the word all."""
    words = dict.fromkeys(("text", "condition", "target"), "earlier")
    causal, layout = Mask("m", dict.fromkeys(words, words)), session(0, 1, 2)
    turn = [s.turn for s in layout.segments for _ in range(s.tokens)]
    by_hand = [[turn[key] <= turn[query] for key in range(len(turn))] for query in range(len(turn))]
    assert dense(layout, layout, causal).tolist() == by_hand
    assert attended_pairs(layout, layout, causal) == 6 * 6 * 6 and len(layout) ** 2 == 18 * 18
    backwards = Layout(layout.segments[::-1])
    assert dense(backwards, backwards, causal).tolist() == [row[::-1] for row in by_hand[::-1]], "order is not time"
    everything = Mask("m", dict.fromkeys(words, dict.fromkeys(words, "all")))
    assert torch.equal(dense(session(4), session(4), causal), dense(session(4), session(4), everything))
    assert not torch.equal(dense(layout, layout, causal), dense(layout, layout, everything)), "negative control"


def test_under_the_mask_of_turns_the_past_never_depends_on_the_future():
    """Not over any number of layers; so it is static, and with any mask that lets a target through it is not."""
    layout, table = session(0, 1, 2), mask("turns")
    for i, query in enumerate(layout.segments):
        for j, key in enumerate(layout.segments):
            may = key.turn <= query.turn and (key.role != "target" or key.name == query.name)
            assert bool(closure(layout, table)[i, j]) == may
    past = tuple(s.name for s in layout.segments if s.role != "target")
    assert static_segments(layout, table, OWN) == past
    assert static_segments(layout, table, OWN | {"text": "shared"}) == (), "everything reads the text of its turn"
    rows = {query: dict(row) for query, row in table.rows}
    rows["text"]["target"] = "earlier"
    assert static_segments(layout, Mask("m", rows), OWN) == (), "negative control"
    assert closure(layout, mask("full")).all(), "negative control"


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
    with pytest.raises(ValueError, match=r"mask 'm': rows.a.b is 'some'; legal are all, same, earlier, none"):
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


def test_a_role_whose_tokens_are_keys_alone_has_itself_for_a_row():
    """Its columns stay: who may read it is what the table says."""
    table = mask("fcd_d")
    keys = table.without_queries("text")
    assert dict(keys.rows)["text"] == tuple((role, "same" if role == "text" else "none") for role, _ in table.rows)
    assert {q: row for q, row in keys.rows if q != "text"} == {q: row for q, row in table.rows if q != "text"}
    assert keys.name == table.name and keys != table and keys == keys.without_queries("text")
    assert static_segments(LAYOUT, keys, OWN)[0] == "text" and "text" not in static_segments(LAYOUT, table, OWN)


@pytest.mark.parametrize(
    ("bias", "said"),
    [
        ({"target": {"condition": 0}}, r"bias\.target\.condition is 0; .* write rows\.target\.condition: none"),
        ({"target": {"condition": -1}}, r"bias\.target\.condition is -1; legal are numbers above 0"),
        ({"target": {"condition": True}}, r"bias\.target\.condition is True"),
        ({"target": {"frame": 2}}, r"bias\.target\.frame is of roles that the rows do not have"),
        ({"frame": {"target": 2}}, r"bias\.frame\.target is of roles that the rows do not have"),
        (1e30, r"bias is 1e\+30; legal is a table such as"),
        ({"target": 2}, r"bias\.target is 2; legal is a strength for each role"),
    ],
)
def test_an_illegal_strength_is_refused(bias, said):
    rows = {role: {"target": "all", "condition": "all"} for role in ("target", "condition")}
    with pytest.raises(ValueError, match=said):
        Mask("m", rows, bias)
    assert Mask("m", rows, {"target": {"condition": 2}}) != Mask("m", rows), "a strength is part of a mask's key"


@pytest.mark.parametrize("name", choices("mask"))
@pytest.mark.parametrize("layout", [LAYOUT, "session"])
def test_the_coarsest_layout_says_the_same_of_every_token(name, layout):
    layout = session(0, 1, 2) if layout == "session" else LAYOUT
    short = coarsest(layout, mask(name))
    assert len(short) == len(layout) and len(short.segments) <= len(layout.segments)
    assert torch.equal(dense(short, short, mask(name)), dense(layout, layout, mask(name)))
    assert torch.equal(dense_bias(short, short, mask(name)), dense_bias(layout, layout, mask(name)))


def test_layouts_of_one_length_are_one_object_where_nothing_is_hidden():
    other = Layout((text_segment(2), Segment("only", "target", "visual", (1, 3, 4))))
    assert coarsest(other, mask("fcd_d")) is coarsest(LAYOUT, mask("fcd_d"))
    assert len(coarsest(LAYOUT, mask("fcd_d")).segments) == 1
    assert len(coarsest(LAYOUT, mask("fcd_a")).segments) == 3, "negative control: both conditions are one, no others"
    assert len(coarsest(LAYOUT, mask("fcd_a_apart")).segments) == 4, "negative control: 'same' keeps conditions apart"
    rows = {q: dict.fromkeys(("text", "condition", "target"), "all") for q in ("text", "condition", "target")}
    biased = Mask("biased", rows, {"text": {"condition": 0.5}})
    assert len(coarsest(LAYOUT, biased).segments) == 3, "negative control: a bias tells them apart"
