"""A Hydra callback that gives a multirun a folder of its own, and prints it at the end."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write

from unigen.config.values import ConfigError
from unigen.launch.claims import claimed, claimed_new


class SweepFolder(Callback):
    """Claims the sweep's folder, and prints `run folder: <sweep folder>` at the end (single runs print their own).

    A generated name gets a suffix where another sweep took it in the same second. A named folder may hold a part of
    the same sweep already, whose finished runs are left alone.
    """

    def __init__(self) -> None:
        self._claim = ExitStack()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        named = any(word.lstrip("+").startswith("hydra.sweep.dir=") for word in config.hydra.overrides.hydra)
        try:
            if named:
                self._claim.enter_context(claimed(folder, "use hydra.sweep.dir=<another folder>"))
                return
            own = self._claim.enter_context(claimed_new(folder))
        except ConfigError as error:  # Hydra makes a warning of every exception of a callback
            raise SystemExit(f"error: {error}") from error
        with read_write(config.hydra):
            config.hydra.sweep.dir = str(own)
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{own}'")  # jobs are composed from these overrides

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        self._claim.close()
        print(f"run folder: {Path(config.hydra.sweep.dir).absolute()}", flush=True)
