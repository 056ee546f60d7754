"""What experiments/lora.py does with LoRA files, from the words of its command line."""

import math
from collections.abc import Mapping
from pathlib import Path

from unigen import interchange, lora_files
from unigen.config import ConfigError
from unigen.interchange import Lora


def merge(given: Mapping[str, str]) -> str:
    """Write the weighted sum of `loras`; returns what was written, in a sentence.

    Raises ValueError for lists of unequal length, a weight that is no number, LoRAs of different base models, an
    unreadable file, and an `out` that is one of them.
    """
    paths = [Path(word) for word in _list(given, "loras")]
    weights = [_number(word) for word in _list(given, "weights")]
    if len(paths) != len(weights):
        raise ConfigError(f"loras= names {len(paths)} files, weights= has {len(weights)} numbers; give one for each")
    out = _out(given, paths)
    loras = [lora_files.read(path) for path in paths]
    merged = interchange.merge(loras, weights)
    parts = ", ".join(
        f"{w:g} × {path.name} ({len(lora)} linears)" for w, path, lora in zip(weights, paths, loras, strict=True)
    )
    return f"{_written(out, merged)}: {parts}"


def convert(given: Mapping[str, str]) -> str:
    """Write `lora` in diffusers' format with scale 1; returns what was written. Raises ValueError as `merge` does."""
    path = Path(given["lora"])
    out = _out(given, [path])
    return _written(out, lora_files.read(path))


def _written(out: Path, lora: Lora) -> str:
    lora_files.write(out, interchange.state_of(lora))
    ranks = sorted({len(delta.down_RI) for delta in lora.values()})
    size = sum(x.numel() for delta in lora.values() for x in delta if x is not None)
    spread = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    return f"{out}: {len(lora)} linears, rank {spread}, {size:,} parameters"


def _list(given: Mapping[str, str], key: str) -> list[str]:
    """The words of [a,b]. Raises ValueError for anything else, and for an empty list."""
    text = given[key]
    words = [word.strip() for word in text[1:-1].split(",")] if text[0] == "[" and text[-1] == "]" else []
    if not words or not all(words):
        raise ConfigError(f"{key}={text} is not a list: write {key}=[one,other], without spaces or in quotes")
    return words


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"weights= has '{word}', which is not a number")
    return value


def _out(given: Mapping[str, str], read: list[Path]) -> Path:
    out = Path(given["out"])
    if out.suffix != ".safetensors":
        raise ConfigError(f"out={out} must end in .safetensors")
    if out.resolve() in [path.resolve() for path in read]:
        raise ConfigError(f"out={out} would overwrite a LoRA that was given")
    return out
