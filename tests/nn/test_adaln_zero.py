"""Flux's branched norms against the stock ones: equal at the start, each role and time by itself afterwards."""

import pytest
import torch
from diffusers.models.normalization import AdaLayerNormZero, AdaLayerNormZeroSingle
from tiny import randomise
from torch import nn

from unigen.core.layout import Layout, Segment, text_segment
from unigen.core.types import TEXT
from unigen.nn.adaln_zero import EVERY, VISUAL, BranchedAdaLayerNorm, stock_state
from unigen.nn.modulation import Modulation

LAYOUT = Layout(
    (text_segment(3), Segment("c", "condition", "visual", (1, 1, 4)), Segment("x", "target", "visual", (1, 1, 5)))
)
SPLIT = {"text": "text", "condition": "condition", "target": "target"}
ONE = dict.fromkeys(SPLIT, "every")
KINDS = [(AdaLayerNormZero, VISUAL), (AdaLayerNormZero, TEXT), (AdaLayerNormZeroSingle, EVERY)]


def stock(kind: type) -> nn.Module:
    torch.manual_seed(0)
    return randomise(kind(16))


def served(serves: str) -> list[Segment]:
    return [s for s in LAYOUT.segments if serves in (EVERY, s.stream)]


def inputs(serves: str, names: tuple[str, ...] = ()) -> tuple[torch.Tensor, Modulation]:
    """Tokens of what is served; one time for all segments, and another one for those of `names`."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, sum(s.tokens for s in served(serves)), 16, generator=g)
    temb, other = torch.randn(2, 2, 16, generator=g)
    return x, Modulation.of(LAYOUT, {n: other if n in names else temb for n in LAYOUT.names})


def whole(outputs: tuple, tokens: int) -> list[torch.Tensor]:
    """The modulated tokens and, on every token, the gates: as a block spreads them."""
    return [outputs[0], *(x.unsqueeze(1).expand(-1, tokens, -1) for x in outputs[1:])]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("table", [SPLIT, ONE])
@pytest.mark.parametrize(("kind", "serves"), KINDS)
def test_a_new_branching_equals_the_stock_module(kind, serves, table, tied):
    x, modulation = inputs(serves)
    branched = BranchedAdaLayerNorm(stock(kind), table, tied, serves)
    expected = whole(stock(kind)(x, emb=modulation.temb["x"]), x.shape[1])
    found = whole(branched(x, modulation), x.shape[1])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    with torch.no_grad():
        next(iter(branched.branches.values())).bias += 1
    changed = whole(branched(x, modulation), x.shape[1])
    assert not any(torch.equal(a, b) for a, b in zip(changed, expected, strict=True)), "negative control"


@pytest.mark.parametrize(("kind", "serves"), KINDS)
def test_every_segment_is_modulated_at_its_own_time(kind, serves):
    """As the stock module does it to that segment alone."""
    x, modulation = inputs(serves, ("text", "c"))
    branched, module, at = BranchedAdaLayerNorm(stock(kind), ONE, False, serves), stock(kind), 0
    found = whole(branched(x, modulation), x.shape[1])
    for s in served(serves):
        here = slice(at, at := at + s.tokens)
        for name in ("text", "x"):  # which have different times; the wrong one is the negative control
            expected = whole(module(x[:, here], emb=modulation.temb[name]), s.tokens)
            same = all(torch.equal(a[:, here], b) for a, b in zip(found, expected, strict=True))
            assert same == (modulation.temb[name] is modulation.temb[s.name])


def test_nothing_served_is_nothing_modulated():
    """Remembered text is not there again; a double block still gets its three gates."""
    norm, alone = BranchedAdaLayerNorm(stock(AdaLayerNormZero), SPLIT, False, TEXT), LAYOUT.only(["x"])
    outputs = norm(torch.zeros(2, 0, 16), Modulation.of(alone, {"x": torch.zeros(2, 16)}))
    assert len(outputs) == 5 and all(x.shape == (2, 0, 16) for x in (outputs[0], *(o[:, None] for o in outputs[1:])))


def test_the_stock_state_has_the_stock_names_and_values():
    branched = nn.ModuleDict({"norm": BranchedAdaLayerNorm(stock(AdaLayerNormZeroSingle), ONE, False, EVERY)})
    state, expected = stock_state(branched), stock(AdaLayerNormZeroSingle).state_dict(prefix="norm.")
    assert state.keys() == expected.keys() and all(torch.equal(state[n], x) for n, x in expected.items())
    assert branched.state_dict().keys() != expected.keys(), "negative control"
    several = nn.ModuleDict({"norm": BranchedAdaLayerNorm(stock(AdaLayerNormZeroSingle), SPLIT, False, EVERY)})
    with pytest.raises(ValueError, match="gives norm the branches text, condition, target"):
        stock_state(several)
