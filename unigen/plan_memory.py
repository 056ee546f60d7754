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

    `zero`: DeepSpeed, which holds the module in the low precision and fp32 masters with the optimizer's states.
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


def sharding(strategy: Any, world: int) -> Sharding:
    """Of Lightning's `trainer.strategy` on `world` devices. Raises ConfigError for one that is not known here."""
    n, many = world, world > 1
    known = {
        "auto": Sharding(copies=many),
        "ddp": Sharding(copies=many),
        "deepspeed": Sharding(1, n, n, zero=True, copies=many),  # stage 2
        "deepspeed_stage_1": Sharding(1, 1, n, zero=True, copies=many),
        "deepspeed_stage_2": Sharding(1, n, n, zero=True, copies=many),
        "deepspeed_stage_2_offload": Sharding(1, n, 0, zero=True, copies=many),
        "deepspeed_stage_3": Sharding(n, n, n, zero=True, whole=many, copies=many),
        "deepspeed_stage_3_offload": Sharding(0, n, 0, zero=True, whole=True, copies=many),
        "fsdp": Sharding(n, n, n, whole=many, copies=many),
    }
    if not isinstance(strategy, str) or strategy not in known:
        raise ConfigError(f"trainer.strategy is {strategy!r}, which cannot be planned; legal are {', '.join(known)}")
    return known[strategy]


def precision(word: Any) -> tuple[torch.dtype, torch.dtype | None]:
    """(stored, autocast or None). Raises ConfigError for a word that is not known here."""
    if str(word) not in PRECISIONS:
        raise ConfigError(f"trainer.precision is {word!r}, which cannot be planned; legal are {', '.join(PRECISIONS)}")
    return PRECISIONS[str(word)]


def held(
    count: Mapping[str, int], frozen_bytes: int, stored: torch.dtype, low: torch.dtype | None, s: Sharding, ema: bool
) -> Held:
    """`count`: parameters of the trained module (`trained`, `total`); `frozen_bytes`: encoders outside it.

    AdamW has two states for each trained weight, in its precision. Rajbhandari et al. (ZeRO, section 3.1) for what
    DeepSpeed holds in mixed precision: 2 + 2 + 12 bytes. An EMA is in fp32, on each device whole unless weights are
    divided.
    """
    trained, total = count["trained"], count["total"]
    size = (low or stored).itemsize if s.zero else stored.itemsize
    states = (2 + (size < 4)) * 4 if s.zero else 2 * size
    return Held(
        weights=_share(total * size, s.weights),
        gradients=_share(trained * size, s.gradients),
        optimizer=_share(trained * states, s.optimizer),
        ema=4.0 * trained / max(1, s.weights) if ema else 0.0,
        communication=_communication(trained, total, size, (low or stored).itemsize, s),
        encoders=float(frozen_bytes),
    )


def _share(size: float, devices: int) -> float:
    return size / devices if devices else 0.0


def _communication(trained: int, total: int, size: int, computed: int, s: Sharding) -> float:
    """DDP's buckets hold the gradients again. DeepSpeed's two buckets exist 4.5 times with overlap_comm (Hugging Face's
    DeepSpeed guide). Weights that are gathered: FSDP without a wrapping policy, Lightning's default, all at once."""
    if s.zero:
        return 2 * 4.5 * min(BUCKET, trained) * size * s.copies + s.whole * min(LIVE, total) * size
    if s.whole:
        return float(total * computed)
    return float(trained * size * s.copies)


def sent(trained: int, total: int, size: int, world: int, accumulate: int, s: Sharding) -> float:
    """Bytes that a device sends in an optimizer step: a ring's all-reduce of the gradients once, and where weights are
    divided, their gathering for each forward and each backward."""
    ring = (world - 1) / world
    return ring * (2 * trained * size + s.whole * 2 * accumulate * total * size)
