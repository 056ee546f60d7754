"""Merges and converts LoRA files for experiments/lora.py."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from unigen.config.values import ConfigError
from unigen.pipeline.export import AGAIN, CONFIG_FILE
from unigen.weights import interchange, lora_comfyui, lora_files, lora_stock
from unigen.weights.interchange import Lora
from unigen.weights.lora_stock import Fit
from unigen.weights.own_files import read_object


def merge(given: Mapping[str, str]) -> str:
    """Write the weighted sum of `loras`; return a sentence for everything that was written or left out.

    Raises ValueError for lists of unequal length, a weight that is no number, LoRAs of different or unknown base
    models, an unreadable file, and an `out` that exists.
    """
    paths = [Path(word) for word in _list(given, "loras")]
    weights = [_number(word) for word in _list(given, "weights")]
    if len(paths) != len(weights):
        raise ConfigError(f"loras= names {len(paths)} files, weights= has {len(weights)} numbers; give one for each")
    out = _out(given, paths)
    understood = [lora_files.understand(path) for path in paths]
    _refuse_roles(paths)
    loras = [lora for lora, _ in understood]
    merged = interchange.merge(loras, weights)
    state = interchange.state_of(merged)
    fits = _tried("the sum", merged, state)
    lora_files.write(out, state)
    parts = ", ".join(
        f"{w:g} × {path.name} ({len(lora)} linears)" for w, path, lora in zip(weights, paths, loras, strict=True)
    )
    notes = [f"{path}: {note}" for path, (_, notes) in zip(paths, understood, strict=True) for note in notes]
    return "\n".join([f"{_said(out, merged)}: {parts}", _fits(merged, fits), *notes])


def _refuse_roles(paths: Sequence[Path]) -> None:
    """Raise ConfigError for a LoRA that applies to some roles alone: a sum would be applied to all tokens."""
    for path in paths:
        if roles := lora_files.roles_of(path):
            raise ConfigError(
                f"{path} is applied to the tokens of {', '.join(roles)} alone (conditioning.adapter.adapters); what is "
                "merged or converted would be applied to all tokens, which is another model (in ComfyUI "
                f"{lora_comfyui.NODE})"
            )


PROGRAMS = ("diffusers", "comfyui")  # whose names `convert` writes


def convert(given: Mapping[str, str]) -> str:
    """Write `lora` for diffusers or ComfyUI with scale 1; return a sentence for everything written or left out.

    Raises ValueError as `merge` does, and for a LoRA that no stock model of diffusers takes.
    """
    path, program = Path(given["lora"]), given.get("for", PROGRAMS[0])
    if program not in PROGRAMS:
        raise ConfigError(f"for={program} is no program that LoRAs are written for; legal are {', '.join(PROGRAMS)}")
    out = _out(given, [path])
    lora, notes = lora_files.understand(path)
    _refuse_roles([path])
    lora = interchange.joined(lora)
    if branches := _branches(lora):
        raise ConfigError(
            f"{path}: {len(branches)} linears such as '{branches[0]}' are of a modulation that this project has split "
            "(SC-AdaLN), and in no stock model; conditioning.adapter.start takes the file as it is, and in ComfyUI "
            f"{lora_comfyui.NODE}"
        )
    state = interchange.state_of(lora)
    fits = _tried(path, lora, state)
    if all(fit.published is None and fit.width >= lora_stock.LARGE for fit in fits):
        if said := lora_stock.beyond(lora, fits):
            raise ConfigError(f"{path}: {said}")
        legal = ", ".join(f"{name} ({width} wide)" for name, (_, width, _) in lora_stock.PUBLISHED.items())
        raise ConfigError(f"{path}: it has the names of {fits[0].model}, but sizes of another model; known are {legal}")
    if program == "comfyui":
        return "\n".join([_said(out, lora), _write_for_comfyui(path, out, lora), *notes])
    lora_files.write(out, state)
    return "\n".join([_said(out, lora), _fits(lora, fits), *notes])


def _write_for_comfyui(path: Path, out: Path, lora: Lora) -> str:
    """Write the LoRA in ComfyUI's names; return a sentence on the model that it is for."""
    try:
        state, said = lora_comfyui.convert(lora, _model_beside(path))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    lora_files.write_plain(out, state)
    return said


def _model_beside(path: Path) -> str | None:
    """Return the class of the model that a run's export says its LoRA is for; None for any other file."""
    about = (path if path.is_dir() else path.parent) / CONFIG_FILE
    return read_object(about, AGAIN).get("lora_model") if about.is_file() else None


def _tried(what: object, lora: Lora, state: Mapping[str, Tensor]) -> list[Fit]:
    sizes = {name: (delta.down_RI.shape[1], len(delta.up_OR)) for name, delta in lora.items()}
    try:
        return lora_stock.check(sizes, state)
    except ValueError as error:
        raise ConfigError(f"{what}: {error}") from error


def _said(out: Path, lora: Lora) -> str:
    ranks = sorted({len(delta.down_RI) for delta in lora.values()})
    size = sum(x.numel() for delta in lora.values() for x in delta if x is not None)
    spread = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    kinds = " and ".join(sorted({str(x.dtype).removeprefix("torch.") for x in interchange.state_of(lora).values()}))
    return f"{out}: {len(lora)} linears, rank {spread}, {size:,} parameters in {kinds}"


def _fits(lora: Lora, fits: list[Fit]) -> str:
    if branches := _branches(lora):
        return f"No stock model takes it: '{branches[0]}' is of SC-AdaLN; conditioning.adapter.start does."
    return f"It was loaded into {', and into '.join(map(str, fits))}."


def _branches(lora: Lora) -> list[str]:
    return [name for name in lora if lora_stock.BRANCH.search(name)]


def _list(given: Mapping[str, str], key: str) -> list[str]:
    """Return the words of a list [a,b]. Raises ValueError for anything else, and for an empty list."""
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
    if out.exists() or out.is_symlink():
        here = out.exists() and any(out.samefile(lora_files.file_of(path)) for path in read)
        said = "would overwrite a LoRA that was given" if here else "is there already, and nothing is overwritten"
        raise ConfigError(f"out={out} {said}; name another file")
    return out
