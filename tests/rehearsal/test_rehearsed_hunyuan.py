"""HunyuanVideo-1.5 from the published layout, by repository id and without a network; nothing but sizes is changed."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import HunyuanVideo15Pipeline
from published import sizes
from small_runs import kept_images, summary, train
from test_published import HUNYUAN, snapshot
from tiny import composed, randomise

from unigen.core import noise
from unigen.core.canvas import to_tokens
from unigen.core.types import Batch
from unigen.pipeline import export
from unigen.pipeline.build import build, build_pipeline, pretrained

PROMPTS = ["a red heart", "two cats on the sofa, and the dog."]
PLAIN = ("mask=fcd_d", "task=text", "guidance.strength=3.0", "solver.steps=3", "conditioning/embedding=none")


def words(experiment: str, run: Path, *more: str) -> list[str]:
    of_data = ["data.limit=200", kept_images()]
    return [f"+exp={experiment}", "family=hunyuan_video1_5/paper", "scale=paper", "logger=[jsonl]",
            *sizes("hunyuan_video1_5"), *of_data, *more, f"run_dir={run}"]  # fmt: skip


def stock_pipeline() -> HunyuanVideo15Pipeline:
    pipe = HunyuanVideo15Pipeline.from_pretrained(HUNYUAN, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_its_own_pipeline_takes_the_export_reads_prompts_alike_and_samples_the_same(hub, tmp_path, monkeypatch):
    """A still from text, from the same noise: template, guidance against a blank, time grid, and the trained LoRA."""
    config = composed(*words("wo_sc_adaln", tmp_path / "run", *PLAIN))
    assert {one.source for one in pretrained(config)} == {HUNYUAN}
    trained = build_pipeline(config)
    randomise(torch.nn.ParameterList(p for p in trained.backbone.parameters() if p.requires_grad), 0.1)
    export.save(trained, tmp_path / "export", config)
    said = json.loads((tmp_path / "export" / export.CONFIG_FILE).read_text())["lora_is_for"]
    assert said.startswith("a stock HunyuanVideo15Transformer3DModel of diffusers")
    stock, told = stock_pipeline(), composed("+exp=fcd_mask_a", "family=hunyuan_video1_5/paper", "scale=paper")
    assert stock.scheduler.config.shift == told["solver"]["shift"]["factor"]
    untold = composed("family=hunyuan_video1_5/paper", "scale=paper", "task=graph", "conditioning/embedding=none")
    assert stock.guider.guidance_scale == untold["guidance"]["strength"]
    slots = tuple(slot for slot in build(config["data"]).slots if slot.role == "target")
    images = {slot.name: torch.zeros(2, 1, 3, slot.height, slot.width, dtype=torch.uint8) for slot in slots}
    given = Batch(slots, images, PROMPTS, [()] * 2, ["text"] * 2, ["a", "b"])
    latents = {}
    monkeypatch.setattr(trained, "decode", lambda state, *_: latents.update(state) or {})
    trained.sample(given, seed=0)
    side = slots[0].height // trained.codec.stride
    chosen = [noise.generator(0, "sample", key) for key in given.keys]
    eps = noise.normal((2, 1, trained.codec.channels, side, side), chosen).transpose(1, 2)
    how = {"height": slots[0].height, "width": slots[0].width, "num_frames": 1, "num_inference_steps": 3}

    def drawn(strength: float) -> torch.Tensor:
        stock.guider = stock.guider.new(guidance_scale=strength)
        # an empty prompt is read as a blank, once for all
        made = stock(PROMPTS, negative_prompt=["", ""], latents=eps, output_type="latent", **how).frames
        return to_tokens(made.transpose(1, 2), trained.backbone.patch)

    bare = drawn(3.0)
    stock.transformer.load_lora_adapter(tmp_path / "export", weight_name="pytorch_lora_weights.safetensors")
    found = drawn(3.0)
    torch.testing.assert_close(latents["target"], found, rtol=1e-3, atol=1e-3)
    for other in (bare, drawn(2.0)):
        assert not torch.allclose(other, found, atol=1e-2), "negative controls: without the LoRA, other guidance"


def test_the_codec_is_the_pipelines(hub, tmp_path):
    pipeline, stock = build_pipeline(composed(*words("fcd_mask_a", tmp_path))), stock_pipeline()
    x = torch.rand(1, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        theirs = stock.vae.encode(x.transpose(1, 2)).latent_dist.mode() * stock.vae.config.scaling_factor
        found = pipeline.codec.encode(x)
        torch.testing.assert_close(found, theirs.transpose(1, 2), rtol=1e-4, atol=1e-4)
        back = stock.vae.decode(theirs / stock.vae.config.scaling_factor)[0].transpose(1, 2)
        torch.testing.assert_close(pipeline.codec.decode(found), back, rtol=1e-4, atol=1e-4)
    assert back.std() > 1e-3, "negative control"


@pytest.mark.parametrize("more", [(), ("trainer.precision=bf16-true", "encoder.text.dtype=bfloat16")])
def test_realgeneral_trains_samples_and_is_measured(more, hub, tmp_path):
    pipeline = train(composed(*words("fcd_mask_a", tmp_path, "metric=[rmse]", *more)))
    found = summary(tmp_path)
    assert found["steps"] == 2 and found["metrics"]["rmse"]["value"] > 0
    assert list((tmp_path / "samples").glob("*.png")) and export.load(tmp_path / "export")
    kind = torch.bfloat16 if more else torch.float32
    assert {p.dtype for p in pipeline.text.parameters()} == {pipeline.backbone.model.proj_out.weight.dtype} == {kind}


def test_a_folder_is_as_good_as_the_repository(hub, tmp_path):
    keys = pretrained(composed("+exp=fcd_mask_a", "family=hunyuan_video1_5/paper", "scale=paper"))
    given = [f"{one.key}={snapshot(hub, HUNYUAN)}" for one in keys]
    assert len(given) == 4
    made = []
    for more in ([], given):
        torch.manual_seed(0)
        made.append(build_pipeline(composed(*words("fcd_mask_a", tmp_path, *more))))
    assert torch.equal(*(pipeline.text.encode(PROMPTS) for pipeline in made))
    states = [pipeline.backbone.state_dict() for pipeline in made]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
