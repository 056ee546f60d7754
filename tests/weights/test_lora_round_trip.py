"""A LoRA of a run in another program's names, converted, and begun with: the same function of the same base."""

import pytest
import torch
from loras import with_alphas, written
from safetensors.torch import load_file
from small_runs import command
from tiny import mask, plan_for, randomise, tiny, tokens_for

from unigen.pipeline import export
from unigen.pipeline.build import build, build_pipeline

ALPHA = 3.0
BLOCKS = ("attention", "modulation", "feed_forward")
PARTS = {  # HunyuanVideo-1.5's embedders have a convolution, whose LoRA no other program's names are read for
    "qwen_image_mini": (*BLOCKS, "embedders"),
    "hunyuan_video_mini": BLOCKS,
}


def made(name: str, *words: str) -> dict:
    parts = f"conditioning.adapter.parts=[{','.join(PARTS[name])}]"
    flow = ("process=rectified_flow", "solver=euler_static", "conditioning/modulation=shared")
    return tiny(f"backbone={name}", *flow, "conditioning/adapter=lora", parts, *words)


@torch.no_grad()
def prediction(pipeline) -> torch.Tensor:
    backbone = pipeline.backbone.eval()
    layout = backbone.placed(plan_for(build(tiny()["formatter"]), backbone).layout)
    times = dict.fromkeys(layout.names, torch.tensor([0.3]))
    return backbone(tokens_for(layout, backbone), times, mask("fcd_d"))["target"]


@pytest.mark.parametrize("name", PARTS)
def test_an_export_in_kohyas_names_is_converted_and_begun_with(name, tmp_path):
    config = made(name)
    pipeline = build_pipeline(config)
    randomise(pipeline.backbone, 0.1)
    expected = prediction(pipeline)
    export.save(pipeline, tmp_path / "export", config)
    state = load_file(tmp_path / "export" / "pytorch_lora_weights.safetensors")
    linears = {key.removeprefix("transformer.").rpartition(".lora_")[0] for key in state}
    pairs = {n: tuple(state[f"transformer.{n}.lora_{part}.weight"] for part in "AB") for n in linears}
    rank = len(next(iter(pairs.values()))[0])
    unscaled = {n: (a, b * rank / ALPHA) for n, (a, b) in pairs.items()}
    theirs = written(tmp_path / "theirs", with_alphas(unscaled, "lora_unet_", ALPHA, flat=True))
    assert command("lora.py", "convert", f"lora={theirs}", f"out={tmp_path / 'back.safetensors'}") == 0
    begun = build_pipeline(made(name, f"conditioning.adapter.start={tmp_path / 'back.safetensors'}"))
    base = {n: p for n, p in pipeline.backbone.named_parameters() if ".lora_" not in n}
    with torch.no_grad():
        for n, p in begun.backbone.named_parameters():
            if ".lora_" not in n:
                p.copy_(base[n])
    torch.testing.assert_close(prediction(begun), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        first = next(p for n, p in begun.backbone.named_parameters() if ".lora_B" in n)
        first.mul_(2)
    assert not torch.allclose(prediction(begun), expected, atol=1e-3), "negative control"
