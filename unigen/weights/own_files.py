"""Reads the files that this project wrote. A damaged file gives one sentence with its name and the remedy.

They may come from elsewhere: nothing in them is run. JSON holds values, safetensors holds numbers, and checkpoints are
unpickled with `weights_only`.
"""

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unigen.config.values import ConfigError, sentence
from unigen.weights.loading import Unavailable

LONGEST = 300  # characters of a reason


def unreadable(path: Path, error: Exception | str, advice: str) -> ConfigError:
    """The error for a file that cannot be used."""
    reason = error if isinstance(error, str) else f"{'it lacks ' * isinstance(error, KeyError)}{sentence(error)}"
    reason = reason if len(reason) <= LONGEST else f"{reason[:LONGEST]}..."
    return ConfigError(f"{path} cannot be read ({reason.rstrip('.')}); {advice}")


@contextmanager
def blamed(path: Path, advice: str, *spared: type[Exception]) -> Iterator[None]:
    """Turn errors inside the block into a ConfigError that blames the content of `path`.

    A disk that fails, weights that are not on this machine, and errors that are `spared` are told as they are.
    """
    try:
        yield
    except (OSError, Unavailable, *spared):
        raise
    except Exception as error:  # a wrong value can make the parts that are built of it fail in any way
        if isinstance(error, ConfigError) and str(path) in str(error):
            raise
        raise unreadable(path, error, advice) from error


def read_object(path: Path, advice: str) -> dict[str, Any]:
    """Read a JSON object. Raises ConfigError for anything else, including numbers that are not finite."""
    try:
        found = json.loads(path.read_bytes(), parse_constant=_refuse)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing; {advice}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, error, advice) from error
    if not isinstance(found, dict):
        raise unreadable(path, "it holds no JSON object", advice)
    return found


def read_tensors(path: Path, advice: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of a safetensors file by name, and its metadata. Raises ConfigError if the file is not whole."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as opened:
            names = opened.keys()  # it is no mapping
            return {name: opened.get_tensor(name) for name in names}, opened.metadata() or {}
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing; {advice}") from error
    except Exception as error:  # safetensors and torch raise several unrelated types
        raise unreadable(path, error, advice) from error


def read_archive(path: Path) -> Any:
    """Load a file of torch.save on the CPU, after checking all checksums. Nothing in it is run.

    Raises OSError if it cannot be opened, and a dozen other types if it is damaged or of another program.
    """
    with zipfile.ZipFile(path) as archive:
        if bad := archive.testzip():
            raise ValueError(f"{bad} is not what was written: its checksum differs")
    return torch.load(path, map_location="cpu", weights_only=True)


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}")
