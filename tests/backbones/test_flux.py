"""Our Flux is diffusers' own: bit for bit with every treatment off, and under a mask as under a dense one."""

from dataclasses import replace

import pytest
import torch
from flux_case import ALONE, GUIDANCE, ONE_BRANCH, TIMES, case, config, forward, ours, pair, stock_forward, stock_model
from tiny import backbone_for, blocks, choices, mask, query_plan, randomise, tokens_for

from unigen.core import masks
from unigen.core.layout import Layout, text_segment
from unigen.core.masks import Mask
from unigen.core.tokens import Tokens
from unigen.pipeline.build import build

FORMS = ["flux_mini", "flux_fill_mini"]
TEXT_FIRST = Mask("text_first", {"text": {"text": "all", "target": "none"}, "target": {"text": "all", "target": "all"}})


# --- parity with every treatment off ----------------------------------------------------------------------------


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_both_forms_equal_the_stock_model_bit_for_bit(form, guided):
    stock, backbone = pair(form, guided=guided)
    tokens = case(backbone, 2)
    at = GUIDANCE if guided else {"train": None, "sample": None}
    training, sampling = forward(backbone, tokens, mask("fcd_d")), replace(tokens, sampling=True)
    assert torch.equal(training, stock_forward(stock, tokens, at["train"]))
    assert torch.equal(forward(backbone, sampling, mask("fcd_d")), stock_forward(stock, tokens, at["sample"]))
    assert torch.equal(forward(backbone, sampling, mask("fcd_d")), training) != guided
    for name in ("features", "context"):  # negative controls: everything that goes in counts
        if given := getattr(tokens, name):
            other = replace(tokens, **{name: given | {"target": given["target"] + 0.1}})
            assert not torch.equal(forward(backbone, other, mask("fcd_d")), training)
    assert not torch.equal(forward(backbone, replace(tokens, pooled=tokens.pooled + 0.1), mask("fcd_d")), training)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("adapter", choices("conditioning/adapter"))
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("modulation", [*choices("conditioning/modulation"), "one branch"])
def test_a_converted_model_equals_the_stock_one_bit_for_bit(modulation, tied, adapter, dtype):
    known = modulation in choices("conditioning/modulation")
    made = config("flux_mini", f"conditioning/adapter={adapter}", *([f"conditioning/modulation={modulation}"] * known))
    if not known:
        made["conditioning"]["modulation"]["branches"] = ONE_BRANCH
    stock = stock_model(made, dtype)
    backbone = ours(stock, made, tied)
    tokens = case(backbone)
    expected = stock_forward(stock, tokens)
    assert torch.equal(forward(backbone, tokens, mask("fcd_d")), expected)
    for block in blocks(backbone)[:: len(blocks(backbone)) - 1]:  # negative control in each kind of block
        branch = list(getattr(block, "norm1", getattr(block, "norm", None)).branches.values())[-1]
        bias = (branch.base_layer if adapter == "lora" else branch).bias
        with torch.no_grad():
            bias.add_(0.5)
            assert not torch.equal(forward(backbone, tokens, mask("fcd_d")), expected)
            bias.sub_(0.5)


def test_time_and_position_are_the_stock_ones():
    """Negative controls: another time, or another row, is another function; equal time is the same tensor or not."""
    stock, backbone = pair()
    tokens, full = case(backbone), mask("fcd_d")
    expected, layout = stock_forward(stock, tokens), tokens.layout
    assert not torch.allclose(forward(backbone, tokens, full, TIMES - 0.01), expected, atol=1e-4)
    for axis in range(3):
        first = layout.visual[0]
        origin = tuple(at + (i == axis) for i, at in enumerate(first.origin))
        moved = Layout(tuple(replace(s, origin=origin) if s == first else s for s in layout.segments))
        there = forward(backbone, replace(tokens, layout=moved), full)
        assert (there - expected).abs().max() > 1e-3
        assert torch.equal(there, stock_forward(stock, replace(tokens, layout=moved)))


@pytest.mark.parametrize("name", choices("mask"))
@pytest.mark.parametrize("lowering", ["dense", "grouped", "plain"])
def test_a_mask_equals_the_stock_model_with_the_dense_mask(name, lowering):
    stock, backbone = pair("flux_mini", f"backbone.lowering._target_=unigen.core.attention.{lowering}")
    tokens = case(backbone, 2)
    dense = {n: masks.dense(tokens.layout, tokens.layout, mask(n)) for n in (name, "fcd_b", "fcd_a")}
    found = forward(backbone, tokens, mask(name))
    torch.testing.assert_close(found, stock_forward(stock, tokens, allowed=dense[name]), rtol=1e-4, atol=1e-5)
    other = "fcd_b" if name != "fcd_b" else "fcd_a"
    assert (found - stock_forward(stock, tokens, allowed=dense[other])).abs().max() > 1e-3


# --- what the converted model can do that the stock one cannot ------------------------------------------------


@pytest.mark.parametrize(
    "sizes", [{"num_layers": 1, "num_single_layers": 0}, {"num_layers": 0, "num_single_layers": 1}]
)
def test_each_branch_moves_its_own_role(sizes):
    """With one block and every token seeing only its own segment, a branch's weights reach its role and no other."""
    backbone = backbone_for(config(**sizes))
    tokens, block = case(backbone), blocks(backbone)[0]
    before = backbone(tokens, dict.fromkeys(tokens.layout.names, TIMES), ALONE)
    norm = block.norm1 if sizes["num_layers"] else block.norm
    with torch.no_grad():
        norm.branches["condition"].weight.add_(0.1)
    after = backbone(tokens, dict.fromkeys(tokens.layout.names, TIMES), ALONE)
    assert torch.equal(after["target"], before["target"])
    assert not torch.allclose(after["condition0"], before["condition0"])


@pytest.mark.parametrize("tied", [True, False])
def test_tied_branches_are_one_parameter_and_copies_are_their_own(tied):
    backbone = backbone_for(config(), tied=tied)
    double, single = (blocks(backbone)[i] for i in (0, -1))
    assert set(double.norm1.branches) == {"condition", "target"} and set(double.norm1_context.branches) == {"text"}
    assert set(single.norm.branches) == {"text", "condition", "target"}
    for norm in (double.norm1, single.norm):
        weights = {id(branch.weight) for branch in norm.branches.values()}
        assert len(weights) == (1 if tied else len(norm.branches))


def test_own_time_of_a_segment_is_the_model_at_that_time():
    """Where segments do not see each other, each is as in a run in which all are at its time."""
    backbone = backbone_for(config())
    tokens, names = case(backbone), case(backbone).layout.names
    late, early = dict.fromkeys(names, TIMES), dict.fromkeys(names, torch.zeros(2))
    with torch.no_grad():
        mixed = backbone(tokens, late | {"condition0": torch.zeros(2)}, ALONE)
        late, early = backbone(tokens, late, ALONE), backbone(tokens, early, ALONE)
    torch.testing.assert_close(mixed["target"], late["target"])
    torch.testing.assert_close(mixed["condition0"], early["condition0"])
    assert not torch.allclose(early["condition0"], late["condition0"], atol=1e-3), "negative control"


def test_equal_own_times_equal_a_shared_one():
    """Segments of one clock share a tensor for speed alone."""
    backbone = backbone_for(config())
    tokens = case(backbone)
    with torch.no_grad():
        shared = backbone(tokens, dict.fromkeys(tokens.layout.names, TIMES), mask("fcd_a"))
        own = backbone(tokens, {n: TIMES.clone() for n in tokens.layout.names}, mask("fcd_a"))
        other = backbone(tokens, dict.fromkeys(tokens.layout.names, TIMES * 0.9), mask("fcd_a"))
    for n in shared:
        torch.testing.assert_close(shared[n], own[n], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(shared[n], other[n], atol=1e-3)


def test_remembered_text_and_padding_are_the_whole_forward():
    """Text that sees only text may be remembered, padded or not; what is padding changes nothing."""
    backbone = backbone_for(config())
    times, layout = (
        {"text": torch.zeros(2), "target": TIMES},
        query_plan(build(config()["formatter"]), backbone, 0).layout,
    )
    layout = Layout((text_segment(5), *layout.visual))
    long = tokens_for(layout, backbone, 2)
    short = Tokens(
        Layout((text_segment(3), *layout.visual)),
        long.features | {"text": long.features["text"][:, :3]},
        pooled=long.pooled,
    )
    padded = replace(long, valid={"text": torch.tensor([[True] * 3 + [False] * 2] * 2)})
    text, target = (layout.only([name]) for name in ("text", "target"))
    with torch.no_grad():
        expected = backbone(short, times, TEXT_FIRST)["target"]
        memory = backbone.remember(padded.only(text), times, TEXT_FIRST)
        found = [
            backbone(padded, times, TEXT_FIRST)["target"],
            backbone(padded.only(target), times, TEXT_FIRST, memory)["target"],
        ]
        wrong = [backbone(long, times, TEXT_FIRST)["target"], backbone(long.only(target), times, TEXT_FIRST)["target"]]
    for x in found:
        torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)
    assert all(not torch.allclose(x, expected, atol=1e-3) for x in wrong), "negative controls"


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_checkpointing_changes_no_gradient(adapter):
    grads = []
    for checkpointing in ("false", "true"):
        torch.manual_seed(0)
        made = config(
            "flux_mini", f"conditioning/adapter={adapter}", f"backbone.gradient_checkpointing={checkpointing}"
        )
        backbone, chosen = build(made["backbone"]), build(made["conditioning"]["adapter"])
        build(made["conditioning"]["modulation"]).apply(backbone, chosen.freezes_base)
        chosen.apply(backbone)
        randomise(backbone).train()
        tokens, calls = case(backbone), []
        hook = blocks(backbone)[-1].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        outputs = backbone(tokens, dict.fromkeys(tokens.layout.names, TIMES), mask("fcd_a"))
        outputs["target"].square().sum().backward()
        hook.remove()
        assert len(calls) == (2 if checkpointing == "true" else 1), "it is computed again, or not"
        grads.append({n: p.grad for n, p in backbone.named_parameters() if p.requires_grad})
    assert len(grads[0]) > 10 and any((g != 0).any() for g in grads[0].values() if g is not None)
    for n, g in grads[0].items():
        torch.testing.assert_close(g, grads[1][n], rtol=1e-5, atol=1e-6)
