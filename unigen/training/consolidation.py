"""Reads the trained weights of any checkpoint: one file (one device, DDP), or a folder of ZeRO's or FSDP2's shards.

A checkpoint holds only what was trained. The rest of a learner is built again from its configuration.
"""

import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unigen.config.values import ConfigError, sentence
from unigen.nn import shards
from unigen.pipeline.build import build_learner
from unigen.pipeline.learner import Learner
from unigen.weights.loading import check_finite
from unigen.weights.own_files import blamed, read_archive

STATE = "state.pt"  # in a sharded checkpoint: the Trainer's state, without weights and the optimizer's states
TAG = "checkpoint"  # the name of DeepSpeed's folder inside ours


def kind(path: Path) -> str:
    """The writer of a checkpoint: "one file", "DeepSpeed" or "FSDP2". Raises ConfigError if it is missing or
    incomplete.
    """
    if path.is_file():
        return "one file"
    if (path / STATE).is_file() and (path / TAG).is_dir():
        return "DeepSpeed"
    if (path / STATE).is_file() and (path / ".metadata").is_file():
        return "FSDP2"
    raise ConfigError(f"{path} is no checkpoint: neither a file nor a folder of shards with {STATE}")


def read_state(path: Path, wanted: str) -> dict[str, Any]:
    """Read the Trainer's state of a sharded checkpoint. Raises ConfigError if `wanted` did not write it."""
    found = kind(path)
    if found != wanted:
        raise ConfigError(
            f"{path} was written as {found}, but this run's strategy reads {wanted}; go on with the strategy that "
            "wrote it"
        )
    return archive(path / STATE)


def archive(path: Path) -> dict[str, Any]:
    """Read the file of a checkpoint. Raises ConfigError if it is damaged, or of another program."""
    try:
        found = read_archive(path)
    except Exception as error:  # zip, pickle and torch raise a dozen unrelated types
        raise damaged(path, sentence(error).split(". ")[0].rstrip(".")) from error
    if not isinstance(found, dict):
        raise damaged(path, f"it holds no state but one {type(found).__name__}")
    return found


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return (the Trainer's state, {name in the learner: fp32 weight}); averaged weights where the run kept averages.

    A file runs nothing of what it holds. Shards of DeepSpeed and the index of FSDP2's are pickles, which their
    libraries load whole: take those from people alone whom you trust. Raises ConfigError, naming what is damaged, and
    ValueError, naming the weight, where one is not finite.
    """
    form = kind(path)
    try:
        if form == "one file":
            state = archive(path)
            weights = state.pop("state_dict")
        else:
            state = read_state(path, form)
            weights = _of_zero(path) if form == "DeepSpeed" else _of_fsdp2(path)
        averages = state["callbacks"].get("EMA", {}).get("average", {})
        found = {name: averages.get(name, tensor).float() for name, tensor in weights.items()}
    except ConfigError:
        raise
    except Exception as error:  # another program's file, or a damaged shard
        raise damaged(path, sentence(error).split(". ")[0].rstrip(".")) from error
    check_finite(found.items(), str(path))
    return state, found


def _of_zero(path: Path) -> dict[str, Tensor]:
    """Read DeepSpeed's fp32 master weights. Raises ConfigError where DeepSpeed is not installed."""
    try:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    except ImportError as error:
        raise ConfigError(f"{path} is DeepSpeed's; to read it: pip install 'unigen[cluster]'") from error
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # its progress bars
        return get_fp32_state_dict_from_zero_checkpoint(str(path), tag=TAG, exclude_frozen_parameters=True)


def _of_fsdp2(path: Path) -> dict[str, Tensor]:
    """Read FSDP2's weights from any number of shards, in this process alone."""
    from torch.distributed import checkpoint as dcp

    stored = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    head = "state_dict."
    weights = {
        name.removeprefix(head): torch.empty(about.size, dtype=about.properties.dtype)
        for name, about in stored.items()
        if name.startswith(head)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*single process.*")  # that is the intent
        dcp.load({"state_dict": weights}, checkpoint_id=path, no_dist=True)
    return weights


def damaged(path: Path, why: str) -> ConfigError:
    """The error for a checkpoint that cannot be read."""
    best = path.with_name("best.ckpt")
    other = f"copy {best.name} over it, or " if best.exists() and best != path else ""
    return ConfigError(
        f"{path} cannot be read ({why}): it is damaged or of another program; {other}remove it to begin anew at step 0"
    )


def restored(config: Mapping[str, Any], path: Path) -> Learner:
    """Build the learner of a configuration, whole and on the CPU, and load the weights of its checkpoint.

    Raises ConfigError if the checkpoint does not hold exactly what the configuration trains.
    """
    state, weights = read(path)
    torch.manual_seed(config["seed"])
    learner = build_learner(config)
    trained = dict(shards.trained(learner))
    names = {name for name, p in learner.named_parameters(remove_duplicate=False) if p.requires_grad}  # DeepSpeed: all
    resized = {n for n in set(trained) & set(weights) if trained[n].shape != weights[n].shape}
    if odd := sorted((set(weights) - names) | (set(trained) - set(weights)) | resized):
        raise ConfigError(f"{path} does not fit its configuration: {len(odd)} weights differ, e.g. {odd[0]}")
    with torch.no_grad():
        for name, p in trained.items():
            p.copy_(weights[name])
    with blamed(path, "name another checkpoint"):
        learner.on_load_checkpoint(state)
    return learner.eval()
