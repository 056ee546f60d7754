"""HunyuanVideo-1.5 in numbers: sizes, FLOPs, the linears that LoRA reaches, exports; and what its parts refuse."""

import re
from inspect import signature

import pytest
import torch
from diffusers import HunyuanVideo15Transformer3DModel
from hunyuan_case import TIMES, case, config, forward, ours, pair, stock_forward, stock_model
from tiny import backbone_for, batch, composed, mask, randomise, tiny

from unigen.backbones.hunyuan_video15 import HunyuanVideo15
from unigen.core.layout import VISUAL_STREAM, Layout, Segment, text_segment
from unigen.pipeline import export
from unigen.pipeline.build import build, build_pipeline

PARAMETERS, UNREAD = 8_326_608_160, 15_108_352
WORDS = ("backbone=hunyuan_video_mini", "process=rectified_flow", "solver=euler_static")
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def published() -> HunyuanVideo15:
    with torch.device("meta"):
        return build(composed("backbone=hunyuan_video1_5", "process=rectified_flow")["backbone"])


# --- numbers -----------------------------------------------------------------------------------------------------


def test_the_published_model_has_its_parameters():
    """The stock model's, of which the embedders of glyphs and of images are not kept."""
    backbone = published()
    assert backbone.stock_parameters == PARAMETERS
    assert sum(x.numel() for x in backbone.unread.values()) == UNREAD
    assert sum(p.numel() for p in backbone.model.parameters()) == PARAMETERS - UNREAD
    assert all(p.is_meta for p in backbone.parameters())
    assert (backbone.patch, backbone.latent_channels, backbone.text_width) == ((1, 1, 1), 32, 3584)
    assert (backbone.pooled_width, backbone.context_width, backbone.axes) == (None, 0, ("t", "h", "w"))
    said = composed("backbone=hunyuan_video1_5", "process=rectified_flow")["backbone"]["config"]
    defaults = {n: p.default for n, p in signature(HunyuanVideo15Transformer3DModel.__init__).parameters.items()}
    told = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
    assert {name for name, value in told.items() if value != defaults[name]} == {"task_type"}
    boxes = [Segment(f"{i}", "target", VISUAL_STREAM, (1, 32, 32), (i, 0, 0)) for i in range(2)]
    cost = backbone.flops(Layout((text_segment(1000), *boxes)), mask("fcd_d"))
    linear = 54 * 12 * 2048**2 * 3048 + 2048 * (97 * 2048 + 1000 * (3584 + 24 * 2048))
    attention = 54 * 4 * 2048 * 3048**2 + 2 * 4 * 2048 * 1000**2
    assert cost == {"linear": 2 * linear, "attention": attention}


@pytest.mark.parametrize("name", ["fcd_a", "fcd_b", "fcd_d"])
def test_flops_count_what_torch_counts(name):
    from unigen.tools.bench.turns import flop_counter

    backbone = backbone_for(config("conditioning/modulation=shared"))
    tokens = case(backbone, padded=False, size=1)
    with flop_counter() as counter:
        forward(backbone, tokens, mask(name), TIMES[:1])
    width, layers, c = 32, 2, backbone.model.config
    embedded = (
        2 * (256 * width + width**2) + c.text_embed_dim * width + width**2
    )  # the model's, the refiner's, the mean
    once = 2 * (embedded + c.num_refiner_layers * 2 * width**2 + layers * 2 * 6 * width**2 + 2 * width**2)
    assert counter.get_total_flops() == sum(backbone.flops(tokens.layout, mask(name)).values()) + once
    full = backbone.flops(tokens.layout, mask("fcd_d"))
    assert (full["attention"] > backbone.flops(tokens.layout, mask(name))["attention"]) == (name != "fcd_d")


# --- LoRA ----------------------------------------------------------------------------------------------------------


def test_lora_reaches_every_linear_by_part():
    model = published()
    model.split_modulation({"text": "text", "condition": "image", "target": "image"}, tied=True)
    kinds = (torch.nn.Linear, torch.nn.Conv3d)
    linears = {n for n, m in model.model.named_modules() if isinstance(m, kinds)}
    every = {n for n, _ in model.model.named_modules()}
    found = {part: {n for n in every if re.fullmatch(pattern, n)} for part, pattern in model.lora_targets().items()}
    finer = [found.pop(part) for part in ("feed_forward_in", "feed_forward_out")]
    assert set().union(*finer) == found["feed_forward"] and all(len(names) == 108 for names in finer)
    counts = {part: len(names) for part, names in found.items()}
    assert counts == {"attention": 432, "modulation": 108, "feed_forward": 216, "embedders": 24}
    assert set().union(*found.values()) == linears and sum(counts.values()) == len(linears) == 780
    takes = {name: model._takes(name) for name in linears}
    block, refiner = "transformer_blocks.3", "context_embedder.token_refiner.refiner_blocks.1"
    assert (
        takes[f"{block}.attn.add_q_proj"] == takes[f"{block}.attn.to_add_out"] == takes[f"{refiner}.ff.net.2"] == "text"
    )
    assert takes[f"{block}.ff_context.net.2"] == takes["context_embedder.proj_in"] == "text"
    assert takes[f"{refiner}.attn.to_q"] == "text" and takes[f"{block}.ff.net.2"] == "visual"
    assert takes[f"{block}.attn.to_q"] == takes["x_embedder.proj"] == takes["proj_out"] == "visual"
    assert takes[f"{block}.norm1.branches.image"] == takes[f"{block}.norm1_context.branches.text"] == "one"
    assert takes["norm_out.linear"] == takes["time_embed.timestep_embedder.linear_1"] == "one"
    assert (
        takes[f"{refiner}.norm_out.linear"] == takes["context_embedder.time_text_embed.text_embedder.linear_1"] == "one"
    )


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


def test_a_lora_loads_into_the_stock_model(tmp_path):
    """With one branch for all images the export is diffusers' own: its model takes it, and computes the same."""
    made = config("conditioning/modulation=shared", "conditioning/adapter=lora")
    stock, pipeline = stock_model(made), build_pipeline(made)
    pipeline.backbone = backbone = ours(stock, made)
    with torch.no_grad():
        for name, p in backbone.named_parameters():
            if ".lora_" in name:
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))) * 0.2)
    assert export.lora_is_for(backbone.model).startswith("a stock HunyuanVideo15Transformer3DModel of diffusers")
    export.save(pipeline, tmp_path, made)
    tokens = case(backbone)
    plain, expected = stock_forward(stock, tokens), forward(backbone, tokens, mask("fcd_d"))
    stock.load_lora_adapter(str(tmp_path), weight_name="pytorch_lora_weights.safetensors")
    torch.testing.assert_close(stock_forward(stock, tokens), expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(plain, expected, atol=1e-2), "negative control"


# --- the stock model ------------------------------------------------------------------------------------------------


def test_a_model_without_branches_is_exported_as_the_stock_one(tmp_path):
    """With the weights that ours does not read, so that the file spells words in quotation marks as before."""
    made = config("conditioning/modulation=shared")
    stock = stock_model(made)
    stock.save_pretrained(tmp_path / "stock")
    backbone = build({**made["backbone"], "pretrained": str(tmp_path / "stock")})
    build(made["conditioning"]["modulation"]).apply(backbone, tied=False)
    backbone.stock().save_pretrained(tmp_path / "ours")
    read = HunyuanVideo15Transformer3DModel.from_pretrained(tmp_path / "ours")
    tokens = case(backbone)
    assert read.state_dict().keys() == stock.state_dict().keys() and backbone.predicts == "flow"
    for glyphs in (False, True):
        assert torch.equal(stock_forward(read, tokens, glyphs=glyphs), stock_forward(stock, tokens, glyphs=glyphs))
    torch.testing.assert_close(stock_forward(read, tokens), forward(backbone, tokens, mask("fcd_d")), **CLOSE)
    with torch.no_grad():
        backbone.model.proj_out.bias.add_(1)
    assert not torch.allclose(stock_forward(backbone.stock(), tokens), stock_forward(stock, tokens), atol=0.5), (
        "control"
    )


def test_an_export_from_random_weights_is_the_same_each_time():
    """What ours does not read is 0 there, and nothing depends on it."""
    backbone = backbone_for(config("conditioning/modulation=shared"))
    made, tokens = backbone.stock(), case(backbone)
    assert not any(x.any() for name, x in made.state_dict().items() if name in backbone.unread)
    torch.testing.assert_close(stock_forward(made, tokens), forward(backbone, tokens, mask("fcd_d")), **CLOSE)
    assert all(made.state_dict()[name].any() for name in ("proj_out.weight", "context_embedder.proj_in.weight"))


def test_a_model_with_two_branches_is_no_stock_model():
    backbone = backbone_for(config())
    with pytest.raises(ValueError, match="the branches condition, target; only a model in which all images share one"):
        backbone.stock()


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("use_meanflow", True, "use_meanflow is true: this is the step-distilled form"),
        ("qk_norm", "layer_norm", "qk_norm is 'layer_norm'; legal is rms_norm"),
        ("rope_axes_dim", [4, 6, 8], "it must be three even numbers with the sum attention_head_dim (16)"),
        ("in_channels", 15, "in_channels is 15; the model reads all that it predicts, so it must be at least"),
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
        stock.context_embedder.proj_in.weight.mul_(1.5)
    assert not torch.allclose(forward(backbone, tokens, mask("fcd_d")), stock_forward(stock, tokens), atol=1e-2)
