"""Exports any checkpoint of a run as the end of the run would have, for experiments/export.py."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from unigen.config.values import ConfigError, read_config
from unigen.pipeline.build import build, build_learner
from unigen.training.consolidation import restored
from unigen.weights.own_files import blamed


class Prepared:
    """Data that are prepared at the first access, so that weights can be exported where the data are missing."""

    def __init__(self, data: Any) -> None:
        self._data, self._prepared = data, False

    def __getattr__(self, name: str) -> Any:
        if not self._prepared:
            self._data.prepare_data()
            self._prepared = True
        return getattr(self._data, name)


def export_checkpoint(given: Mapping[str, str]) -> Path:
    """Write the export of a checkpoint and return its folder. `given` are the words of export.py.

    Raises ConfigError for a folder without a run, a checkpoint that is missing or of another configuration, and an
    output folder that is not empty.
    """
    run = Path(given["run"])
    config = read_config(run)
    path, out = _checkpoint(run, given.get("checkpoint", "last")), Path(given.get("out", run / "export"))
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} holds something already; give another folder: out=<folder>")
    with blamed(run / "config.yaml", "restore it"), torch.device("meta"):  # shapes alone, before weights are read
        build_learner(config)
        data = build(config["data"])
    learner = restored(config, path)
    learner.settle(Prepared(data))
    learner.export(out, config)
    return out


def _checkpoint(run: Path, word: str) -> Path:
    """Return the path of the run's checkpoint `last`, `best` or `step_N`; any other word is a path itself."""
    folder = run / "checkpoints"
    path = folder / f"{word}.ckpt" if re.fullmatch(r"last|best|step_\d+", word) else Path(word)
    if not path.exists():
        there = ", ".join(sorted(p.stem for p in folder.glob("[!.]*.ckpt"))) or "none"
        raise ConfigError(f"checkpoint={word}: {path} is not there; the checkpoints of this run: {there}")
    return path
