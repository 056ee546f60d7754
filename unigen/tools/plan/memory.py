"""The bytes that one device holds and sends in training, and how a strategy divides them among devices."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from unigen.config.values import ConfigError

GIB = 2**30
# Lightning's word for a precision -> type of the stored weights, and of autocast (None: off)
PRECISIONS: dict[str, tuple[torch.dtype, torch.dtype | None]] = {
    "auto": (torch.float32, torch.bfloat16),  # all profiles' hardware has bf16 (`unigen.training.experiment.precision`)
    "32-true": (torch.float32, None),
    "bf16-mixed": (torch.float32, torch.bfloat16),
    "16-mixed": (torch.float32, torch.float16),
    "bf16-true": (torch.bfloat16, None),
    "16-true": (torch.float16, None),
}
BUCKET = 2e8  # elements: Lightning's allgather_bucket_size and reduce_bucket_size for DeepSpeed
LIVE = 1e9  # elements that DeepSpeed keeps gathered at most (stage3_max_live_parameters)


class Sharding(NamedTuple):
    """The numbers of devices that weights, gradients and optimizer states are divided among; 0: in host memory.

    `zero`: DeepSpeed, which holds fp32 masters with the optimizer's states, whatever the module's precision.
    `whole`: weights are gathered for computing. `copies`: other devices compute gradients of the same weights.
    """

    weights: int = 1
    gradients: int = 1
    optimizer: int = 1
    zero: bool = False
    whole: bool = False
    copies: bool = False


class Held(NamedTuple):
    """Bytes that one device holds at all times, without those that a step allocates and frees again."""

    weights: float
    gradients: float
    optimizer: float
    ema: float
    communication: float
    encoders: float


class Traffic(NamedTuple):
    """Bytes that a device sends in an optimizer step; it receives as many. Copies for offloading are not counted.

    gradients: to sum gradients, each device its part. updates: to send these sums, or the updated weights, to all
    devices. weights: to gather weights for computing.
    """

    gradients: float
    updates: float
    weights: float


def strategy_name(strategy: Any) -> str:
    """Return the name that conf/strategy has for this node. Raises ConfigError for an unknown strategy."""
    kind = str(strategy.get("_target_")).rpartition(".")[2] if isinstance(strategy, Mapping) else str(strategy)
    if kind == "ZeRO":
        return f"deepspeed_{strategy['stage']}{'_offload' * strategy['offload_optimizer']}"
    known = {"single": "single", "DDPStrategy": "ddp", "FSDP2": "fsdp2"}
    if kind not in known:
        raise ConfigError(
            f"strategy._target_ ends in {kind}, which has no resource estimate; legal are {', '.join(known)}, ZeRO"
        )
    return known[kind]


def sharding(strategy: Any, world: int) -> Sharding:
    """Return how the config's `strategy` divides state among `world` devices. Raises ConfigError for unknown ones."""
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
    """Return (type of stored weights, type of autocast or None). Raises ConfigError for an unknown word."""
    if str(word) not in PRECISIONS:
        legal = ", ".join(PRECISIONS)
        raise ConfigError(f"trainer.precision is {word!r}, which has no resource estimate; legal are {legal}")
    return PRECISIONS[str(word)]


def held(count: Mapping[str, int], frozen_bytes: int, stored: torch.dtype, s: Sharding, ema: bool) -> Held:
    """Return the bytes that one device holds.

    `count` holds the numbers of parameters of the trained module (`trained`, `total`, `gathered`, see
    `shards.gathered`, and `one_state`, those that Muon updates), `frozen_bytes` is the size of the encoders outside it.
    AdamW has two states for each trained weight, in the weight's precision; DeepSpeed's states are in fp32 with an fp32
    master beside them, 12 bytes (Rajbhandari et al., ZeRO, section 3.1). An EMA is in fp32, and each device holds all
    of it unless weights are divided.
    """
    trained, total = count["trained"], count["total"]
    size = stored.itemsize
    states = 3 * 4 * trained if s.zero else size * (2 * trained - count.get("one_state", 0))
    return Held(
        weights=_share(total * size, s.weights),
        gradients=_share(trained * size, s.gradients),
        optimizer=_share(states, s.optimizer),
        ema=4.0 * trained / max(1, s.weights) if ema else 0.0,
        communication=_communication(count, size, s),
        encoders=float(frozen_bytes),
    )


def _share(size: float, devices: int) -> float:
    return size / devices if devices else 0.0


def _communication(count: Mapping[str, int], size: int, s: Sharding) -> float:
    """Return the bytes of communication buffers.

    DDP's buckets hold the gradients a second time. DeepSpeed's two buckets exist 4.5 times with overlap_comm (Hugging
    Face's DeepSpeed guide). Weights are gathered in the precision that they are stored in.
    """
    trained = count["trained"]
    if s.zero:
        return 2 * 4.5 * min(BUCKET, trained) * size * s.copies + s.whole * min(LIVE, count["total"]) * size
    if s.whole:
        return float(count["gathered"] * size)
    return float(trained * size * s.copies)


def traffic(trained: int, total: int, size: int, world: int, accumulate: int, s: Sharding) -> Traffic:
    """Return the traffic of ring algorithms.

    A ring sends (world - 1) / world of a tensor's bytes to sum it in parts, and as many to gather the parts.
    DDP and ZeRO-1 sum the gradients once for an update, the others for each micro-batch (DeepSpeed's
    partition_gradients; Lightning does not delay the sum under FSDP2). Tensors that are not divided, weights under
    ZeRO-1 and 2 and gradients under DDP, are gathered once; divided weights are gathered for each forward and each
    backward (ZeRO, section 7).
    """
    part = (world - 1) / world * size
    sums = accumulate if s.gradients > 1 else 1
    return Traffic(
        gradients=part * trained * sums,
        updates=0.0 if s.whole else part * trained,
        weights=part * total * 2 * accumulate * s.whole,
    )
