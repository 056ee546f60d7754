"""Lightning's Trainer alone, for tests of what it drives: on the CPU, silent, and it leaves no file."""

from typing import Any

import lightning as L

SILENT = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")


def bare_trainer(steps: int, **options: Any) -> L.Trainer:
    return L.Trainer(max_steps=steps, accelerator="cpu", **dict.fromkeys(SILENT, False), **options)
