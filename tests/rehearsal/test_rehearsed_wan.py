"""Wan from the published files, by repository id and without a network; nothing but sizes is changed."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline
from published import sizes
from small_runs import kept_images, summary, train
from test_published import TI2V, WAN, snapshot
from tiny import composed, randomise

from unigen.core import canvas
from unigen.core.layout import Layout, Segment, text_segment
from unigen.core.tokens import Tokens
from unigen.pipeline import export
from unigen.pipeline.build import build_pipeline, pretrained

SOURCES = {"wan": WAN, "wan_ti2v_5b": TI2V}
SECOND = torch.tensor([0.5, 1.0])  # times of two samples
PROMPTS = ["a red heart &amp;  more", "two cats on the sofa, and the dog."]


def words(experiment: str, family: str, run: Path, *more: str) -> list[str]:
    of_data = ["data.limit=200", kept_images()]
    return [f"+exp={experiment}", f"family={family}/paper", "scale=paper", "logger=[jsonl]", *sizes(family), *of_data,
            *more, f"run_dir={run}"]  # fmt: skip


@torch.no_grad()
def ours_and_theirs(pipeline, transformer) -> tuple[torch.Tensor, torch.Tensor]:
    """A latent clip (B, C, F, H, W) of two frames, and text with zeros behind it, through both transformers."""
    backbone, g = pipeline.backbone.eval(), torch.Generator().manual_seed(0)
    z = torch.randn(2, backbone.latent_channels, 2, 4, 6, generator=g)
    text = pipeline.text.encode(PROMPTS)
    images = [Segment(f"{t}", "target", "visual", (1, 2, 3), (t, 0, 0)) for t in range(2)]
    features = {s.name: canvas.to_tokens(z.transpose(1, 2)[:, [t]], backbone.patch) for t, s in enumerate(images)}
    layout = Layout((text_segment(text.shape[1]), *images))
    outputs = backbone(Tokens(layout, {"text": text, **features}), dict.fromkeys(layout.names, SECOND), pipeline.mask)
    frames = [canvas.from_tokens(outputs[s.name], s.grid, backbone.patch) for s in images]
    return torch.cat(frames, dim=1).transpose(1, 2), transformer(z, SECOND * 1000, text).sample


@pytest.mark.parametrize("family", SOURCES)
def test_diffusers_own_pipeline_takes_the_export_and_computes_the_same(family, hub, tmp_path):
    config = composed(*words("wo_sc_adaln", family, tmp_path / "run", "mask=fcd_d"))
    assert {one.source for one in pretrained(config)} == {SOURCES[family]}
    trained = build_pipeline(config)
    randomise(torch.nn.ParameterList(p for p in trained.backbone.parameters() if p.requires_grad), 0.1)
    export.save(trained, tmp_path / "export", config)
    said = json.loads((tmp_path / "export" / export.CONFIG_FILE).read_text())["lora_is_for"]
    assert said.startswith("a stock WanTransformer3DModel of diffusers")
    stock = WanPipeline.from_pretrained(SOURCES[family], torch_dtype=torch.float32)
    assert stock.scheduler.config.flow_shift == config["solver"]["shift"]["factor"]
    found = stock.encode_prompt(PROMPTS, do_classifier_free_guidance=False, max_sequence_length=512)[0]
    torch.testing.assert_close(trained.text.encode(PROMPTS), found, rtol=1e-4, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 1e-3
    bare = ours_and_theirs(trained, stock.transformer)[1]
    stock.load_lora_weights(tmp_path / "export")
    ours, theirs = ours_and_theirs(trained, stock.transformer)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (theirs - bare).abs().max() > 0.01, "negative control: the LoRA does something"


@pytest.mark.parametrize("family", SOURCES)
def test_realgeneral_trains_samples_and_is_measured(family, hub, tmp_path):
    train(composed(*words("fcd_mask_a", family, tmp_path)))
    found = summary(tmp_path)
    assert found["steps"] == 2 and all(s["value"] is not None for s in found["metrics"].values())
    assert list((tmp_path / "samples").glob("*.png")) and export.load(tmp_path / "export")


BF16 = ("trainer.precision=bf16-true", "encoder.text.dtype=bfloat16", "encoder.codec.dtype=bfloat16")


def test_all_of_it_in_bf16(hub, tmp_path):
    pipeline = train(composed(*words("fcd_mask_a", "wan", tmp_path, *BF16, "metric=[rmse]", "evaluation.items=1")))
    for module in (pipeline.codec, pipeline.text):
        assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert summary(tmp_path)["metrics"]["rmse"]["value"] > 0
    assert pipeline.backbone.model.proj_out.weight.dtype == torch.bfloat16


def test_a_folder_is_as_good_as_the_repository(hub, tmp_path):
    keys = pretrained(composed("+exp=fcd_mask_a", "family=wan/paper", "scale=paper"))
    given = [f"{one.key}={snapshot(hub, WAN)}" for one in keys]
    assert len(given) == 4
    made = []
    for more in ([], given):
        torch.manual_seed(0)
        made.append(build_pipeline(composed(*words("fcd_mask_a", "wan", tmp_path, *more))))
    assert torch.equal(*(pipeline.text.encode(PROMPTS) for pipeline in made))
    states = [pipeline.backbone.state_dict() for pipeline in made]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
