"""The order of segments carries no meaning: permuting them permutes outputs. Where they are does."""

import random
from dataclasses import replace

import pytest
import torch
from tiny import (
    backbone_for,
    choices,
    every_model,
    is_mini,
    mask,
    models,
    placing,
    plan_for,
    spread,
    tiny,
    tokens_for,
)

from unigen.core.layout import Layout


@pytest.fixture(scope="module")
def backbone(request):
    return backbone_for(tiny(f"backbone={request.param}"))


def shuffled(segments: tuple, seed: str) -> tuple:
    """The segments in another order."""
    order, chance = list(segments), random.Random(seed)
    while order == list(segments):
        chance.shuffle(order)
    return tuple(order)


def forward(backbone, tokens, name: str) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return backbone(tokens, dict.fromkeys(tokens.layout.names, torch.tensor([0.3, 0.8])), mask(name))


@pytest.mark.parametrize(
    ("backbone", "formatter", "name"),
    spread(models(), choices("formatter"), choices("mask"), is_mini),
    indirect=["backbone"],
)
def test_permuting_segments_permutes_outputs_and_nothing_else(backbone, formatter, name):
    layout = plan_for(placing(formatter), backbone, 2).layout
    tokens = tokens_for(layout, backbone, 2)
    expected = forward(backbone, tokens, name)
    text = layout.segments[: len(layout.segments) - len(layout.visual)]
    order = shuffled(layout.visual, name)
    found = forward(backbone, tokens.only(Layout(text + order)), name)
    assert tuple(found) == tuple(s.name for s in order)
    for n, out in found.items():
        torch.testing.assert_close(out, expected[n], rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("backbone", every_model(), indirect=True)
@pytest.mark.parametrize("formatter", choices("formatter"))
def test_moving_a_segment_changes_what_sees_it(backbone, formatter):
    """Negative control: other origins, the same features."""
    layout = plan_for(placing(formatter), backbone, 2).layout
    tokens = tokens_for(layout, backbone, 2)
    first = layout.visual[0]
    t, h, w = first.origin
    here = forward(backbone, tokens, "fcd_d")
    for origin in [(t + 3, h, w), (t, h + 1, w), (t, h, w + 1)]:
        moved = Layout(tuple(replace(s, origin=origin) if s == first else s for s in layout.segments))
        there = forward(backbone, replace(tokens, layout=moved), "fcd_d")
        assert (there["target"] - here["target"]).abs().max() > 1e-4
