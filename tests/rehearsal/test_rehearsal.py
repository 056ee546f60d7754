"""`scale=paper` from the published files, by repository id and without a network; nothing but sizes is changed.

Three experiments go all the way on the command line: training, going on, sampling, measuring by the published judges,
report, export, and the export in diffusers' own pipeline. All others are trained a step, sampled and measured.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import diffusers
import pytest
import torch
from forked_runs import differing
from PIL import Image
from published import offline, sizes
from safetensors.torch import load_file
from small_runs import command, kept_images, summary, train
from test_published import COGVIDEOX, DEV, FILL, snapshot
from tiny import choices, composed, mask, plan_for, randomise, tokens_for

from unigen.core import canvas
from unigen.core.layout import positions
from unigen.pipeline import export
from unigen.pipeline.build import build, build_pipeline, pretrained

REHEARSED = {"fcd_mask_a": COGVIDEOX, "visualcloze_dev": DEV, "visualcloze_fill": FILL}
SLOW = [name if name == "fcd_mask_a" else pytest.param(name, marks=pytest.mark.slow) for name in REHEARSED]
OTHERS = [name for name in choices("exp") if name not in REHEARSED]
JUDGES = {
    "ssim",
    "clip_i",
    "clip_t",
    "dino",
    "dinov2",
    "clip_score",
    "depth_rmse",
    "clip_i_segmented",
    "dino_segmented",
}
SECOND = torch.tensor([0.5, 1.0])  # times of two samples


def family(experiment: str) -> str:
    """As the experiment's own file says."""
    target = composed(f"+exp={experiment}", "scale=paper")["backbone"]["_target_"]
    return "flux" if target.endswith("Flux") else "cogvideox"


def words(experiment: str, run: Path, *more: str) -> list[str]:
    of_data = ["data.limit=200", kept_images()]
    return [f"+exp={experiment}", "scale=paper", "logger=[jsonl]", *sizes(family(experiment)), *of_data, *more,
            f"run_dir={run}"]  # fmt: skip


@pytest.fixture(scope="module", params=SLOW)
def rehearsed(request, published_cache, tmp_path_factory) -> Iterator[Path]:
    """The folder of a finished run, in a process that has the published files and no network."""
    run = tmp_path_factory.mktemp("runs") / request.param
    with offline(published_cache):
        assert command("run.py", *words(request.param, run)) == 0
        yield run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_a_run_trains_on_the_published_weights_and_keeps_only_its_own(rehearsed, published_cache):
    assert summary(rehearsed)["steps"] == 2 and all(s["value"] for s in summary(rehearsed)["metrics"].values())
    folder = snapshot(published_cache, REHEARSED[rehearsed.name]) / "transformer"
    stored = {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}
    pipeline, _ = export.load(rehearsed / "export")
    assert pipeline.backbone.model.is_gradient_checkpointing
    held = {k.replace(".base_layer", ""): v for k, v in pipeline.backbone.model.state_dict().items()}
    same = [k for k in stored if k in held]
    assert len(same) > 0.7 * len(stored), "the rest are norms that are split or lie otherwise"
    assert all(torch.equal(held[k], stored[k].float()) for k in same)
    own = [k for k in weights(rehearsed) if k.startswith("backbone.") and "lora_" not in k]
    assert not own, f"frozen weights in the checkpoint: {own[:3]}"


@pytest.mark.slow
def test_it_goes_on_exactly(rehearsed, tmp_path):
    short, whole = tmp_path / "short", tmp_path / "whole"
    steady = ("metric=[rmse]", "optimizer.warmup=0", "optimizer.cooldown=0", "evaluation.items=1")
    for run, steps in ((short, 1), (whole, 2), (short, 2)):
        config = composed(*words(rehearsed.name, run, *steady, f"trainer.max_steps={steps}", "validation.every=1"))
        train(config)
        if steps == 1:
            first = weights(short)
    assert differing(weights(short), weights(whole)) == []
    assert differing(first, weights(whole)), "negative control"


def test_it_samples_an_image_of_ones_own(rehearsed, tmp_path):
    Image.new("RGB", (80, 64), (200, 30, 30)).save(tmp_path / "in.png")
    of_rows = f"rows=[[{tmp_path / 'in.png'},{tmp_path / 'in.png'}],[{tmp_path / 'in.png'},null]]"
    given = f"condition={tmp_path / 'in.png'}" if rehearsed.name == "fcd_mask_a" else of_rows
    assert command("sample.py", f"run={rehearsed}", given, "prompt=a red heart", f"out={tmp_path / 'out.png'}") == 0
    colours = Image.open(tmp_path / "out.png").convert("RGB").getcolors(2**16)
    assert len(colours) > 100, "an empty image"


@pytest.mark.slow
def test_it_is_measured_by_the_published_judges_and_reported(rehearsed, tmp_path, capsys):
    bench = "emoji_canny" if rehearsed.name == "fcd_mask_a" else "emoji_graph_canny"
    asked = (f"metric=[{','.join(sorted(JUDGES))}]", "evaluation.items=2", "solver.steps=2", f"out={tmp_path / 'out'}")
    assert command("evaluate.py", f"run={rehearsed}", f"bench={bench}", *asked) == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["metrics"]
    assert set(found) == JUDGES
    empty = {name: each.get("reason") for name, each in found.items() if each["value"] is None}
    assert not empty
    assert command("report.py", f"runs={rehearsed}", f"out={tmp_path}") == 0
    assert rehearsed.name in (tmp_path / "report.md").read_text()


def test_a_checkpoint_is_exported_as_the_run_was(rehearsed, tmp_path):
    assert command("export.py", f"run={rehearsed}", f"out={tmp_path / 'again'}") == 0
    for name in (export.LORA_FILE, export.MODULES_FILE, export.CONFIG_FILE):
        assert (tmp_path / "again" / name).read_bytes() == (rehearsed / "export" / name).read_bytes(), name


def stirred(tmp_path: Path, experiment: str, *more: str):
    """A pipeline as the experiment has it, no LoRA at its initial value, and its export."""
    config = composed(*words(experiment, tmp_path / "run", *more))
    pipeline = build_pipeline(config)
    randomise(torch.nn.ParameterList(p for p in pipeline.backbone.parameters() if p.requires_grad), 0.1)
    export.save(pipeline, tmp_path / "export", config)
    return pipeline


@torch.no_grad()
def ours_and_theirs(pipeline, stock) -> tuple[torch.Tensor, torch.Tensor]:
    """The same clip of two frames and text through both transformers, all attending to all at one time."""
    backbone = pipeline.backbone.eval()
    layout = plan_for(build(composed("formatter=frames")["formatter"]), backbone, 1, text_tokens=8).layout
    tokens = tokens_for(layout, backbone, 2)
    outputs = backbone(tokens, dict.fromkeys(layout.names, SECOND), mask("fcd_d"))
    frames, text = [s.name for s in layout.visual], tokens.features["text"]
    if type(stock).__name__.startswith("CogVideoX"):
        z = torch.cat([canvas.from_tokens(tokens.features[s.name], s.grid, (2, 2, 2)) for s in layout.visual], dim=1)
        height, width = layout.visual[0].grid[1:]
        rope = diffusers.models.embeddings.get_3d_rotary_pos_embed(
            stock.config.attention_head_dim, None, (height, width), len(frames), grid_type="slice",
            max_size=(height, width),
        )  # fmt: skip
        found = stock(z, text, (SECOND * 1000).long() - 1, image_rotary_emb=rope).sample
        made = [canvas.from_tokens(outputs[s.name], s.grid, (2, 2, 2)) for s in layout.visual]
        return torch.cat(made, dim=1), found
    x = torch.cat([tokens.features[name] for name in frames], dim=1)
    if tokens.context:
        x = torch.cat([x, torch.cat([tokens.context[name] for name in frames], dim=1)], dim=-1)
    ids, told = positions(layout), torch.full_like(SECOND, pipeline.backbone.guidance["train"])
    places = {"txt_ids": ids[: text.shape[1]], "img_ids": ids[text.shape[1] :]}
    found = stock(x, text, tokens.pooled, SECOND, guidance=told, **places).sample
    return torch.cat([outputs[name] for name in frames], dim=1), found


@torch.no_grad()
def assert_same_text(text, stock) -> None:
    """Prompts are read as the stock pipeline reads them: window, padding, and which vector is the pooled one."""
    prompts, window = ["a red heart", "two cats on the sofa, and the dog."], {"max_sequence_length": text.window}
    if type(stock).__name__.startswith("CogVideoX"):
        found = stock.encode_prompt(prompts, do_classifier_free_guidance=False, **window)[0]
    else:
        found, pooled = stock.encode_prompt(prompts, None, **window)[:2]
        torch.testing.assert_close(text.pooled(prompts), pooled, rtol=1e-4, atol=1e-5)
        assert (pooled[0] - pooled[1]).abs().max() > 1e-3
    torch.testing.assert_close(text.encode(prompts), found, rtol=1e-4, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 1e-3


ATTENTION = "conditioning.adapter.parts=[attention]"  # CogVideoX's modulation is split in text and video always
STOCK = {
    "CogVideoXPipeline": (COGVIDEOX, "wo_sc_adaln", ATTENTION),
    "FluxPipeline": (DEV, "visualcloze_dev"),
    "FluxFillPipeline": (FILL, "visualcloze_fill"),
}


@pytest.mark.parametrize("pipeline", STOCK)
def test_diffusers_own_pipeline_of_the_repository_takes_the_export(pipeline, hub, tmp_path):
    source, *experiment = STOCK[pipeline]
    trained = stirred(tmp_path, *experiment)
    assert said_of(tmp_path).startswith("a stock ") and "load_lora_weights" in said_of(tmp_path)
    stock = getattr(diffusers, pipeline).from_pretrained(source, dtype=torch.float32)
    assert_same_text(trained.text, stock)
    bare = ours_and_theirs(trained, stock.transformer)[1]
    stock.load_lora_weights(tmp_path / "export")
    ours, theirs = ours_and_theirs(trained, stock.transformer)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (theirs - bare).abs().max() > 0.01, "negative control: the LoRA does something"


def test_what_stock_models_have_no_place_for_is_said(hub, tmp_path):
    stirred(tmp_path, "fcd_mask_a")
    assert "modulation this project has split" in said_of(tmp_path) and "in no stock model" in said_of(tmp_path)


def test_cogvideox_without_sc_adaln_is_converted_for_the_stock_pipeline(hub, tmp_path):
    """Table 3's arm: the stock norm makes both modulations by one linear, of which the LoRA has the rank of both."""
    trained, file = stirred(tmp_path, "wo_sc_adaln"), tmp_path / "stock.safetensors"
    assert "lora.py convert lora=<this folder>" in said_of(tmp_path)
    assert command("lora.py", "convert", f"lora={tmp_path / 'export'}", f"out={file}") == 0
    stock = diffusers.CogVideoXPipeline.from_pretrained(COGVIDEOX, dtype=torch.float32)
    stock.load_lora_weights(file)
    ours, theirs = ours_and_theirs(trained, stock.transformer)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    stock.transformer.transformer_blocks[0].norm1.linear.lora_B["default_0"].weight.data.mul_(0.5)
    assert (ours_and_theirs(trained, stock.transformer)[1] - ours).abs().max() > 1e-3, "negative control"


def said_of(folder: Path) -> str:
    return json.loads((folder / "export" / export.CONFIG_FILE).read_text())["lora_is_for"]


@pytest.mark.slow
@pytest.mark.parametrize("experiment", OTHERS)
def test_every_other_experiment_trains_samples_and_is_measured(experiment, hub, tmp_path):
    least = ("trainer.max_steps=1", "validation.every=1", "evaluation.items=1", "data.val_items=1")
    train(composed(*words(experiment, tmp_path, *least, "callback.sample_grid.items=1")))
    found = summary(tmp_path)
    assert found["steps"] == 1 and found["metrics"] and all(s["value"] is not None for s in found["metrics"].values())
    assert list((tmp_path / "samples").glob("*.png"))


def from_folders(experiment: str, folder: Path, alone: bool) -> list[str]:
    """The words that name a pipeline's folder for every part, or each part's own."""
    keys = pretrained(composed(f"+exp={experiment}", "scale=paper"))
    return [f"{one.key}={folder / one.part if alone else folder}" for one in keys]


@pytest.mark.parametrize("experiment", SLOW)
@pytest.mark.parametrize("alone", [False, True])
def test_folders_are_as_good_as_the_repository(experiment, alone, hub, tmp_path):
    """A whole download anywhere, and each part of it by itself: the same weights, the same words."""
    given = from_folders(experiment, snapshot(hub, REHEARSED[experiment]), alone)
    assert len(given) == (4 if experiment == "fcd_mask_a" else 6)
    made = []
    for more in ([], given):
        torch.manual_seed(0)
        made.append(build_pipeline(composed(*words(experiment, tmp_path, *more))))
    for by_id, by_folder in zip(*(pipeline.modules for pipeline in made), strict=True):
        assert differing(by_id.state_dict(), by_folder.state_dict()) == []
    prompts = ["a red heart", "two cats"]
    assert torch.equal(*(pipeline.text.encode(prompts) for pipeline in made))
    assert torch.equal(*(pipeline.text.pooled(prompts) for pipeline in made))


BF16 = ("trainer.precision=bf16-true", "encoder.text.dtype=bfloat16", "encoder.codec.dtype=bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["fcd_mask_a", "visualcloze_fill"])
def test_all_of_it_in_bf16(experiment, hub, tmp_path):
    pipeline = train(composed(*words(experiment, tmp_path, *BF16, "metric=[rmse]", "evaluation.items=1")))
    for module in (pipeline.codec, pipeline.text):
        assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert summary(tmp_path)["metrics"]["rmse"]["value"] > 0
    assert pipeline.backbone.model.proj_out.weight.dtype == torch.bfloat16
    assert export.load(tmp_path / "export")
