"""Checkpoints that are whole or not there: a full disk or a killed process never costs the one before."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from unigen.files import whole_file


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the final path, flushes to the disk, then renames (Lightning's own copies between file systems)."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any | None = None) -> None:
        """Raises OSError naming the file if the disk is full; what was there before stays."""
        try:
            with whole_file(Path(path)) as part, open(part, "wb") as file:
                torch.save(checkpoint, file)  # to a path, torch would not say why it fails
        except (OSError, RuntimeError) as error:  # closing its archive, torch raises a RuntimeError of its own
            raise OSError(
                f"checkpoint {path} could not be written ({_reason(error)}), the one before it is unharmed; "
                "free some space and start the same command with run_dir=<this run folder> to go on"
            ) from error


def _reason(error: Exception) -> str:
    """The first cause in one line: torch and `whole_file` wrap the system's words in their own."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return getattr(error, "strerror", None) or " ".join(str(error).split())
