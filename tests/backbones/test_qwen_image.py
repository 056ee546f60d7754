"""Our Qwen-Image is diffusers' own, to rounding: padded text, several images, clocks of roles; and what roles add."""

from dataclasses import replace

import pytest
import torch
from qwen_case import ROLES, TIMES, case, config, forward, layout, ours, own_times, pair, stock_forward, stock_model
from tiny import backbone_for, batch, blocks, choices, mask, query_plan, randomise, tiny, tokens_for

from unigen.core.layout import Layout, positions
from unigen.core.masks import Mask, static_segments
from unigen.pipeline.build import build, build_pipeline

FULL = mask("fcd_d")
CLOSE = {"rtol": 1e-4, "atol": 2e-5}
ONE_BRANCH = dict.fromkeys(ROLES, "every")


def table(name: str, **rows: str) -> Mask:
    """Rows in words for text, condition and target: "all all none"."""
    return Mask(name, {query: dict(zip(ROLES, row.split(), strict=True)) for query, row in rows.items()})


ALONE = table("alone", text="same same same", condition="same same same", target="same same same")
# a condition that reads itself alone: with a clock of its own it is computed once
STILL = table("still", text="all all all", condition="none all none", target="all all all")


# --- parity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("modulation", [*choices("conditioning/modulation"), "one branch"])
def test_a_converted_model_equals_the_stock_one(modulation, adapter):
    known = modulation in choices("conditioning/modulation")
    made = config(f"conditioning/adapter={adapter}", *([f"conditioning/modulation={modulation}"] * known))
    if not known:
        made["conditioning"]["modulation"]["branches"] = ONE_BRANCH
    stock = stock_model(made)
    backbone = ours(stock, made)
    tokens = case(backbone, 2)
    expected = stock_forward(stock, tokens)
    torch.testing.assert_close(forward(backbone, tokens, FULL), expected, **CLOSE)
    assert expected.std() > 0.1
    whole = forward(backbone, replace(tokens, valid=None), FULL)
    torch.testing.assert_close(whole[:1], expected[:1], **CLOSE)
    assert not torch.allclose(whole[1:], expected[1:], atol=1e-2), "negative control: padding is hidden"
    assert not torch.allclose(forward(backbone, tokens, FULL, TIMES - 0.01), expected, atol=1e-3), "negative control"


def test_padding_is_as_a_shorter_text():
    backbone = backbone_for(config())
    tokens = case(backbone)
    short = Layout((replace(tokens.layout["text"], grid=(1, 1, 3)), *tokens.layout.visual))
    cut = replace(tokens, layout=short, features=tokens.features | {"text": tokens.features["text"][:, :3]}, valid=None)
    long, found = forward(backbone, tokens, FULL), forward(backbone, cut, FULL)
    torch.testing.assert_close(found[1:], long[1:], **CLOSE)
    assert not torch.allclose(found[:1], long[:1], atol=1e-3), "negative control: the first prompt is whole"


def test_conditions_at_time_0_are_edit_2511():
    """diffusers doubles the batch of time embeddings; predictions of conditions, which nothing reads, differ."""
    made = config()
    stock = stock_model(made, zero_cond_t=True)
    backbone = ours(stock, made)
    tokens = case(backbone, 2)
    size = tokens.layout["target"].tokens
    expected = stock_forward(stock, tokens)[:, :size]
    torch.testing.assert_close(forward(backbone, tokens, FULL, own_times(tokens))[:, :size], expected, **CLOSE)
    assert not torch.allclose(forward(backbone, tokens, FULL)[:, :size], expected, atol=1e-2), "negative control"


@pytest.mark.parametrize("sizes", [((3, 4),), ((1, 1),), ((5, 4), (4, 3)), ((2, 7), (6, 5), (1, 2))])
def test_positions_are_the_stock_ones(sizes):
    stock, backbone = pair()
    parts = layout(backbone).segments
    boxes = [
        replace(parts[1], name=str(t), grid=(1, h, w), origin=(t, -(h - h // 2), -(w - w // 2)))
        for t, (h, w) in enumerate(sizes)
    ]
    where = backbone.placed(Layout((parts[0], *boxes)))
    cos, sin = backbone._rope(where, torch.device("cpu"))
    shapes = [[s.grid for s in where.visual]]
    images, text = stock.pos_embed(shapes, max_txt_seq_len=where["text"].tokens, device=torch.device("cpu"))
    expected = torch.cat([text, images])
    torch.testing.assert_close(torch.complex(cos[:, ::2], sin[:, ::2]), expected, rtol=0, atol=1e-6)
    moved = backbone._rope(Layout((replace(where["text"], origin=(9, 9, 9)), *where.visual)), torch.device("cpu"))[0]
    assert not torch.allclose(moved[:5, ::2], expected.real[:5], atol=1e-2), "negative control"


def test_images_counted_from_their_corner_are_the_same_to_the_network():
    """Text lies behind the middle of the images, wherever that is; only equal sizes are moved alike."""
    backbone = backbone_for(config())
    tokens = case(backbone, 1)
    shifted = [replace(s, origin=(s.origin[0], s.origin[1] + 7, s.origin[2] + 3)) for s in tokens.layout.visual]
    moved = backbone.placed(Layout((tokens.layout["text"], *shifted)))
    here = forward(backbone, tokens, FULL)
    torch.testing.assert_close(forward(backbone, replace(tokens, layout=moved), FULL), here, rtol=1e-3, atol=1e-4)
    left = Layout((tokens.layout["text"], *shifted))
    assert not torch.allclose(forward(backbone, replace(tokens, layout=left), FULL), here, atol=1e-2), "control"


def test_texts_of_several_turns_follow_each_other():
    backbone = backbone_for(config())
    first = layout(backbone)["text"]
    both = backbone.placed(Layout((first, replace(first, name="text1"), *layout(backbone).visual)))
    start = first.origin[0]
    assert both["text"].origin == (start,) * 3 and both["text1"].origin == (start + first.tokens,) * 3
    assert backbone.placed(Layout((first,))) == Layout((first,)), "without images there is nothing to lie behind"
    assert (positions(both)[: 2 * first.tokens, 0] >= start).all()


def test_a_pipeline_places_the_text():
    """So that what is sampled in parts, with keys and values remembered, has the positions of the whole layout."""
    pipeline = build_pipeline(tiny("backbone=qwen_image_mini", "process=rectified_flow"))
    plan = pipeline.plan(batch().slots)
    where = plan.layout
    assert where == pipeline.backbone.placed(where) and where["text"].origin != (0, 0, 0)
    assert where["text"].origin == (1, 2, 3), "two images of 2×3 tokens, counted from 0: the middle is at (1, 2)"


def test_weights_in_bf16_keep_positions_in_fp32():
    stock, backbone = pair()
    tokens = case(backbone)
    expected = stock_forward(stock, tokens)
    found = forward(backbone.to(torch.bfloat16), tokens, FULL)
    assert found.dtype == torch.bfloat16 and (found.float() - expected).abs().max() < 0.05 * expected.abs().max()
    assert backbone._rope(tokens.layout, torch.device("cpu"))[0].dtype == torch.float32


# --- roles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lowering", ["dense", "grouped", "plain"])
def test_an_image_that_sees_no_other_is_as_if_alone(lowering):
    apart = table("apart", text="all none all", condition="none all none", target="all none all")
    stock, backbone = pair(f"backbone.lowering._target_=unigen.core.attention.{lowering}")
    tokens = case(backbone)
    size = tokens.layout["target"].tokens
    found = forward(backbone, tokens, apart)[:, :size]
    alone = replace(tokens.only(tokens.layout.only(["text", "target"])), valid=tokens.valid)
    torch.testing.assert_close(found, stock_forward(stock, alone), **CLOSE)
    assert not torch.allclose(forward(backbone, tokens, FULL)[:, :size], found, atol=1e-3), "negative control"


def test_each_branch_moves_its_own_role():
    backbone = backbone_for(config(num_layers=1))
    tokens = case(backbone)
    times = dict.fromkeys(tokens.layout.names, TIMES)
    before = backbone(tokens, times, ALONE)
    with torch.no_grad():
        blocks(backbone)[0].img_mod[1].branches["condition"].weight.add_(0.1)
    after = backbone(tokens, times, ALONE)
    assert torch.equal(after["target"], before["target"])
    assert not torch.allclose(after["condition0"], before["condition0"], atol=1e-4)
    assert set(blocks(backbone)[0].img_mod[1].branches) == {"condition", "target"}
    assert set(blocks(backbone)[0].txt_mod[1].branches) == {"text"}


@pytest.mark.parametrize("tied", [True, False])
def test_tied_branches_are_one_parameter_and_copies_are_their_own(tied):
    backbone = backbone_for(config(), tied=tied)
    branches = blocks(backbone)[0].img_mod[1].branches.values()
    assert len({id(branch.weight) for branch in branches}) == (1 if tied else 2)
    grown = sum(p.numel() for p in backbone.parameters()) - backbone.stock_parameters
    width, layers = 32, 2
    assert grown == (0 if tied else layers * (6 * width * width + 6 * width))


def test_own_time_of_a_segment_is_the_model_at_that_time():
    """Where segments do not see each other, each is as in a run in which all are at its time."""
    backbone = backbone_for(config())
    tokens = case(backbone)
    size = tokens.layout["target"].tokens
    mixed = forward(backbone, tokens, ALONE, own_times(tokens))
    late, early = (forward(backbone, tokens, ALONE, times) for times in (TIMES, torch.zeros(2)))
    torch.testing.assert_close(mixed, torch.cat([late[:, :size], early[:, size:]], dim=1), **CLOSE)
    assert not torch.allclose(late, early, atol=1e-3), "negative control"


@pytest.mark.parametrize("kept", [("condition0",), ("text", "condition0")])
def test_steps_with_remembered_segments_are_the_whole_model(kept):
    """The padding of the text is remembered with it, and text lies where the whole layout has it."""
    still = table("apart", text="all none none", condition="none all none", target="all all all")
    backbone = backbone_for(config())
    tokens = case(backbone)
    times = own_times(tokens) | {"text": torch.zeros(2)}
    assert static_segments(tokens.layout, still, dict.fromkeys(ROLES, "own")) == ("text", "condition0")
    expected = forward(backbone, tokens, still, times)[:, : tokens.layout["target"].tokens]
    with torch.no_grad():
        memory = backbone.remember(tokens.only(tokens.layout.only(kept)), times, still)
        found = backbone(tokens.only(tokens.layout.without(kept)), times, still, memory)["target"]
        torch.testing.assert_close(found, expected, **CLOSE)
        unseen = backbone(tokens.only(tokens.layout.without(kept)), times, still)["target"]
    assert not torch.allclose(unseen, expected, atol=1e-3), "negative control"


def test_a_still_condition_does_not_depend_on_the_step():
    backbone = backbone_for(config())
    tokens = case(backbone)
    size = tokens.layout["target"].tokens
    timing = {"text": "shared", "condition": "own", "target": "shared"}
    assert static_segments(tokens.layout, STILL, timing) == ("condition0",)
    one, other = (forward(backbone, tokens, STILL, own_times(tokens, t)) for t in (TIMES, TIMES / 2))
    assert torch.equal(one[:, size:], other[:, size:]) and not torch.allclose(one[:, :size], other[:, :size], atol=1e-3)
    seen = [forward(backbone, tokens, FULL, own_times(tokens, t))[:, size:] for t in (TIMES, TIMES / 2)]
    assert not torch.allclose(*seen, atol=1e-3), "negative control: a condition that sees the target is not still"


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


def test_the_method_of_edit_2511_on_its_own_model_is_the_stock_model():
    """Its experiment and family alone give the places, the clocks and the text's diagonal of diffusers' pipeline."""
    words = ("+exp=methods/qwen_edit_2511", "family=qwen_image_edit/paper", "scale=paper")
    made = tiny(*words, "backbone.lowering._target_=unigen.core.attention.grouped")
    stock, modulation = stock_model(made), build(made["conditioning"]["modulation"])
    backbone = ours(stock, made)
    where = backbone.placed(query_plan(build(made["formatter"]), backbone, 2, text_tokens=4).layout)
    first, *rest = sorted(where.visual, key=lambda s: s.origin[0])
    assert first.name == "target" and stock.config.zero_cond_t
    tokens = tokens_for(Layout((where["text"], first, *rest)), backbone, 2)
    times = {s.name: TIMES * (modulation.timing[s.role] == "shared") for s in where.segments}
    found = backbone(tokens, times, build(made["mask"]))["target"]
    torch.testing.assert_close(found, stock_forward(stock, tokens)[:, : first.tokens], **CLOSE)
    late = backbone(tokens, dict.fromkeys(where.names, TIMES), build(made["mask"]))["target"]
    assert not torch.allclose(late, found, atol=1e-3), "negative control"
