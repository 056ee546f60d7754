"""FLUX.2-klein from files by repository id and without a network; nothing but sizes is changed."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import Flux2KleinPipeline
from published import sizes
from small_runs import kept_images, summary, train
from test_published import KLEIN
from tiny import composed, query_plan, randomise, tokens_for

from unigen.backbones.flux2 import ids
from unigen.pipeline import export
from unigen.pipeline.build import build_pipeline, pretrained

PROMPTS = ["a red heart", "two cats on the sofa, and the dog."]
BF16 = ("trainer.precision=bf16-true", "encoder.text.dtype=bfloat16", "encoder.codec.dtype=bfloat16")


def words(experiment: str, run: Path, *more: str) -> list[str]:
    of_data = ["data.limit=200", kept_images()]
    return [f"+exp={experiment}", "family=flux2_klein/paper", "scale=paper", "logger=[jsonl]", *sizes("flux2_klein"),
            *of_data, *more, f"run_dir={run}"]  # fmt: skip


@torch.no_grad()
def ours_and_theirs(pipeline, transformer) -> tuple[torch.Tensor, torch.Tensor]:
    """A condition and a target through both transformers, with the text of two prompts."""
    backbone, text, times = pipeline.backbone.eval(), pipeline.text.encode(PROMPTS), torch.tensor([0.5, 1.0])
    plan = query_plan(pipeline.formatter, backbone, 1, text_tokens=text.shape[1])
    tokens = tokens_for(plan.layout, backbone, 2).updated({"text": text})
    outputs = backbone(tokens, dict.fromkeys(tokens.layout.names, times), pipeline.mask)
    where, count = ids(tokens.layout), text.shape[1]
    x = torch.cat([tokens.features[s.name] for s in tokens.layout.visual], dim=1)
    made = transformer(x, text, times, img_ids=where[count:], txt_ids=where[:count]).sample
    return torch.cat([outputs[s.name] for s in tokens.layout.visual], dim=1), made


def test_diffusers_own_pipeline_takes_the_export_and_computes_the_same(hub, tmp_path):
    config = composed(*words("wo_sc_adaln", tmp_path / "run", "mask=fcd_d"))
    assert {one.source for one in pretrained(config)} == {KLEIN} and len(pretrained(config)) == 4
    trained = build_pipeline(config)
    randomise(torch.nn.ParameterList(p for p in trained.backbone.parameters() if p.requires_grad), 0.1)
    export.save(trained, tmp_path / "export", config)
    said = json.loads((tmp_path / "export" / export.CONFIG_FILE).read_text())["lora_is_for"]
    assert said.startswith("a stock Flux2Transformer2DModel of diffusers")
    stock = Flux2KleinPipeline.from_pretrained(KLEIN, torch_dtype=torch.float32)
    layers = tuple(trained.text.layers)  # 9, 18 and 27 as published, which the miniature does not have
    found = stock.encode_prompt(PROMPTS, max_sequence_length=64, text_encoder_out_layers=layers)[0]
    torch.testing.assert_close(trained.text.encode(PROMPTS), found, rtol=1e-4, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 1e-3
    bare = ours_and_theirs(trained, stock.transformer)[1]
    stock.load_lora_weights(tmp_path / "export")
    ours, theirs = ours_and_theirs(trained, stock.transformer)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (theirs - bare).abs().max() > 0.01, "negative control: the LoRA does something"
    x = torch.rand(1, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        expected = stock._encode_vae_image(x, None)
    cells = torch.nn.functional.pixel_unshuffle(trained.codec.encode(x[:, None])[:, 0], 2)
    torch.testing.assert_close(cells, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("more", [(), BF16], ids=["fp32", "bf16"])
def test_realgeneral_trains_samples_and_is_measured(more, hub, tmp_path):
    pipeline = train(composed(*words("fcd_mask_a", tmp_path, "formatter=tens", *more)))
    found = summary(tmp_path)
    assert found["steps"] == 2 and all(s["value"] is not None for s in found["metrics"].values())
    assert list((tmp_path / "samples").glob("*.png")) and export.load(tmp_path / "export")
    kind = torch.bfloat16 if more else torch.float32
    assert {p.dtype for module in (pipeline.codec, pipeline.text) for p in module.parameters()} == {kind}
    assert pipeline.backbone.model.proj_out.weight.dtype == kind
