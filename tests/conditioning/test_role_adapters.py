"""Adapters by role: an adapter reaches the tokens of its roles alone, costs what they cost, and travels as a file."""

import copy

import pytest
import torch
from tiny import batch, composed, randomise, tiny, tokens_for

from unigen.core.noise import generator
from unigen.pipeline import export
from unigen.pipeline.build import build_pipeline
from unigen.pipeline.header import unreached
from unigen.tools.lora import convert, merge

TABLE = {"text": None, "condition": "shown", "target": None, "example": "shown", "buffer": "shown"}
FAMILIES = ("cogvideox_mini", "flux_mini", "flux2_mini", "wan_mini", "qwen_image_mini", "hunyuan_video_mini")


def config(backbone: str, table: dict | None, *words: str, parts=("attention", "feed_forward")) -> dict:
    flow = () if backbone == "cogvideox_mini" else ("process=rectified_flow", "solver=euler")
    made = tiny(f"backbone={backbone}", *flow, *words)
    adapter = composed("conditioning/adapter=lora")["conditioning"]["adapter"]
    adapter |= {"rank": 4, "alpha": 4, "parts": list(parts), "adapters": table}
    made["conditioning"]["adapter"] = adapter
    return made


def pipeline_for(*args, **options):
    torch.manual_seed(0)
    pipeline = build_pipeline(config(*args, **options))
    for name, p in pipeline.backbone.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.5)
    return pipeline


def queries_of_layer_1(pipeline) -> dict[str, torch.Tensor]:
    """The first block's queries (B, L, D) by segment."""
    backbone, seen = pipeline.backbone, []
    module = next(m for n, m in backbone.blocks[0].named_modules() if n.endswith(("attn1.to_q", "attn.to_q")))
    handle = module.register_forward_hook(lambda m, given, out: seen.append(out.detach()))
    plan = pipeline.plan(batch().slots)
    tokens = tokens_for(plan.layout, backbone, size=2)
    times = pipeline.times(plan.layout, torch.full((2,), 0.5))
    with torch.no_grad():
        backbone(tokens, times, pipeline.mask)
    handle.remove()
    segments = plan.layout.segments if seen[0].shape[1] == len(plan.layout) else plan.layout.visual
    return dict(zip([s.name for s in segments], seen[0].split([s.tokens for s in segments], dim=1), strict=True))


@pytest.mark.parametrize("backbone", FAMILIES)
def test_the_tokens_of_other_roles_are_untouched_in_layer_1(backbone):
    pipeline = pipeline_for(backbone, TABLE)
    with_adapters = queries_of_layer_1(pipeline)
    for name, p in pipeline.backbone.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(p)
    without = queries_of_layer_1(pipeline)
    changed = {name for name in without if not torch.equal(without[name], with_adapters[name])}
    assert changed == {"condition0"}


@pytest.mark.parametrize("backbone", FAMILIES)
def test_one_adapter_for_every_role_is_pefts_own(backbone):
    plain, told = pipeline_for(backbone, None), pipeline_for(backbone, dict.fromkeys(TABLE, "same"))
    weights = {n: p for n, p in plain.backbone.model.named_parameters() if ".lora_" in n}
    for name, p in told.backbone.model.named_parameters():
        if ".lora_" in name:
            p.data.copy_(weights[name.replace(".same.", ".default.")])
    plan = plain.plan(batch().slots)
    tokens = tokens_for(plan.layout, plain.backbone, size=2)
    times = plain.times(plan.layout, torch.full((2,), 0.5))
    with torch.no_grad():
        a, b = (p.backbone(tokens, times, p.mask)["target"] for p in (plain, told))
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        told.backbone.tell_roles_apart({**dict.fromkeys(TABLE, "same"), "condition": None})
        other = told.backbone(tokens, times, told.mask)["target"]
    assert not torch.allclose(a, other, atol=1e-3), "negative control"


@pytest.mark.parametrize("backbone", FAMILIES)
def test_gradients_under_checkpointing_are_those_without(backbone):
    found = []
    for switch in ("false", "true"):
        words = (f"backbone.gradient_checkpointing={switch}", "mask=fcd_d")  # under which everybody reads the text
        pipeline = pipeline_for(backbone, {**TABLE, "target": "made"}, *words)
        pipeline.training_loss(batch(), generator(0))[0].backward()
        grads = {n: p.grad for n, p in pipeline.backbone.model.named_parameters() if ".lora_" in n}
        assert all(g is not None for g in grads.values()), "no trained weight is out of reach"
        found.append(grads)
    for name, grad in found[0].items():
        torch.testing.assert_close(grad, found[1][name], rtol=1e-4, atol=1e-6)
    assert any(g.abs().max() > 0 for g in found[0].values())


@pytest.mark.parametrize("backbone", FAMILIES)
def test_flops_are_counted_for_the_tokens_that_an_adapter_is_applied_to(backbone):
    def cost(table, mask="fcd_d"):
        pipeline = pipeline_for(backbone, table, f"mask={mask}")
        return pipeline.backbone.adapter_flops(pipeline.plan(batch().slots).layout, pipeline.mask)

    one = {**dict.fromkeys(TABLE), "target": "x"}
    every, shown, target = (cost(table) for table in (dict.fromkeys(TABLE, "x"), TABLE, one))
    assert 0 < shown == target < every, "condition and target have equally many tokens, and text some too"
    both = cost({**TABLE, "target": "made"})
    assert both == shown + target
    reads_no_text = cost(TABLE, "fcd_a") < cost(one, "fcd_a")
    assert reads_no_text == (backbone == "wan_mini"), "only there are queries of the text linears of their own"


def test_a_linear_that_the_mask_keeps_from_a_roles_tokens_has_no_adapter_of_that_role():
    """Under mask A the condition does not read the text, so no token of its adapter passes Wan's cross-attention."""
    linears = {
        mask: {n.rpartition("attn2.")[2] for n, m in named(mask).items() if "attn2" in n and "shown" in m.lora_A}
        for mask in ("fcd_a", "fcd_d")
    }
    assert linears == {"fcd_a": set(), "fcd_d": {"to_q", "to_out.0"}}, "mask D is the negative control"
    pipeline = pipeline_for("wan_mini", {**TABLE, "text": "read", "target": "made"}, "mask=fcd_a")
    (line,) = unreached(pipeline)
    assert line == (
        "adapter shown has no attn2.to_q and attn2.to_out.0: under mask fcd_a no token of its roles "
        "(condition, example, buffer) passes there"
    )
    assert unreached(pipeline_for("wan_mini", TABLE, "mask=fcd_d")) == []
    pipeline.training_loss(batch(), generator(0))[0].backward()
    trained = {n: p.grad for n, p in pipeline.backbone.model.named_parameters() if ".lora_" in n}
    assert trained and all(grad is not None for grad in trained.values())


def named(mask: str) -> dict:
    """The adapted linears of a small Wan with an adapter for conditions."""
    modules = pipeline_for("wan_mini", TABLE, f"mask={mask}").backbone.model.named_modules()
    return {name: module for name, module in modules if hasattr(module, "lora_A")}


def test_branches_of_the_modulation_have_the_adapter_of_their_roles():
    parts = ("attention", "modulation")
    pipeline = pipeline_for("cogvideox_mini", TABLE, parts=parts)
    branches = {
        name.rpartition(".")[2]: sorted(m.lora_A)
        for name, m in pipeline.backbone.model.named_modules()
        if ".norm1.branches." in name and hasattr(m, "lora_A")
    }
    assert branches == {"text": [], "condition": ["shown"], "target": []}
    with pytest.raises(ValueError, match=r"the roles that '.*branches\.video' modulates different adapters"):
        pipeline_for("cogvideox_mini", TABLE, "conditioning/modulation=shared", parts=parts)
    with pytest.raises(ValueError, match=r"modulates all roles; leave modulation and embedders out"):
        pipeline_for("wan_mini", TABLE, "conditioning/modulation=shared", parts=parts)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            {**TABLE, "conditon": "x"},
            r"role 'conditon', which does not exist; did you mean 'condition'\? legal are text",
        ),
        ({"text": None, "conditon": "x", "target": None}, r"did you mean 'condition'"),
        ({"text": None, "zzz": "x", "target": None}, r"role 'zzz', which does not exist; legal are text"),
        ({"text": None, "target": "x"}, r"no entry for condition, example; add \{condition: null, example: null\} for"),
        ({"text": None, "target": "x"}, r"or the name of one, such as x, instead of null"),
        ({**TABLE, "target": "a b"}, r"adapters\.target is 'a b'; legal are null and names such as target"),
        ({**TABLE, "target": "default"}, r"adapters\.target is 'default'; legal are null and names such as target"),
        (dict.fromkeys(TABLE), r"adapters gives no role an adapter; null itself is one adapter for all"),
    ],
)
def test_a_table_of_unknown_roles_or_names_is_refused(table, said):
    with pytest.raises(ValueError, match=said):
        build_pipeline(config("cogvideox_mini", table))


def test_embedders_cannot_be_told_apart():
    with pytest.raises(ValueError, match=r"leave (modulation and )?embedders out of conditioning\.adapter\.parts"):
        build_pipeline(config("cogvideox_mini", TABLE, parts=("attention", "embedders")))


def test_each_adapter_is_a_file_and_comes_back(tmp_path):
    """An adapter may have a name that stands in those of linears."""
    made = config("cogvideox_mini", {**TABLE, "target": "attn1"})
    torch.manual_seed(0)
    pipeline = build_pipeline(made)
    randomise(pipeline.backbone)
    made["guidance"] = made.get("guidance")
    export.save(pipeline, tmp_path, made)
    files = sorted(p.name for p in tmp_path.glob("pytorch_lora_weights*"))
    assert files == ["pytorch_lora_weights_attn1.safetensors", "pytorch_lora_weights_shown.safetensors"]
    loaded, _ = export.load(tmp_path)
    ours, theirs = ({n: x for n, x in p.backbone.model.named_parameters() if ".lora_" in n} for p in (pipeline, loaded))
    assert ours.keys() == theirs.keys() and all(torch.equal(x, theirs[n]) for n, x in ours.items())
    kept = copy.deepcopy(ours)
    randomise(pipeline.backbone, std=0.3)
    assert not all(torch.equal(x, kept[n]) for n, x in ours.items()), "negative control"


def test_a_sum_with_an_adapter_for_some_roles_is_refused(tmp_path):
    made = config("cogvideox_mini", TABLE)
    export.save(build_pipeline(made), tmp_path, made)
    path = tmp_path / "pytorch_lora_weights_shown.safetensors"
    with pytest.raises(ValueError, match=r"applied to the tokens of condition, example, buffer alone .* all tokens"):
        merge({"loras": f"[{path}]", "weights": "[1.0]", "out": str(tmp_path / "sum.safetensors")})
    with pytest.raises(ValueError, match=r"applied to the tokens of condition, example, buffer alone"):
        convert({"lora": str(path), "out": str(tmp_path / "one.safetensors")})
    with pytest.raises(ValueError, match=r"holds adapters for the tokens of some roles each \(shown; .* sample with"):
        merge({"loras": f"[{tmp_path}]", "weights": "[1.0]", "out": str(tmp_path / "sum.safetensors")})
