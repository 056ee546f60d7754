"""Our CogVideoX is diffusers' own: bit for bit with every treatment off, and under a mask as under a dense one."""

from dataclasses import replace

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from tiny import backbone_for, choices, mask, query_plan, randomise, tiny, tokens_for

from unigen.backbones.cogvideox import CogVideoX
from unigen.core import canvas, masks
from unigen.core.layout import Layout, text_segment
from unigen.core.masks import Mask
from unigen.core.tokens import Tokens
from unigen.pipeline.build import build

TIMES = torch.tensor([0.4, 1.0])  # timesteps 399 and 999 of 1000
ROLES = ("text", "condition", "target")
ALONE = Mask("alone", {query: dict.fromkeys(ROLES, "same") for query in ROLES})
TEXT_FIRST = Mask("text_first", {"text": {"text": "all", "target": "none"}, "target": {"text": "all", "target": "all"}})


@pytest.fixture(scope="module")
def stock() -> CogVideoXTransformer3DModel:
    torch.manual_seed(0)
    return randomise(CogVideoXTransformer3DModel(**tiny()["backbone"]["config"])).eval()


def ours(stock, *overrides: str, tied: bool | None = None) -> CogVideoX:
    """Our backbone with the stock weights, its modulation split; LoRA or full as the overrides say."""
    # plain, the mini default, equals the stock model to rounding only
    config = tiny("backbone.lowering._target_=unigen.core.attention.grouped", *overrides)
    backbone = build(config["backbone"])
    backbone.model.load_state_dict(stock.state_dict())
    backbone = backbone.to(stock.dtype)
    adapter = build(config["conditioning"]["adapter"])
    tied = adapter.freezes_base if tied is None else tied
    build(config["conditioning"]["modulation"]).apply(backbone, tied)
    if adapter.freezes_base:
        adapter.apply(backbone)
    return backbone.eval()


def case(backbone, conditions: int = 1) -> Tokens:
    """Tokens on consecutive frames, as the frames formatter places them."""
    layout = query_plan(build(tiny()["formatter"]), backbone, conditions, text_tokens=4).layout
    return tokens_for(layout, backbone, 2)


@torch.no_grad()
def forward(backbone, tokens: Tokens, name: str = "fcd_d") -> torch.Tensor:
    """(B, F, C, H, W), the frames in layout order."""
    dtype = next(backbone.parameters()).dtype
    tokens = tokens.updated({n: x.to(dtype) for n, x in tokens.features.items()})
    outputs = backbone(tokens, dict.fromkeys(tokens.layout.names, TIMES), mask(name))
    boxes = [canvas.from_tokens(outputs[s.name], s.grid, (2, 2, 2)) for s in tokens.layout.visual]
    return torch.cat(boxes, dim=1)


@torch.no_grad()
def stock_forward(stock, tokens: Tokens, allowed: torch.Tensor | None = None, rope_axis: int = 0) -> torch.Tensor:
    """diffusers' forward as its pipeline calls it: latents, integer timesteps, its own rotary table."""
    visual = tokens.layout.visual
    z = torch.cat([canvas.from_tokens(tokens.features[s.name], s.grid, (2, 2, 2)) for s in visual], dim=1)
    frames, (_, h, w) = sum(s.grid[0] for s in visual), visual[0].grid
    width = stock.config.attention_head_dim
    rope = get_3d_rotary_pos_embed(width, None, (h, w), frames, grid_type="slice", max_size=(150, 150))
    kwargs = None if allowed is None else {"attention_mask": allowed.expand(len(z), -1, -1)}
    return stock(
        z.to(stock.dtype), tokens.features["text"].to(stock.dtype), torch.tensor([399, 999]),
        image_rotary_emb=rope, attention_kwargs=kwargs,
    ).sample  # fmt: skip


# --- parity with every treatment off ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("adapter", choices("conditioning/adapter"))
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("modulation", choices("conditioning/modulation"))
def test_a_converted_model_equals_the_stock_one_bit_for_bit(stock, modulation, tied, adapter, dtype):
    model = CogVideoXTransformer3DModel(**tiny()["backbone"]["config"])
    model.load_state_dict(stock.state_dict())
    model = model.to(dtype)
    backbone = ours(model, f"conditioning/modulation={modulation}", f"conditioning/adapter={adapter}", tied=tied)
    tokens = case(backbone)
    expected = stock_forward(model, tokens)
    assert torch.equal(forward(backbone, tokens), expected)
    branch = next(iter(backbone.model.transformer_blocks[0].norm1.branches.values()))
    with torch.no_grad():
        (branch.base_layer if adapter == "lora" else branch).bias.add_(0.5)
    assert not torch.equal(forward(backbone, tokens), expected), "negative control"


@pytest.mark.parametrize("conditions", [0, 1, 2])
def test_several_frames_equal_a_stock_clip(stock, conditions):
    backbone = ours(stock)
    tokens = case(backbone, conditions)
    assert torch.equal(forward(backbone, tokens), stock_forward(stock, tokens))


def test_swapping_two_branches_is_seen(stock):
    """The video and text halves are where the roles say: condition and text exchanged differ."""
    backbone = ours(stock)
    tokens = case(backbone)
    for norm in (backbone.model.transformer_blocks[0].norm1, backbone.model.transformer_blocks[0].norm2):
        norm.branches["text"], norm.branches["condition"] = norm.branches["condition"], norm.branches["text"]
        assert not torch.allclose(forward(backbone, tokens), stock_forward(stock, tokens), atol=1e-3)


def test_time_and_position_are_the_stock_ones(stock):
    """Negative controls: another time, or frames further apart, is another function."""
    backbone = ours(stock)
    tokens = case(backbone)
    expected, layout = stock_forward(stock, tokens), tokens.layout
    with torch.no_grad():
        later = backbone(tokens, dict.fromkeys(layout.names, TIMES - 0.001), mask("fcd_d"))
    assert not torch.allclose(canvas.from_tokens(later["target"], (1, 2, 3), (2, 2, 2)), expected[:, 2:], atol=1e-5)
    apart = query_plan(build(tiny()["formatter"]), backbone, 3, text_tokens=4).layout.only(
        ["text", "condition0", "target"]
    )
    moved = Tokens(apart, tokens.features)
    assert not torch.allclose(forward(backbone, moved), expected, atol=1e-4)


@pytest.mark.parametrize("name", choices("mask"))
@pytest.mark.parametrize("lowering", ["dense", "grouped"])
def test_a_mask_equals_the_stock_model_with_the_dense_mask(stock, name, lowering):
    backbone = ours(stock, f"backbone.lowering._target_=unigen.core.attention.{lowering}")
    tokens = case(backbone, 2)
    dense = {n: masks.dense(tokens.layout, tokens.layout, mask(n)) for n in (name, "fcd_b", "fcd_a")}
    torch.testing.assert_close(
        forward(backbone, tokens, name), stock_forward(stock, tokens, dense[name]), rtol=1e-4, atol=1e-5
    )
    other = "fcd_b" if name != "fcd_b" else "fcd_a"
    assert (forward(backbone, tokens, name) - stock_forward(stock, tokens, dense[other])).abs().max() > 1e-3


# --- what the converted model can do that the stock one cannot ------------------------------------------------


def test_each_branch_moves_its_own_role_first():
    """With one block and every token seeing only its own segment, a branch's weights reach its role and no other."""
    backbone = backbone_for(tiny(num_layers=1))
    tokens = case(backbone)
    times = dict.fromkeys(tokens.layout.names, TIMES)
    norm = backbone.model.transformer_blocks[0].norm1
    with torch.no_grad():
        before = backbone(tokens, times, ALONE)
        norm.branches["condition"].weight.add_(0.1)
        after = backbone(tokens, times, ALONE)
    assert torch.equal(after["target"], before["target"]) and not torch.allclose(
        after["condition0"], before["condition0"]
    )


def test_own_time_of_a_segment_reaches_its_modulation_and_head():
    backbone = backbone_for(tiny())
    tokens = case(backbone)
    shared = dict.fromkeys(tokens.layout.names, TIMES)
    own = shared | {"condition0": torch.zeros(2)}
    with torch.no_grad():
        a, b = backbone(tokens, shared, ALONE), backbone(tokens, own, ALONE)
    torch.testing.assert_close(a["target"], b["target"])
    assert not torch.allclose(a["condition0"], b["condition0"], atol=1e-3)


def test_equal_own_times_equal_a_shared_one():
    """Segments of one clock share a tensor for speed alone."""
    backbone = backbone_for(tiny())
    tokens = case(backbone)
    with torch.no_grad():
        shared = backbone(tokens, dict.fromkeys(tokens.layout.names, TIMES), mask("fcd_a"))
        own = backbone(tokens, {n: TIMES.clone() for n in tokens.layout.names}, mask("fcd_a"))
    for n in shared:
        torch.testing.assert_close(shared[n], own[n], rtol=1e-5, atol=1e-5)


def test_text_alone_can_be_remembered():
    """A mask under which text sees only text makes it static, so a memory may hold no image at all."""
    backbone = backbone_for(tiny())
    table = TEXT_FIRST
    layout = query_plan(build(tiny()["formatter"]), backbone, 0).layout
    tokens, timing = tokens_for(layout, backbone, 2), {"text": "own", "target": "own"}
    assert masks.static_segments(layout, table, timing) == ("text",)
    times = {"text": torch.zeros(2), "target": TIMES}
    with torch.no_grad():
        full = backbone(tokens, times, table)
        memory = backbone.remember(tokens.only(layout.only(["text"])), times, table)
        cached = backbone(tokens.only(layout.only(["target"])), times, table, memory)
    torch.testing.assert_close(cached["target"], full["target"], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        empty = backbone(tokens.only(layout.only(["target"])), times, table)
    assert not torch.allclose(empty["target"], full["target"], atol=1e-3), "negative control"


def test_padding_is_kept_apart_with_and_without_a_memory():
    """Padded text changes nothing, also where text or what it stands beside is remembered."""
    backbone = backbone_for(tiny())
    table, times = TEXT_FIRST, {"text": torch.zeros(2), "target": TIMES}
    layout = query_plan(build(tiny()["formatter"]), backbone, 0, text_tokens=5).layout
    long = tokens_for(layout, backbone, 2)
    valid = torch.tensor([[True] * 3 + [False] * 2] * 2)
    short_layout = Layout((text_segment(3), *layout.visual))
    short = Tokens(short_layout, long.features | {"text": long.features["text"][:, :3]})
    padded = Tokens(layout, long.features, valid={"text": valid})
    with torch.no_grad():
        expected = backbone(short, times, table)["target"]
        torch.testing.assert_close(backbone(padded, times, table)["target"], expected, rtol=1e-5, atol=1e-5)
        memory = backbone.remember(padded.only(layout.only(["text"])), times, table)
        found = backbone(padded.only(layout.only(["target"])), times, table, memory)["target"]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(backbone(long, times, table)["target"], expected, atol=1e-3), "negative control"


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_checkpointing_changes_no_gradient(adapter):
    grads = []
    for checkpointing in ("false", "true"):
        torch.manual_seed(0)
        config = tiny(f"conditioning/adapter={adapter}", f"backbone.gradient_checkpointing={checkpointing}")
        backbone = build(config["backbone"])
        chosen = build(config["conditioning"]["adapter"])
        build(config["conditioning"]["modulation"]).apply(backbone, chosen.freezes_base)
        chosen.apply(backbone)
        randomise(backbone).train()
        tokens = case(backbone)
        outputs = backbone(tokens, dict.fromkeys(tokens.layout.names, TIMES), mask("fcd_a"))
        outputs["target"].square().sum().backward()
        grads.append({n: p.grad for n, p in backbone.named_parameters() if p.requires_grad})
    assert len(grads[0]) > 10 and any((g != 0).any() for g in grads[0].values())
    for n in grads[0]:
        torch.testing.assert_close(grads[0][n], grads[1][n], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lowering", ["dense", "grouped", "plain"])
def test_training_may_follow_a_validation_in_inference_mode(lowering):
    """Lightning validates in inference mode; tables kept from there must not reach autograd as inference tensors."""
    backbone = backbone_for(tiny(f"backbone.lowering._target_=unigen.core.attention.{lowering}"))
    pair = query_plan(build(tiny()["formatter"]), backbone).layout
    new = Layout(tuple(replace(s, name=f"{s.name} first seen with {lowering}") for s in pair.segments))
    tokens, times = tokens_for(new, backbone, 2), dict.fromkeys(new.names, TIMES)
    with torch.inference_mode():
        backbone(tokens, times, mask("fcd_a"))
    outputs = backbone(tokens, times, mask("fcd_a"))
    outputs[new.names[-1]].sum().backward()
    assert any(p.grad is not None and (p.grad != 0).any() for p in backbone.parameters())


# --- small facts ------------------------------------------------------------------------------------------------


def test_flops_count_what_torch_counts():
    """Against torch's own counter over the blocks under mask D; a mask with fewer pairs costs less."""
    from unigen.tools.bench.turns import flop_counter

    backbone = backbone_for(tiny())
    tokens = case(backbone)
    times = dict.fromkeys(tokens.layout.names, TIMES[:1])
    one = Tokens(tokens.layout, {n: x[:1] for n, x in tokens.features.items()})
    with flop_counter() as counter, torch.no_grad():
        backbone(one, dict.fromkeys(times, TIMES[:1]), mask("fcd_d"))
    ours = backbone.flops(tokens.layout, mask("fcd_d"))
    modulation = 2 * 2 * 2 * (3 * 32 * 3 * 32)  # two norms of two blocks, three branches from 32 to 3 × 32
    head = 2 * 32 * 2 * 32 + 2 * (32 * 32 + 32 * 32)  # norm_out and the time embedding
    assert abs(counter.get_total_flops() - sum(ours.values()) - modulation - head) < 0.01 * sum(ours.values())
    masked = backbone.flops(tokens.layout, mask("fcd_a"))
    assert masked["linear"] == ours["linear"] and masked["attention"] < ours["attention"]
