"""A trained run as files that others load: LoRA in diffusers' format, everything else in one sidecar.

`export/` holds pytorch_lora_weights.safetensors (if there is a LoRA), unigen_modules.safetensors and unigen.json, and
pipeline.py where diffusers can compute the run by it (`diffusers_cogvideox`).
"""

import copy
import json
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unigen import __version__
from unigen.cache.files import checksum
from unigen.config.commands import command
from unigen.config.files import whole_tensors, write_text
from unigen.config.moved import moved
from unigen.config.values import ConfigError
from unigen.core.protocol_card import digest
from unigen.nn.adaln_zero import stock_names
from unigen.pipeline.build import build_pipeline, own_classes
from unigen.pipeline.pipeline import Pipeline
from unigen.weights import lora_comfyui
from unigen.weights.interchange import Delta, joined
from unigen.weights.loading import check_finite, without_bars
from unigen.weights.lora_files import LORA_FILE, ROLES, write
from unigen.weights.lora_stock import BRANCH
from unigen.weights.own_files import blamed, read_object, read_tensors, unreadable

MODULES_FILE, CONFIG_FILE = "unigen_modules.safetensors", "unigen.json"
PIPELINE_FILE = "pipeline.py"  # as diffusers looks for it in a folder or repository
AGAIN = f"restore it, or write the export anew: {command('export')} run=<run folder> out=<new folder>"
# Keys that decide, beside the weights, what a pipeline is; keys in PLACES, at any depth, may change all the same.
PARTS = ("formatter", "mask", "backbone", "conditioning", "encoder", "process", "loss", "solver", "dropout", "fill")
YOUNGER = ("guidance",)  # parts that older exports do not name
PLACES = ("pretrained", "start")
SLOTS = (
    f"the learned vectors of conditioning.slots are 'slots.table' in {MODULES_FILE}; no stock pipeline adds "
    "them behind its patch embedder, so it computes something else than was trained"
)
DEFAULT = "default"  # peft's name for an adapter without a name
NOTHING = Delta(torch.zeros(1, 1), torch.zeros(1, 1))


def save(pipeline: Pipeline, folder: Path, config: dict[str, Any], half: bool = False) -> None:
    """Write the export. Pretrained weights that training did not change are left out: their config names them.

    With `half` the tensors of the sidecar that fp16 holds exactly are stored in it.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for name in _loras(pipeline):
        _save_lora(pipeline, folder, name)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in _sidecar(pipeline, config).items()}
    if half:
        tensors = {k: _halved(v) for k, v in tensors.items()}
    said = {"version": __version__, "sha256": checksum(tensors), "parts": digest(_parts(config))}
    written = {name: checksum(read_tensors(folder / file_of(name), AGAIN)[0]) for name in _loras(pipeline)}
    if written:
        said["lora"] = written.get(DEFAULT, written)
    with whole_tensors(folder / MODULES_FILE) as part:  # one key: safetensors writes several in random order
        save_file(tensors, part, metadata={"unigen": json.dumps(said)})
    about = _about_lora(pipeline) if written else {}
    about |= {"slots": SLOTS} if pipeline.backbone.slots is not None else {}
    about |= {"lora_roles": roles} if (roles := _roles(pipeline)) else {}
    about["diffusers"] = _write_pipeline(folder, config)
    write_text(folder / CONFIG_FILE, json.dumps({"unigen": __version__, **about, "config": config}, indent=1))


def _write_pipeline(folder: Path, config: Mapping[str, Any]) -> str:
    """Write the pipeline of diffusers that computes this run, and say how it is used; else say why there is none."""
    from unigen.pipeline import diffusers_cogvideox

    (folder / PIPELINE_FILE).unlink(missing_ok=True)
    if refused := diffusers_cogvideox.refusals(config):
        return f"sample.py computes this export; no {PIPELINE_FILE} for diffusers is here, since {refused[0]}"
    shutil.copyfile(diffusers_cogvideox.__file__, folder / PIPELINE_FILE)
    return f"{PIPELINE_FILE} computes this export in diffusers, without unigen; its first lines say how it is called"


def load(folder: Path) -> tuple[Pipeline, dict[str, Any]]:
    """The pipeline that `save` wrote, ready to sample, and its configuration.

    The configuration names the classes of the parts, and loading calls them: they must be this project's. Raises
    ValueError, naming the file, for a folder without a whole export, for a damaged file, for a configuration of
    other parts than were written, and for a missing or unexpected key: nothing is loaded in part. A LoRA that is not
    the one that was written is used, with a warning.
    """
    for name in (CONFIG_FILE, MODULES_FILE):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder} holds no export ({name} is missing): a run writes it when it finishes")
    stored, metadata = read_tensors(folder / MODULES_FILE, AGAIN)
    said = _said(metadata)
    if "sha256" in said and said["sha256"] != checksum(stored):
        raise unreadable(folder / MODULES_FILE, "it does not hold what was written: its checksum differs", AGAIN)
    check_finite(stored.items(), str(folder / MODULES_FILE))
    config = read_object(folder / CONFIG_FILE, AGAIN).get("config")
    if not isinstance(config, dict):
        raise unreadable(folder / CONFIG_FILE, "it has no usable 'config'", AGAIN)
    with blamed(folder / CONFIG_FILE, AGAIN):
        if "parts" in said and said["parts"] != digest(_parts(config)):
            raise ConfigError("the parts that it names are not those that the run wrote")
        config = moved(config)
        own_classes({**_parts(config), "data": config.get("data")})
        pipeline = build_pipeline(_without_start(config))
        wanted = _sidecar(pipeline, config)
    if set(stored) != set(wanted):
        odd = sorted(set(stored) ^ set(wanted))
        raise ConfigError(
            f"{folder / MODULES_FILE} does not fit its configuration: {len(odd)} keys differ, e.g. {odd[0]}"
        )
    for name, tensor in stored.items():
        _check_fits(folder / MODULES_FILE, name, tensor, wanted[name])
    with torch.no_grad():
        for name, tensor in stored.items():
            wanted[name].copy_(tensor)
    checksums = said.get("lora")
    for name in _loras(pipeline):
        _load_lora(pipeline, folder, name, checksums.get(name) if isinstance(checksums, dict) else checksums)
    for module in pipeline.modules:
        module.eval()  # without dropout
    return pipeline, config


def _halved(x: Tensor) -> Tensor:
    """Return floats in fp16 if that holds every one of them exactly, anything else as it is."""
    half = x.half()
    return half if x.is_floating_point() and torch.equal(half.to(x.dtype), x) else x


def _said(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what `save` wrote of the other files beside the tensors; {} for exports older than that."""
    try:
        said = json.loads(metadata.get("unigen", "{}"))
    except ValueError:  # an old export has only a version here
        return {}
    return said if isinstance(said, dict) else {}


def _check_fits(path: Path, name: str, stored: Tensor, wanted: Tensor) -> None:
    """Raises ConfigError for another shape, which copying might broadcast, and for integers in place of floats."""
    if stored.shape != wanted.shape or stored.is_floating_point() != wanted.is_floating_point():
        shapes = (f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}" for x in (stored, wanted))
        raise ConfigError(f"{path} does not fit its configuration: {name} is {' and should be '.join(shapes)}")


def _parts(config: Mapping[str, Any]) -> Any:
    """Return the configuration of the pipeline's parts without the places of files, which differ by machine."""

    def clean(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {str(key): clean(value) for key, value in node.items() if key not in PLACES}
        return [clean(value) for value in node] if isinstance(node, list | tuple) else node

    return clean({key: config.get(key) for key in PARTS} | {key: config[key] for key in YOUNGER if key in config})


def save_stock(pipeline: Pipeline, folder: Path, name: str) -> list[Path]:
    """Write, in fp16, the backbone as a stock model to `folder`/`name` and a trained text encoder to text_encoder.

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
    """Return the configuration without the LoRA file that the run began with, which may be gone."""
    adapter = config["conditioning"]["adapter"]
    started = adapter | {"start": None} if adapter.get("start") else adapter
    return config | {"conditioning": config["conditioning"] | {"adapter": started}}


def _sidecar(pipeline: Pipeline, config: dict[str, Any]) -> dict[str, Tensor]:
    """Return by name all tensors that no pretrained source has, except LoRA. Shared tensors appear once."""
    sources = {
        "backbone": (pipeline.backbone.model, config["backbone"].get("pretrained")),
        **({} if pipeline.backbone.slots is None else {"slots": (pipeline.backbone.slots, None)}),
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


def file_of(adapter: str) -> str:
    """Return the file name of an adapter in an export; an adapter with a name of its own has it in the file name."""
    return LORA_FILE if adapter == DEFAULT else LORA_FILE.replace(".", f"_{adapter}.")


def _loras(pipeline: Pipeline) -> list[str]:
    """Return the names of the backbone's adapters."""
    return list(getattr(pipeline.backbone.model, "peft_config", None) or {})


def _roles(pipeline: Pipeline) -> dict[str, list[str]]:
    """Return the roles to whose tokens each adapter is applied; {} if one is applied to all."""
    told = pipeline.backbone.role_adapters
    return {} if told is None else {n: [r for r, own in told.table if own == n] for n in _loras(pipeline)}


def _save_lora(pipeline: Pipeline, folder: Path, name: str) -> None:
    """Write a LoRA in diffusers' format, rank and alpha in the header. `lora_is_for` says which model it fits."""
    model, names = pipeline.backbone.model, _exported_names(pipeline.backbone.model)
    own = {"".join(_parted(k)[::2]): p for k, p in model.named_parameters() if _parted(k)[1] == name}
    state = {_renamed(key, names): tensor for key, tensor in own.items()}  # peft's own function warns of biases
    config = model.peft_config[name].to_dict()
    for table in ("rank_pattern", "alpha_pattern"):
        config[table] = {f"^{names.get(n[1:], n[1:])}": value for n, value in config[table].items()}
    config["target_modules"] = "|".join(dict.fromkeys(re.escape(key.rpartition(".lora_")[0]) for key in state))
    roles = _roles(pipeline).get(name)
    write(folder / file_of(name), state, config | ({ROLES: roles} if roles else {}))


def _about_lora(pipeline: Pipeline) -> dict[str, str]:
    model = pipeline.backbone.model
    return {"lora_is_for": lora_is_for(model), "lora_model": type(model).__name__, "comfyui": in_comfyui(pipeline)}


def lora_is_for(model: nn.Module) -> str:
    """Say in a sentence which model the exported LoRA fits."""
    names = _exported_names(model)
    branched = [n for n in _adapted(model) if ".branches." in names.get(n, n)]
    if not branched:
        return (
            f"a stock {type(model).__name__} of diffusers (load_lora_weights of its pipelines, or load_lora_adapter of "
            "the model where they have none)"
        )
    if not any(BRANCH.search(n) for n in joined(dict.fromkeys(_adapted(model), NOTHING))):
        return (
            f"a {type(model).__name__} whose text and visual modulation this project keeps apart ('{branched[0]}'); "
            "`python experiments/lora.py convert lora=<this folder> out=<file>` writes the same for the stock model"
        )
    return (
        f"a {type(model).__name__} whose modulation this project has split (conditioning.modulation): '{branched[0]}' "
        f"and {len(branched) - 1} more linears are in no stock model, which would load the rest alone"
    )


def in_comfyui(pipeline: Pipeline) -> str:
    """Say in a sentence whether ComfyUI loads the exported LoRA unchanged, and what to do where it does not."""
    model, names = pipeline.backbone.model, _exported_names(pipeline.backbone.model)
    if roles := _roles(pipeline):
        return f"a LoRA of ComfyUI is for all tokens, and these are for {', '.join(roles)}; {lora_comfyui.NODE}"
    linears = list(joined({names.get(n, n): NOTHING for n in _adapted(model)}))
    if split := [n for n in linears if BRANCH.search(n)]:
        return f"ComfyUI has no place for '{split[0]}' and {len(split) - 1} more; {lora_comfyui.NODE}"
    if whole := [n for n in _adapted(model) if model.get_submodule(n).lora_A[DEFAULT].weight.ndim > 2]:
        return f"'{whole[0]}' is a convolution, whose LoRA `{command('lora')}` does not convert; {lora_comfyui.NODE}"
    adapter = model.peft_config[DEFAULT]
    return lora_comfyui.said(type(model).__name__, linears, adapter.lora_alpha != adapter.r, adapter.lora_bias)


def _exported_names(model: nn.Module) -> dict[str, str]:
    """Return the stock names of adapted linears by our names; {} if several of them are one linear there."""
    stock = {ours: theirs for ours, theirs in stock_names(model).items() if ours in _adapted(model)}
    return stock if len(set(stock.values())) == len(stock) else {}


def _adapted(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if hasattr(module, "lora_A")]


def _parted(key: str) -> tuple[str, str, str]:
    """Part 'a.lora_A.NAME.weight' into 'a.lora_A', the adapter's NAME ('' if there is none) and '.weight'."""
    linear, found, rest = key.rpartition(".lora_")
    side, _, rest = rest.partition(".")
    name, _, end = rest.partition(".")
    return (linear + found + side, name, f".{end}") if found else (key, "", "")


def _renamed(key: str, names: Mapping[str, str]) -> str:
    linear, dot, part = key.rpartition(".lora_")
    return names.get(linear, linear) + dot + part


def _load_lora(pipeline: Pipeline, folder: Path, name: str, written: str | None) -> None:
    from peft import set_peft_model_state_dict

    path = folder / file_of(name)
    if not path.is_file():
        raise ConfigError(f"{folder} says it has a LoRA, but {path.name} is missing; {AGAIN}")
    tensors, _ = read_tensors(path, AGAIN)
    if written is not None and checksum(tensors) != written:
        warnings.warn(f"{path} is not the LoRA that the run wrote; it is used as it is", stacklevel=3)
    ours = {theirs: name for name, theirs in _exported_names(pipeline.backbone.model).items()}
    check_finite(tensors.items(), str(path))
    weights = {_renamed(k.removeprefix("transformer."), ours): v for k, v in tensors.items()}
    try:
        result = set_peft_model_state_dict(pipeline.backbone.model, weights, adapter_name=name)
    except (RuntimeError, KeyError) as error:  # of another rank or shape
        raise unreadable(path, error, AGAIN) from error
    missing = [k for k in result.missing_keys if _parted(k)[1] == name]
    if missing or result.unexpected_keys:
        raise ConfigError(f"{path} fits only in part: {(missing + list(result.unexpected_keys))[0]} does not match")
