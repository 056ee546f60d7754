"""Qwen-Image in numbers: sizes, FLOPs, the linears that LoRA reaches, exports; and what its parts refuse."""

import re
from inspect import signature

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from qwen_case import TIMES, case, config, forward, ours, own_times, pair, stock_forward, stock_model
from tiny import backbone_for, batch, composed, mask, randomise, tiny

from unigen.backbones.qwen_image import QwenImage
from unigen.core.layout import VISUAL_STREAM, Layout, Segment, text_segment
from unigen.pipeline import export
from unigen.pipeline.build import build, build_pipeline

PUBLISHED = ("qwen_image", "qwen_image_edit")
PARAMETERS = 20_430_401_088
WORDS = ("backbone=qwen_image_mini", "process=rectified_flow", "solver=euler")
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def tuple_of(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def published(name: str) -> QwenImage:
    with torch.device("meta"):
        return build(composed(f"backbone={name}", "process=rectified_flow")["backbone"])


# --- numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_model_has_its_parameters_and_costs_what_torch_counts(name):
    """Two stills of 512² and 512 text tokens: 39.648 TFLOP; what is made once a clock is below a thousandth of it."""
    backbone = published(name)
    assert backbone.stock_parameters == sum(p.numel() for p in backbone.model.parameters()) == PARAMETERS
    assert all(p.is_meta for p in backbone.parameters())
    assert (backbone.patch, backbone.latent_channels, backbone.text_width) == ((1, 2, 2), 16, 3584)
    assert (backbone.pooled_width, backbone.context_width, backbone.axes) == (None, 0, ("t", "h", "w"))
    said = composed(f"backbone={name}", "process=rectified_flow")["backbone"]["config"]
    defaults = {n: p.default for n, p in signature(QwenImageTransformer2DModel.__init__).parameters.items()}
    assert {n for n, v in said.items() if tuple_of(v) != defaults[n]} == ({"zero_cond_t"} if "edit" in name else set())
    boxes = [Segment(f"{i}", "target", VISUAL_STREAM, (1, 32, 32), (i, 0, 0)) for i in range(2)]
    cost = backbone.flops(Layout((text_segment(512), *boxes)), mask("fcd_d"))
    assert sum(cost.values()) / 1e12 == pytest.approx(39.648, rel=1e-3)


@pytest.mark.parametrize("name", ["fcd_a", "fcd_b", "fcd_d"])
def test_flops_count_what_torch_counts(name):
    from unigen.tools.bench.turns import flop_counter

    backbone = backbone_for(config("conditioning/modulation=shared"))
    tokens = case(backbone, padded=False, size=1)
    with flop_counter() as counter:
        forward(backbone, tokens, mask(name), TIMES[:1])
    width, layers = 32, 2
    once = 2 * (256 * width + width**2 + layers * 2 * 6 * width**2 + 2 * width**2)  # embedder, both streams, the head
    assert counter.get_total_flops() == sum(backbone.flops(tokens.layout, mask(name)).values()) + once
    full = backbone.flops(tokens.layout, mask("fcd_d"))
    assert (full["attention"] > backbone.flops(tokens.layout, mask(name))["attention"]) == (name != "fcd_d")


# --- LoRA ----------------------------------------------------------------------------------------------------------


def test_lora_reaches_every_linear_by_part():
    model = published("qwen_image")
    model.split_modulation({"text": "text", "condition": "image", "target": "image"}, tied=True)
    linears = {n for n, m in model.model.named_modules() if isinstance(m, torch.nn.Linear)}
    found = {part: {n for n in linears if re.fullmatch(pattern, n)} for part, pattern in model.lora_targets().items()}
    finer = [found.pop(part) for part in ("feed_forward_in", "feed_forward_out")]
    assert set().union(*finer) == found["feed_forward"] and all(len(names) == 120 for names in finer)
    counts = {part: len(names) for part, names in found.items()}
    assert counts == {"attention": 480, "modulation": 120, "feed_forward": 240, "embedders": 6}
    assert set().union(*found.values()) == linears and sum(counts.values()) == len(linears) == 846
    takes = {name: model._takes(name) for name in linears}
    block = "transformer_blocks.3"
    assert takes[f"{block}.attn.add_q_proj"] == takes[f"{block}.attn.to_add_out"] == takes["txt_in"] == "text"
    assert takes[f"{block}.txt_mlp.net.2"] == "text" and takes[f"{block}.img_mlp.net.2"] == "visual"
    assert takes[f"{block}.attn.to_q"] == takes["img_in"] == takes["proj_out"] == "visual"
    assert takes[f"{block}.img_mod.1.branches.image"] == takes[f"{block}.txt_mod.1.branches.text"] == "one"
    assert takes["norm_out.linear"] == takes["time_text_embed.timestep_embedder.linear_1"] == "one"


@pytest.mark.parametrize("modulation", ["shared", "sc_adaln"])
@pytest.mark.parametrize("adapter", ["lora_visualcloze", "full"])
def test_an_export_loads_again(adapter, modulation, tmp_path):
    made = tiny(*WORDS, f"conditioning/adapter={adapter}", f"conditioning/modulation={modulation}")
    pipeline = build_pipeline(made)
    for part in (pipeline.backbone, pipeline.embedding):
        randomise(part, 0.05)
    drawn = pipeline.sample(batch(), seed=3)["target"]
    export.save(pipeline, tmp_path, made)
    loaded, _ = export.load(tmp_path)
    assert torch.equal(loaded.sample(batch(), seed=3)["target"], drawn)
    with torch.no_grad():
        loaded.backbone.model.proj_out.bias.add_(1)
    assert not torch.equal(loaded.sample(batch(), seed=3)["target"], drawn), "negative control"


def test_a_lora_loads_into_the_stock_pipeline(tmp_path):
    """With one branch for all images the export is diffusers' own: its pipeline takes it, and computes the same."""
    from diffusers import QwenImagePipeline

    made = config("conditioning/modulation=shared", "conditioning/adapter=lora")
    stock, pipeline = stock_model(made), build_pipeline(made)
    pipeline.backbone = backbone = ours(stock, made)
    with torch.no_grad():
        for name, p in backbone.named_parameters():
            if ".lora_" in name:
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))) * 0.2)
    assert export.lora_is_for(backbone.model).startswith("a stock QwenImageTransformer2DModel of diffusers")
    export.save(pipeline, tmp_path, made)
    tokens = case(backbone)
    plain, expected = stock_forward(stock, tokens), forward(backbone, tokens, mask("fcd_d"))
    pipe = QwenImagePipeline(None, None, None, None, stock)
    pipe.load_lora_weights(tmp_path)
    torch.testing.assert_close(stock_forward(stock, tokens), expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(plain, expected, atol=1e-2), "negative control"


def test_a_stock_lora_begins_every_branch(tmp_path):
    """Training with SC-AdaLN goes on from a LoRA of the stock model: the same function at first."""
    words = (*WORDS[:2], "conditioning/adapter=lora")
    pipeline = build_pipeline(tiny(*words, "conditioning/modulation=shared"))
    randomise(pipeline.backbone)
    export.save(pipeline, tmp_path, tiny(*words, "conditioning/modulation=shared"))
    tokens = case(pipeline.backbone)
    torch.manual_seed(1)
    split = build_pipeline(tiny(*words, "conditioning/modulation=sc_adaln", f"conditioning.adapter.start={tmp_path}"))
    plain = {re.sub(r"\.branches\.\w+|\.base_layer", "", n): p for n, p in pipeline.backbone.named_parameters()}
    with torch.no_grad():
        for name, p in split.backbone.named_parameters():
            if ".lora_" not in name:
                p.copy_(plain[re.sub(r"\.branches\.\w+|\.base_layer", "", name)])
    found = forward(split.backbone, tokens, mask("fcd_d"))
    torch.testing.assert_close(found, forward(pipeline.backbone, tokens, mask("fcd_d")), **CLOSE)
    branches = split.backbone.blocks[0].img_mod[1].branches
    branches["target"].lora_B["default"].weight.data.mul_(2)
    assert not torch.allclose(forward(split.backbone, tokens, mask("fcd_d")), found, atol=1e-3), "negative control"


# --- the stock model ------------------------------------------------------------------------------------------------


def test_a_model_without_branches_is_exported_as_the_stock_one(tmp_path):
    """With its `zero_cond_t`: the file of Edit-2511 says how diffusers runs it."""
    made = config("conditioning/modulation=shared", "backbone.config.zero_cond_t=true")
    stock = stock_model(made)
    backbone = ours(stock, made)
    backbone.stock().save_pretrained(tmp_path)
    read = QwenImageTransformer2DModel.from_pretrained(tmp_path)
    tokens = case(backbone)
    assert read.config.zero_cond_t and read.state_dict().keys() == stock.state_dict().keys()
    assert torch.equal(stock_forward(read, tokens), stock_forward(stock, tokens))
    size = tokens.layout["target"].tokens
    found = forward(backbone, tokens, mask("fcd_d"), own_times(tokens))[:, :size]
    torch.testing.assert_close(stock_forward(read, tokens)[:, :size], found, **CLOSE)
    again = build({**made["backbone"], "pretrained": str(tmp_path)})
    build(made["conditioning"]["modulation"]).apply(again, tied=False)
    assert torch.equal(forward(again, tokens, mask("fcd_d"), own_times(tokens))[:, :size], found)
    assert again.predicts == "flow"


def test_a_model_with_two_branches_is_no_stock_model():
    backbone = backbone_for(config())
    with pytest.raises(ValueError, match="has the visual branches condition, target; only a model with one can be"):
        backbone.stock()


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("guidance_embeds", True, "guidance_embeds is true: this is a guidance-distilled form"),
        ("use_additional_t_cond", True, "use_additional_t_cond is true: this is the layered form"),
        ("use_layer3d_rope", True, "use_layer3d_rope is true: this is the layered form"),
        ("axes_dims_rope", [4, 6, 8], "it must be three even numbers with the sum attention_head_dim (16)"),
        ("in_channels", 60, "a token is 2×2 cells of out_channels (16) channels, so it must be 64"),
    ],
)
def test_another_form_is_refused_in_one_sentence(key, value, said):
    node = config()["backbone"]
    node["config"][key] = value
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        build(node)
    assert "\n" not in str(caught.value)


def test_a_pair_of_equal_models_is_what_is_compared():
    """Negative control of the parity tests: the stock model's weights matter."""
    stock, backbone = pair()
    tokens = case(backbone)
    with torch.no_grad():
        stock.txt_norm.weight.mul_(1.5)
    assert not torch.allclose(forward(backbone, tokens, mask("fcd_d")), stock_forward(stock, tokens), atol=1e-2)
