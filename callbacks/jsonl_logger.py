"""metrics.jsonl: the source of truth for a run's numbers. One JSON object a line, flushed at once."""

import json
import os
import time
from argparse import Namespace
from pathlib import Path
from typing import Any, BinaryIO

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only


class JsonlLogger(Logger):
    """Appends {"step", "time" (unix seconds), metric: value, ...}; a resumed run goes on in the same file.

    Lines of steps that a killed run had already logged may repeat: readers let the last one win.
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
        line = json.dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n"
        try:
            with open(self.path, "ab+") as file:
                if file.tell() and not self._ends_a_line(file):  # a killed run tore its last line
                    line = "\n" + line
                file.write(line.encode())
        except OSError as error:
            raise OSError(f"{self.path} could not be written: {error.strerror or error}") from error

    @staticmethod
    def _ends_a_line(file: BinaryIO) -> bool:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The configuration has a file of its own (config.yaml)."""
