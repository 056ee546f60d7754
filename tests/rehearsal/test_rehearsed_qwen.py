"""Qwen-Image from the published files, by repository id and without a network; nothing but sizes is changed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import QwenImagePipeline
from published import sizes
from small_runs import kept_images, summary, train
from test_published import QWEN, snapshot
from tiny import composed, randomise

from unigen.core import noise
from unigen.core.layout import Layout, Segment, text_segment
from unigen.core.tokens import Tokens
from unigen.core.types import Batch
from unigen.pipeline import export
from unigen.pipeline.build import build, build_pipeline, pretrained

SECOND = torch.tensor([0.5, 1.0])  # times of two samples
PROMPTS = ["a red heart", "two cats on the sofa, and the dog."]


def words(experiment: str, run: Path, *more: str) -> list[str]:
    of_data = ["data.limit=200", kept_images()]
    return [f"+exp={experiment}", "family=qwen_image/paper", "scale=paper", "logger=[jsonl]", *sizes("qwen_image"),
            *of_data, *more, f"run_dir={run}"]  # fmt: skip


@torch.no_grad()
def ours_and_theirs(pipeline, transformer) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images, centred on frames 0 and 1, and padded prompts through both transformers."""
    backbone, g = pipeline.backbone.eval(), torch.Generator().manual_seed(0)
    text, valid = pipeline.text.encode(PROMPTS), pipeline.text.valid(PROMPTS)
    images = [Segment(f"{t}", "target", "visual", (1, 2, 3), (t, -1, -2)) for t in range(2)]
    features = {s.name: torch.randn(2, 6, 64, generator=g) for s in images}
    layout = backbone.placed(Layout((text_segment(text.shape[1]), *images)))
    tokens = replace(Tokens(layout, {"text": text, **features}), valid={"text": valid})
    outputs = backbone(tokens, dict.fromkeys(layout.names, SECOND), pipeline.mask)
    x, used = torch.cat(list(features.values()), dim=1), int(valid.sum(1).max())
    shapes = [[s.grid for s in images]] * 2
    theirs = transformer(x, text[:, :used], valid[:, :used], SECOND, shapes, return_dict=False)[0]
    return torch.cat(list(outputs.values()), dim=1), theirs


def test_diffusers_own_pipeline_takes_the_export_and_computes_the_same(hub, tmp_path):
    config = composed(*words("wo_sc_adaln", tmp_path / "run", "mask=fcd_d"))
    assert {one.source for one in pretrained(config)} == {QWEN}
    trained = build_pipeline(config)
    randomise(torch.nn.ParameterList(p for p in trained.backbone.parameters() if p.requires_grad), 0.1)
    export.save(trained, tmp_path / "export", config)
    said = json.loads((tmp_path / "export" / export.CONFIG_FILE).read_text())["lora_is_for"]
    assert said.startswith("a stock QwenImageTransformer2DModel of diffusers")
    stock = QwenImagePipeline.from_pretrained(QWEN, torch_dtype=torch.float32)
    assert stock.scheduler.config.shift_terminal == config["solver"]["terminal"]
    found, mask = stock.encode_prompt(PROMPTS, device="cpu")
    ours = trained.text.encode(PROMPTS)
    torch.testing.assert_close(ours[:, : found.shape[1]], found, rtol=1e-4, atol=1e-5)
    assert torch.equal(trained.text.valid(PROMPTS)[:, : found.shape[1]], mask.bool())
    assert not ours[:, found.shape[1] :].any() and (found[0] - found[1]).abs().max() > 1e-3
    bare = ours_and_theirs(trained, stock.transformer)[1]
    stock.load_lora_weights(tmp_path / "export")
    ours, theirs = ours_and_theirs(trained, stock.transformer)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert (theirs - bare).abs().max() > 0.01, "negative control: the LoRA does something"


@pytest.mark.parametrize("more", [(), ("trainer.precision=bf16-true", "encoder.text.dtype=bfloat16")])
def test_realgeneral_trains_samples_and_is_measured(more, hub, tmp_path):
    pipeline = train(composed(*words("fcd_mask_a", tmp_path, "metric=[rmse]", *more)))
    found = summary(tmp_path)
    assert found["steps"] == 2 and found["metrics"]["rmse"]["value"] > 0
    assert list((tmp_path / "samples").glob("*.png")) and export.load(tmp_path / "export")
    kind = torch.bfloat16 if more else torch.float32
    assert {p.dtype for p in pipeline.text.parameters()} == {pipeline.backbone.model.proj_out.weight.dtype} == {kind}


def test_a_folder_is_as_good_as_the_repository(hub, tmp_path):
    keys = pretrained(composed("+exp=fcd_mask_a", "family=qwen_image/paper", "scale=paper"))
    given = [f"{one.key}={snapshot(hub, QWEN)}" for one in keys]
    assert len(given) == 4
    made = []
    for more in ([], given):
        torch.manual_seed(0)
        made.append(build_pipeline(composed(*words("fcd_mask_a", tmp_path, *more))))
    assert torch.equal(*(pipeline.text.encode(PROMPTS) for pipeline in made))
    states = [pipeline.backbone.state_dict() for pipeline in made]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_sampling_equals_diffusers_own_pipeline(hub, tmp_path, monkeypatch):
    """Text to image from the same noise: its time grid, its guidance against a blank, and its norms of tokens."""
    config = composed(*words("fcd_mask_d", tmp_path, "task=text", "guidance.strength=3.0", "solver.steps=4",
                             "conditioning/modulation=shared", "conditioning/embedding=none"))  # fmt: skip
    pipeline = build_pipeline(config)
    slots = tuple(slot for slot in build(config["data"]).slots if slot.role == "target")
    images = {slot.name: torch.zeros(2, 1, 3, slot.height, slot.width, dtype=torch.uint8) for slot in slots}
    given = Batch(slots, images, PROMPTS, [()] * 2, ["text"] * 2, ["a", "b"])
    latents = {}
    monkeypatch.setattr(pipeline, "decode", lambda state, *_: latents.update(state) or {})
    pipeline.sample(given, seed=0)
    plan = pipeline.plan(slots)
    eps = pipeline.draw_noise(plan, [noise.generator(0, "sample", key) for key in given.keys])["target"]
    stock = QwenImagePipeline.from_pretrained(QWEN, torch_dtype=torch.float32)
    stock.set_progress_bar_config(disable=True)
    height, width = slots[0].height, slots[0].width
    how = {"negative_prompt": [" "] * 2, "num_inference_steps": 4, "latents": eps, "output_type": "latent"}
    found = stock(PROMPTS, true_cfg_scale=3.0, height=height, width=width, **how).images
    torch.testing.assert_close(latents["target"], found, rtol=1e-3, atol=1e-3)
    weaker = stock(PROMPTS, true_cfg_scale=2.0, height=height, width=width, **how).images
    assert not torch.allclose(weaker, found, atol=1e-2) and not torch.allclose(found, eps, atol=0.1), "controls"
