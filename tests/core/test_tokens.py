"""Tokens follow their layout."""

from dataclasses import replace

import torch

from unigen.core.layout import Layout, Segment, text_segment
from unigen.core.tokens import Tokens

LAYOUT = Layout((text_segment(2), Segment("x", "target", "visual", (1, 1, 3))))
TOKENS = Tokens(LAYOUT, {"text": torch.zeros(2, 2, 4), "x": torch.ones(2, 3, 4)})


def test_only_keeps_what_the_layout_names():
    kept = TOKENS.only(LAYOUT.only(["x"]))
    assert list(kept.features) == ["x"] and kept.layout.names == ("x",)


def test_updated_leaves_the_original_alone():
    new = TOKENS.updated({"x": torch.full((2, 3, 4), 5.0)})
    assert (new.features["x"] == 5).all() and (TOKENS.features["x"] == 1).all()
    assert new.features["text"] is TOKENS.features["text"]


def test_valid_keys_are_in_attention_order():
    assert TOKENS.valid_keys() is None
    text = torch.tensor([[True, False], [True, True]])
    masked = Tokens(LAYOUT, TOKENS.features, valid={"text": text})
    assert masked.valid_keys().tolist() == [[True, False, True, True, True], [True] * 5]
    turned = masked.only(Layout(LAYOUT.segments[::-1]))
    assert turned.valid_keys().tolist() == [[True, True, True, True, False], [True] * 5]


def test_only_keeps_pooled_text_and_the_context_of_what_it_names():
    whole = replace(TOKENS, pooled=torch.ones(2, 5), context={"x": torch.ones(2, 3, 7)}, sampling=True)
    kept = whole.only(LAYOUT.only(["x"]))
    assert kept.pooled is whole.pooled and list(kept.context) == ["x"] and kept.sampling
    assert whole.only(LAYOUT.only(["text"])).context == {} and TOKENS.only(LAYOUT).context is None


def test_two_batches_beside_each_other():
    one = replace(TOKENS, pooled=torch.zeros(2, 5), context={"x": torch.zeros(2, 3, 7)})
    other = Tokens(
        LAYOUT, {n: x + 2 for n, x in one.features.items()}, None, one.pooled + 1, {"x": torch.ones(2, 3, 7)}
    )
    both = one.beside(other)
    for name, x in one.features.items():
        assert torch.equal(both.features[name], torch.cat([x, x + 2]))
    assert both.pooled[:, 0].tolist() == both.context["x"][:, 0, 0].tolist() == [0, 0, 1, 1]
    assert TOKENS.beside(TOKENS).context is None and TOKENS.beside(TOKENS).pooled is None


def test_a_context_follows_its_segments():
    beside = Tokens(LAYOUT, TOKENS.features, context={"x": torch.full((2, 3, 2), 7.0)})
    assert list(beside.only(LAYOUT.only(["x"])).context) == ["x"]
    assert beside.only(LAYOUT.only(["text"])).context == {} and TOKENS.only(LAYOUT).context is None
    assert beside.updated({"x": torch.zeros(2, 3, 4)}).context is beside.context


def test_samples_of_one_layout_are_put_beside_each_other():
    def filled(i: float) -> Tokens:
        features = {n: x + i for n, x in TOKENS.features.items()}
        context, valid = {"x": torch.full((2, 3, 1), i)}, {"text": torch.full((2, 2), i > 1)}
        return Tokens(LAYOUT, features, valid, torch.full((2, 4), i), context)

    both = filled(1.0).beside(filled(2.0))
    assert both.features["x"][:, 0, 0].tolist() == [2, 2, 3, 3]
    assert both.context["x"][:, 0, 0].tolist() == both.pooled[:, 0].tolist() == [1, 1, 2, 2]
    assert both.valid["text"][:, 0].tolist() == [False, False, True, True]
    alone = TOKENS.beside(TOKENS)
    assert alone.context is alone.pooled is alone.valid is None
