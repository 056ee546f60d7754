"""The short hash of everything that a number depends on besides the weights: numbers of two hashes do not compare."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DIGITS = 12
OWN = "metric."  # a protocol's key "metric.NAME" holds what the metric NAME says of itself


def digest(said: Any) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:DIGITS]


def common(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What a protocol says of all metrics: data, solver, seeds, which weights."""
    return {key: value for key, value in protocol.items() if not key.startswith(OWN)}


def card_of(protocol: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """What one number depends on: the common part, and what the metric says of itself if it says anything.

    A metric that is measured on several kinds of pictures, psnr_line, has the card of psnr.
    """
    owners = [key for key in protocol if key.startswith(OWN) and f"{metric}_".startswith(f"{key.removeprefix(OWN)}_")]
    return common(protocol) | ({"metric": protocol[max(owners, key=len)]} if owners else {})


def hashed(measured: Mapping[str, Any]) -> dict[str, Any]:
    """`measured` ({metrics, bounds, protocol}) with a `protocol_hash` beside every number; absent ones have none."""
    metrics = {
        name: score | ({} if "reason" in score else {"protocol_hash": digest(card_of(measured["protocol"], name))})
        for name, score in measured["metrics"].items()
    }
    return {**measured, "metrics": metrics}
