"""NaN and infinity: a training that meets one stops, keeps the last good checkpoint, exports and draws nothing."""

import pytest
import torch
from forked_runs import code_of, forked, two_ranks
from small_runs import LORA, command, files, line, log, small, train
from tiny import batch, tiny

from unigen.core.finite import LossWatch, NotFinite, names_of_not_finite
from unigen.learners.denoising import Denoising
from unigen.pipeline.build import build_pipeline


def test_the_first_step_that_is_not_finite_is_kept():
    watch = LossWatch()
    assert watch.first() is None
    for step, loss in enumerate([0.5, 1e30, float("inf"), 0.5, float("nan")], start=1):
        watch.note(torch.tensor(loss), step)
        assert watch.first() == (3 if step >= 3 else None)


def test_tensors_are_named():
    good, bad = torch.ones(3, dtype=torch.bfloat16), torch.tensor([1.0, float("-inf")])
    assert names_of_not_finite([("a", good), ("b", torch.empty(0))]) == names_of_not_finite([]) == []
    assert names_of_not_finite([("a", good), ("b", bad), ("c", good / 0)]) == ["b", "c"]


def broken_after(step: int, monkeypatch) -> None:
    """The loss is NaN from the step behind this one on."""
    loss = Denoising.training_step
    monkeypatch.setattr(
        Denoising,
        "training_step",
        lambda self, *args: loss(self, *args) * (float("nan") if self.trainer.global_step >= step else 1.0),
    )


@pytest.mark.parametrize("adapter", [(), LORA])
def test_a_training_that_leaves_the_numbers_stops_and_costs_nothing(adapter, tmp_path, monkeypatch, capsys):
    words = line("logger=[jsonl]", "metric=[rmse]", *adapter, "trainer.max_steps=4", f"run_dir={tmp_path}")
    with monkeypatch.context() as patch:
        broken_after(2, patch)
        assert command("run.py", *words) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: training stopped after step 3: the loss of step 3 is not finite; ")
    assert "trained weights are not finite, the first is parts." in said and "optimizer.lr=" in said
    assert said.endswith(
        "nothing of it is saved or exported; start anew with a lower optimizer.lr or more optimizer.warmup"
    )
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 2 and not names_of_not_finite(kept["state_dict"].items())
    assert not (tmp_path / "export").exists() and not (tmp_path / "summary.json").exists()
    assert {entry["step"] for entry in log(tmp_path)} == {1, 2}
    assert command("run.py", *words) == 0, "negative control: it was the loss, and the folder goes on"
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


def test_the_last_step_may_break_the_weights_while_its_loss_is_finite(tmp_path):
    config = small(tmp_path, "metric=[rmse]", "trainer.max_steps=1")
    config["optimizer"]["lr"] = float("inf")  # no command line can say it
    with pytest.raises(NotFinite, match=r"after step 1: \d+ trained weights are not finite"):
        train(config)
    assert not any(name.endswith((".ckpt", ".safetensors")) for name in files(tmp_path))
    drawn = {name for name in files(tmp_path) if name.endswith(".png") and "_step_" in name}
    assert drawn and all("_step_000000" in name for name in drawn), "images of before training alone"


def test_all_ranks_stop_where_one_is_broken(tmp_path):
    config = small(tmp_path, "metric=[rmse]", "trainer.devices=2", "strategy=ddp", "trainer.accelerator=cpu")
    codes = [code_of(child) for child in two_ranks(config, lambda: None, _broken_from_the_start)]
    assert codes == [1, 1]
    said = (tmp_path / "out.txt").read_text()
    assert said.count("NotFinite: training stopped after step 1") == 2


def _broken_from_the_start() -> None:
    loss = Denoising.training_step
    Denoising.training_step = lambda *args: loss(*args) * float("nan")


@pytest.mark.parametrize("where", ["latents", "codec"])
def test_no_image_is_drawn_of_what_is_no_number(where, monkeypatch):
    pipeline = build_pipeline(tiny())
    pipeline.sample(batch(), seed=0)
    if where == "latents":
        pipeline.guidance = pipeline.guidance.at(1e38)
        message = "the sampled latents are not finite.*guidance.strength=1e"
    else:
        decode = pipeline.codec.decode
        monkeypatch.setattr(pipeline.codec, "decode", lambda z: decode(z) / 0)
        message = "the codec's images are not finite"
    with pytest.raises(NotFinite, match=message):
        pipeline.sample(batch(), seed=0)


def test_forked_helper_tells_an_error_from_success(tmp_path):
    """The negative control of the codes above."""
    assert code_of(forked(lambda: None, tmp_path / "out.txt")) == 0


def test_the_numbers_are_checked_once_a_step_and_not_once_a_micro_batch(tmp_path, monkeypatch):
    """Each check waits for the device and reads all trained weights."""
    check, calls = Denoising.require_finite, []
    monkeypatch.setattr(Denoising, "require_finite", lambda self: (calls.append(self.trainer.global_step), check(self)))
    words = ("trainer.accumulate_grad_batches=3", "trainer.log_every_n_steps=1", "trainer.max_steps=2")
    train(small(tmp_path, "metric=[rmse]", *words, "validation.every=2", "callback.checkpoint.every=2"))
    assert 0 not in calls, "before the first step"
    assert calls.count(1) == 1, "of the step without checkpoint and validation"
