"""What is trained under each adapter, and the role tables of the modulation."""

import pytest
import torch
from tiny import mask, query_plan, randomise, tiny, tokens_for

from unigen.conditioning.lora import Full, LoRA
from unigen.conditioning.sc_adaln import RoleModulation
from unigen.pipeline.build import build

SPLIT = {"text": "text", "condition": "condition", "target": "target"}


def backbone(adapter, table=SPLIT):
    made = build(tiny()["backbone"])
    RoleModulation(table, dict.fromkeys(SPLIT, "shared")).apply(made, tied=adapter.freezes_base)
    adapter.apply(made)
    return made


def test_lora_trains_its_own_weights_alone():
    made = backbone(LoRA(rank=4, alpha=4))
    assert all("lora_" in n for n, p in made.named_parameters() if p.requires_grad)
    linears, d, e = 2, 32, 32
    by_hand = linears * (4 * 4 * (d + d) + 2 * 3 * 4 * (e + 3 * d))
    assert sum(p.numel() for p in made.parameters() if p.requires_grad) == by_hand
    assert sum(p.numel() for p in backbone(LoRA(8, 8)).parameters() if p.requires_grad) == 2 * by_hand


def test_lora_adapts_the_parts_that_it_is_given():
    linears, d = 2, 32
    feed_forward, attention = linears * 2 * 4 * (d + 4 * d), linears * 4 * 4 * (d + d)
    for parts, by_hand in ((["feed_forward"], feed_forward), (["attention", "feed_forward"], attention + feed_forward)):
        made = backbone(LoRA(4, 4, parts=parts))
        assert sum(p.numel() for p in made.parameters() if p.requires_grad) == by_hand
    for parts, said in (([], "is empty"), (["attention", "mlp"], "has the unknown part 'mlp'")):
        with pytest.raises(ValueError, match=f"adapter.parts {said}; legal are attention, modulation, feed_forward"):
            backbone(LoRA(4, 4, parts=parts))


def test_a_bias_on_b_and_a_rank_within_each_linear():
    """VisualCloze's LoRA on CogVideoX: every linear, none with a rank beyond its sides, all with one scale."""
    made = backbone(LoRA(rank=64, alpha=128, bias=True, parts=("attention", "modulation", "feed_forward", "embedders")))
    layers = {n: m for n, m in made.model.named_modules() if hasattr(m, "lora_A")}
    every = {n.removesuffix(".base_layer") for n, m in made.model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert set(layers) == {n for n in every if ".lora_" not in n} and len(layers) == 2 * (4 + 6 + 2) + 6
    shapes = {n: (m.in_features, m.out_features) for n, m in layers.items()}
    assert {n: m.r["default"] for n, m in layers.items()} == {n: min(64, *shape) for n, shape in shapes.items()}
    assert {m.scaling["default"] for m in layers.values()} == {2.0}
    by_hand = sum(min(64, i, o) * (i + o) + o for i, o in shapes.values())
    assert sum(p.numel() for p in made.parameters() if p.requires_grad) == by_hand


def test_the_bias_is_zero_at_first_and_counts():
    made = backbone(LoRA(rank=4, alpha=8, bias=True, parts=("embedders",)))
    layout = query_plan(build(tiny()["formatter"]), made).layout
    tokens, times = tokens_for(layout, made), dict.fromkeys(layout.names, torch.tensor([0.5]))
    with torch.no_grad():
        bare, adapted = (made(tokens, times, mask("fcd_a"))["target"] for _ in adapters_off_and_on(made.model))
        made.model.proj_out.lora_B["default"].bias += 0.5
        biased = made(tokens, times, mask("fcd_a"))["target"]
    assert torch.equal(bare, adapted)
    torch.testing.assert_close(biased, bare + 2 * 0.5)


def adapters_off_and_on(model):
    for switch in (model.disable_adapters, model.enable_adapters):
        switch()
        yield


def test_full_trains_everything_and_branches_are_apart():
    made = backbone(Full())
    assert all(p.requires_grad for p in made.parameters())
    norm = made.model.transformer_blocks[0].norm1
    assert norm.branches["condition"].weight is not norm.branches["target"].weight


def test_tied_branches_of_lora_part_by_their_adapters():
    """They share the frozen base, and a trained adapter of one moves that role and, through attention, the others."""
    made = backbone(LoRA(rank=4, alpha=4))
    layout = query_plan(build(tiny()["formatter"]), made).layout
    tokens, times = tokens_for(layout, made), dict.fromkeys(layout.names, torch.tensor([0.5]))
    norm = made.model.transformer_blocks[-1].norm2
    base = norm.branches["condition"].base_layer
    assert base.weight is norm.branches["target"].base_layer.weight
    randomise(made.model.proj_out), randomise(made.model.norm_out)
    with torch.no_grad():
        before = made(tokens, times, mask("fcd_a"))
        randomise(norm.branches["condition"].lora_B)
        after = made(tokens, times, mask("fcd_a"))
    assert torch.equal(before["target"], after["target"])
    assert not torch.equal(before["condition0"], after["condition0"])


def test_alpha_scales_the_adapter():
    outputs = []
    for alpha in (4, 8):
        torch.manual_seed(0)
        made = randomise(backbone(LoRA(rank=4, alpha=alpha)))
        layout = query_plan(build(tiny()["formatter"]), made).layout
        with torch.no_grad():
            times = dict.fromkeys(layout.names, torch.tensor([0.5]))
            outputs.append(made(tokens_for(layout, made), times, mask("fcd_a"))["target"])
    assert not torch.allclose(*outputs, atol=1e-4)


def test_an_unknown_timing_is_refused():
    with pytest.raises(ValueError, match=r"conditioning.modulation.timing.target is 'late'; legal are own, shared"):
        RoleModulation(SPLIT, {"target": "late"})
