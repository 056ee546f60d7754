"""A trained run as files that others load: LoRA in diffusers' format, everything else in one sidecar.

`export/` holds pytorch_lora_weights.safetensors (if there is a LoRA), unigen_modules.safetensors and unigen.json.
"""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unigen import __version__
from unigen.build import build_pipeline
from unigen.config import ConfigError
from unigen.files import whole_file, write_text
from unigen.pipeline import Pipeline
from unigen.weights import without_bars

LORA_FILE, MODULES_FILE, CONFIG_FILE = "pytorch_lora_weights.safetensors", "unigen_modules.safetensors", "unigen.json"


def save(pipeline: Pipeline, folder: Path, config: dict[str, Any]) -> None:
    """Write the export. Pretrained weights that training did not change are left out: their config names them."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    if _lora(pipeline):
        _save_lora(pipeline, folder)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in _sidecar(pipeline, config).items()}
    with _whole_tensors(folder / MODULES_FILE) as part:
        save_file(tensors, part, metadata={"format": "pt", "unigen": __version__})
    write_text(folder / CONFIG_FILE, json.dumps({"unigen": __version__, "config": config}, indent=1))


def load(folder: Path) -> tuple[Pipeline, dict[str, Any]]:
    """The pipeline that `save` wrote, ready to sample, and its configuration.

    Raises ValueError for a folder without a whole export, and for a key that is missing or too many:
    nothing is loaded in part.
    """
    from safetensors.torch import load_file

    for name in (CONFIG_FILE, MODULES_FILE):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder} holds no export ({name} is missing): a run writes it when it finishes")
    config = json.loads((folder / CONFIG_FILE).read_text())["config"]
    pipeline = build_pipeline(config)
    stored = load_file(folder / MODULES_FILE)
    wanted = _sidecar(pipeline, config)
    if set(stored) != set(wanted):
        odd = sorted(set(stored) ^ set(wanted))
        raise ConfigError(
            f"{folder / MODULES_FILE} does not fit its configuration: {len(odd)} keys differ, e.g. {odd[0]}"
        )
    with torch.no_grad():
        for name, tensor in stored.items():
            wanted[name].copy_(tensor)
    if _lora(pipeline):
        _load_lora(pipeline, folder)
    for module in pipeline.modules:
        module.eval()  # without dropout
    return pipeline, config


def save_stock(pipeline: Pipeline, folder: Path, name: str) -> list[Path]:
    """The backbone as a stock model in `folder`/`name`, and a trained text encoder in `folder`/text_encoder, in fp16.

    Returns the folders. Raises ValueError if the backbone is no stock model any more.
    """
    made = {folder / name: pipeline.backbone.stock()}
    if pipeline.text.trained:
        made[folder / "text_encoder"] = copy.deepcopy(pipeline.text.model)
    with without_bars():
        for where, model in made.items():
            model.half().save_pretrained(where)
    return list(made)


def _sidecar(pipeline: Pipeline, config: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors by name: whatever cannot be had from a pretrained source, LoRA apart. Shared tensors appear once."""
    sources = {
        "backbone": (pipeline.backbone.model, config["backbone"].get("pretrained")),
        "embedding": (pipeline.embedding, None),
        "text": (pipeline.text, config["encoder"]["text"].get("pretrained")),
        "codec": (pipeline.codec, config["encoder"]["codec"].get("pretrained")),
    }
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for part, (module, pretrained) in sources.items():
        for name, tensor in _own(module, trained_only=pretrained is not None):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                found[f"{part}.{name}"] = tensor
    return found


def _own(module: nn.Module, trained_only: bool) -> list[tuple[str, Tensor]]:
    parameters = [(n, p) for n, p in module.named_parameters() if p.requires_grad or not trained_only]
    buffers = [] if trained_only else list(module.named_buffers())
    return [(n, t) for n, t in [*parameters, *buffers] if "lora_" not in n]


def _lora(pipeline: Pipeline) -> bool:
    return bool(getattr(pipeline.backbone.model, "peft_config", None))


def _save_lora(pipeline: Pipeline, folder: Path) -> None:
    """In diffusers' format, rank and alpha in the header, loadable by `load_lora_weights` of the converted model."""
    from diffusers.loaders import CogVideoXLoraLoaderMixin
    from peft import get_peft_model_state_dict

    model = pipeline.backbone.model
    with _whole_tensors(folder / LORA_FILE) as part:
        CogVideoXLoraLoaderMixin.save_lora_weights(
            part.parent,
            weight_name=part.name,
            transformer_lora_layers=get_peft_model_state_dict(model),
            transformer_lora_adapter_metadata=model.peft_config["default"].to_dict(),
        )


@contextmanager
def _whole_tensors(path: Path) -> Iterator[Path]:
    """`whole_file`, with what safetensors raises on a full disk as the OSError that it is."""
    from safetensors import SafetensorError

    with whole_file(path) as part:
        try:
            yield part
        except SafetensorError as error:
            raise OSError(str(error)) from error


def _load_lora(pipeline: Pipeline, folder: Path) -> None:
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    path = folder / LORA_FILE
    if not path.is_file():
        raise ConfigError(f"{folder} says it has a LoRA, but {LORA_FILE} is missing")
    weights = {k.removeprefix("transformer."): v for k, v in load_file(path).items()}
    result = set_peft_model_state_dict(pipeline.backbone.model, weights)
    missing = [k for k in result.missing_keys if "lora_" in k]
    if missing or result.unexpected_keys:
        raise ConfigError(f"{path} fits only in part: {(missing + list(result.unexpected_keys))[0]} does not match")
