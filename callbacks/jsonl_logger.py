"""Writes metrics.jsonl, the source of truth for a run's numbers: one JSON object a line, flushed at once."""

import json
import os
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from unigen.config.files import write_text


class JsonlLogger(Logger):
    """Appends {"step", "time" (unix seconds), metric: value, ...}; a resumed run continues the same file.

    Lines that a killed run logged after its checkpoint are removed (`rewind`). A step may have several lines, of
    training and of validation. Where two lines repeat a metric (files from before there was `rewind`), readers use the
    last one.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = Path(path)

    @property
    def name(self) -> str:
        return "jsonl"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        values = {k: float(v) for k, v in metrics.items() if k != "epoch"}
        if not values:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = _spelt(step, values)
        try:
            with open(self.path, "ab+") as file:
                if file.tell() and not self._ends_a_line(file):  # a killed run tore its last line
                    line = "\n" + line
                file.write(line.encode())
        except OSError as error:
            raise OSError(f"{self.path} could not be written: {error.strerror or error}") from error

    @rank_zero_only
    def rewind(self, step: int, line: Mapping[str, float]) -> None:
        """Restore the file to the moment at which a checkpoint was made in the middle of `step`, with that step's
        training `line`.

        Incomplete lines are removed too. Raises OSError if the file cannot be written; then it is unchanged.
        """
        if not self.path.exists():
            return
        kept, there = [], not line
        for text in self.path.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(text)
                own = entry["step"] == step and any(name.startswith("train/") for name in entry)
                keep = entry["step"] < step or own
            except (ValueError, KeyError, TypeError):
                continue
            there = there or own
            kept += [text + "\n"] if keep else []
        write_text(self.path, "".join(kept) + ("" if there else _spelt(step, line)))

    @staticmethod
    def _ends_a_line(file: BinaryIO) -> bool:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the configuration has a file of its own (config.yaml)."""


def _spelt(step: int | None, values: Mapping[str, float]) -> str:
    return json.dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n"
