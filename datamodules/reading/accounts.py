"""Accounts of readers: what became of the files that a reader found, so that none is left out in silence."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

NAMED = 3  # things left out that are named for each reason
REASONS = 12  # reasons that are told


class LeftOut(NamedTuple):
    """A file, row or folder that no record uses. Things with the same reason are told together."""

    name: str
    reason: str


class Account(NamedTuple):
    """A reader's report on its files.

    noun: what its records are called. captioned: how many of them have a caption, None if that is not known without
    reading them. left_out: what no record uses, the most surprising first. notes: sentences on what was guessed or cut.
    """

    noun: str = "records"
    captioned: int | None = None
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def sentences(self) -> tuple[str, ...]:
        """Sentences on what was left out, and the notes."""
        told = (f"left out: {listed_out(self.left_out)}",) if self.left_out else ()
        return (*told, *self.notes)


def account_of(source: Any) -> Account:
    """The account of a reader; an empty one if it gives none."""
    return getattr(source, "account", Account())


def visible(text: str) -> str:
    """Write any name as one printable line: control characters and lone surrogates become escapes."""
    return "".join(c if unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") else ascii(c)[1:-1] for c in text)


def listed_out(things: Sequence[LeftOut]) -> str:
    """List things in words, in order: 'a.heic, b.heic and 7 more (no decoder), c.md (neither image nor caption)'."""
    reasons: dict[str, list[str]] = {}
    for thing in things:
        reasons.setdefault(thing.reason, []).append(thing.name)
    told = []
    for reason, names in list(reasons.items())[:REASONS]:
        more = len(names) - NAMED
        told.append(f"{', '.join(names[:NAMED])}{f' and {more} more' if more > 0 else ''} ({reason})")
    if others := list(reasons.values())[REASONS:]:
        told.append(f"{sum(map(len, others))} for {len(others)} other reasons")
    return ", ".join(told)


START = 2**16  # bytes by which most files of one size differ


def same_files(files: Iterable[Path]) -> list[tuple[Path, ...]]:
    """The groups of files that have the same bytes, in the order of the files; what cannot be read is in none."""
    groups = _parted([tuple(files)], lambda file: file.stat().st_size)
    groups = _parted(groups, lambda file: _digest(file, START))
    return _parted(groups, lambda file: _digest(file, -1))


def _parted(groups: Iterable[tuple[Path, ...]], key: Callable[[Path], Hashable]) -> list[tuple[Path, ...]]:
    """Divide the groups by a key, and leave out those of one file."""
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
