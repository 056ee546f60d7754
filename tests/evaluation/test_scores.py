"""scores.jsonl: written once, read back; what is not whole is said; a real run leaves what its means are made of,
and the checkpoints that were asked for.
"""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from small_runs import log, small, summary, train

from callbacks.checkpoint import LastCheckpoint
from unigen.config.values import ConfigError
from unigen.evaluation.clusters import Clusters
from unigen.evaluation.scores import clusters_of, read_scores, split, write_scores
from unigen.tools.export import export_checkpoint
from unigen.training import experiment as training


def test_scores_come_back_and_are_taken_out_of_the_summary(tmp_path):
    measured = {
        "metrics": {"f1": {"value": 0.5, "each": [0.25, 0.75]}, "fid": {"value": 3.0, "each": None}, "x": {"value": 1}},
        "bounds": {},
    }
    said = [{"key": f"g{i}/canny", "clusters": {"subject": "g", "prompt": str(i)}} for i in range(2)]
    clean, each, of_items = split(measured | {"of_items": said})
    assert clean == {"metrics": {"f1": {"value": 0.5}, "fid": {"value": 3.0}, "x": {"value": 1}}, "bounds": {}}
    assert each == {"f1": [0.25, 0.75]} and "each" in measured["metrics"]["f1"], "what was given is left alone"
    assert of_items == said and split(measured)[2] == []
    write_scores(tmp_path, each | {"psnr": [math.inf]}, of_items)
    clusters = Clusters(("subject", "prompt"), (("g", "g"), ("0", "1")))
    assert read_scores(tmp_path) == ({"f1": [0.25, 0.75], "psnr": [None]}, clusters)
    write_scores(tmp_path / "none", {})
    assert not (tmp_path / "none").exists() and read_scores(tmp_path / "none") == ({}, None)


def test_clusters_that_no_file_tells_are_those_of_the_keys_or_none():
    """As the scores of runs and evaluations from before clusters were written."""
    keys = [{"key": "1f34e/canny>target"}, {"key": "1f34e/depth>target"}, {"key": "1f34f/canny>target"}]
    assert clusters_of(keys) == Clusters(("key",), (("1f34e", "1f34e", "1f34f"),), told=False)
    assert clusters_of([{}, {}]) == Clusters.single(2) and clusters_of([]) is None
    told = [line | {"clusters": {"base glyph": line["key"][:4]}} for line in keys]
    assert clusters_of(told) == Clusters(("base glyph",), (("1f34", "1f34", "1f34"),))
    assert not clusters_of([*told[:2], keys[2]]).told, "of a file that tells them of some items alone"


@pytest.mark.parametrize("said", ['"clusters": [1]', '"clusters": {"a": 1}', '"key": 7', '"clusters": "a"'])
def test_clusters_that_are_none_are_refused(tmp_path, said):
    (tmp_path / "scores.jsonl").write_text(f'{{"item": 0, {said}, "f1": 0.5}}\n')
    with pytest.raises(ValueError, match=r"scores.jsonl, line 1, does not hold an item's scores"):
        read_scores(tmp_path)


@pytest.mark.parametrize("text", ['{"item": 0, "f1": 0.5}\n{"item": 1, "f1', '{"item": 0, "f1": "x"}', "[1]", "3"])
def test_a_file_that_is_not_whole_is_refused_by_its_line(tmp_path, text):
    (tmp_path / "scores.jsonl").write_text(text)
    with pytest.raises(
        ValueError, match=rf"scores.jsonl, line {len(text.splitlines())}, does not hold an item's scores"
    ):
        read_scores(tmp_path)
    (tmp_path / "scores.jsonl").write_text('{"item": 0, "image": 2, "key": "k", "seed": 7, "f1": 0.5}\n')
    assert read_scores(tmp_path).each == {"f1": [0.5]}, "negative control: facts of the item are no metrics"


def test_a_run_keeps_scores_validates_by_segment_and_its_best_checkpoint(tmp_path):
    config = small(tmp_path, "callback.checkpoint.monitor=val/loss_target", "metric=[rmse,psnr]", "trainer.max_steps=3")
    train(config)
    metrics, (scores, clusters) = summary(tmp_path)["metrics"], read_scores(tmp_path)
    assert clusters.told and clusters.ways == ("base glyph",) and clusters.items == 4
    assert set(scores) == {"rmse", "psnr"} and all("each" not in metric for metric in metrics.values())
    for name, each in scores.items():
        assert len(each) == metrics[name]["items"] == 4 and len(set(each)) > 1
        assert sum(each) / 4 == pytest.approx(metrics[name]["value"], rel=1e-9)
    validated = [entry for entry in log(tmp_path) if "val/loss" in entry]
    assert [entry["val/loss_target"] for entry in validated] == [entry["val/loss"] for entry in validated]
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=False)
    losses = {entry["step"]: entry["val/loss_target"] for entry in validated}
    assert losses[best["global_step"]] == min(losses.values()) and len(losses) == 3
    [state] = [state for name, state in best["callbacks"].items() if name.startswith("LastCheckpoint")]
    assert state["best"] == pytest.approx(min(losses.values()))


class Saving:
    """As much of a trainer as the checkpoint asks."""

    sanity_checking, global_step = False, 0

    def __init__(self) -> None:
        self.saved, self.callback_metrics = [], {}
        self.max_steps = -1
        self.state = type("State", (), {"fn": "fit"})

    def save_checkpoint(self, path) -> None:
        self.saved.append((path.name, self.callback_metrics["val/x"]))


@pytest.mark.parametrize(("mode", "kept"), [("min", [3.0, 1.0, 0.5]), ("max", [3.0, 4.0])])
def test_the_best_is_that_of_all_validations_also_after_a_stop(tmp_path, mode, kept):
    trainer, callback = Saving(), LastCheckpoint(str(tmp_path), 10, "val/x", mode)
    for i, value in enumerate((3.0, 1.0, math.nan, 4.0, 0.5, 1.0)):
        if i == 3:  # stopped and resumed
            state, callback = callback.state_dict(), LastCheckpoint(str(tmp_path), 10, "val/x", mode)
            callback.load_state_dict(state)
        trainer.callback_metrics = {"val/x": value}
        callback.on_validation_end(trainer, None)
    assert trainer.saved == [("best.ckpt", value) for value in kept]
    LastCheckpoint(str(tmp_path), 10).on_validation_end(trainer, None)
    assert len(trainer.saved) == len(kept), "nothing is monitored by default"


def test_steps_in_between_stay_and_are_saved_once(tmp_path):
    trainer, callback = Saving(), LastCheckpoint(str(tmp_path), 4, keep=3)
    trainer.lightning_module = type("Module", (), {"require_finite": lambda self: None})()
    trainer.callback_metrics = {"val/x": 0.0}
    for step in (1, 2, 3, 3, 4, 5, 6, 7):  # 3 twice: a batch that is half a step
        trainer.global_step = step
        callback.on_train_batch_end(trainer, None, None, None, 0)
    assert [name for name, _ in trainer.saved] == ["step_3.ckpt", "last.ckpt", "step_6.ckpt"]
    for wrong in (0, True, {}):
        with pytest.raises(
            ValueError, match=r"checkpoint\.keep is .*; legal are a number of steps from 1 on, and null"
        ):
            LastCheckpoint(str(tmp_path), 10, keep=wrong)


@pytest.mark.parametrize(
    ("monitor", "due", "held"), [("val/x", True, True), ("val/x", False, False), (None, True, False)]
)
def test_the_last_step_is_saved_after_a_validation_that_may_be_the_best(tmp_path, monitor, due, held):
    """Else a run that is killed between them goes on from the last step, trains nothing, and has no best.ckpt of it."""
    trainer, callback = Saving(), LastCheckpoint(str(tmp_path), 2, monitor)
    trainer.lightning_module = type("Module", (), {"require_finite": lambda self: None})()
    trainer.fit_loop = type("Loop", (), {"total_batch_idx": 3})
    trainer.val_check_batch, trainer.max_steps, trainer.global_step = (2 if due else 3), 4, 4
    trainer.callback_metrics = {"val/x": 1.0}
    callback.on_train_batch_end(trainer, None, None, None, 0)
    callback.on_validation_end(trainer, None)
    callback.on_train_end(trainer, None)
    first, best, after = [("last.ckpt", 1.0)], [("best.ckpt", 1.0)] if monitor else [], [("last.ckpt", 1.0)]
    assert trainer.saved == (best + after if held else first + best)


def test_a_kept_step_is_exported_by_its_name(tmp_path):
    train(small(tmp_path, "callback.checkpoint.keep=1", "trainer.max_steps=2"))
    assert sorted(path.stem for path in (tmp_path / "checkpoints").glob("[!.]*.ckpt")) == ["last", "step_1", "step_2"]
    weights = {}
    for word in ("last", "step_1", "step_2"):
        out = tmp_path / f"as_{word}"
        export_checkpoint({"run": str(tmp_path), "checkpoint": word, "out": str(out)})
        weights[word] = load_file(out / "unigen_modules.safetensors")
    assert all(torch.equal(x, weights["step_2"][name]) for name, x in weights["last"].items())
    assert not all(torch.equal(x, weights["step_1"][name]) for name, x in weights["last"].items()), "another step"
    with pytest.raises(ConfigError, match=r"checkpoint=step_7: .* the checkpoints of this run: last, step_1, step_2"):
        export_checkpoint({"run": str(tmp_path), "checkpoint": "step_7", "out": str(tmp_path / "none")})


def test_a_metric_that_is_not_logged_is_refused_with_those_that_are(tmp_path):
    trainer = Saving()
    trainer.callback_metrics = {"val/x": 1.0, "train/loss": 2.0}
    with pytest.raises(ValueError, match=r"monitor is 'val/los', which is not logged; there are: train/loss, val/x"):
        LastCheckpoint(str(tmp_path), 10, "val/los").on_validation_end(trainer, None)
    with pytest.raises(ValueError, match=r"mode is 'least'; legal are min, max"):
        LastCheckpoint(str(tmp_path), 10, "val/x", "least")


def test_a_finished_run_from_before_the_bounds_had_names_is_shown(tmp_path, capsys):
    metrics = {"f1": {"value": 0.5, "low": 0.1, "high": 0.9, "better": "higher", "items": 2}}
    old = {"metrics": metrics, "protocol": {"items": 2}, "samples_seen": 8, "task": "canny"}
    (tmp_path / "summary.json").write_text(json.dumps(old))
    training.run({}, tmp_path)
    assert "0.500" in capsys.readouterr().out
    with pytest.raises((KeyError, ConfigError)):
        (tmp_path / "summary.json").unlink()
        training.run({}, tmp_path)
