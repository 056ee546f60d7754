"""Loading pretrained weights, with one clear sentence where they cannot be had."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

SHIPPED = "shipped:"


def shipped_folder(source: str) -> Path:
    """The folder of "shipped:NAME[/PART]": weights that come with this package."""
    return Path(__file__).resolve().parent / "shipped" / source.removeprefix(SHIPPED)


def load_pretrained(cls: type, source: str | None, key: str, subfolder: str | None = None) -> Any | None:
    """`cls.from_pretrained(source)`; None for a null source, and on the meta device, where shapes are enough.

    "shipped:NAME" is a folder of this package; those weights are stored in fp16 and arrive in fp32.
    Raises ValueError naming the source and the config key `key` if the weights are absent.
    """
    if source is None or torch.empty(0).is_meta:
        return None
    if source.startswith(SHIPPED):
        return _load_shipped(cls, source, key)
    try:
        where = {"subfolder": subfolder} if subfolder else {}
        return cls.from_pretrained(source, **where)
    except Exception as error:  # the hubs raise a dozen unrelated types for "not there"
        raise ValueError(
            f"the weights of {cls.__name__} ('{source}', config key {key}) cannot be loaded: {_reason(error)}. "
            f"Download them, set {key}=<folder>, or check the plan without weights by dry_run=true"
        ) from error


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of transformers: small files are there at once."""
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


def _load_shipped(cls: type, source: str, key: str) -> Any:
    folder = shipped_folder(source)
    try:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not there")
        with without_bars():
            return cls.from_pretrained(str(folder)).float()
    except Exception as error:
        there = sorted(p.relative_to(shipped_folder("")).as_posix() for p in shipped_folder("").glob("**/config.json"))
        names = ", ".join(f"{SHIPPED}{Path(name).parent.as_posix()}" for name in there)
        raise ValueError(
            f"the weights of {cls.__name__} ('{source}', config key {key}) cannot be loaded: {_reason(error)}. "
            f"This package ships {names or 'none'}"
        ) from error


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
