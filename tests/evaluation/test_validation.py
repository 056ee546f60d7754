"""The fast tier of metrics in training: fixed samples with fixed noise, whatever the batches; off unless asked for."""

import json

import pytest
import torch
from small_runs import log, small, train
from tiny import composed

from unigen.config.values import ConfigError
from unigen.core.types import Batch, ImageSlot
from unigen.evaluation.validation import FastMetrics

SLOTS = (ImageSlot("condition", "condition", 8, 8), ImageSlot("target", "target", 8, 8))


class Seen:
    """A pipeline whose outputs are its truths, `off` too bright; keeps the samples and seeds."""

    def __init__(self, off: int = 10) -> None:
        self.keys, self.seeds, self.off = [], [], off

    def sample(self, batch: Batch, seed: int) -> dict:
        self.keys += batch.keys
        self.seeds.append(seed)
        return {"target": batch.images["target"] + self.off}


def batch(keys: list[str]) -> Batch:
    n = len(keys)
    images = {name: torch.full((n, 1, 3, 8, 8), 40, dtype=torch.uint8) for name in ("condition", "target")}
    return Batch(SLOTS, images, ["p"] * n, [()] * n, ["canny"] * n, keys)


def fast(*words: str) -> FastMetrics:
    return FastMetrics(composed("metric=[rmse,psnr,mini_kid]", "validation.metrics=[rmse]", *words))


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        ([], "abcdefghi"),
        (["validation.items=4"], "abef"),
        (["validation.items=3"], "abe"),
        (["validation.items=1"], "a"),
        (["validation.items=99"], "abcdefghi"),
    ],
)
def test_the_samples_are_spread_over_the_batches(words, seen):
    pipeline, metrics = Seen(), fast("evaluation.seed=7", *words)
    for _ in range(2):  # every validation alike
        for part in ("abcd", "efgh", "i")[: 3 if not words or "99" in words[0] else 2]:
            metrics.take(pipeline, batch(list(part)), 3 if not words or "99" in words[0] else 2)
        assert "".join(pipeline.keys) == seen and set(pipeline.seeds) == {7}
        assert metrics.scores() == {"rmse": pytest.approx(10.0)} and metrics.scores() == {}
        pipeline.keys.clear()


def test_off_samples_nothing():
    metrics = FastMetrics(composed())
    metrics.take(pipeline := Seen(), batch(["a"]), 1)
    assert pipeline.keys == [] and metrics.scores() == {}


def test_what_is_not_there_or_not_finite_is_said(capfd):
    with pytest.raises(ConfigError, match=r"validation\.metrics names 'ssim', which is no metric of this run; there"):
        fast("validation.metrics=[ssim]")
    with pytest.raises(ConfigError, match=r"validation\.items=0 must be at least 1, or null"):
        fast("validation.items=0")
    metrics = fast("validation.metrics=[rmse,psnr,mini_kid]")
    metrics.take(Seen(off=0), batch(["a", "b"]), 1)
    assert metrics.scores() == {"rmse": 0.0}
    said = capfd.readouterr().err
    assert "val/psnr is absent: not finite" in said and "val/mini_kid is absent: there are 2 images" in said
    absent = fast("metric=[dino]", "validation.metrics=[dino]", "metric.dino.model=/nowhere")
    with pytest.raises(ConfigError, match=r"validation\.metrics: dino is absent: '/nowhere' is no folder"):
        absent.check()


def test_a_run_logs_them_and_keeps_its_best_by_one(tmp_path):
    words = ("+exp=fcd_mask_a", "validation.batches=2", "data.val_items=8", "trainer.max_steps=3", "logger=[jsonl]")
    monitor = ("callback.checkpoint.monitor=val/ssim", "callback.checkpoint.mode=max")
    train(small(tmp_path / "on", *words, "validation.metrics=[ssim,rmse]", "validation.items=6", *monitor))
    found = [line["val/ssim"] for line in log(tmp_path / "on") if "val/ssim" in line]
    assert len(found) == 3 and (tmp_path / "on" / "checkpoints" / "best.ckpt").is_file()
    best = torch.load(tmp_path / "on" / "checkpoints" / "best.ckpt", weights_only=False)
    assert best["global_step"] == 1 + found.index(max(found))
    train(small(tmp_path / "off", *words))
    assert not any(key.startswith(("val/ssim", "val/rmse")) for line in log(tmp_path / "off") for key in line)
    losses = [
        [line["val/loss_target"] for line in log(tmp_path / name) if "val/loss" in line] for name in ("on", "off")
    ]
    assert losses[0] == losses[1], "sampling in between changes no training"
    summaries = [json.loads((tmp_path / name / "summary.json").read_text())["metrics"] for name in ("on", "off")]
    assert summaries[0] == summaries[1]
