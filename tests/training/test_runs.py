"""Every experiment trains, samples, saves, goes on after a stop and exports."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from PIL import Image
from small_runs import LORA, files, kept_images, line, log, small, summary, train
from tiny import ROOT, batch, choices, composed, experiments, methods

from unigen.core.types import TARGET
from unigen.evaluation import results
from unigen.learners.denoising import Denoising
from unigen.pipeline import export
from unigen.pipeline.build import build
from unigen.training import experiment as training

# Choices that need another key beside them: CogVideoX's time table is as long as the process's, and a flow has none.
BESIDE = {
    **{("process", f"rectified_flow{way}"): ["backbone.training_steps=1000"] for way in ("", "_shifted", "_uniform")},
    ("task", "graph"): ["data.rows=[0,0]", "conditioning/embedding=none"],
    ("task", "collage"): ["formatter=grid_clean"],
    ("task", "session"): ["mask=turns"],
}
FLUX = ["backbone.config.num_single_layers=1", "backbone.config.axes_dims_rope=[4,6,6]"]  # of the small head
CONDITIONING = ["conditioning/modulation", "conditioning/embedding", "conditioning/slots"]
GROUPS = ["task", "solver", "loss", "process", *CONDITIONING]


def width_of(config: dict) -> int:
    """Of a sample in a grid of samples: its prompt, then every image, targets as output and truth, at 3 times 32."""
    slots = next(iter(build(config["data"]).val_dataloader())).slots
    return 190 + (len(slots) + sum(slot.role == TARGET for slot in slots)) * (96 + 8) + 8


def same(pipeline, other) -> bool:
    """Whether two pipelines draw the same images, bit for bit. They are squares, which a method may halve."""
    few = batch(size=2)
    few.slots = tuple(slot._replace(width=slot.height) for slot in few.slots)
    few.images = {slot.name: few.images[slot.name][..., : slot.width] for slot in few.slots}
    images, others = pipeline.sample(few, seed=3), other.sample(few, seed=3)
    return all(torch.equal(images[name], others[name]) for name in images)


@torch.no_grad()
def disturb(pipeline) -> None:
    pipeline.backbone.model.proj_out.bias += 1


# One of each formatter, and a session of several turns; the others are slow.
QUICK = ("fcd_mask_a", "visualcloze_fill", "tic_ft", "methods/vincie_causal")


@pytest.mark.parametrize(
    "exp", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in experiments()]
)
def test_every_experiment_leaves_a_whole_run_folder(exp, tmp_path):
    flux = "axes_dims_rope" in composed(f"+exp={exp}")["backbone"]["config"]
    config = small(tmp_path, *(LORA if exp in methods() else []), f"+exp={exp}", *(FLUX if flux else []))
    pipeline = train(config)
    expected = {"config.yaml", "metrics.jsonl", "metrics.csv", "samples", "checkpoints", "export"}
    assert {p.name for p in tmp_path.iterdir()} == expected | {"summary.json", "scores.jsonl"}
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    for step in (1, 2):  # 2 samples side by side
        with Image.open(tmp_path / "samples" / f"step_{step:06d}.png") as grid:
            assert grid.size in ((2 * width_of(config), 22 + 96 + 8 + 8), (width_of(config), 22 + 96 + 8 + 8))
    first = summary(tmp_path)
    assert (first["name"], first["steps"], first["samples_seen"]) == (exp.rpartition("/")[2], 2, 8)
    assert first["protocol"]["items"] == 4 and set(first["metrics"]) == set(config["metric"])
    assert [entry["step"] for entry in log(tmp_path)] == [1, 2, 2]

    loaded, _ = export.load(tmp_path / "export")
    assert same(pipeline, loaded)
    disturb(loaded)
    assert not same(pipeline, loaded), "negative control"

    (tmp_path / "summary.json").unlink()  # as if it had been stopped between the last step and the end
    reloaded = train(config)
    assert same(pipeline, reloaded)
    assert summary(tmp_path)["metrics"] == first["metrics"]


NO_DEPTH = ("task", "depth")  # of the emoji; tests/rehearsal/test_rehearsed_tables.py runs it on other data


@pytest.mark.slow
@pytest.mark.parametrize(("group", "choice"), [(g, c) for g in GROUPS for c in choices(g) if (g, c) != NO_DEPTH])
def test_every_choice_runs(group, choice, tmp_path):
    train(small(tmp_path, f"{group}={choice}", *BESIDE.get((group, choice), []), "trainer.max_steps=1"))
    assert summary(tmp_path)["steps"] == 1


@pytest.mark.parametrize("words", [["+exp=fcd_mask_a"], ["+exp=visualcloze_fill", *FLUX]], ids=["cogvideox", "flux"])
def test_weights_may_be_bf16_themselves(words, tmp_path):
    pipeline = train(small(tmp_path, *words, "trainer.precision=bf16-true", "trainer.max_steps=1"))
    assert {p.dtype for p in pipeline.backbone.parameters()} == {torch.bfloat16} and summary(tmp_path)["steps"] == 1


def test_a_condition_in_the_cache_gives_what_the_whole_forward_gives(tmp_path, monkeypatch):
    """Mask B with the condition's own time: sampling remembers the condition, at the end of a run too."""
    own = "conditioning.modulation.timing.condition=own"
    pipeline = train(small(tmp_path, "mask=fcd_b", own, "guidance.strength=3"))
    few = batch(size=2)
    remembered = pipeline.sample(few, 0)["target"].int()
    calls = []
    remember = pipeline.backbone.remember
    monkeypatch.setattr(pipeline.backbone, "remember", lambda *a: calls.append(a) or remember(*a))
    pipeline.sample(few, 0)
    assert calls, "nothing was cached"
    monkeypatch.setattr("unigen.pipeline.pipeline.static_segments", lambda *_: ())
    assert (pipeline.sample(few, 0)["target"].int() - remembered).abs().max() <= 1


class StopAt(L.Callback):
    """Ctrl-C before the first batch of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


@pytest.fixture
def stopped(monkeypatch):
    """Runs a configuration until Ctrl-C at a step; returns the exit code."""
    handler = signal.getsignal(signal.SIGINT)  # Lightning ignores the signal from then on
    make = training.make_trainer

    def run(config, step):
        def with_stop(config):
            trainer, callbacks = make(config)
            trainer.callbacks.append(StopAt(step))
            return trainer, callbacks

        with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
            patch.setattr(training, "make_trainer", with_stop)
            train(config)
        return stop.value.code

    yield run
    signal.signal(signal.SIGINT, handler)


def checkpoint(run_dir):
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    "extra", [[*LORA, "solver=dpm"], pytest.param(["trainer.accumulate_grad_batches=2"], marks=pytest.mark.slow)]
)
def test_a_stopped_run_goes_on_where_it_was(extra, tmp_path, stopped, capfd):
    extra = [*extra, "trainer.max_steps=4", "optimizer.warmup=0"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(small(whole, *extra))
    assert stopped(small(cut, *extra), step=2) == 130
    assert capfd.readouterr().err.splitlines()[-1] == f"interrupted; run_dir={cut} goes on from the last checkpoint"
    assert not (cut / "summary.json").exists() and checkpoint(cut)["global_step"] == 2
    train(small(cut, *extra))

    ours, theirs = ([(entry["step"], entry.get("val/loss")) for entry in log(run_dir)] for run_dir in (cut, whole))
    assert ours == theirs and {step for step, _ in ours} >= {1, 2, 3, 4}
    assert checkpoint(cut)["global_step"] == 4
    ours, theirs = checkpoint(cut), checkpoint(whole)
    for name, weight in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], weight), name
        assert torch.equal(ours["callbacks"]["EMA"]["average"][name], theirs["callbacks"]["EMA"]["average"][name]), name
    assert ours["callbacks"]["Throughput"]["samples"] == theirs["callbacks"]["Throughput"]["samples"]
    assert summary(cut)["metrics"] == summary(whole)["metrics"]


def test_the_seed_decides_the_weights(tmp_path):
    """The negative control of every comparison of runs above."""
    runs = [tmp_path / "0", tmp_path / "1"]
    for seed, run_dir in enumerate(runs):
        train(small(run_dir, f"seed={seed}", "trainer.max_steps=1"))
    weights = [checkpoint(run_dir)["state_dict"]["parts.backbone.model.proj_out.weight"] for run_dir in runs]
    assert not torch.allclose(*weights)


def test_a_stop_before_the_first_checkpoint_says_so(tmp_path, stopped, capfd):
    assert stopped(small(tmp_path), step=0) == 130
    assert capfd.readouterr().err.splitlines()[-1] == "interrupted; there is no checkpoint yet"


def test_a_checkpoint_holds_what_is_trained_and_the_fitted_codec(tmp_path):
    train(small(tmp_path, *LORA, "trainer.max_steps=1"))
    kept = checkpoint(tmp_path)
    of_backbone = [name for name in kept["state_dict"] if name.startswith("parts.backbone")]
    assert of_backbone and all("lora_" in name for name in of_backbone)
    assert set(kept["codec"]) == {"mean", "components", "scale", "fitted"}
    assert {name.split(".")[1] for name in kept["state_dict"]} == {"backbone", "embedding", "text"}


def test_frozen_encoders_are_placed_after_the_module(tmp_path, monkeypatch):
    """Lightning moves the module between `setup` and `on_fit_start`; on a GPU the codec has to follow it."""
    seen = []
    place, move = Denoising.place_frozen, L.pytorch.strategies.SingleDeviceStrategy.model_to_device
    monkeypatch.setattr(Denoising, "place_frozen", lambda self: (seen.append("codec"), place(self)))
    monkeypatch.setattr(
        L.pytorch.strategies.SingleDeviceStrategy, "model_to_device", lambda self: (seen.append("module"), move(self))
    )
    train(small(tmp_path, "trainer.max_steps=1"))
    assert seen[0] == "module" and "codec" in seen
    learner = Denoising(small(tmp_path)).to("meta")
    assert not learner.pipeline.codec.mean.is_meta, "it does not belong to the module"
    learner.place_frozen()
    assert learner.pipeline.codec.mean.is_meta


def test_csv_keeps_the_last_value_of_a_step_and_skips_a_torn_line(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"step": 2, "a": 1}\n{"step": 1, "b": 3}\n{"step": 2, "a": 5}\n{"step": 3, "a"')
    results.write_csv(tmp_path / "m.jsonl", tmp_path / "m.csv")
    assert (tmp_path / "m.csv").read_text().splitlines() == ["step,a,b", "1,,3", "2,5,"]


# --- the command line ------------------------------------------------------------------------------------------


def started(folder: Path, script: str, *words: str) -> subprocess.CompletedProcess:
    """The command as a user starts it, knowing nothing of this machine's accounts."""
    isolated = {"HOME": str(folder / "home"), "WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | isolated
    argv = [sys.executable, str(ROOT / "experiments" / script), *words]
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_the_shipped_family_is_used(tmp_path):
    """The default scale: through the shipped codec, judged by the shipped judge."""
    steps = ["trainer.max_steps=2", "validation.every=1", "solver.steps=2", "callback.sample_grid.items=2"]
    items = ["data.batch_size=2", "data.val_items=2", "evaluation.items=2", "data.limit=200"]
    words = ["logger=[jsonl]", f"run_dir={tmp_path}", kept_images(), *steps, *items]
    pipeline = train(composed("+exp=fcd_mask_a", *words))
    metrics = summary(tmp_path)["metrics"]
    assert set(metrics) == {"canny_f1", "ssim", "psnr", "rmse", "mini_clip_i", "mini_clip_t", "mini_dino"}
    assert len({score["protocol_hash"] for score in metrics.values()}) == len(metrics)
    assert metrics["mini_clip_i"]["high"] > 0.8 > metrics["mini_clip_i"]["value"], "it knows a glyph from noise"
    assert not any(p.requires_grad for p in pipeline.codec.parameters())
    again, _ = export.load(tmp_path / "export")
    assert same(pipeline, again)


@pytest.mark.slow
def test_an_ablation_and_its_report(tmp_path):
    words = line("trainer.max_steps=1", "hydra.sweep.dir=sweep")
    done = started(tmp_path, "run.py", "-m", "+exp=fcd_mask_a,fcd_mask_b", *words)
    assert done.returncode == 0, done.stderr
    sweep = tmp_path / "sweep"
    assert done.stdout.splitlines()[-1] == f"run folder: {sweep}"
    runs = sorted(path for path in sweep.iterdir() if path.is_dir())
    assert [run.name for run in runs] == ["0_fcd_mask_a_canny_seed0", "1_fcd_mask_b_canny_seed0"]
    for run in runs:
        assert f"run folder: {run}" in done.stdout.splitlines()
        assert len(list(run.glob("wandb/offline-run-*/run-*.wandb"))) == 1, "each run has W&B files of its own"

    report = started(tmp_path, "report.py", f"runs={sweep}")
    assert report.returncode == 0, report.stderr
    for name in ("report.md", "report.html"):
        text = (sweep / name).read_text()
        assert "fcd_mask_a" in text and "fcd_mask_b" in text

    before = files(runs[0])
    again = started(tmp_path, "run.py", "+exp=fcd_mask_a", *words[:-1], f"run_dir={runs[0]}")
    assert again.returncode == 0, again.stderr
    assert "this run is finished" in again.stdout
    assert again.stdout.splitlines()[-1] == f"run folder: {runs[0]}"
    assert files(runs[0]) == before


def test_help_lists_the_experiments_and_imports_nothing_heavy(tmp_path):
    script = (
        "import atexit, runpy, sys; sys.argv = ['run.py', '--help'];"
        "atexit.register(lambda: print('heavy', {'torch', 'lightning'} & set(sys.modules)));"
        f"runpy.run_path({str(ROOT / 'experiments' / 'run.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "exp: " + ", ".join(choices("exp")) in done.stdout
    assert done.stdout.splitlines()[-1] == "heavy set()"
