"""The trained weights of any checkpoint, whole: a file of one device or DDP, a folder of ZeRO's or of FSDP2's.

A checkpoint holds what was trained alone; whatever else a learner needs is built again from its configuration.
"""

import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unigen import shards
from unigen.build import build_learner
from unigen.config import ConfigError, sentence
from unigen.learner import Learner
from unigen.own_files import blamed, read_archive
from unigen.weights import check_finite

STATE = "state.pt"  # in a sharded checkpoint: the Trainer's state, without weights and the optimizer's states
TAG = "checkpoint"  # what DeepSpeed calls its folder in ours


def kind(path: Path) -> str:
    """Who wrote it: "one file", "DeepSpeed" or "FSDP2". Raises ConfigError if there is nothing, or nothing whole."""
    if path.is_file():
        return "one file"
    if (path / STATE).is_file() and (path / TAG).is_dir():
        return "DeepSpeed"
    if (path / STATE).is_file() and (path / ".metadata").is_file():
        return "FSDP2"
    raise ConfigError(f"{path} is no checkpoint: neither a file nor a folder of shards with {STATE}")


def read_state(path: Path, wanted: str) -> dict[str, Any]:
    """The Trainer's state of a sharded checkpoint. Raises ConfigError for one that `wanted` did not write."""
    found = kind(path)
    if found != wanted:
        raise ConfigError(
            f"{path} was written as {found}, but this run's strategy reads {wanted}; go on with the strategy that "
            "wrote it"
        )
    return archive(path / STATE)


def archive(path: Path) -> dict[str, Any]:
    """A checkpoint's file. Raises ConfigError if it is damaged, or of another program."""
    try:
        found = read_archive(path)
    except Exception as error:  # zip, pickle and torch raise a dozen unrelated types
        raise damaged(path, sentence(error).split(". ")[0].rstrip(".")) from error
    if not isinstance(found, dict):
        raise damaged(path, f"it holds no state but one {type(found).__name__}")
    return found


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(the Trainer's state, {name in the learner: fp32 weight}); averaged weights where the run kept averages.

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
    """From the fp32 masters. Raises ConfigError where DeepSpeed is not installed."""
    try:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    except ImportError as error:
        raise ConfigError(f"{path} is DeepSpeed's; to read it: pip install 'unigen[cluster]'") from error
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # its progress bars
        return get_fp32_state_dict_from_zero_checkpoint(str(path), tag=TAG, exclude_frozen_parameters=True)


def _of_fsdp2(path: Path) -> dict[str, Tensor]:
    """From as many shards as there are, in this process alone."""
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
    """What to say of a checkpoint that cannot be read."""
    best = path.with_name("best.ckpt")
    other = f"copy {best.name} over it, or " if best.exists() and best != path else ""
    return ConfigError(
        f"{path} cannot be read ({why}): it is damaged or of another program; {other}remove it to begin anew at step 0"
    )


def restored(config: Mapping[str, Any], path: Path) -> Learner:
    """The learner of a configuration, whole and on the CPU, with the weights that a checkpoint of it leads to.

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
