"""A trained run as files that others load: LoRA in diffusers' format, everything else in one sidecar.

`export/` holds pytorch_lora_weights.safetensors (if there is a LoRA), unigen_modules.safetensors and unigen.json.
"""

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unigen import __version__
from unigen.build import build_pipeline
from unigen.config import ConfigError
from unigen.files import whole_tensors, write_text
from unigen.lora_files import LORA_FILE, write
from unigen.nn.adaln_zero import stock_names
from unigen.pipeline import Pipeline
from unigen.weights import check_finite, without_bars

MODULES_FILE, CONFIG_FILE = "unigen_modules.safetensors", "unigen.json"


def save(pipeline: Pipeline, folder: Path, config: dict[str, Any]) -> None:
    """Write the export. Pretrained weights that training did not change are left out: their config names them."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    if _lora(pipeline):
        _save_lora(pipeline, folder)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in _sidecar(pipeline, config).items()}
    with whole_tensors(folder / MODULES_FILE) as part:
        save_file(tensors, part, metadata={"format": "pt", "unigen": __version__})
    about = {"lora_is_for": lora_is_for(pipeline.backbone.model)} if _lora(pipeline) else {}
    write_text(folder / CONFIG_FILE, json.dumps({"unigen": __version__, **about, "config": config}, indent=1))


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
    pipeline = build_pipeline(_without_start(config))
    stored = load_file(folder / MODULES_FILE)
    check_finite(stored.items(), str(folder / MODULES_FILE))
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


def _without_start(config: dict[str, Any]) -> dict[str, Any]:
    """The export holds the LoRA that the run ended with; the file that it began with may be gone."""
    adapter = config["conditioning"]["adapter"]
    started = adapter | {"start": None} if adapter.get("start") else adapter
    return config | {"conditioning": config["conditioning"] | {"adapter": started}}


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
    """In diffusers' format, rank and alpha in the header, loadable by `load_lora_weights`: see `lora_is_for`."""
    model, names = pipeline.backbone.model, _exported_names(pipeline.backbone.model)
    adapters = {k.replace(".default.", "."): p for k, p in model.named_parameters() if ".lora_" in k}
    state = {_renamed(key, names): tensor for key, tensor in adapters.items()}  # peft's own warns of biases, being 1-D
    config = model.peft_config["default"].to_dict()
    for table in ("rank_pattern", "alpha_pattern"):
        config[table] = {f"^{names.get(n[1:], n[1:])}": value for n, value in config[table].items()}
    config["target_modules"] = "|".join(dict.fromkeys(re.escape(key.rpartition(".lora_")[0]) for key in state))
    write(folder / LORA_FILE, state, config)


def lora_is_for(model: nn.Module) -> str:
    """Which model the exported LoRA fits, in a sentence."""
    names = _exported_names(model)
    branched = [n for n in _adapted(model) if ".branches." in names.get(n, n)]
    if not branched:
        return f"a stock {type(model).__name__} of diffusers (load_lora_weights of its pipelines)"
    return (
        f"a {type(model).__name__} whose modulation this project has split (conditioning.modulation): '{branched[0]}' "
        f"and {len(branched) - 1} more linears are in no stock model, which would load the rest alone"
    )


def _exported_names(model: nn.Module) -> dict[str, str]:
    """Linears that the export calls otherwise: as a stock model does, if this one is no more than that."""
    stock = {ours: theirs for ours, theirs in stock_names(model).items() if ours in _adapted(model)}
    return stock if len(set(stock.values())) == len(stock) else {}


def _adapted(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if hasattr(module, "lora_A")]


def _renamed(key: str, names: Mapping[str, str]) -> str:
    linear, dot, part = key.rpartition(".lora_")
    return names.get(linear, linear) + dot + part


def _load_lora(pipeline: Pipeline, folder: Path) -> None:
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    path = folder / LORA_FILE
    if not path.is_file():
        raise ConfigError(f"{folder} says it has a LoRA, but {LORA_FILE} is missing")
    ours = {theirs: name for name, theirs in _exported_names(pipeline.backbone.model).items()}
    stored = load_file(path)
    check_finite(stored.items(), str(path))
    weights = {_renamed(k.removeprefix("transformer."), ours): v for k, v in stored.items()}
    result = set_peft_model_state_dict(pipeline.backbone.model, weights)
    missing = [k for k in result.missing_keys if "lora_" in k]
    if missing or result.unexpected_keys:
        raise ConfigError(f"{path} fits only in part: {(missing + list(result.unexpected_keys))[0]} does not match")
