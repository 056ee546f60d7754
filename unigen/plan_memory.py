"""Bytes on one device by what they are for, and what a strategy divides among devices."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from unigen.config import ConfigError

GIB = 2**30
# Lightning's word -> precision of the stored weights, and of autocast (None: off)
PRECISIONS: dict[str, tuple[torch.dtype, torch.dtype | None]] = {
    "auto": (torch.float32, torch.bfloat16),  # on any profile's hardware (see `unigen.training.precision`)
    "32-true": (torch.float32, None),
    "bf16-mixed": (torch.float32, torch.bfloat16),
    "16-mixed": (torch.float32, torch.float16),
    "bf16-true": (torch.bfloat16, None),
    "16-true": (torch.float16, None),
}
BUCKET = 2e8  # elements: what Lightning gives DeepSpeed as allgather_bucket_size and reduce_bucket_size
LIVE = 1e9  # elements that DeepSpeed keeps gathered at most (stage3_max_live_parameters)


class Sharding(NamedTuple):
    """Among how many devices weights, gradients and optimizer states are divided; 0: they lie in the host's memory.

    `zero`: DeepSpeed, which holds fp32 masters with the optimizer's states, whatever the module's precision.
    `whole`: weights are gathered again to compute with them. `copies`: other devices have the same gradients.
    """

    weights: int = 1
    gradients: int = 1
    optimizer: int = 1
    zero: bool = False
    whole: bool = False
    copies: bool = False


class Held(NamedTuple):
    """Bytes on one device at any time, beside what a step makes and drops again."""

    weights: float
    gradients: float
    optimizer: float
    ema: float
    communication: float
    encoders: float


class Traffic(NamedTuple):
    """Bytes that a device sends in an optimizer step, as many as it receives; what offloads copy is no part of it.

    gradients: to sum them, each device its part; updates: those parts, or the weights made of them, to all devices;
    weights: gathered to compute with them.
    """

    gradients: float
    updates: float
    weights: float


def strategy_name(strategy: Any) -> str:
    """What conf/strategy calls a node like its own. Raises ConfigError for one that cannot be planned."""
    kind = str(strategy.get("_target_")).rpartition(".")[2] if isinstance(strategy, Mapping) else str(strategy)
    if kind == "ZeRO":
        return f"deepspeed_{strategy['stage']}{'_offload' * strategy['offload_optimizer']}"
    known = {"single": "single", "DDPStrategy": "ddp", "FSDP2": "fsdp2"}
    if kind not in known:
        raise ConfigError(
            f"strategy._target_ ends in {kind}, which cannot be planned; legal are {', '.join(known)}, ZeRO"
        )
    return known[kind]


def sharding(strategy: Any, world: int) -> Sharding:
    """Of the config's `strategy` on `world` devices. Raises ConfigError for one that is not known here."""
    n, many, name = world, world > 1, strategy_name(strategy)
    if name == "fsdp2":
        return Sharding(n, n, n, whole=many, copies=many)
    if not name.startswith("deepspeed"):
        return Sharding(copies=many)
    stage = strategy["stage"]
    weights = 0 if strategy["offload_parameters"] else n if stage == 3 else 1
    states = 0 if strategy["offload_optimizer"] else n
    gathered = stage == 3 and (many or weights == 0)
    return Sharding(weights, n if stage > 1 else 1, states, zero=True, whole=gathered, copies=many)


def precision(word: Any) -> tuple[torch.dtype, torch.dtype | None]:
    """(stored, autocast or None). Raises ConfigError for a word that is not known here."""
    if str(word) not in PRECISIONS:
        raise ConfigError(f"trainer.precision is {word!r}, which cannot be planned; legal are {', '.join(PRECISIONS)}")
    return PRECISIONS[str(word)]


def held(count: Mapping[str, int], frozen_bytes: int, stored: torch.dtype, s: Sharding, ema: bool) -> Held:
    """`count`: parameters of the trained module (`trained`, `total`, and `gathered`, see `shards.gathered`);
    `frozen_bytes`: encoders outside it.

    AdamW has two states for each trained weight, in its precision; DeepSpeed's are in fp32 and have an fp32 master
    beside them: 12 bytes (Rajbhandari et al., ZeRO, section 3.1). An EMA is in fp32, on each device whole unless
    weights are divided.
    """
    trained, total = count["trained"], count["total"]
    size = stored.itemsize
    states = 3 * 4 if s.zero else 2 * size
    return Held(
        weights=_share(total * size, s.weights),
        gradients=_share(trained * size, s.gradients),
        optimizer=_share(trained * states, s.optimizer),
        ema=4.0 * trained / max(1, s.weights) if ema else 0.0,
        communication=_communication(count, size, s),
        encoders=float(frozen_bytes),
    )


def _share(size: float, devices: int) -> float:
    return size / devices if devices else 0.0


def _communication(count: Mapping[str, int], size: int, s: Sharding) -> float:
    """DDP's buckets hold the gradients again. DeepSpeed's two buckets exist 4.5 times with overlap_comm (Hugging Face's
    DeepSpeed guide). Weights are gathered in the precision that they are stored in."""
    trained = count["trained"]
    if s.zero:
        return 2 * 4.5 * min(BUCKET, trained) * size * s.copies + s.whole * min(LIVE, count["total"]) * size
    if s.whole:
        return float(count["gathered"] * size)
    return float(trained * size * s.copies)


def traffic(trained: int, total: int, size: int, world: int, accumulate: int, s: Sharding) -> Traffic:
    """What rings need: (world - 1) / world of a tensor's bytes to sum it in parts, as many to gather the parts.

    DDP and ZeRO-1 sum the gradients of an update once, the others those of each micro-batch (DeepSpeed's
    partition_gradients; Lightning holds nothing back under FSDP2). What is not divided, weights under ZeRO-1 and 2 and
    gradients under DDP, is made whole again once; divided weights are gathered for each forward and each backward
    (ZeRO, section 7).
    """
    part = (world - 1) / world * size
    sums = accumulate if s.gradients > 1 else 1
    return Traffic(
        gradients=part * trained * sums,
        updates=0.0 if s.whole else part * trained,
        weights=part * total * 2 * accumulate * s.whole,
    )
