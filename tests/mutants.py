"""Damaged files by the thousand: what disks, transfers and editors make of a good one."""

import json
import random
from collections.abc import Iterator
from typing import Any

STRANGE = (None, True, [], {}, "", "x", -1, 0, 0.5, 1e308, 10**30, "\x1b[31m", [1, [2]], {"a": {"b": 1}}, float("nan"))
RAW = (b"", b"null", b"[]", b"{}", b"3", b'"x"', b"[" * 100_000, b"1" * 5000, b"\xff\xfe\x00", b"\x00" * 64, b"{" * 3)


def mutants(good: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` files that are not `good`; JSON and lines of JSON are also given other values in the right syntax."""
    rng = random.Random(seed)
    kinds = [cut, flipped, overwritten, shuffled] + ([reshaped] * 4 if is_json(good) else [])
    for number in range(count):
        made = RAW[number] if number < len(RAW) else rng.choice(kinds)(good, rng)
        if made != good:
            yield made


def is_json(data: bytes) -> bool:
    try:
        return all(json.loads(line) is not None for line in ([data] if data[:2] == b"{\n" else data.splitlines()))
    except ValueError:
        return False


def cut(data: bytes, rng: random.Random) -> bytes:
    """Its beginning alone, or its end."""
    at = rng.randrange(len(data))
    return data[:at] if rng.random() < 0.8 else data[at:]


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Up to eight bits are others."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
    return bytes(made)


def overwritten(data: bytes, rng: random.Random) -> bytes:
    """Random bytes or zeros in the place of some, or between them."""
    at, length = rng.randrange(len(data)), rng.choice((1, 8, 64, 4096))
    junk = rng.randbytes(length) if rng.random() < 0.7 else bytes(length)
    return data[:at] + junk + data[at + rng.choice((0, length)) :]


def shuffled(data: bytes, rng: random.Random) -> bytes:
    """Two blocks have changed places."""
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    return data[b:] + data[a:b] + data[:a]


def reshaped(data: bytes, rng: random.Random) -> bytes:
    """A value, anywhere in one of its objects, is another, missing, or there under another name."""
    lines = [data] if data[:2] == b"{\n" else data.splitlines()
    at = rng.randrange(len(lines))
    tree = json.loads(lines[at])
    places = list(_places(tree))
    if not places:
        return b"[]"
    node, key = rng.choice(places)
    match rng.random():
        case x if x < 0.15:
            del node[key]
        case x if x < 0.25 and isinstance(node, dict):
            node["other"] = node.pop(key)
        case _:
            node[key] = rng.choice(STRANGE)
    lines[at] = json.dumps(tree, indent=1 if len(lines) == 1 and data[:2] == b"{\n" else None).encode()
    return b"\n".join(lines) + b"\n"


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value below a node."""
    items = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    for key, value in items:
        yield node, key
        yield from _places(value)
