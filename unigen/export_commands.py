"""What experiments/export.py does: the export of any checkpoint of a run, as the run's end would have written it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from unigen.build import build, build_learner
from unigen.config import ConfigError, read_config
from unigen.consolidation import restored
from unigen.own_files import blamed


class Prepared:
    """Data that are prepared when something is asked of them: weights can be exported where the data are not."""

    def __init__(self, data: Any) -> None:
        self._data, self._prepared = data, False

    def __getattr__(self, name: str) -> Any:
        if not self._prepared:
            self._data.prepare_data()
            self._prepared = True
        return getattr(self._data, name)


def export_checkpoint(given: Mapping[str, str]) -> Path:
    """Write the export of a checkpoint and return its folder. `given` are the words of export.py.

    Raises ConfigError for a folder without a run, a checkpoint that is not there or of another configuration, and an
    export that is there already.
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
    """`last` and `best` are those of the run; anything else is a path."""
    folder = run / "checkpoints"
    path = folder / f"{word}.ckpt" if word in ("last", "best") else Path(word)
    if not path.exists():
        there = ", ".join(sorted(p.stem for p in folder.glob("[!.]*.ckpt"))) or "none"
        raise ConfigError(f"checkpoint={word}: {path} is not there; the checkpoints of this run: {there}")
    return path
