"""Branched AdaLN against the stock module: equal at the start, apart once a branch is trained."""

import pytest
import torch
from diffusers.models.normalization import CogVideoXLayerNormZero
from tiny import randomise

from unigen.core.layout import Layout, Segment, text_segment
from unigen.nn.modulation import BranchedLayerNormZero, Modulation

LAYOUT = Layout(
    (text_segment(3), Segment("c", "condition", "visual", (1, 1, 4)), Segment("x", "target", "visual", (1, 1, 5)))
)
SPLIT = {"text": "text", "condition": "condition", "target": "target"}
SHARED = {"text": "text", "condition": "video", "target": "video"}


def stock() -> CogVideoXLayerNormZero:
    torch.manual_seed(0)
    return randomise(CogVideoXLayerNormZero(8, 16))


def inputs():
    g = torch.Generator().manual_seed(0)
    x, text, temb = (torch.randn(2, *shape, generator=g) for shape in [(9, 16), (3, 16), (8,)])
    return x, text, temb, Modulation.of(LAYOUT, dict.fromkeys(LAYOUT.names, temb))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("table", [SPLIT, SHARED])
def test_a_new_branching_equals_the_stock_module(table, tied):
    x, text, temb, modulation = inputs()
    branched = BranchedLayerNormZero(stock(), table, tied)
    for ours, theirs in zip(branched(x, text, modulation), stock()(x, text, temb), strict=True):
        assert torch.equal(ours, theirs.expand_as(ours))
    with torch.no_grad():
        branched.branches[table["target"]].bias[0] += 1
    assert not torch.equal(branched(x, text, modulation)[0], stock()(x, text, temb)[0]), "negative control"


def test_a_trained_branch_reaches_its_role_alone():
    x, text, _, modulation = inputs()
    branched = BranchedLayerNormZero(stock(), SPLIT, tied=False)
    before = branched(x, text, modulation)
    with torch.no_grad():
        branched.branches["condition"].weight += 0.1
    after = branched(x, text, modulation)
    for i in (0, 2):
        a, b = after[i].expand(2, 9, 16), before[i].expand(2, 9, 16)
        assert torch.equal(a[:, 4:], b[:, 4:]) and not torch.equal(a[:, :4], b[:, :4])
    assert torch.equal(after[1], before[1]) and torch.equal(after[3], before[3])


def test_tied_branches_share_one_storage_and_copies_do_not():
    tied, copies = (BranchedLayerNormZero(stock(), SPLIT, t) for t in (True, False))
    assert tied.branches["condition"].weight is tied.branches["target"].weight
    assert tied.branches["text"].weight is not tied.branches["target"].weight
    assert copies.branches["condition"].weight is not copies.branches["target"].weight
    half = 3 * 16 * 8 + 3 * 16
    assert sum(p.numel() for p in tied.parameters()) == 2 * half + 32
    assert sum(p.numel() for p in copies.parameters()) == 3 * half + 32
    assert list(BranchedLayerNormZero(stock(), SHARED, False).branches) == ["text", "video"]


def test_own_times_modulate_segments_apart():
    x, text, temb, _ = inputs()
    branched = BranchedLayerNormZero(stock(), SHARED, tied=True)
    own = Modulation.of(LAYOUT, {"text": temb, "c": torch.zeros(2, 8), "x": temb})
    out, _, gate, _ = branched(x, text, own)
    there = stock()(x, text, torch.zeros(2, 8))
    here = stock()(x, text, temb)
    torch.testing.assert_close(out, torch.cat([there[0][:, :4], here[0][:, 4:]], dim=1))
    torch.testing.assert_close(gate, torch.cat([there[2].expand(-1, 4, -1), here[2].expand(-1, 5, -1)], dim=1))
    assert not torch.allclose(out, here[0], atol=1e-3), "negative control"


def test_text_needs_a_branch_of_its_own():
    with pytest.raises(ValueError, match=r"branches: branch 'all' serves text, target.*give text a branch of its own"):
        BranchedLayerNormZero(stock(), {"text": "all", "target": "all"}, tied=True)


def test_joined_neighbours_are_modulated_as_before():
    layout = Layout((*LAYOUT.segments, Segment("y", "target", "visual", (1, 1, 2))))
    x, text, temb, _ = inputs()
    x, late = torch.cat([x, x[:, :2]], dim=1), temb + 1
    branched = BranchedLayerNormZero(stock(), SPLIT, tied=False)
    with torch.no_grad():
        branched.branches["condition"].weight += 0.1
    for clocks, left in (((temb, temb, temb), 3), ((temb, late, temb), 4)):
        of = dict(zip(layout.names, (temb, *clocks), strict=True))
        modulation = Modulation.of(layout, of)
        short = modulation.coarsest(SPLIT)
        assert len(short.layout.segments) == left and len(short.layout) == len(layout)
        for a, b in zip(branched(x, text, short), branched(x, text, modulation), strict=True):
            assert torch.equal(a, b)
    assert len(Modulation.of(layout, dict.fromkeys(layout.names, temb)).coarsest(SHARED).layout.segments) == 2
    wrong = modulation._replace(clock_of=(0, 0, 0, 0))
    assert not torch.equal(branched(x, text, wrong)[0], branched(x, text, modulation)[0]), "negative control"
