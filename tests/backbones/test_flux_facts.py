"""Flux in numbers: packing, geometry, FLOPs, the linears that LoRA reaches; and what its parts refuse."""

import re

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from flux_case import GUIDANCE, ONE_BRANCH, TIMES, case, config, forward, ours, pair, stock_forward, stock_model
from tiny import backbone_for, composed, mask, query_plan

from unigen.backbones.flux import Flux
from unigen.core import canvas
from unigen.core.layout import positions
from unigen.core.tokens import Tokens
from unigen.pipeline.build import build

RANK = 256
PARTS = {"attention": 266, "modulation": 76, "feed_forward": 152, "embedders": 10}
FINER = {"feed_forward_in": 38, "feed_forward_out": 38, "single_mlp": 38, "single_out": 38}  # of feed_forward


def published(name: str = "flux_fill_dev") -> Flux:
    """As shapes, its modulation as in the stock model: one branch for every role."""
    with torch.device("meta"):
        backbone = build(composed(f"backbone={name}")["backbone"])
        backbone.split_modulation(ONE_BRANCH, tied=True)
    return backbone


@pytest.fixture(scope="module")
def fill() -> Flux:
    return published()


# --- packing and geometry ---------------------------------------------------------------------------------------


def test_a_tokens_features_are_diffusers_packed_latents():
    z = torch.randn(2, 1, 16, 8, 12)
    packed = FluxPipeline._pack_latents(z[:, 0], 2, 16, 8, 12)
    assert torch.equal(canvas.to_tokens(z, Flux.patch), packed) and packed.shape == (2, 24, 64)
    channels_last = packed.unflatten(-1, (16, 4)).transpose(2, 3).flatten(2)
    assert not torch.equal(channels_last, packed), "negative control: another order of the same values"
    assert torch.equal(canvas.from_tokens(packed, (1, 4, 6), Flux.patch), z)


def test_an_images_positions_are_diffusers_ids():
    backbone = build(config()["backbone"])
    layout = query_plan(build(config()["formatter"]), backbone, 1).layout
    ids = FluxPipeline._prepare_latent_image_ids(1, 2, 3, "cpu", torch.float32)
    found = positions(layout).float()
    assert torch.equal(found[3:9], ids) and not found[:3].any(), "the first picture; text has no place"
    assert torch.equal(found[9:], ids + torch.tensor([1.0, 0, 0])) and not torch.equal(found[9:], ids)


@pytest.mark.parametrize(("name", "context", "total"), [("flux_fill_dev", 320, 11_902_391_360), ("flux_dev", 0, None)])
def test_the_published_models_are_what_their_papers_say(fill, name, context, total):
    backbone = fill if name == "flux_fill_dev" else published(name)
    assert (backbone.axes, backbone.patch, backbone.context_width) == (("t", "h", "w"), (1, 2, 2), context)
    assert (backbone.latent_channels, backbone.text_width, backbone.pooled_width) == (16, 4096, 768)
    assert backbone.reach[0] > 5, "VisualCloze's demo numbers its rows from 1 to 5"
    count = sum(p.numel() for p in backbone.parameters())
    assert count == (total or 11_902_391_360 - 320 * 3072)


@pytest.mark.parametrize("name", ["flux_mini", "flux_fill_mini"])
def test_the_mini_models_are_small_as_stock_and_with_sc_adaln(name):
    with torch.device("meta"):
        backbone = build(composed(f"backbone={name}")["backbone"])
        stock = sum(p.numel() for p in backbone.parameters())
        backbone.split_modulation({"text": "text", "condition": "condition", "target": "target"}, tied=False)
    assert 2e6 < stock < sum(p.numel() for p in backbone.parameters()) < 5e6


# --- FLOPs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flux_mini", "flux_fill_mini"])
def test_flops_count_what_torch_counts(name):
    """Against torch's own counter under mask D; a mask with fewer pairs costs less."""
    from unigen.tools.bench.turns import flop_counter

    backbone = backbone_for(config(name))
    tokens = case(backbone)
    with flop_counter() as counter:
        forward(backbone, tokens, mask("fcd_d"))
    ours = backbone.flops(tokens.layout, mask("fcd_d"))
    width, images = 32, 2  # what a sample costs once: time and pooled text, branches, the head's modulation
    embedders = (256 + width) * width + (32 + width) * width
    branches = 2 * 3 * 6 * width**2 + 2 * 3 * 3 * width**2
    once = 2 * (embedders + branches + 2 * width**2)
    assert counter.get_total_flops() == images * (sum(ours.values()) + once)
    masked = backbone.flops(tokens.layout, mask("fcd_a"))
    assert masked["linear"] == ours["linear"] and masked["attention"] < ours["attention"]


@pytest.mark.parametrize(("images", "tflop"), [(1024, 21.5), (4096, 74.4), (3456, 62.3)])
def test_published_sizes_cost_what_is_known(fill, images, tflop):
    """512 text tokens and a square of 512 or 1024 pixels, or a grid of 2×3 images of 384: 12 D² for each token."""
    from unigen.core.layout import VISUAL_STREAM, Layout, Segment, text_segment

    target = Segment("target", "target", VISUAL_STREAM, (1, 32, images // 32))
    cost = fill.flops(Layout((text_segment(512), target)), mask("fcd_d"))
    assert sum(cost.values()) / 1e12 == pytest.approx(tflop, rel=2e-3)


# --- LoRA -------------------------------------------------------------------------------------------------------


def linears(model: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    return {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}


def of_part(backbone: Flux, part: str) -> set[str]:
    pattern = backbone.lora_targets()[part]
    return {n for n, _ in backbone.model.named_modules() if re.fullmatch(pattern, n)}


def test_the_parts_share_out_every_linear_of_diffusers_tree(fill):
    with torch.device("meta"):
        stock = linears(FluxTransformer2DModel(**composed("backbone=flux_fill_dev")["backbone"]["config"]))
    assert set(fill.lora_targets()) == {*PARTS, *FINER}
    found = {part: of_part(fill, part) for part in PARTS}
    assert {part: len(names) for part, names in found.items()} == PARTS
    assert set().union(*found.values()) == set(linears(fill.model)) and sum(PARTS.values()) == len(stock) == 504
    assert {n.replace("branches.every", "linear") for n in linears(fill.model)} == set(stock)


def test_the_finer_parts_share_out_the_feed_forward_layers(fill):
    found = {part: of_part(fill, part) for part in FINER}
    assert {part: len(names) for part, names in found.items()} == FINER
    assert set().union(*found.values()) == of_part(fill, "feed_forward")
    assert found["single_out"] != found["single_mlp"] and all(n.startswith("single_") for n in found["single_out"])
    assert {n.rpartition(".ff")[0] for n in found["feed_forward_out"]} == {f"transformer_blocks.{i}" for i in range(19)}
    without = set().union(*(found[part] for part in FINER if part != "feed_forward_in"))
    assert without != of_part(fill, "feed_forward"), "negative control"


def test_split_branches_are_reached_each_by_itself():
    backbone = backbone_for(config())
    assert set().union(*(of_part(backbone, part) for part in PARTS)) == set(linears(backbone.model))
    assert len(of_part(backbone, "modulation")) == 2 * (2 + 1) + 2 * 3


def adapted(shapes: list[tuple[int, int]], bound: bool = True) -> int:
    """Parameters of LoRA with a bias on B, of rank 256, `bound` by what a linear (in, out) can have."""
    ranks = [min(RANK, *shape) if bound else RANK for shape in shapes]
    return sum(r * (a + b) + b for r, (a, b) in zip(ranks, shapes, strict=True))


def test_rank_256_on_everything_is_1390_million(fill):
    """A rank above 64 on the last linear (3072 to 64) would say nothing more, and VisualCloze bounds it so."""
    shapes = [(m.in_features, m.out_features) for m in linears(fill.model).values()]
    assert adapted(shapes) == 1_390_434_368
    assert adapted(shapes, bound=False) == 1_390_434_368 + (256 - 64) * (3072 + 64)
    assert sum(min(a, b) < RANK for a, b in shapes) == 1


@pytest.fixture(scope="module")
def visualcloze() -> torch.nn.Module:
    """FLUX.1-Fill-dev with VisualCloze's LoRA, as the configuration says, as shapes."""
    made = composed("backbone=flux_fill_dev", "conditioning/modulation=shared", "conditioning/adapter=lora_visualcloze")
    with torch.device("meta"):
        backbone, adapter = build(made["backbone"]), build(made["conditioning"]["adapter"])
        build(made["conditioning"]["modulation"]).apply(backbone, adapter.freezes_base)
        adapter.apply(backbone)
    return backbone.model


def test_visualclozes_adapter_adds_just_these(visualcloze):
    trained = {n: p for n, p in visualcloze.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == 1_390_434_368 and len(trained) == 3 * 504
    layers = {n: m for n, m in visualcloze.named_modules() if hasattr(m, "lora_A")}
    assert {n: m.r["default"] for n, m in layers.items() if m.r["default"] != RANK} == {"proj_out": 64}
    assert {m.scaling["default"] for m in layers.values()} == {1.0}
    shapes = fused({n: m.base_layer for n, m in layers.items()})
    assert len(shapes) == 314 and adapted(shapes) == 1_241_012_288


def fused(named: dict[str, torch.nn.Linear]) -> list[tuple[int, int]]:
    """(in, out) in the authors' tree, where q, k and v (and a single block's MLP with them) are one linear."""
    groups: dict[str, list[torch.nn.Linear]] = {}
    for name, linear in named.items():
        name = re.sub(r"attn\.(to_[qkv]|(add)_[qkv]_proj)$", r"attn.qkv\2", name)
        name = re.sub(r"(single_.*)\.(attn\.qkv|proj_mlp)$", r"\1.linear1", name)
        groups.setdefault(name, []).append(linear)
    return [(m[0].in_features, sum(x.out_features for x in m)) for m in groups.values()]


def test_the_authors_fused_tree_has_314_linears_and_1241_million(fill):
    shapes = fused(linears(fill.model))
    assert len(shapes) == 314 and adapted(shapes) == 1_241_012_288
    assert sum(out for _, out in shapes) == 3_065_920, "the biases, which fusing does not change"


# --- stock again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [ONE_BRANCH, ONE_BRANCH | {"text": "text"}])
def test_a_model_of_one_branch_is_a_stock_model_again(table):
    """Text has a branch of its own in single blocks only if images have several."""
    made = config()
    made["conditioning"]["modulation"]["branches"] = table
    backbone = ours(stock_model(made), made, tied=False)
    tokens = case(backbone)
    with torch.no_grad():
        for branch in (backbone.model.transformer_blocks[0].norm1, backbone.model.single_transformer_blocks[1].norm):
            branch.branches["every"].weight += 0.1
    found = stock_forward(backbone.stock().eval(), tokens)
    assert torch.equal(found, forward(backbone, tokens, mask("fcd_d")))
    assert not torch.allclose(found, stock_forward(stock_model(made), tokens), atol=1e-3), "negative control"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((), r"branches gives transformer_blocks.0.norm1 the branches condition, target"),
        (("conditioning/adapter=lora",), r"a backbone with a LoRA is no stock model"),
    ],
)
def test_what_is_no_stock_model_is_not_saved_as_one(overrides, said):
    _, backbone = pair("flux_mini", *overrides)
    with pytest.raises(ValueError, match=said):
        backbone.stock()


# --- refusals ---------------------------------------------------------------------------------------------------


def test_fill_needs_a_context_and_dev_refuses_one():
    dev, fill = (backbone_for(config(name)) for name in ("flux_mini", "flux_fill_mini"))
    with_context = case(fill)
    without = Tokens(with_context.layout, with_context.features, pooled=with_context.pooled)
    times = dict.fromkeys(with_context.layout.names, TIMES)
    assert fill(with_context, times, mask("fcd_d")) and dev(without, times, mask("fcd_d"))
    with pytest.raises(
        ValueError, match=r"Fill model \(backbone.config.in_channels 384\): segment 'condition0' needs 320"
    ):
        fill(without, times, mask("fcd_d"))
    del with_context.context["target"]
    with pytest.raises(ValueError, match=r"segment 'target' needs 320 features of context"):
        fill(with_context, times, mask("fcd_d"))
    with pytest.raises(ValueError, match=r"in_channels 64 .* segments condition0 have some; use a Fill model"):
        dev(with_context, times, mask("fcd_d"))


@pytest.mark.parametrize(
    ("guided", "guidance", "said"),
    [
        (
            True,
            None,
            "backbone.guidance is null, but .*guidance_embeds is true; give the strengths for train and sample",
        ),
        (True, {"train": 1.0}, "backbone.guidance is for train, but"),
        (True, {**GUIDANCE, "test": 1.0}, "backbone.guidance is for train, sample, test, but"),
        (False, GUIDANCE, "backbone.guidance must be null, since backbone.config.guidance_embeds is false"),
    ],
)
def test_guidance_must_fit_the_model(guided, guidance, said):
    made = config(guided=guided)
    assert build(made["backbone"])
    with pytest.raises(ValueError, match=said):
        build(made["backbone"] | {"guidance": guidance})


@pytest.mark.parametrize("axes", [[4, 6, 8], [3, 7, 6], [4, 6, {}], [4, 6, None]])
def test_rotary_axes_must_fill_a_head(axes):
    with pytest.raises(
        ValueError, match=r"axes_dims_rope is .*; it must be three even numbers .*attention_head_dim \(16"
    ):
        build(config(axes_dims_rope=axes)["backbone"])
