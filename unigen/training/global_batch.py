"""Computes how many samples an update sees on all devices together, and compares it with the published number.

One rule: data.batch_size is what one device takes at once, whatever the strategy. Nothing is divided or derived. A run
and a plan print the product, and which overrides would make it optimizer.batch.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from unigen.config.values import ConfigError


class GlobalBatch(NamedTuple):
    """The batch of an update: `batch` samples at once on a device, `accumulate` times, on `world` devices."""

    batch: int
    accumulate: int
    world: int

    @property
    def total(self) -> int:
        return self.batch * self.accumulate * self.world

    def __str__(self) -> str:
        return f"{self.total} ({self.batch} × {self.accumulate} × {self.world} device{'s' * (self.world > 1)})"


def global_batch(config: Mapping[str, Any], devices: int | None = None) -> GlobalBatch:
    """The batch of an update of this configuration. `devices` replaces a trainer.devices of "auto" or -1.

    Raises ConfigError if neither is a number.
    """
    trainer = config["trainer"]
    said = len(trainer["devices"]) if isinstance(trainer["devices"], list) else trainer["devices"]
    counted = devices if said in ("auto", -1, "-1") else said
    if not str(counted).isdigit() or int(counted) < 1:
        raise ConfigError(f"trainer.devices is {said!r}; a plan needs a number, e.g. trainer.devices=8")
    world = int(counted) * trainer["num_nodes"]
    return GlobalBatch(config["data"]["batch_size"], trainer["accumulate_grad_batches"], world)


def unpublished(config: Mapping[str, Any], made: GlobalBatch) -> str | None:
    """A sentence if an update does not see optimizer.batch samples, with the overrides that correct it; else None."""
    wanted = config["optimizer"]["batch"]
    if wanted is None or made.total == wanted:
        return None
    said = f"an update sees {made.total} samples, published are {wanted} (optimizer.batch)"
    share, left = divmod(wanted, made.world)
    if left:
        fitting = [n for n in range(1, made.world) if wanted % n == 0]
        return f"{said}; {made.world} devices cannot share {wanted}: the next fewer that can are {fitting[-1]}"
    size = next(b for b in range(min(made.batch, share), 0, -1) if share % b == 0)
    return f"{said}; as published: data.batch_size={size} trainer.accumulate_grad_batches={share // size}"
