"""Our HunyuanVideo-1.5 is diffusers' own, to rounding: padded text, clips, clocks of roles; and what roles add."""

from dataclasses import replace

import pytest
import torch
from hunyuan_case import HIGH, ROLES, TIMES, WIDE, case, config, forward, ours, own_times, pair, stock_forward
from hunyuan_case import stock_model as stock_of
from tiny import backbone_for, batch, blocks, choices, mask, randomise, tiny

from unigen.core.layout import Layout
from unigen.core.masks import Mask, static_segments
from unigen.pipeline.build import build, build_pipeline

FULL = mask("fcd_d")
CLOSE = {"rtol": 1e-4, "atol": 2e-5}
ONE_BRANCH = {"text": "text", "condition": "image", "target": "image"}
STILL = HIGH * WIDE  # tokens of a condition


def table(name: str, **rows: str) -> Mask:
    """Rows in words for text, condition and target: "all all none"."""
    return Mask(name, {query: dict(zip(ROLES, row.split(), strict=True)) for query, row in rows.items()})


ALONE = table("alone", text="same same same", condition="same same same", target="same same same")
APART = table("apart", text="all none none", condition="none all none", target="all all all")


# --- parity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("modulation", [*choices("conditioning/modulation"), "one branch"])
def test_a_converted_model_equals_the_stock_one(modulation, adapter):
    known = modulation in choices("conditioning/modulation")
    made = config(f"conditioning/adapter={adapter}", *([f"conditioning/modulation={modulation}"] * known))
    if not known:
        made["conditioning"]["modulation"]["branches"] = ONE_BRANCH
    stock = stock_of(made)
    backbone = ours(stock, made)
    tokens = case(backbone, 2)
    expected = stock_forward(stock, tokens)
    torch.testing.assert_close(forward(backbone, tokens, FULL), expected, **CLOSE)
    assert expected.std() > 0.1
    whole = forward(backbone, replace(tokens, valid=None), FULL)
    torch.testing.assert_close(whole[:1], expected[:1], **CLOSE)
    assert not torch.allclose(whole[1:], expected[1:], atol=1e-2), "negative control: padding is hidden"
    assert not torch.allclose(forward(backbone, tokens, FULL, TIMES - 0.01), expected, atol=1e-3), "negative control"
    seen = stock_forward(stock, tokens, glyphs=True)
    assert not torch.allclose(seen, expected, atol=1e-3), "negative control: glyph tokens that are shown are read"


@pytest.mark.parametrize("size", [1, 2])
def test_a_patch_of_any_size_is_the_stock_ones(size):
    stock, backbone = pair("backbone.config.mlp_ratio=2.0", f"backbone.config.patch_size={size}")
    tokens = case(backbone)
    expected = stock_forward(stock, tokens)
    torch.testing.assert_close(forward(backbone, tokens, FULL), expected, **CLOSE)
    flipped = tokens.updated({"target": tokens.features["target"].flip(-1)})
    assert not torch.allclose(forward(backbone, flipped, FULL), expected, atol=1e-2), "negative control: their order"


def test_positions_are_the_stock_ones():
    stock, backbone = pair()
    where = case(backbone, 2).layout
    clip = torch.zeros(1, 1, 4, 2 * HIGH, 2 * WIDE)
    for found, expected in zip(backbone._rope(where, torch.device("cpu")), stock.rope(clip), strict=True):
        assert torch.equal(found, expected) and len(found) == where.image_tokens
    moved = Layout(tuple(replace(s, origin=(s.origin[0] + 1, 0, 0)) for s in where.segments))
    assert not torch.allclose(backbone._rope(moved, torch.device("cpu"))[0], stock.rope(clip)[0], atol=1e-2), "control"


def test_padding_is_as_a_shorter_text():
    backbone = backbone_for(config())
    tokens = case(backbone)
    short = Layout((replace(tokens.layout["text"], grid=(1, 1, 3)), *tokens.layout.visual))
    cut = replace(tokens, layout=short, features=tokens.features | {"text": tokens.features["text"][:, :3]}, valid=None)
    long, found = forward(backbone, tokens, FULL), forward(backbone, cut, FULL)
    torch.testing.assert_close(found[1:], long[1:], **CLOSE)
    assert not torch.allclose(found[:1], long[:1], atol=1e-3), "negative control: the first prompt is whole"


def test_a_text_that_is_hidden_as_a_whole_is_as_no_text():
    """Its mean would be 0 / 0; gradients are finite too, and those of its features are 0."""
    backbone = backbone_for(config())
    tokens = case(backbone)
    valid = tokens.valid["text"] & torch.tensor([[True], [False]])
    text = tokens.features["text"].requires_grad_()
    times = dict.fromkeys(tokens.layout.names, TIMES)
    found = backbone(replace(tokens, valid={"text": valid}), times, FULL)["target"]
    bare = tokens.only(Layout(tokens.layout.visual))
    without = backbone(replace(bare, valid=None), times, FULL)["target"]
    torch.testing.assert_close(found[1:], without[1:], **CLOSE)
    assert not torch.allclose(found[:1], without[:1], atol=1e-3), "negative control"
    found.square().sum().backward()
    assert text.grad.isfinite().all() and (text.grad[0] != 0).any() and (text.grad[1] == 0).all()
    assert all(p.grad.isfinite().all() for p in backbone.parameters() if p.grad is not None)


def test_weights_in_bf16_keep_positions_and_sines_in_fp32():
    stock, backbone = pair()
    tokens = case(backbone)
    expected = stock_forward(stock, tokens)
    found = forward(backbone.to(torch.bfloat16), tokens, FULL)
    assert found.dtype == torch.bfloat16 and (found.float() - expected).abs().max() < 0.06 * expected.abs().max()
    assert backbone._rope(tokens.layout, torch.device("cpu"))[0].dtype == torch.float32


# --- time and text -------------------------------------------------------------------------------------------------


def test_text_on_the_steps_clock_is_never_static():
    """It is another text at every step, even where it reads itself alone; on its own clock it is not."""
    backbone = backbone_for(config())
    tokens = case(backbone)
    for words, static in (("shared", ("condition0",)), ("own", ("text", "condition0"))):
        timing = backbone.effective_timing({**dict.fromkeys(ROLES, "own"), "text": words})
        assert static_segments(tokens.layout, APART, timing) == static
    text = tokens.layout.only(["text"]).segments
    late, early = (backbone._embed_text(tokens, text, {"text": t}) for t in (TIMES, TIMES / 2))
    assert not torch.allclose(late, early, atol=1e-2) and late.shape == (2, 5, backbone.width)


@pytest.mark.parametrize("timing", ["shared", "own"])
def test_a_pipeline_remembers_text_only_at_a_time_of_its_own(timing):
    pipeline = build_pipeline(tiny("backbone=hunyuan_video_mini", "process=rectified_flow"))
    pipeline.mask, pipeline.modulation.timing = APART, {**dict.fromkeys(ROLES, "own"), "text": timing}
    where = pipeline.plan(batch().slots).layout
    assert pipeline.static(where) == (("text", "condition0") if timing == "own" else ("condition0",))
    late, early = (pipeline.times(where, t)["text"] for t in (TIMES, TIMES / 2))
    assert torch.equal(late, early) == (timing == "own")


@pytest.mark.parametrize("kept", [("condition0",), ("text", "condition0")])
def test_steps_with_remembered_segments_are_the_whole_model(kept):
    """Text at its own time 0, in the refiner too, is remembered with its padding."""
    backbone = backbone_for(config())
    tokens = case(backbone)
    times = own_times(tokens) | {"text": torch.zeros(2)}
    expected = forward(backbone, tokens, APART, times)[:, STILL:]
    with torch.no_grad():
        memory = backbone.remember(tokens.only(tokens.layout.only(kept)), times, APART)
        found = backbone(tokens.only(tokens.layout.without(kept)), times, APART, memory)["target"]
        torch.testing.assert_close(found, expected, **CLOSE)
        unseen = backbone(tokens.only(tokens.layout.without(kept)), times, APART)["target"]
    assert not torch.allclose(unseen, expected, atol=1e-3), "negative control"
    other = forward(backbone, tokens, APART, times | {"text": TIMES})[:, STILL:]
    assert not torch.allclose(other, expected, atol=1e-3), "negative control: text at the step's time is another"


def test_the_time_of_text_enters_the_refiner_and_the_blocks():
    """Either makes a difference: first only the blocks are told another time, then the refiner too."""
    backbone = backbone_for(config())
    tokens = case(backbone, padded=False)
    times = own_times(tokens)
    expected = forward(backbone, tokens, FULL, times)
    refined = backbone._embed_text
    backbone._embed_text = lambda tokens, texts, _: refined(tokens, texts, times)
    blocks_alone = forward(backbone, tokens, FULL, times | {"text": torch.zeros(2)})
    del backbone._embed_text
    both = forward(backbone, tokens, FULL, times | {"text": torch.zeros(2)})
    assert not torch.allclose(blocks_alone, expected, atol=1e-4) and not torch.allclose(both, blocks_alone, atol=1e-4)


def test_the_text_of_a_later_turn_does_not_reach_an_earlier_one_in_the_refiner():
    backbone = backbone_for(config())
    tokens = case(backbone, padded=False)
    first = tokens.layout["text"]
    both = [first, replace(first, name="text1")]
    features = {"text": tokens.features["text"], "text1": tokens.features["text"].flip(1)}
    made = replace(tokens, layout=Layout(tuple(both)), features=features)
    together = backbone._embed_text(made, both, dict.fromkeys(features, TIMES))
    alone = backbone._embed_text(tokens, both[:1], {"text": TIMES})
    assert torch.equal(together[:, : first.tokens], alone)
    assert not torch.allclose(together[:, first.tokens :], alone, atol=1e-3), "negative control"


# --- roles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lowering", ["dense", "grouped", "plain"])
def test_an_image_that_sees_no_other_is_as_if_alone(lowering):
    apart = table("apart", text="all none all", condition="none all none", target="all none all")
    stock, backbone = pair(f"backbone.lowering._target_=unigen.core.attention.{lowering}")
    tokens = case(backbone)
    target = replace(tokens.layout["target"], origin=(0, 0, 0))  # where the stock model has it
    tokens = replace(tokens, layout=Layout((*tokens.layout.segments[:2], target)))
    found = forward(backbone, tokens, apart)[:, STILL:]
    alone = replace(tokens.only(tokens.layout.only(["text", "target"])), valid=tokens.valid)
    torch.testing.assert_close(found, stock_forward(stock, alone), **CLOSE)
    assert not torch.allclose(forward(backbone, tokens, FULL)[:, STILL:], found, atol=1e-3), "negative control"


def test_each_branch_moves_its_own_role():
    backbone = backbone_for(config(num_layers=1))
    tokens = case(backbone)
    times = dict.fromkeys(tokens.layout.names, TIMES)
    before = backbone(tokens, times, ALONE)
    with torch.no_grad():
        blocks(backbone)[0].norm1.branches["condition"].weight.add_(0.1)
    after = backbone(tokens, times, ALONE)
    assert torch.equal(after["target"], before["target"])
    assert not torch.allclose(after["condition0"], before["condition0"], atol=1e-4)
    assert set(blocks(backbone)[0].norm1.branches) == {"condition", "target"}
    assert set(blocks(backbone)[0].norm1_context.branches) == {"text"}


@pytest.mark.parametrize("tied", [True, False])
def test_tied_branches_are_one_parameter_and_copies_are_their_own(tied):
    backbone = backbone_for(config(), tied=tied)
    branches = blocks(backbone)[0].norm1.branches.values()
    assert len({id(branch.weight) for branch in branches}) == (1 if tied else 2)
    grown = sum(p.numel() for p in backbone.parameters()) - backbone.stock_parameters
    width, layers = 32, 2
    unread = sum(x.numel() for x in backbone.unread.values())
    assert grown + unread == (0 if tied else layers * (6 * width * width + 6 * width))


def test_own_time_of_a_segment_is_the_model_at_that_time():
    """Where segments do not see each other, each is as in a run in which all are at its time."""
    backbone = backbone_for(config())
    tokens = case(backbone)
    mixed = forward(backbone, tokens, ALONE, own_times(tokens))
    late, early = (forward(backbone, tokens, ALONE, times) for times in (TIMES, torch.zeros(2)))
    torch.testing.assert_close(mixed, torch.cat([early[:, :STILL], late[:, STILL:]], dim=1), **CLOSE)
    assert not torch.allclose(late, early, atol=1e-3), "negative control"


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_checkpointing_changes_no_gradient(adapter):
    grads = []
    for checkpointing in ("false", "true"):
        torch.manual_seed(0)
        made = config(f"conditioning/adapter={adapter}", f"backbone.gradient_checkpointing={checkpointing}")
        backbone, chosen = build(made["backbone"]), build(made["conditioning"]["adapter"])
        build(made["conditioning"]["modulation"]).apply(backbone, chosen.freezes_base)
        chosen.apply(backbone)
        randomise(backbone).train()
        tokens, calls = case(backbone), []
        hook = blocks(backbone)[-1].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        backbone(tokens, own_times(tokens), mask("fcd_a"))["target"].square().sum().backward()
        hook.remove()
        assert len(calls) == (2 if checkpointing == "true" else 1), "it is computed again, or not"
        grads.append({n: p.grad for n, p in backbone.named_parameters() if p.requires_grad})
    assert len(grads[0]) > 10 and any((g != 0).any() for g in grads[0].values() if g is not None)
    for n, g in grads[0].items():
        torch.testing.assert_close(g, grads[1][n], rtol=1e-5, atol=1e-6)
