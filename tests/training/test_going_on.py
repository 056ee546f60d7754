"""A folder that holds a run and is started again with more steps, other measurements, or without its checkpoint."""

import json
import shutil

import pytest
import torch
from forked_runs import differing
from small_runs import command, files, line, log, small, summary, train

from unigen.config.files import unused
from unigen.config.values import Change, ConfigError, same_run, write_config
from unigen.evaluation.results import read_summary

CONSTANT = ("optimizer.warmup=0", "optimizer.cooldown=0", "metric=[rmse]")


def weights(run_dir):
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_more_steps_train_a_finished_run_on_to_where_the_longer_run_is(tmp_path, capsys):
    short, whole = tmp_path / "short", tmp_path / "whole"
    train(small(short, *CONSTANT, "trainer.max_steps=2"))
    first = summary(short)
    train(small(whole, *CONSTANT, "trainer.max_steps=4"))
    assert differing(weights(short), weights(whole)), "negative control"
    capsys.readouterr()
    train(small(short, *CONSTANT, "trainer.max_steps=4"))
    said = capsys.readouterr().out.splitlines()
    first_line = said.index("this run was finished; its summary is kept as summary_step_000002.json")
    assert said[first_line + 1] == "it goes on to step 4 instead of 2"
    assert differing(weights(short), weights(whole)) == []
    assert json.loads((short / "summary_step_000002.json").read_text()) == first
    assert (summary(short)["steps"], summary(short)["metrics"]) == (4, summary(whole)["metrics"])
    ours, theirs = ([{k: v for k, v in x.items() if k != "time"} for x in log(run)] for run in (short, whole))
    assert ours == theirs


def test_a_schedule_that_depends_on_the_length_is_said_and_followed(tmp_path, capsys):
    words = ("optimizer.warmup=0", "optimizer.cooldown=1", "metric=[rmse]", "trainer.log_every_n_steps=1")
    train(small(tmp_path, *words, "trainer.max_steps=2"))
    before = weights(tmp_path)
    train(small(tmp_path, *words, "trainer.max_steps=3"))
    assert "it goes on to step 3 instead of 2; the learning rate follows the longer schedule" in capsys.readouterr().out
    assert differing(before, weights(tmp_path)), "the rate of the finished schedule, 0, is not what is trained with"


def test_a_run_may_be_measured_in_another_way(tmp_path, capsys):
    train(small(tmp_path, *CONSTANT))
    before, first = weights(tmp_path), summary(tmp_path)
    capsys.readouterr()
    train(small(tmp_path, *CONSTANT, "evaluation.items=6", "metric=[psnr]", "solver.steps=3"))
    said = capsys.readouterr().out
    assert "it is measured in another way: " in said and "evaluation.items is 4 there and 6 here" in said
    assert differing(before, weights(tmp_path)) == []
    assert summary(tmp_path)["protocol"]["items"] == 6 and set(summary(tmp_path)["metrics"]) == {"psnr"}
    assert json.loads((tmp_path / "summary_step_000002.json").read_text()) == first
    train(small(tmp_path, *CONSTANT, "evaluation.items=4", "metric=[psnr]"))
    assert (tmp_path / "summary_step_000002_2.json").is_file(), "no summary is written over"


def test_another_training_is_refused(tmp_path):
    config = small(tmp_path, *CONSTANT)
    write_config(tmp_path, config)
    (tmp_path / "metrics.jsonl").touch()
    assert not same_run(tmp_path, config) and same_run(tmp_path, config) == Change()
    longer = small(tmp_path, *CONSTANT, "trainer.max_steps=9")
    assert same_run(tmp_path, longer).steps == (2, 9)
    watched = small(tmp_path, *CONSTANT, "validation.every=2", "callback.sample_grid.items=3")
    assert same_run(tmp_path, watched) == Change()
    for words in (["trainer.max_steps=1"], ["optimizer.lr=1e-9"], ["data.size=64"]):
        with pytest.raises(ConfigError, match="holds another configuration"):
            same_run(tmp_path, small(tmp_path, *CONSTANT, *words))


def test_a_lost_checkpoint_is_said_and_the_log_is_kept(tmp_path, capsys):
    config = small(tmp_path, *CONSTANT)
    train(config)
    old = (tmp_path / "metrics.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "checkpoints")
    before = files(tmp_path)
    assert command("run.py", *line("logger=[jsonl]", *CONSTANT, "evaluation.items=6", f"run_dir={tmp_path}")) == 1
    assert "is finished and has no checkpoints/last.ckpt" in capsys.readouterr().err and files(tmp_path) == before
    (tmp_path / "summary.json").unlink()
    train(config)
    assert (
        f"{tmp_path} has a log but no checkpoints/last.ckpt: it begins anew at step 0; the log of before is kept as "
        "metrics_without_checkpoint.jsonl"
    ) in capsys.readouterr().out.splitlines()
    assert (tmp_path / "metrics_without_checkpoint.jsonl").read_bytes() == old
    assert [entry["step"] for entry in log(tmp_path)] == [1, 2, 2]


def test_a_finished_run_without_its_configuration_is_not_taken_for_any_other(tmp_path):
    (tmp_path / "summary.json").touch()
    with pytest.raises(ConfigError, match=r"is finished and has no config\.yaml; restore it"):
        same_run(tmp_path, {"seed": 0})
    (tmp_path / "summary.json").unlink()
    assert same_run(tmp_path, {"seed": 0}) == Change()


@pytest.mark.slow
def test_damaged_files_of_a_run_are_named_and_left(tmp_path, capsys):
    train(small(tmp_path, *CONSTANT))
    last, words = tmp_path / "checkpoints" / "last.ckpt", line("logger=[jsonl]", *CONSTANT, f"run_dir={tmp_path}")
    whole = last.read_bytes()
    for damage in (whole[:-2000], b"", b"PK\x05\x06" + bytes(18)):
        last.write_bytes(damage)
        before = files(tmp_path)
        assert command("run.py", *words, "trainer.max_steps=3") == 1
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith(f"error: {last} cannot be read (") and "remove it to begin anew at step 0" in said
        assert files(tmp_path).keys() >= {"checkpoints/last.ckpt"} and (tmp_path / "export").is_dir()
        if damage != b"PK\x05\x06" + bytes(18):  # what torch alone finds out
            assert files(tmp_path) == before
            continue
        (tmp_path / "summary_step_000002.json").rename(tmp_path / "summary.json")
    last.write_bytes(whole)
    good = summary(tmp_path)
    for text in ("{", "[]", "{}", json.dumps(good | {"metrics": {"rmse": 3}}), json.dumps(good | {"protocol": None})):
        (tmp_path / "summary.json").write_text(text)
        with pytest.raises(ConfigError, match=r"summary.json (cannot be read|is damaged) \(.*remove the file") as error:
            read_summary(tmp_path)
        assert "\n" not in str(error.value)
    (tmp_path / "summary.json").write_text(json.dumps(good))
    assert read_summary(tmp_path) == good


def test_weights_are_exported_before_they_are_measured(tmp_path, monkeypatch):
    """What fails in a metric, or is killed there, costs no weights."""

    def broken(*_):
        raise OSError("the metric's weights are gone")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="are gone"):
        patch.setattr("unigen.learners.denoising.evaluate", broken)
        train(small(tmp_path, *CONSTANT))
    assert (tmp_path / "export" / "unigen.json").is_file() and not (tmp_path / "summary.json").exists()
    train(small(tmp_path, *CONSTANT))
    assert summary(tmp_path)["steps"] == 2


def test_an_unused_name(tmp_path):
    path = tmp_path / "a.json"
    assert unused(path) == path
    for name in ("a.json", "a_2.json"):
        (tmp_path / name).touch()
    assert unused(path) == tmp_path / "a_3.json"
