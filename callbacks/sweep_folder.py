"""Hydra callback: a multirun ends by saying where it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SweepFolder(Callback):
    """Prints `run folder: <sweep folder>` as the last line of a multirun (single runs print their own)."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        print(f"run folder: {Path(config.hydra.sweep.dir).absolute()}", flush=True)
