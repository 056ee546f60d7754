"""Loads pretrained weights in a chosen precision, and checks their config and that they are finite."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unigen.core.finite import all_finite
from unigen.weights.repositories import SHIPPED, Unavailable, Wanted, located, reason

STORED = {"float32": torch.float32, "bfloat16": torch.bfloat16}  # types of frozen encoders, by config word


def stored_type(word: str, key: str) -> torch.dtype:
    """The torch type that a config key names for frozen weights. Raises ValueError if it is not in STORED."""
    if word not in STORED:
        raise ValueError(f"{key} is {word!r}; legal are {', '.join(STORED)}")
    return STORED[word]


def in_type(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert the weights of a model to `dtype`. diffusers' own `to` would warn of modules to skip where there are
    none.
    """
    return nn.Module.to(model, dtype)


def load_pretrained(
    cls: type,
    source: str | None,
    key: str,
    subfolder: str | None = None,
    config: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Any | None:
    """Load `cls.from_pretrained(source)`; None for a null source, and on the meta device, where shapes are enough.

    `source` is a repository id or a folder, of a whole pipeline (then `subfolder` is read) or of this model alone, or
    "shipped:NAME", a folder of this package. Weights arrive in `dtype`, in whatever precision they are stored.
    Raises Unavailable, a ValueError that names the source and the config key `key`, if the weights are absent, and
    ValueError if they are of another model than `config` says, or not finite.
    """
    if source is None or torch.empty(0).is_meta:
        return None
    folder = located(Wanted(key, source, subfolder))
    try:
        with without_bars() if source.startswith(SHIPPED) else nullcontext():
            model = cls.from_pretrained(folder)
    except Exception as error:  # the libraries raise a dozen unrelated types for files that they cannot read
        raise Unavailable(
            f"{cls.__name__} cannot be loaded from {folder} ('{source}', config key {key}): {reason(error)}"
        ) from error
    if config is not None:
        check_config(model.config, config, source, key)
    if not isinstance(model, nn.Module):
        return model  # a tokenizer has no precision
    check_finite(model.named_parameters(), f"'{source}' (config key {key})")
    return in_type(model, dtype)


def check_config(stored: Any, config: Mapping[str, Any], source: str, key: str) -> None:
    """Check that the stored config has the run's values; otherwise a size changed on the command line would
    be ignored. Raises ValueError, which names the key, the value and the stored one.
    """
    for name, value in config.items():
        held = getattr(stored, name, None)
        held = list(held) if isinstance(held, tuple) else held
        if held != value:
            raise ValueError(
                f"{key.replace('pretrained', 'config')}.{name} is {value!r}, but the weights of '{source}' have "
                f"{held!r}; {key}=null builds a model of that config without them"
            )


def weights_hash(folder: Path) -> str:
    """The first 12 hexadecimal digits of the SHA-256 over the names and contents of a folder's weight files.

    Those are *.safetensors, or *.bin and *.pth where there is none. Raises FileNotFoundError for a folder without any.
    """
    found = [sorted(folder.glob(pattern)) for pattern in ("*.safetensors", "*.bin", "*.pth")]
    files = found[0] or [*found[1], *found[2]]
    if not files:
        raise FileNotFoundError(f"{folder} has no weight files (*.safetensors, *.bin or *.pth)")
    return sha256(b"".join(f"{path.name} {file_hash(path)}\n".encode() for path in files)).hexdigest()[:12]


def file_hash(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal, computed once in a process for each path, time of change and size."""
    stat = path.stat()
    return _file_hash(path.resolve(), stat.st_mtime_ns, stat.st_size)


@cache
def _file_hash(path: Path, changed: int, size: int) -> str:
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide the progress bars of transformers during the block: small files load at once."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def round_to_half(module: nn.Module) -> None:
    """Round the weights to what fp16 files will keep of them, so that what is measured is what is saved."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.half().float())


def check_finite(tensors: Iterable[tuple[str, Tensor]], source: str) -> None:
    """Check tensors. Raises ValueError, naming `source` and the tensor, for the first one with a NaN or an infinite
    number.
    """
    for name, tensor in tensors:
        if tensor.is_meta or not tensor.is_floating_point() or not tensor.numel():
            continue
        if not all_finite(tensor):
            odd = tensor.numel() - int(tensor.isfinite().sum())
            raise ValueError(
                f"{source} is damaged: {odd} of the {tensor.numel()} numbers of '{name}' are NaN or infinite"
            )
