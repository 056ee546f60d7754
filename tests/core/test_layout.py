"""Layouts as plain values: hashable, ordered, with the positions that their boxes say."""

import pytest
import torch

from unigen.core.layout import Layout, Segment, positions, text_segment

TEXT = text_segment(3)
C = Segment("c", "condition", "visual", (1, 2, 3), origin=(0, 0, 0), cap=0.0)
X = Segment("x", "target", "visual", (2, 1, 2), origin=(5, 1, -4), step=(1, 2, 3))
LAYOUT = Layout((TEXT, C, X))


def test_positions_are_origin_plus_step_times_index():
    by_hand = [[0, 0, 0]] * 3
    by_hand += [[0, h, w] for h in range(2) for w in range(3)]
    by_hand += [[5 + t, 1, -4 + 3 * w] for t in range(2) for w in range(2)]
    assert positions(LAYOUT).tolist() == by_hand
    assert positions(Layout((TEXT, X, C))).tolist() != by_hand, "negative control"
    assert positions(LAYOUT).dtype == torch.int64
    assert positions(Layout(())).shape == (0, 3)


def test_slices_follow_attention_order():
    assert len(LAYOUT) == 3 + 6 + 4
    assert LAYOUT.slices == {"text": slice(0, 3), "c": slice(3, 9), "x": slice(9, 13)}
    assert Layout((X, TEXT)).slices == {"x": slice(0, 4), "text": slice(4, 7)}


def test_equal_layouts_are_one_key():
    again = Layout((text_segment(3), *LAYOUT.segments[1:]))
    assert again == LAYOUT and hash(again) == hash(LAYOUT) and positions(again) is positions(LAYOUT)
    other = LAYOUT.with_caps({"x": 0.5})
    assert other != LAYOUT and other["x"].cap == 0.5 and other["c"] == C


def test_parts_of_a_layout():
    assert LAYOUT.only(["x", "text"]).names == ("text", "x")
    assert LAYOUT.without(["c"]) == LAYOUT.only(["x", "text"])
    assert LAYOUT.only(["text"]) + LAYOUT.only(["c", "x"]) == LAYOUT
    assert LAYOUT.roles == ("text", "condition", "target") and LAYOUT.visual == (C, X)
    assert Layout((C, Segment("d", "condition", "visual", (1, 1, 1)))).roles == ("condition",)


def test_names_may_not_repeat():
    with pytest.raises(AssertionError, match="names repeat"):
        Layout((C, C))
