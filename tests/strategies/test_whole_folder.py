"""Checkpoints in shards: whole or not there, and told from each other."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from callbacks.atomic_checkpoint import AtomicCheckpointIO, whole_folder
from unigen.config.values import ConfigError
from unigen.training.consolidation import STATE, TAG, kind, read_state

ALONE = SimpleNamespace(is_global_zero=True, broadcast=lambda x: x, barrier=lambda name: None)


def write(path: Path, text: str) -> None:
    with whole_folder(path, ALONE) as part:
        (part / "shard").write_text(text)


def read(path: Path) -> str:
    return (path / "shard").read_text()


def test_each_folder_replaces_the_one_before_which_stays_until_the_next(tmp_path):
    path = tmp_path / "checkpoints" / "last.ckpt"
    for text in ("one", "two", "three"):
        write(path, text)
        assert read(path) == text
    assert {p.name for p in path.parent.iterdir()} == {"last.ckpt", ".last.ckpt.0", ".last.ckpt.1"}
    assert {read(p) for p in path.parent.glob(".last.ckpt.?")} == {"two", "three"}


def test_half_a_folder_never_hides_the_one_before(tmp_path):
    path = tmp_path / "last.ckpt"
    write(path, "whole")
    with pytest.raises(KeyboardInterrupt):
        with whole_folder(path, ALONE) as part:
            (part / "shard").write_text("half")
            assert read(path) == "whole"
            raise KeyboardInterrupt
    assert read(path) == "whole"
    write(path, "next")
    assert read(path) == "next" and {read(p) for p in tmp_path.glob(".last.ckpt.?")} == {"whole", "next"}


def test_a_full_disk_is_one_sentence(tmp_path):
    with pytest.raises(OSError, match=r"last.ckpt could not be written \(no room\), and there is none before it"):
        with whole_folder(tmp_path / "last.ckpt", ALONE):
            raise RuntimeError("no room")
    assert not (tmp_path / "last.ckpt").exists()


def test_a_copied_folder_and_a_file_are_replaced_too(tmp_path):
    copied, file = tmp_path / "copied.ckpt", tmp_path / "file.ckpt"
    copied.mkdir()
    (copied / "shard").write_text("copy")
    file.write_text("of one device")
    for path in (copied, file):
        write(path, "new")
        assert read(path) == "new" and path.is_symlink()
    assert read(tmp_path / ".copied.ckpt.0") == "copy", "the one before"


def test_a_file_takes_the_place_of_a_folder(tmp_path):
    path = tmp_path / "last.ckpt"
    write(path, "shards")
    with pytest.raises(ConfigError, match=r"last\.ckpt is a folder of shards; go on with the strategy"):
        AtomicCheckpointIO().load_checkpoint(str(path))
    AtomicCheckpointIO().save_checkpoint({"a": 1}, str(path))
    assert AtomicCheckpointIO().load_checkpoint(str(path)) == {"a": 1} and kind(path) == "one file"


def test_checkpoints_are_told_from_each_other(tmp_path):
    for name, mark in (("zero", TAG), ("fsdp2", ".metadata"), ("half", None)):
        (tmp_path / name).mkdir()
        if mark is None:
            continue
        torch.save({"global_step": 3}, tmp_path / name / STATE)
        (tmp_path / name / mark).mkdir() if mark == TAG else (tmp_path / name / mark).touch()
    assert kind(tmp_path / "zero") == "DeepSpeed" and kind(tmp_path / "fsdp2") == "FSDP2"
    assert read_state(tmp_path / "zero", "DeepSpeed") == {"global_step": 3}
    for name in ("half", "absent"):
        with pytest.raises(ConfigError, match=f"{name} is no checkpoint"):
            kind(tmp_path / name)
    with pytest.raises(ConfigError, match="was written as FSDP2, but this run's strategy reads DeepSpeed"):
        read_state(tmp_path / "fsdp2", "DeepSpeed")
