"""Wan in numbers: sizes, FLOPs, the linears that LoRA reaches, exports; and what its parts refuse."""

import re

import pytest
import torch
from diffusers import WanTransformer3DModel
from tiny import backbone_for, batch, composed, mask, randomise, tiny
from wan_case import TIMES, case, config, forward, ours, pair, stock_forward, stock_model

from unigen.backbones.wan import Wan
from unigen.core.layout import VISUAL_STREAM, Layout, Segment, text_segment
from unigen.core.types import ImageSlot
from unigen.pipeline import export
from unigen.pipeline.build import build, build_on_meta, build_pipeline

PUBLISHED = {
    "wan2_1_t2v_1_3b": 1_418_996_800,
    "wan2_1_t2v_14b": 14_288_491_584,
    "wan2_2_ti2v_5b": 4_999_787_712,
}
ROLES = ("text", "condition", "target")
RANK = 256


def published(name: str) -> Wan:
    with torch.device("meta"):
        return build(composed(f"backbone={name}", "process=rectified_flow")["backbone"])


def images(tokens: int, count: int = 2) -> Layout:
    """512 text tokens and square images."""
    side = int(tokens**0.5)
    boxes = [Segment(f"{i}", "target", VISUAL_STREAM, (1, side, side), (i, 0, 0)) for i in range(count)]
    return Layout((text_segment(512), *boxes))


# --- numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_models_have_their_parameters(name):
    backbone = published(name)
    assert backbone.stock_parameters == sum(p.numel() for p in backbone.model.parameters()) == PUBLISHED[name]
    assert all(p.is_meta for p in backbone.parameters())
    channels = 48 if name == "wan2_2_ti2v_5b" else 16
    assert (backbone.patch, backbone.latent_channels, backbone.text_width) == ((1, 2, 2), channels, 4096)
    assert (backbone.pooled_width, backbone.context_width, backbone.axes) == (None, 0, ("t", "h", "w"))


@pytest.mark.parametrize(
    ("family", "name", "tokens", "trained"),
    [
        ("wan", "wan2_1_t2v_1_3b", 1024, 1536),
        ("wan_14b", "wan2_1_t2v_14b", 1024, 5120),
        ("wan_ti2v_5b", "wan2_2_ti2v_5b", 256, 3072),
    ],
)
def test_realgeneral_on_the_published_models(family, name, tokens, trained):
    """LoRA of rank 256 on 8 linears of a block and on both branches of the one time projection, and UCE."""
    config = composed("+exp=fcd_mask_a", f"family={family}/paper", "scale=paper")
    pipeline = build_on_meta(config)
    assert pipeline.backbone.stock_parameters == PUBLISHED[name] and pipeline.backbone.predicts == "flow"
    layout = pipeline.plan(build(config["data"]).slots).layout
    assert [s.tokens for s in layout.segments] == [512, tokens, tokens]
    width, blocks = trained, len(pipeline.backbone.blocks)
    lora = RANK * (blocks * 8 * 2 * width + 2 * (width + 6 * width))
    assert sum(p.numel() for p in pipeline.backbone.parameters() if p.requires_grad) == lora
    shift = config["solver"]["shift"]["factor"]
    assert shift == (5.0 if family == "wan_ti2v_5b" else 3.0) and config["solver"]["steps"] == 50
    untold = composed(f"family={family}/paper", "scale=paper", "task=graph", "conditioning/embedding=none")
    assert untold["guidance"]["strength"] == 5.0 and untold["guidance"]["drop"] == ["text"]


@pytest.mark.parametrize(
    ("name", "tokens", "tflop"),
    [("wan2_1_t2v_1_3b", 1024, 6.243), ("wan2_1_t2v_14b", 1024, 55.456), ("wan2_2_ti2v_5b", 256, 5.242)],
)
def test_published_sizes_cost_what_torch_counts_for_the_stock_model(name, tokens, tflop):
    """Two stills of 512² and 512 text tokens; what is made once a clock is below a thousandth."""
    cost = published(name).flops(images(tokens), mask("fcd_d"))
    assert sum(cost.values()) / 1e12 == pytest.approx(tflop, rel=1e-3)


@pytest.mark.parametrize("name", ["fcd_a", "fcd_b", "fcd_d"])
def test_flops_count_what_torch_counts(name):
    """Under masks A and B the condition asks nothing of the text."""
    from unigen.tools.bench.turns import flop_counter

    backbone = backbone_for(config("conditioning/modulation=shared"))
    tokens = case(backbone, size=1)
    with flop_counter() as counter:
        forward(backbone, tokens, mask(name), TIMES[:1])
    width = 32
    once = 2 * (32 * width + width**2 + 6 * width**2)  # a clock: time embedder and projection
    ours = backbone.flops(tokens.layout, mask(name))
    assert counter.get_total_flops() == sum(ours.values()) + once
    full = backbone.flops(tokens.layout, mask("fcd_d"))
    if name == "fcd_a":
        assert full["linear"] - ours["linear"] == 2 * 2 * 6 * 2 * width**2
        assert full["attention"] - ours["attention"] == 2 * 4 * width * 6 * 4
    assert backbone.pairs(tokens.layout, mask("fcd_d")) == (12 * 12 + 12 * 4,) * 2
    assert backbone.pairs(tokens.layout, mask("fcd_a"))[0] == 12 * 12 + 6 * 4


# --- LoRA ----------------------------------------------------------------------------------------------------------


def test_lora_reaches_every_linear_by_part():
    model = published("wan2_1_t2v_1_3b")
    modules = (torch.nn.Linear, torch.nn.Conv3d)
    linears = {n for n, m in model.model.named_modules() if isinstance(m, modules)}
    found = {part: {n for n in linears if re.fullmatch(pattern, n)} for part, pattern in model.lora_targets().items()}
    finer = [found.pop(part) for part in ("feed_forward_in", "feed_forward_out")]
    assert set().union(*finer) == found["feed_forward"] and all(len(names) == 30 for names in finer)
    counts = {part: len(names) for part, names in found.items()}
    assert counts == {"attention": 240, "modulation": 1, "feed_forward": 60, "embedders": 6}
    assert set().union(*found.values()) == linears and sum(counts.values()) == len(linears)
    model.split_modulation({"text": "text", "condition": "condition", "target": "target"}, tied=True)
    split = {n for n, _ in model.model.named_modules() if re.fullmatch(model.lora_targets()["modulation"], n)}
    assert split == {f"condition_embedder.time_proj.branches.{name}" for name in ("condition", "target")}
    takes = {name: model._takes(name) for name in linears}
    assert takes["blocks.3.attn2.to_k"] == "read" and takes["blocks.3.attn2.to_q"] == "readers"
    assert takes["blocks.3.attn1.to_k"] == takes["patch_embedding"] == takes["proj_out"] == "visual"
    assert takes["condition_embedder.text_embedder.linear_1"] == "text"
    assert takes["condition_embedder.time_proj"] == "one"


@pytest.mark.parametrize("modulation", ["shared", "sc_adaln"])
@pytest.mark.parametrize("adapter", ["lora", "lora_visualcloze", "full"])
def test_an_export_loads_again(adapter, modulation, tmp_path):
    words = ("backbone=wan_mini", "process=rectified_flow", "solver=euler_static")
    made = tiny(*words, f"conditioning/adapter={adapter}", f"conditioning/modulation={modulation}")
    pipeline = build_pipeline(made)
    for part in (pipeline.backbone, pipeline.embedding):
        randomise(part)
    for name, p in pipeline.backbone.named_parameters():
        assert p.requires_grad == (adapter == "full" or ".lora_" in name)
    drawn = pipeline.sample(batch(), seed=3)["target"]
    export.save(pipeline, tmp_path, made)
    loaded, _ = export.load(tmp_path)
    assert torch.equal(loaded.sample(batch(), seed=3)["target"], drawn)
    with torch.no_grad():
        loaded.backbone.model.proj_out.bias.add_(1)
    assert not torch.equal(loaded.sample(batch(), seed=3)["target"], drawn), "negative control"


def test_an_attention_lora_loads_into_the_stock_pipeline(tmp_path):
    """With one branch for all images the export is diffusers' own: WanPipeline takes it, and computes the same."""
    from diffusers import WanPipeline

    made = tiny("backbone=wan_mini", "process=rectified_flow", "conditioning/modulation=shared",
                "conditioning/adapter=lora", "backbone.lowering._target_=unigen.core.attention.grouped")  # fmt: skip
    stock, pipeline = stock_model(made), build_pipeline(made)
    backbone = ours(stock, made)
    pipeline.backbone = backbone
    with torch.no_grad():
        for name, p in backbone.named_parameters():
            if ".lora_" in name:
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))) * 0.2)
    assert export.lora_is_for(backbone.model).startswith("a stock WanTransformer3DModel of diffusers")
    export.save(pipeline, tmp_path, made)
    tokens = case(backbone)
    plain, expected = stock_forward(stock, tokens), forward(backbone, tokens, mask("fcd_d"))
    pipe = WanPipeline(tokenizer=None, text_encoder=None, vae=None, scheduler=None, transformer=stock)
    pipe.load_lora_weights(tmp_path)
    torch.testing.assert_close(stock_forward(stock, tokens), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain, expected, atol=1e-2), "negative control"


def test_a_stock_lora_begins_every_branch(tmp_path):
    """Training with SC-AdaLN goes on from a LoRA of the stock model: the same function at first."""
    words = ("backbone=wan_mini", "process=rectified_flow", "conditioning/adapter=lora")
    made = tiny(*words, "conditioning/modulation=shared")
    pipeline = build_pipeline(made)
    randomise(pipeline.backbone)
    export.save(pipeline, tmp_path, made)
    tokens = case(pipeline.backbone)
    torch.manual_seed(1)
    split = build_pipeline(tiny(*words, "conditioning/modulation=sc_adaln", f"conditioning.adapter.start={tmp_path}"))
    plain = {n.replace(".base_layer", ""): p for n, p in pipeline.backbone.named_parameters() if ".lora_" not in n}
    with torch.no_grad():
        for name, p in split.backbone.named_parameters():
            if ".lora_" not in name:
                p.copy_(plain[re.sub(r"\.branches\.\w+", "", name.replace(".base_layer", ""))])
    found = forward(split.backbone, tokens, mask("fcd_d"))
    torch.testing.assert_close(found, forward(pipeline.backbone, tokens, mask("fcd_d")), rtol=1e-4, atol=1e-4)
    projections = split.backbone.model.condition_embedder.time_proj.branches
    projections["target"].lora_B["default"].weight.data.mul_(2)
    assert not torch.allclose(forward(split.backbone, tokens, mask("fcd_d")), found, atol=1e-3), "negative control"


# --- the stock model ------------------------------------------------------------------------------------------------


def test_a_model_without_branches_is_exported_as_the_stock_one(tmp_path):
    stock, backbone = pair("conditioning/modulation=shared")
    copy = backbone.stock()
    assert isinstance(copy, WanTransformer3DModel)
    copy.save_pretrained(tmp_path)
    read = WanTransformer3DModel.from_pretrained(tmp_path)
    tokens = case(backbone)
    assert torch.equal(stock_forward(read, tokens), forward(backbone, tokens, mask("fcd_d")))
    assert read.state_dict().keys() == stock.state_dict().keys()
    again = build({**config()["backbone"], "pretrained": str(tmp_path)})
    assert torch.equal(forward(again, tokens, mask("fcd_d")), stock_forward(stock, tokens)) and again.predicts == "flow"


def test_a_model_with_two_branches_is_no_stock_model():
    backbone = backbone_for(config())
    with pytest.raises(ValueError, match="has the visual branches condition, target; only a model with one can be"):
        backbone.stock()


# --- text -----------------------------------------------------------------------------------------------------------


def test_zeros_behind_a_prompt_are_attended_to():
    """So the window of the text encoder is part of the model."""
    stock, backbone = pair()
    tokens = case(backbone)
    longer = Layout((text_segment(9), *tokens.layout.visual))
    padded = torch.cat([tokens.features["text"], torch.zeros(2, 5, 32)], dim=1)
    other = type(tokens)(longer, tokens.features | {"text": padded})
    found = forward(backbone, other, mask("fcd_d"))
    assert torch.equal(found, stock_forward(stock, other))
    assert (found - forward(backbone, tokens, mask("fcd_d"))).abs().max() > 1e-3


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "value"), [("image_dim", 1280), ("added_kv_proj_dim", 32)])
def test_an_image_to_video_model_is_refused(key, value):
    node = config()["backbone"]
    node["config"][key] = value
    with pytest.raises(ValueError, match=rf"backbone.config.{key} is {value}: this is an image-to-video Wan") as caught:
        build(node)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("codec", "backbone", "unit"), [("autoencoder_mini", "wan_mini", 16), ("wan2_2_vae", "wan2_2_ti2v_5b", 32)]
)
def test_odd_latent_sizes_are_refused_in_one_sentence(codec, backbone, unit):
    """The stock model drops the last row and column without a word."""
    stock = stock_model(config())
    assert stock(torch.randn(1, 16, 1, 9, 8), TIMES[:1], torch.randn(1, 3, 32)).sample.shape[-2:] == (8, 8)
    words = (f"encoder/codec={codec}", f"backbone={backbone}", "process=rectified_flow", "backbone.pretrained=null")
    pipeline = build_on_meta(composed(*words, "backbone.config.num_layers=1"))
    with pytest.raises(ValueError) as caught:
        pipeline.plan((ImageSlot("x", "target", unit * 2 + unit // 2, unit * 2),))
    said = str(caught.value)
    assert f"sides must be multiples of {unit} and {unit} (codec stride {unit // 2} × patch 2×2)" in said
    assert "\n" not in said
    assert pipeline.plan((ImageSlot("x", "target", unit * 3, unit * 2),)), "control"


def test_a_layout_beyond_the_reach_is_refused():
    pipeline = build_pipeline(tiny("backbone=wan_mini", "process=rectified_flow", "backbone.reach=[2,128,256]"))
    slots = tuple(ImageSlot(f"c{i}", "condition", 32, 32) for i in range(2))
    with pytest.raises(
        ValueError, match=r"3 images take 3 temporal positions; the backbone holds 2 \(backbone\.reach\)"
    ):
        pipeline.plan((*slots, ImageSlot("target", "target", 32, 32)))


@pytest.mark.parametrize("reach", [[21, 128], [0, 128, 256], [1.5, 128, 256]])
def test_a_reach_that_is_no_grid_is_refused(reach):
    said = re.escape(f"backbone.reach is {reach}; legal are three whole numbers above 0, for tokens along t, h and w")
    with pytest.raises(ValueError, match=said):
        build({**config()["backbone"], "reach": reach})


def test_a_static_shift_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"shift.factor is 0; legal are numbers above 0, of which 1 shifts nothing"):
        build(tiny("solver=euler_static", "solver.shift.factor=0")["solver"])
