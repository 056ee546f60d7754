"""Writes checkpoints atomically: a full disk or a killed process never damages the previous one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import Strategy

from unigen.config.files import whole_file
from unigen.config.values import ConfigError
from unigen.training.consolidation import archive


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final path, flushes it to the disk, then renames it.

    Lightning's own copies between file systems instead.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any | None = None) -> None:
        """Write a checkpoint. Raises OSError naming the file if the disk is full; the previous file stays."""
        try:
            with whole_file(Path(path)) as part, open(part, "wb") as file:
                torch.save(checkpoint, file)  # to a path, torch would not say why it fails
        except (OSError, RuntimeError) as error:  # closing its archive, torch raises a RuntimeError of its own
            raise _unharmed(Path(path), error) from error

    def load_checkpoint(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint file. Raises ConfigError for a damaged file, and for a folder of shards, which only the
        strategy that wrote it can load.
        """
        if Path(path).is_dir():
            raise ConfigError(
                f"{path} is a folder of shards; go on with the strategy=deepspeed_* or fsdp2 that wrote it"
            )
        return archive(Path(path))


@contextmanager
def whole_folder(path: Path, strategy: Strategy) -> Iterator[Path]:
    """Yield a folder for all ranks to write into; when the last rank leaves the block, `path` leads to it, at once.

    `path` is a symbolic link to one of two neighbours, which take turns: a link can be replaced in one step, a folder
    cannot. Raises OSError naming the path if this rank could not write; what was there before stays. `path` must be on
    a disk that all ranks share.
    """
    path = Path(strategy.broadcast(path))
    slots = [path.with_name(f".{path.name}.{number}") for number in (0, 1)]
    if strategy.is_global_zero:
        _adopt(path, slots[0])
        part = slots[int(path.is_symlink() and path.readlink().name == slots[0].name)]
        shutil.rmtree(part, ignore_errors=True)  # the checkpoint before the last, or half a one
        part.mkdir(parents=True)
    else:
        part = path
    part = Path(strategy.broadcast(part))
    try:
        yield part
    except (OSError, RuntimeError) as error:
        raise _unharmed(path, error) from error
    strategy.barrier("written")
    if strategy.is_global_zero:
        _flush(part)
        link = path.with_name(f".{path.name}.link")
        link.unlink(missing_ok=True)
        link.symlink_to(part.name, target_is_directory=True)
        os.replace(link, path)
    strategy.barrier("in place")


def _adopt(path: Path, slot: Path) -> None:
    """Make a real folder, which a copy that follows links leaves behind, take the place of a slot."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(slot, ignore_errors=True)
        path.rename(slot)
        path.symlink_to(slot.name, target_is_directory=True)


def _flush(folder: Path) -> None:
    """Flush all files to the disk, so that a power cut does not leave empty files under a good name."""
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb+") as opened:
                os.fsync(opened.fileno())


def _unharmed(path: Path, error: Exception) -> OSError:
    before = "the one before it is unharmed" if path.exists() else "and there is none before it"
    return OSError(
        f"checkpoint {path} could not be written ({_reason(error)}), {before}; "
        "free some space and start the same command with run_dir=<this run folder> to go on"
    )


def _reason(error: Exception) -> str:
    """The first cause in one line: torch and `whole_file` wrap the system's message in their own."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return getattr(error, "strerror", None) or " ".join(str(error).split())
