"""LoRA files, read and written, and what a run's adapters begin with.

Shapes: R rank, I inputs and O outputs of a linear.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from unigen.files import whole_tensors
from unigen.interchange import Delta, Lora, is_fused, parse, split_fused
from unigen.nn.adaln_zero import stock_names

LORA_FILE = "pytorch_lora_weights.safetensors"


def read(path: Path) -> Lora:
    """A LoRA from a .safetensors file or a folder with one (diffusers' format), or from a .pth file of VisualCloze's.

    Raises ValueError for a file that is absent, unreadable, or not wholly of one of these formats.
    """
    file = _file_of(path)
    state, metadata = _tensors(file)
    try:
        return split_fused(state) if is_fused(state) else parse(state, metadata)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        if not path.is_file():
            raise ValueError(f"{path} is no LoRA: there is no such file or folder")
        return path
    files = sorted(path.glob("*.safetensors"))
    if (path / LORA_FILE).is_file():
        return path / LORA_FILE
    if len(files) != 1:
        raise ValueError(f"{path} holds {len(files)} .safetensors files and none is {LORA_FILE}; name the file")
    return files[0]


def _tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, object] | None]:
    """What the file holds, and peft's configuration if it has one. Nothing in a .pth file is run."""
    from safetensors import safe_open

    try:
        if file.suffix in (".pth", ".pt"):
            state = torch.load(file, map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or not all(isinstance(x, Tensor) for x in state.values()):
                raise ValueError("it holds something else than tensors by name")
            return state, None
        with safe_open(file, framework="pt") as opened:
            names = opened.keys()  # it is no mapping
            config = (opened.metadata() or {}).get("lora_adapter_metadata")
            return {k: opened.get_tensor(k) for k in names}, config and json.loads(config)
    except Exception as error:  # pickle, zip and safetensors raise a dozen unrelated types for "not a file of mine"
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{file} cannot be read as a LoRA (.safetensors or .pth): {said}") from error


def write(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, object] | None = None) -> None:
    """A .safetensors file that `load_lora_weights` of diffusers' pipelines takes; whole or not at all.

    `state` has keys without prefix; `metadata` is peft's configuration, not needed where every scale is 1.
    """
    from diffusers.loaders import FluxLoraLoaderMixin  # diffusers writes the LoRA of every transformer in one form

    with whole_tensors(path) as part:
        FluxLoraLoaderMixin.save_lora_weights(
            part.parent,
            transformer_lora_layers={k: x.detach().cpu().contiguous() for k, x in state.items()},
            weight_name=part.name,
            transformer_lora_adapter_metadata=metadata,
        )


def begin(model: nn.Module, start: Path) -> None:
    """Fill the adapters of `model`, all of them and with all of the LoRA at `start`; the config key is named in errors.

    What a stock model has once, a model with several modulation branches gets in each of them: the same function.
    Raises ValueError if a linear is left over on either side, or has another shape, rank or bias.
    """
    from peft.tuners.lora import LoraLayer

    key, lora = f"conditioning.adapter.start ({start})", read(start)
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
