"""A run that comes with the package: written in fp16 by learner=shipped_run, sampled and measured by shipped:NAME."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_runs import command, files, small, train
from tiny import tiny

from unigen.learners.shipped_run import self_contained
from unigen.pipeline import export
from unigen.pipeline.build import build_pipeline
from unigen.pipeline.pipeline import Pipeline
from unigen.weights import repositories

MADE = "small"  # what is exported beside the run, by the name mini_small


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "trained"
    train(small(folder, "+exp=fcd_mask_a", "trainer.max_steps=1", "learner=shipped_run", f"name=mini_{MADE}"))
    return folder


@pytest.fixture
def shipped(run_dir, tmp_path, monkeypatch):
    """The folder of the shipped run, where the package has it."""
    root = tmp_path / "shipped"
    shutil.copytree(run_dir / "export" / MADE, root / MADE)
    for name in ("config.yaml", "summary.json"):
        shutil.copy(run_dir / name, root / MADE)
    monkeypatch.setattr(repositories, "shipped_folder", lambda text: root / text.removeprefix("shipped:"))
    return root / MADE


def test_the_small_export_is_the_run_in_half_the_bytes(run_dir):
    whole, half = run_dir / "export", run_dir / "export" / MADE / "export"
    one, two = (load_file(folder / export.MODULES_FILE) for folder in (whole, half))
    assert set(one) == set(two) and all(torch.equal(one[k], two[k].to(one[k].dtype)) for k in one)
    trained = [name for name in two if name.startswith("backbone.")]
    assert trained and {two[name].dtype for name in trained} == {torch.float16}
    assert {one[name].dtype for name in trained} == {torch.float32}, "negative control"
    loaded, _ = export.load(half)
    assert all(torch.equal(p, one[f"backbone.{n}"]) for n, p in loaded.backbone.model.named_parameters())


def test_the_card_says_how_to_sample(run_dir):
    said = (run_dir / "export" / MADE / "README.md").read_text()
    assert f"`sample.py run=shipped:{MADE}` reads it" in said and "CC BY-SA 4.0" in said and "Protocol: " in said


def test_it_is_sampled_and_measured_by_its_name(shipped, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").resize((40, 40)).save(tmp_path / "mine.png")
    kept = files(shipped)
    assert command("sample.py", f"run=shipped:{MADE}", "condition=mine.png", "out=out.png", "steps=1") == 0
    assert Image.open("out.png").size == (32, 32)
    words = ("evaluation.items=2", "solver.steps=1", "metric=[ssim]", "data.limit=200")
    assert command("evaluate.py", f"run=shipped:{MADE}", "bench=emoji_canny", *words) == 0, capfd.readouterr().err
    assert Path(f"runs/shipped_{MADE}/evaluation/emoji_canny/evaluation.json").is_file()
    assert files(shipped) == kept, "nothing is written there"


@pytest.mark.parametrize("script", ["sample.py", "evaluate.py"])
def test_another_name_is_one_sentence(script, shipped, capfd):
    words = ("condition=a.png",) if script == "sample.py" else ("bench=emoji_canny",)
    assert command(script, "run=shipped:nothing", *words) == 1
    assert f"run=shipped:nothing is not shipped; legal are shipped:{MADE}" in capfd.readouterr().err


def test_an_export_of_weights_that_were_all_trained_needs_no_source(tmp_path):
    words = ("conditioning/adapter=full", "conditioning/modulation=shared", "conditioning/embedding=none")
    config = tiny("+exp=fcd_mask_a", *words)
    pipeline = build_pipeline(config)
    export.save_stock(pipeline, tmp_path, "base")
    config["backbone"]["pretrained"] = str(tmp_path / "base")
    pipeline = build_pipeline(config)
    export.save(pipeline, tmp_path / "free", self_contained(pipeline, config))
    export.save(pipeline, tmp_path / "bound", config)
    shutil.rmtree(tmp_path / "base")
    loaded, _ = export.load(tmp_path / "free")
    for one, two in zip(loaded.backbone.model.parameters(), pipeline.backbone.model.parameters(), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(ValueError, match=r"base.* is not there"):
        export.load(tmp_path / "bound")  # negative control
    next(pipeline.backbone.model.parameters()).requires_grad_(False)
    assert self_contained(pipeline, config)["backbone"] == config["backbone"], "negative control: one is not trained"


def test_sampling_is_on_the_gpu_if_there_is_one(shipped, tmp_path, monkeypatch, capfd):
    asked, moved = [], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: asked.append(1) or False)
    pipeline = build_pipeline(tiny())
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *where, **_: moved.append((module, *where)) or module)
    pipeline.to_gpu()
    assert asked and not moved, "there is none"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    pipeline.to_gpu()
    assert moved == [(module, "cuda") for module in pipeline.modules]

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a small one")
    with pytest.raises(ValueError, match=r"do not fit on the GPU \(a small one\); with CUDA_VISIBLE_DEVICES= before"):
        pipeline.to_gpu()
    monkeypatch.undo()
    monkeypatch.setattr(repositories, "shipped_folder", lambda text: shipped)
    monkeypatch.setattr(Pipeline, "to_gpu", lambda self: asked.append("here"))
    image = Image.new("RGB", (40, 40), "red")
    image.save(tmp_path / "mine.png")
    words = (f"run=shipped:{MADE}", f"condition={tmp_path / 'mine.png'}", f"out={tmp_path / 'out.png'}")
    assert command("sample.py", *words) == 0, capfd.readouterr().err
    assert asked[-1] == "here", "sample.py asks for it"
