"""Reads and writes LoRA files, and initialises a run's adapters from them.

Shapes: R rank, I inputs and O outputs of a linear.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from unigen.config.commands import command
from unigen.config.files import stand_in, whole_tensors
from unigen.nn.adaln_zero import stock_names
from unigen.weights import lora_names
from unigen.weights.interchange import Delta, Lora, parse
from unigen.weights.loading import check_finite

LORA_FILE = "pytorch_lora_weights.safetensors"
ROLES = "unigen_roles"  # in the header of a LoRA for the tokens of some roles alone: their names
PICKLES = (".pth", ".pt", ".bin", ".ckpt")
PEFT_FOLDER, PEFT_CONFIG = "base_model.model.", "adapter_config.json"


def read(path: Path) -> Lora:
    """Read a LoRA of which everything is used and nothing guessed: `understand`, with a ValueError where it has notes.

    The path is a .safetensors file of any program that `unigen.weights.lora_names` knows, a folder with one, or a .pth
    file of VisualCloze.
    """
    lora, notes = understand(path)
    if notes:
        raise ValueError(f"{path}: {notes[0]}; `{command('lora')} convert` writes what can be used")
    return lora


def understand(path: Path) -> tuple[Lora, list[str]]:
    """Read the LoRA of the transformer from a file or folder; return it with sentences on what was left out or assumed.

    Raises ValueError for a file that is absent, unreadable, of no known format, or with numbers that are not finite.
    """
    file = file_of(path)
    try:
        if said := stand_in(file):
            raise ValueError(f"it {said}")
        state, config, beside = _read_pickle(file) if file.suffix in PICKLES else (*_read_safetensors(file), [])
        check_finite(state.items(), "it")
        names = lora_names.check(state)
        return parse(state, config), [*beside, *_left_out(state, names), *_taken_for_granted(names, config)]
    except ValueError as error:
        raise ValueError(f"{file}: {' '.join(str(error).split())}") from error


def roles_of(path: Path) -> tuple[str, ...]:
    """The roles to whose tokens alone a LoRA file of this project is applied; () for any other file."""
    file = file_of(path)
    if file.suffix in PICKLES:
        return ()
    config = _read_safetensors(file)[1]
    roles = config.get(f"transformer.{ROLES}", config.get(ROLES)) if isinstance(config, dict) else None
    return tuple(roles or ())


def _left_out(state: Mapping[str, Tensor], names: Sequence[str]) -> list[str]:
    text = [key for key in state if key not in set(names)]
    if not text:
        return []
    return [
        f"{len(text)} key(s) of text encoders ('{text[0]}', ...) are left out: this is the transformer's part alone"
    ]


def _taken_for_granted(names: Sequence[str], config: object) -> list[str]:
    """A note if alpha is unknown: peft keeps it in a file of its own, without which nobody can know it."""
    alphas = any(name.endswith(".alpha") for name in names)
    if alphas or config or not any(name.startswith(PEFT_FOLDER) for name in names):
        return []
    return [
        f"no {PEFT_CONFIG} of peft's with the alpha is beside it, so alpha is taken to be the rank (if it is another, "
        "merge with weights=[alpha/rank])"
    ]


def file_of(path: Path) -> Path:
    """The one file that `path`, a file or a folder, stands for."""
    if not path.is_dir():
        if not path.is_file():
            raise ValueError(f"{path} is no LoRA: there is no such file or folder")
        return path
    files = sorted(path.glob("*.safetensors"))
    if (path / LORA_FILE).is_file():
        return path / LORA_FILE
    of_roles = [name for file in files if (name := file.stem.removeprefix(f"{Path(LORA_FILE).stem}_")) != file.stem]
    if of_roles:
        raise ValueError(
            f"{path} holds adapters for the tokens of some roles each ({', '.join(of_roles)}; "
            "conditioning.adapter.adapters), and no LoRA for all tokens is the same model; sample with the run itself"
        )
    if len(files) != 1:
        raise ValueError(f"{path} holds {len(files)} .safetensors files and none is {LORA_FILE}; name the file")
    return files[0]


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # pickle, zip and safetensors raise a dozen unrelated types for "not a file of mine"
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"it cannot be read as a LoRA (.safetensors or .pth): {said}") from error


def _read_pickle(file: Path) -> tuple[dict[str, Tensor], None, list[str]]:
    """Read the tensors, also those below a "state_dict", and name what is left out. Nothing in the file is run."""
    with _reading():
        state = torch.load(file, map_location="cpu", weights_only=True)
    beside = []
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        others = [str(key) for key in state if key != "state_dict"]
        if others:
            beside = [f"{len(others)} thing(s) beside its state_dict ('{others[0]}', ...) are left out"]
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(k, str) and _dense(x) for k, x in state.items()):
        raise ValueError("it holds something else than tensors by name")
    with _reading():
        return {key: _plain(x.detach()) for key, x in state.items()}, None, beside


def _dense(x: object) -> bool:
    return isinstance(x, Tensor) and x.layout == torch.strided and not x.is_quantized and not x.is_meta


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], object]:
    """Read the tensors, and peft's configuration from the header or from a file beside it. The names are
    checked first.
    """
    from safetensors import safe_open

    with _reading(), safe_open(file, framework="pt") as opened:
        names, config = list(opened.keys()), (opened.metadata() or {}).get("lora_adapter_metadata")
    lora_names.check(names)  # a whole model is refused before it is read
    with _reading(), safe_open(file, framework="pt") as opened:
        state = {name: _plain(opened.get_tensor(name)) for name in names}
    beside, of_peft = file.parent / PEFT_CONFIG, any(name.startswith(PEFT_FOLDER) for name in names)
    try:
        text = beside.read_text(encoding="utf-8") if config is None and of_peft and beside.is_file() else config
        return state, None if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its configuration of peft is no JSON ({error})") from error


def _plain(tensor: Tensor) -> Tensor:
    """Convert 8-bit floating-point numbers to bf16, which holds all of them: few operations support 8-bit types."""
    return tensor.bfloat16() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor


def write(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, object] | None = None) -> None:
    """Write a .safetensors file that `load_lora_weights` of diffusers' pipelines takes, atomically.

    `state` has keys without prefix; `metadata` is peft's configuration, not needed where every scale is 1.
    """
    from diffusers.loaders import FluxLoraLoaderMixin  # diffusers writes the LoRA of every transformer in one form

    with whole_tensors(path) as part:
        FluxLoraLoaderMixin.save_lora_weights(
            part.parent,
            transformer_lora_layers={k: x.detach().cpu().contiguous().clone() for k, x in state.items()},
            weight_name=part.name,
            transformer_lora_adapter_metadata=metadata,
        )
        _order_metadata(part)


def write_plain(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a .safetensors file of tensors with their whole keys, atomically."""
    from safetensors.torch import save_file

    with whole_tensors(path) as part:
        save_file({k: x.detach().cpu().contiguous().clone() for k, x in state.items()}, part, {"format": "pt"})


def _order_metadata(path: Path) -> None:
    """Sort the metadata, which safetensors writes in random order. Then the same weights give the same bytes, and the
    same hash, by which images are told to be of other weights.
    """
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        file.seek(8)
        file.write(json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(length))


def begin(model: nn.Module, start: Path) -> None:
    """Fill all adapters of `model` with the LoRA at `start`, all of which must be used. Errors name the config key.

    A linear that the stock model has once, and this model once for each modulation branch, is copied to every branch:
    the function is the same. Raises ValueError if a linear is left over on either side, or has another shape, rank or
    bias.
    """
    from peft.tuners.lora import LoraLayer

    try:
        key, lora = f"conditioning.adapter.start ({start})", read(start)
    except ValueError as error:
        raise ValueError(f"conditioning.adapter.start: {error}") from error
    layers, stock = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}, stock_names(model)
    sources = {name: name if name in lora else stock.get(name, name) for name in layers}
    if extra := [name for name in lora if name not in sources.values()]:
        raise ValueError(
            f"{key} has a LoRA for '{extra[0]}'{_more(extra)}, which this run does not adapt; see "
            "conditioning.adapter.parts and backbone"
        )
    if missing := [name for name, source in sources.items() if source not in lora]:
        raise ValueError(
            f"{key} has nothing for '{missing[0]}'{_more(missing)}, which this run adapts; see "
            "conditioning.adapter.parts"
        )
    for name, layer in layers.items():
        _fill(layer, lora[sources[name]], f"{key}: '{sources[name]}'")


@torch.no_grad()
def _fill(layer: nn.Module, delta: Delta, what: str) -> None:
    (adapter,) = layer.lora_A
    down, up = layer.lora_A[adapter], layer.lora_B[adapter]
    sizes = [(x.shape[1], len(y)) for x, y in ((delta.down_RI, delta.up_OR), (down.weight, up.weight))]
    if sizes[0] != sizes[1]:
        raise ValueError(f"{what} maps {sizes[0][0]} to {sizes[0][1]}, in this backbone {sizes[1][0]} to {sizes[1][1]}")
    if len(delta.down_RI) != len(down.weight):
        raise ValueError(f"{what} has rank {len(delta.down_RI)}, here {len(down.weight)} (conditioning.adapter.rank)")
    if (delta.bias_O is None) != (up.bias is None):
        there, here = ("no bias", "true") if delta.bias_O is None else ("a bias", "false")
        raise ValueError(f"{what} has {there}, but conditioning.adapter.bias is {here}")
    down.weight.copy_(delta.down_RI)
    up.weight.copy_(delta.up_OR.float() / layer.scaling[adapter])
    if up.bias is not None:
        up.bias.copy_(delta.bias_O.float() / layer.scaling[adapter])


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
