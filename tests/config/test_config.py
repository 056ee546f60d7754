"""A configuration as plain data: resolved, written whole, compared; packages come from this project."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from unigen.config.values import IGNORED, ConfigError, own_packages, plain, read_config, same_run, write_config


def test_plain_resolves():
    assert plain(OmegaConf.create({"a": 1, "b": {"c": "${a}", "d": ["${a}"]}})) == {"a": 1, "b": {"c": 1, "d": [1]}}


@pytest.mark.parametrize(
    ("value", "said"), [("???", "'b.c' has no value.*b.c=..."), ("${nope}", "cannot resolve 'b.c'.*nope")]
)
def test_plain_names_the_key(value, said):
    with pytest.raises(ConfigError, match=said) as caught:
        plain(OmegaConf.create({"b": {"c": value}}))
    assert "\n" not in str(caught.value)


CONFIG = {
    "seed": 0,
    "run_dir": "here",
    "logger": {"csv": {"every": 1}},
    "trainer": {"lr": 1e-5, "betas": [0.9], "mode": "1e-4"},
}


def test_config_survives_the_round_trip(tmp_path):
    write_config(tmp_path / "run", CONFIG)
    assert read_config(tmp_path / "run") == CONFIG
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("made", ["summary.json", "checkpoints/last.ckpt"])
def test_a_run_whose_configuration_is_gone_is_refused(made, tmp_path):
    """Nothing says what its checkpoint is of."""
    same_run(tmp_path, CONFIG)
    (tmp_path / made).parent.mkdir(exist_ok=True)
    (tmp_path / made).touch()
    with pytest.raises(ConfigError, match=r"has no config\.yaml; restore it or use run_dir="):
        same_run(tmp_path, CONFIG)


def test_same_run(tmp_path):
    same_run(tmp_path, CONFIG)
    write_config(tmp_path, CONFIG)
    same_run(tmp_path, CONFIG | {"seed": 3})  # nothing else is there: no run has begun
    (tmp_path / "metrics.jsonl").touch()
    before = (tmp_path / "config.yaml").read_bytes()
    same_run(tmp_path, CONFIG | {"run_dir": "there", "logger": {}, "dry_run": True})
    other = CONFIG | {"trainer": {"lr": 2e-5, "mode": "1e-4"}, "new": {}}
    with pytest.raises(ConfigError, match=r"trainer.lr is 1e-05 there and 2e-05 here") as caught:
        same_run(tmp_path, other)
    assert "trainer.betas is [0.9] there and (absent) here" in str(caught.value)
    assert str(tmp_path) in str(caught.value) and "run_dir=<another folder>" in str(caught.value)
    same_run(tmp_path, other, ignore=(*IGNORED, "trainer", "new"))
    assert (tmp_path / "config.yaml").read_bytes() == before


def test_the_samples_of_a_step_may_be_shared_out_anew(tmp_path):
    def config(devices, accumulated, batch):
        return {"trainer": {"devices": devices, "num_nodes": 1, "accumulate_grad_batches": accumulated}} | {
            "data": {"batch_size": batch}
        }

    write_config(tmp_path, config(2, 1, 4))
    (tmp_path / "metrics.jsonl").touch()
    for shares in ((1, 2, 4), (1, 1, 8), (8, 1, 1)):
        same_run(tmp_path, config(*shares))
    for shares in ((1, 1, 4), ("auto", 1, 4)):
        with pytest.raises(ConfigError, match=f"trainer.devices is 2 there and {shares[0]} here"):
            same_run(tmp_path, config(*shares))


def test_a_key_younger_than_the_run_does_not_end_it_while_it_is_null(tmp_path):
    write_config(tmp_path, CONFIG)
    (tmp_path / "metrics.jsonl").touch()
    same_run(tmp_path, CONFIG | {"younger": None, "val": {"_target_": "Reader", "root": None}})
    with pytest.raises(ConfigError, match=r"val.root is \(absent\) there and D here"):
        same_run(tmp_path, CONFIG | {"val": {"root": "D"}})
    with pytest.raises(ConfigError, match=r"younger is \(absent\) there and 3 here"):
        same_run(tmp_path, CONFIG | {"younger": 3})


@pytest.mark.parametrize("text", [b"", b"a: [1,\n", b"\xff\xfe\x00", b"- 1\n"])
def test_an_unreadable_config_is_refused(tmp_path, text):
    (tmp_path / "config.yaml").write_bytes(text)
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(ConfigError, match=r"cannot read .*config.yaml") as caught:
        same_run(tmp_path, CONFIG)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "config.yaml").read_bytes() == text


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_config(tmp_path, CONFIG)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        write_config(tmp_path, {"seed": 1})
    assert read_config(tmp_path) == CONFIG
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_own_packages(tmp_path, monkeypatch):
    for root in ("ours", "theirs"):
        (tmp_path / root / "sample_pkg").mkdir(parents=True)
        (tmp_path / root / "sample_pkg" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "ours"))
    own_packages(tmp_path / "ours", ("sample_pkg",))
    own_packages(Path(__file__).parents[2])
    monkeypatch.syspath_prepend(str(tmp_path / "theirs"))
    with pytest.raises(ConfigError) as caught:
        own_packages(tmp_path / "ours", ("sample_pkg",))
    assert str(tmp_path / "ours" / "sample_pkg") in str(caught.value)
    assert str(tmp_path / "theirs" / "sample_pkg") in str(caught.value)
    with pytest.raises(ConfigError, match="'not_there' is not installed"):
        own_packages(tmp_path / "ours", ("not_there",))
