"""FLUX.2 in numbers: sizes, FLOPs, the linears that LoRA reaches, exports; and what its parts refuse."""

import re

import pytest
import torch
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
from flux2_case import TIMES, case, config, forward, ours, pair, stock_forward, stock_model
from tiny import backbone_for, batch, composed, mask, randomise, tiny

from unigen.backbones.flux2 import Flux2
from unigen.core.layout import VISUAL_STREAM, Layout, Segment, text_segment
from unigen.pipeline import export
from unigen.pipeline.build import build, build_on_meta, build_pipeline, pretrained
from unigen.tools.lora import convert
from unigen.weights.lora_stock import check

# Parameters and widths of text, by the name of a YAML file and of a family.
PUBLISHED = {
    "flux2_klein_4b": ("flux2_klein", 3_875_544_576, 7680),
    "flux2_klein_9b": ("flux2_klein_9b", 9_078_581_248, 12288),
    "flux2_dev": ("flux2_dev", 32_223_281_152, 15360),
}
RANK = 256


def published(name: str = "flux2_klein_4b") -> Flux2:
    with torch.device("meta"):
        return build(composed(f"backbone={name}", "process=rectified_flow")["backbone"])


# --- numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_models_have_their_parameters(name):
    backbone, (_, count, width) = published(name), PUBLISHED[name]
    assert backbone.stock_parameters == sum(p.numel() for p in backbone.model.parameters()) == count
    assert all(p.is_meta for p in backbone.parameters())
    assert (backbone.patch, backbone.latent_channels, backbone.text_width) == ((1, 2, 2), 32, width)
    assert (backbone.pooled_width, backbone.context_width, backbone.axes) == (None, 0, ("t", "h", "w"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_realgeneral_on_the_published_models_by_family_alone(name):
    """LoRA of rank 256 on attention and modulation; the text encoder is as wide as the model reads."""
    family, count, width = PUBLISHED[name]
    config = composed("+exp=fcd_mask_a", f"family={family}/paper", "scale=paper")
    pipeline = build_on_meta(config)
    assert (pipeline.backbone.stock_parameters, pipeline.text.width, pipeline.text.tokens) == (count, width, 512)
    assert {one.source for one in pretrained(config)} == {config["backbone"]["pretrained"]}
    assert (config["backbone"]["guidance"] is None) == (name != "flux2_dev")
    ours = pipeline.backbone.model.config
    d, mlp, double, single = pipeline.backbone.width, 3, ours.num_layers, ours.num_single_layers
    attention = double * 8 * 2 * d + single * ((1 + 3 + 2 * mlp) + (1 + mlp + 1)) * d
    modulation = 2 * (1 + 6) * d + (1 + 6) * d + 3 * (1 + 3) * d
    trained = sum(p.numel() for p in pipeline.backbone.parameters() if p.requires_grad)
    assert trained == RANK * (attention + modulation)


def test_published_sizes_cost_what_torch_counts_for_the_stock_model():
    """Two stills of 512² and 512 text tokens; what is made once a clock is below a thousandth."""
    boxes = [Segment(f"{i}", "target", VISUAL_STREAM, (1, 32, 32), (i, 0, 0)) for i in range(2)]
    cost = published().flops(Layout((text_segment(512), *boxes)), mask("fcd_d"))
    assert sum(cost.values()) / 1e12 == pytest.approx(17.744, rel=1e-3)


def test_flops_count_what_torch_counts():
    from unigen.tools.bench.turns import flop_counter

    backbone = backbone_for(config("conditioning/modulation=shared", mlp_ratio=2.5))
    tokens = case(backbone)
    tokens = type(tokens)(tokens.layout, {n: x[:1] for n, x in tokens.features.items()})
    with flop_counter() as counter:
        forward(backbone, tokens, mask("fcd_d"), TIMES[:1])
    width = 32
    once = 2 * (256 * width + width**2 + (6 + 6 + 3 + 2) * width**2)  # a clock: time embedder, modulation and read-out
    assert counter.get_total_flops() == sum(backbone.flops(tokens.layout, mask("fcd_d")).values()) + once
    less = backbone.flops(tokens.layout, mask("fcd_a"))
    assert less["attention"] < backbone.flops(tokens.layout, mask("fcd_d"))["attention"], "negative control"


# --- LoRA ----------------------------------------------------------------------------------------------------------


def test_lora_reaches_every_linear_by_part():
    model = published()
    linears = {n: m for n, m in model.model.named_modules() if isinstance(m, torch.nn.Linear)}
    found = {part: {n for n in linears if re.fullmatch(pattern, n)} for part, pattern in model.lora_targets().items()}
    finer = [found.pop(part) for part in ("feed_forward_in", "feed_forward_out")]
    assert set().union(*finer) == found["feed_forward"] and all(len(names) == 10 for names in finer)
    counts = {part: len(names) for part, names in found.items()}
    assert counts == {"attention": 80, "modulation": 3, "feed_forward": 20, "embedders": 6}
    assert set().union(*found.values()) == set(linears) and sum(counts.values()) == len(linears)
    made = {p: sum(RANK * (linears[n].in_features + linears[n].out_features) for n in found[p]) for p in found}
    assert {part: round(count / 1e6, 1) for part, count in made.items()} == {
        "attention": 298.8,  # 62.9 in double blocks and 235.9 in single ones
        "modulation": 14.2,
        "feed_forward": 86.5,
        "embedders": 9.2,
    }
    takes = {name: model._takes(name) for name in linears}
    assert takes["transformer_blocks.3.attn.to_q"] == takes["x_embedder"] == takes["proj_out"] == "visual"
    assert takes["transformer_blocks.3.attn.add_q_proj"] == takes["transformer_blocks.3.attn.to_add_out"] == "text"
    assert takes["transformer_blocks.0.ff_context.linear_in"] == takes["context_embedder"] == "text"
    assert takes["single_transformer_blocks.0.attn.to_out"] == "every"
    once = {name for name, word in takes.items() if word == "one"}
    assert once == found["modulation"] | {n for n in found["embedders"] if n.startswith(("time", "norm_out"))}


def test_branches_are_adapted_each_by_itself():
    model = published()
    model.split_modulation({"text": "text", "condition": "condition", "target": "target"}, tied=True)
    split = {n for n, _ in model.model.named_modules() if re.fullmatch(model.lora_targets()["modulation"], n)}
    assert split == {
        "double_stream_modulation_txt.linear",
        *(f"double_stream_modulation_img.linear.branches.{name}" for name in ("condition", "target")),
        *(f"single_stream_modulation.linear.branches.{name}" for name in ("text", "condition", "target")),
    }
    served = {name: model._served(name) for name in split}
    assert served["double_stream_modulation_txt.linear"] == ("text",)
    assert served["single_stream_modulation.linear.branches.condition"] == ("condition",)
    assert all(len(roles) == 1 for roles in served.values())


def roles_apart(modulation: str, **table: str):
    made = tiny("backbone=flux2_mini", "process=rectified_flow", f"conditioning/modulation={modulation}")
    adapter = composed("conditioning/adapter=lora")["conditioning"]["adapter"] | {"rank": 4, "alpha": 4}
    roles = dict.fromkeys(("text", "condition", "target", "example", "buffer")) | table
    made["conditioning"]["adapter"] = adapter | {"parts": ["attention", "modulation"], "adapters": roles}
    return build_pipeline(made).backbone.model


def test_a_linear_of_the_modulation_has_the_adapters_of_the_roles_that_it_serves():
    shown = {"condition": "shown", "example": "shown", "buffer": "shown"}
    model = roles_apart("sc_adaln", **shown, text="words")
    found = {n: sorted(m.lora_A) for n, m in model.named_modules() if "modulation" in n and hasattr(m, "lora_A")}
    assert {n: adapters for n, adapters in found.items() if adapters} == {
        "double_stream_modulation_txt.linear": ["words"],
        "single_stream_modulation.linear.branches.text": ["words"],
        "double_stream_modulation_img.linear.branches.condition": ["shown"],
        "single_stream_modulation.linear.branches.condition": ["shown"],
    }
    with pytest.raises(ValueError, match=r"'double_stream_modulation_img\.linear' modulates different adapters \(cond"):
        roles_apart("shared", **shown)
    images = dict.fromkeys(("condition", "target", "example", "buffer"), "images")
    with pytest.raises(ValueError, match=r"'single_stream_modulation\.linear' modulates different adapters \(text: wo"):
        roles_apart("shared", **images, text="words")
    assert roles_apart("shared", **images, text="images"), "negative control: one adapter for all"


@pytest.mark.parametrize("modulation", ["shared", "sc_adaln"])
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_an_export_loads_again(adapter, modulation, tmp_path):
    words = ("backbone=flux2_mini", "process=rectified_flow", "solver=euler")
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
        loaded.backbone.model.proj_out.weight.add_(1)
    assert not torch.equal(loaded.sample(batch(), seed=3)["target"], drawn), "negative control"


def test_a_lora_loads_into_the_stock_pipeline(tmp_path):
    """With one branch for all images the export is diffusers' own: Flux2KleinPipeline computes the same with it."""
    made = config("conditioning/modulation=shared", "conditioning/adapter=lora", "process=rectified_flow")
    stock, pipeline = stock_model(made), build_pipeline(made)
    pipeline.backbone = backbone = ours(stock, made)
    with torch.no_grad():
        for name, p in backbone.named_parameters():
            if ".lora_" in name:
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))) * 0.2)
    assert export.lora_is_for(backbone.model).startswith("a stock Flux2Transformer2DModel of diffusers")
    export.save(pipeline, tmp_path / "export", made)
    tokens = case(backbone)
    plain, expected = stock_forward(stock, tokens), forward(backbone, tokens, mask("fcd_d"))
    pipe = Flux2KleinPipeline(tokenizer=None, text_encoder=None, vae=None, scheduler=None, transformer=stock)
    pipe.load_lora_weights(tmp_path / "export")
    torch.testing.assert_close(stock_forward(stock, tokens), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain, expected, atol=1e-2), "negative control"
    said = convert({"lora": str(tmp_path / "export"), "out": str(tmp_path / "again.safetensors")})
    assert "It was loaded into a Flux2Transformer2DModel of width 32" in said and "FluxTransformer" not in said


def test_a_stock_lora_begins_every_branch(tmp_path):
    """Training with SC-AdaLN goes on from a LoRA of the stock model: the same function at first."""
    words = ("backbone=flux2_mini", "process=rectified_flow", "conditioning/adapter=lora")
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
    linear = split.backbone.model.single_stream_modulation.linear
    linear.branches["target"].lora_B["default"].weight.data.mul_(2)
    assert not torch.allclose(forward(split.backbone, tokens, mask("fcd_d")), found, atol=1e-3), "negative control"


def test_a_lora_of_the_published_size_is_known_by_its_names():
    """Of single blocks alone, and of double ones, whose names FLUX.1 has too."""
    model = published().model
    sizes = {n: (m.in_features, m.out_features) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    single = {n: size for n, size in sizes.items() if n.startswith("single_") and "modulation" not in n}
    assert [str(fit) for fit in check(single, {})] == ["a Flux2Transformer2DModel of width 3072, as FLUX.2-klein-4B is"]
    double = {n: size for n, size in sizes.items() if re.fullmatch(r"transformer_blocks\.\d+\.attn\..*", n)}
    both = ["FLUX.1", "FLUX.2-klein-4B", "Qwen-Image", None]  # and HunyuanVideo-1.5's class, which is narrower
    assert [fit.published for fit in check(double, {})] == both
    assert check(sizes | {"time_guidance_embed.guidance_embedder.linear_1": (256, 3072)}, {})[0].width == 3072
    with pytest.raises(ValueError, match=r"to_out' maps 3072 to 3072, and in a Flux2Transformer2DModel"):
        check(single | {"single_transformer_blocks.0.attn.to_out": (3072, 3072)}, {})


# --- the stock model ------------------------------------------------------------------------------------------------


def test_a_model_without_branches_is_exported_as_the_stock_one(tmp_path):
    stock, backbone = pair("conditioning/modulation=shared")
    copy = backbone.stock()
    assert isinstance(copy, Flux2Transformer2DModel)
    copy.save_pretrained(tmp_path)
    read = Flux2Transformer2DModel.from_pretrained(tmp_path)
    tokens = case(backbone)
    expected = forward(backbone, tokens, mask("fcd_d"))
    assert torch.equal(stock_forward(read, tokens), expected)
    assert read.state_dict().keys() == stock.state_dict().keys()
    again = build({**config()["backbone"], "pretrained": str(tmp_path)})
    assert torch.equal(forward(again, tokens, mask("fcd_d")), expected) and again.predicts == "flow"
    with torch.no_grad():
        read.single_stream_modulation.linear.weight.add_(0.1)
    assert not torch.equal(stock_forward(read, tokens), expected), "negative control"


def test_a_model_with_two_branches_is_no_stock_model():
    backbone = backbone_for(config())
    with pytest.raises(ValueError, match="has the visual branches condition, target; only a model with one can be"):
        backbone.stock()


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [[8, 4, 4], [4, 4, 4, 6], [3, 5, 4, 4], [4.0, 4, 4, 4]])
def test_axes_that_do_not_fill_a_head_are_refused(axes):
    node = config()["backbone"]
    node["config"]["axes_dims_rope"] = axes
    said = f"axes_dims_rope is {axes}; it must be four even numbers with the sum attention_head_dim (16)"
    with pytest.raises(ValueError, match=re.escape(said)):
        build(node)


def test_guidance_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"must be null, since backbone\.config\.guidance_embeds is false"):
        build({**config()["backbone"], "guidance": {"train": 1.0, "sample": 4.0}})
    with pytest.raises(ValueError, match=r"backbone\.guidance is null, but backbone\.config\.guidance_embeds is true"):
        build({**config(guided=True)["backbone"], "guidance": None})
