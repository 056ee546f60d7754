"""Files of one content under several names, found without reading more than is needed to tell files apart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

START = 2**16  # bytes by which most files of one size differ


def same_files(files: Iterable[Path]) -> list[tuple[Path, ...]]:
    """The groups of files that have the same bytes, in the order of the files; what cannot be read is in none."""
    groups = _parted([tuple(files)], lambda file: file.stat().st_size)
    groups = _parted(groups, lambda file: _digest(file, START))
    return _parted(groups, lambda file: _digest(file, -1))


def _parted(groups: Iterable[tuple[Path, ...]], key: Callable[[Path], Hashable]) -> list[tuple[Path, ...]]:
    """The groups parted by a key, those of one file left out."""
    found: list[tuple[Path, ...]] = []
    for group in groups:
        parts: dict[Hashable, list[Path]] = {}
        for file in group:
            try:
                parts.setdefault(key(file), []).append(file)
            except OSError:
                continue
        found += [tuple(part) for part in parts.values() if len(part) > 1]
    return found


def _digest(file: Path, most: int) -> bytes:
    with open(file, "rb") as stream:
        return hashlib.sha256(stream.read(most)).digest()
