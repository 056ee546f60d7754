"""Checkpoints that are whole or not there: a full disk or a killed process never costs the one before."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from unigen.files import whole_file


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the final path, flushes to the disk, then renames (Lightning's own copies between file systems)."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any | None = None) -> None:
        """Raises OSError naming the folder if the disk is full; what was there before stays."""
        try:
            with whole_file(Path(path)) as part:
                torch.save(checkpoint, part)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            raise OSError(
                f"checkpoint {path} could not be written ({error}); the one before it is unharmed. "
                "Free some space and start the same command with run_dir=<this run folder> to go on"
            ) from error
