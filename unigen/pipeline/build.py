"""Objects from a configuration: the one place where `instantiate` is called and where parts are put together."""

import importlib.util
import os
import re
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from torch import OutOfMemoryError

from unigen.config.moved import place_today
from unigen.config.values import ConfigError
from unigen.core.infill import Fill
from unigen.core.layout import one_of_each
from unigen.pipeline.compatibility import check_adapters, check_names
from unigen.pipeline.guidance import Guidance
from unigen.pipeline.learner import Learner
from unigen.pipeline.pipeline import Pipeline
from unigen.weights.repositories import Wanted, located_all

LIBRARIES = ("diffusers", "transformers", "peft", "torch", "torchmetrics", "huggingface_hub")


def build(node: Any) -> Any:
    """Instantiate a config node; every table arrives as plain dicts and lists.

    A ValueError or OSError of a constructor is raised as it is, not wrapped by Hydra. Raises ConfigError for a
    `_target_` that does not exist, and for any other error by which a library of models refuses a value.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, Exception):
            _blame_library(cause, node)
        if isinstance(cause, (ValueError, OSError)):
            raise cause from None
        if match := re.match(r"Error locating target '([^']*)'|Expected a callable target, got '([^']*)'", str(error)):
            given = match[1] or match[2]
            raise ConfigError(f"_target_ is '{given}', which names no class or function{_meant(given)}") from error
        raise


def _meant(target: str) -> str:
    """Say where a `_target_` of old stands today, or that its package cannot be found; "" for any other one."""
    if (now := place_today(target)) != target:
        return f"; it stands at {now} now"
    package = target.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        return f": no package '{package}' is installed; if it is yours, name the folder that holds it in PYTHONPATH"
    return ""


def _blame_library(error: Exception, node: Mapping[str, Any]) -> None:
    """Raise ConfigError, naming library and target, if `error` came from a library of models. Pass on errors of this
    project, and those of memory and of files."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    library = frames[-1].f_globals.get("__name__", "").partition(".")[0] if frames else ""
    if library in LIBRARIES and not isinstance(error, ConfigError | OSError | MemoryError | OutOfMemoryError):
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(f"{library} refuses the configuration of {node['_target_']}: {said}") from error


OURS = ("unigen", "datamodules", "callbacks")
TRUSTED = "UNIGEN_PLUGINS"  # the user's own packages that an export may name, with commas between


def own_classes(node: Any, key: str = "") -> None:
    """Check that every `_target_` at and below a node is defined in this project, or in a package of UNIGEN_PLUGINS.

    Otherwise a configuration that comes with weights from elsewhere could name any function, and building calls it.
    Raises ConfigError, naming key and target.
    """
    from hydra.utils import get_object

    if isinstance(node, list):
        node = dict(enumerate(node))
    if not isinstance(node, Mapping):
        return
    for name, value in node.items():
        own_classes(value, f"{key}.{name}".lstrip("."))
    if not isinstance(target := node.get("_target_"), str):
        return
    trusted = (*OURS, *filter(None, os.environ.get(TRUSTED, "").split(",")))
    home = ""
    if target.partition(".")[0] in trusted:
        with suppress(Exception):
            home = getattr(get_object(target), "__module__", None) or ""
    if home.partition(".")[0] not in trusted:
        raise ConfigError(
            f"{key}._target_ is '{target}', which is no class of this project; if you trust it, name its package in "
            f"the environment: {TRUSTED}={target.partition('.')[0]}"
        )


def build_pipeline(config: Mapping[str, Any]) -> Pipeline:
    """Build all parts of an experiment. The modulation is split before the adapter looks for its linears, and
    the linears that the adapter leaves frozen are quantised last.

    Initial weights come from torch's global generator: seed it first.
    """
    require_pretrained(config)
    conditioning = config["conditioning"]
    modulation, adapter = build(conditioning["modulation"]), build(conditioning["adapter"])
    pipeline = Pipeline(
        formatter=build(config["formatter"]),
        mask=build(config["mask"]),
        backbone=build(config["backbone"]),
        embedding=build(conditioning["embedding"]),
        modulation=modulation,
        codec=build(config["encoder"]["codec"]),
        text=build(config["encoder"]["text"]),
        process=build(config["process"]),
        loss=build(config["loss"]),
        solver=build(config["solver"]),
        guidance=Guidance(**config["guidance"]),
        dropout=config["dropout"],
        fill=build(config.get("fill")) or Fill(),
    )
    modulation.apply(pipeline.backbone, tied=adapter.freezes_base)
    if (slots := build(conditioning.get("slots"))) is not None:  # exports may be older than this part
        check_names("conditioning.slots.roles", slots.roles, pipeline.formatter.roles)
        check_names("conditioning.slots.numbers", slots.numbers, pipeline.formatter.roles)
        check_names("conditioning.slots.turns", slots.turns, pipeline.formatter.roles)
        slots.fit(pipeline.backbone, pipeline.formatter.roles)
    check_adapters(adapter, pipeline.formatter.roles)
    adapter.apply(pipeline.backbone)
    pipeline.backbone.leave_out_unreached(one_of_each(pipeline.formatter.roles), pipeline.mask)
    pipeline.backbone.quantize_frozen()
    return pipeline


def pretrained(config: Mapping[str, Any]) -> list[Wanted]:
    """Return what the backbone and the encoders load, each with its key; the byt5 tokenizer needs no files."""
    from hydra.utils import get_object

    found = []

    def collect(key: str, node: Mapping[str, Any]) -> None:
        parts = ()
        with suppress(Exception):  # `build` says more of a class that is not there
            parts = getattr(get_object(node["_target_"]), "folders", ())
        for word, part in zip(("pretrained", "tokenizer"), parts, strict=False):
            if isinstance(node.get(word), str) and node[word] != "byt5":
                found.append(Wanted(f"{key}.{word}", node[word], part))
        for name, child in node.items():
            if isinstance(child, Mapping):
                collect(f"{key}.{name}", child)

    for key in ("backbone", "encoder"):
        collect(key, config.get(key) or {})
    return found


def require_pretrained(config: Mapping[str, Any]) -> None:
    """Find, or download, all that a configuration loads before any of it is read. Otherwise a missing tokenizer would
    be noticed only after minutes. Raises Unavailable; does nothing on the meta device, where nothing is read."""
    import torch

    if not torch.empty(0).is_meta:
        located_all(pretrained(config))


def build_learner(config: Mapping[str, Any]) -> Learner:
    """Build the learner of a run. It is given the whole configuration, and builds from it the parts that it needs."""
    make = build({**config["learner"], "_partial_": True})
    try:
        learner = make(config)
    except Exception as error:
        _blame_library(error, config["learner"])
        raise
    learner.check_options()
    return learner


def build_on_meta(config: Mapping[str, Any]) -> Pipeline:
    """Build the pipeline as shapes alone: no weights are read and none are allocated."""
    import torch

    with torch.device("meta"):
        return build_pipeline(config)
