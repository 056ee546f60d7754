"""The short hash of everything that a number depends on besides the weights.

Two numbers may be compared only if their hashes are equal.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DIGITS = 12
OWN = "metric."  # a protocol's key "metric.NAME" holds what the metric NAME says of itself


def digest(said: Any) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:DIGITS]


def common(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a protocol that holds for all metrics: data, solver, seeds, and which weights are used."""
    return {key: value for key, value in protocol.items() if not key.startswith(OWN)}


def card_of(protocol: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """Return everything that one number depends on: the common part, and the metric's own part if it has one.

    A metric that is measured on several kinds of images, such as psnr_line, has the card of psnr.
    """
    owners = [key for key in protocol if key.startswith(OWN) and f"{metric}_".startswith(f"{key.removeprefix(OWN)}_")]
    return common(protocol) | ({"metric": protocol[max(owners, key=len)]} if owners else {})


def hashed(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return `measured` ({metrics, bounds, protocol}) with a `protocol_hash` beside every number that is not absent."""
    metrics = {
        name: score | ({} if "reason" in score else {"protocol_hash": digest(card_of(measured["protocol"], name))})
        for name, score in measured["metrics"].items()
    }
    return {**measured, "metrics": metrics}
