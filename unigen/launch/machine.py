"""Checks in a moment, without torch, that this machine has what a run needs. A sweep that is submitted from elsewhere
is not checked here: its jobs are, where they run.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unigen.config.values import ConfigError

# Any of these is there where a driver of Nvidia's (of Jetson's, of WSL's) or AMD's is, in containers too.
NODES = ("dev/nvidia*", "dev/dxg", "dev/nvhost-gpu", "dev/nvmap", "dev/kfd", "proc/driver/nvidia")
HIDDEN = ("", "-1", "none", "NoDevFiles", "void")  # values of CUDA_VISIBLE_DEVICES that hide every device
ZERO = "callbacks.strategies.ZeRO"


def able(config: Mapping[str, Any]) -> None:
    """Check that the trainer's accelerator can be here and that the packages of its strategy are installed.

    Raises:
        ConfigError: it cannot be. Where that cannot be told without torch, Lightning tells, later.
    """
    wanted, strategy = config["trainer"]["accelerator"], config["strategy"].get("_target_")
    if wanted in ("gpu", "cuda") and (why := no_gpu(mps=wanted == "gpu")):
        raise ConfigError(f"trainer.accelerator is {wanted}, but {why}; use trainer.accelerator=auto or cpu")
    if wanted == "mps" and sys.platform != "darwin":
        raise ConfigError("trainer.accelerator is mps, which is Apple's alone; use trainer.accelerator=auto")
    if wanted == "tpu" and importlib.util.find_spec("torch_xla") is None:
        raise ConfigError("trainer.accelerator is tpu, but torch_xla is not installed; use trainer.accelerator=auto")
    devices, cores = config["trainer"].get("devices"), cores_here()
    on_cpu = wanted == "cpu" or (wanted == "auto" and no_gpu(mps=True) is not None)
    if on_cpu and isinstance(devices, int) and devices > cores:
        raise ConfigError(
            f"trainer.devices is {devices}, but this machine has {cores} cores and no GPU is used: each device is "
            f"a process with a copy of the model; at most {cores} are of use"
        )
    if strategy == ZERO and importlib.util.find_spec("deepspeed") is None:
        raise ConfigError("strategy=deepspeed_* needs DeepSpeed: pip install 'unigen[cluster]'")
    if strategy == ZERO and (why := no_gpu(mps=False)):
        raise ConfigError(f"strategy=deepspeed_* divides a run among GPUs, but {why}; use strategy=single or ddp")


def cores_here() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def no_gpu(mps: bool, root: Path = Path("/")) -> str | None:
    """Explain why there is no GPU; None where there is one, or where only torch can tell. With `mps`, Apple's count."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if sys.platform == "darwin":
        return None if mps else "this is a Mac, which has no CUDA devices"
    if sys.platform != "linux":
        return None
    if not any(next(root.glob(node), None) for node in NODES):
        return "no GPU is here (or none that a driver shows)"
    return f"CUDA_VISIBLE_DEVICES={visible} hides every GPU" if visible in HIDDEN else None
