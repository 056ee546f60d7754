"""What a reader of a data set made of the files that it found, so that nothing is left out without a word."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

NAMED = 3  # things left out that are named for each reason
REASONS = 12  # reasons that are told


class LeftOut(NamedTuple):
    """A file, row or folder that no record uses. Things with the same reason are told together."""

    name: str
    reason: str


class Account(NamedTuple):
    """What a reader has to say of its files.

    noun: what its records are called. captioned: how many of them have a caption, None if that is not known without
    reading them. left_out: what no record uses, the most surprising first. notes: sentences on what was guessed or cut.
    """

    noun: str = "records"
    captioned: int | None = None
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was left out, and the notes."""
        told = (f"left out: {listed_out(self.left_out)}",) if self.left_out else ()
        return (*told, *self.notes)


def account_of(source: Any) -> Account:
    """The account of a reader; an empty one if it gives none."""
    return getattr(source, "account", Account())


def visible(text: str) -> str:
    """A name from anywhere as one line that can be printed: control characters and lone surrogates become escapes."""
    return "".join(c if unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") else ascii(c)[1:-1] for c in text)


def listed_out(things: Sequence[LeftOut]) -> str:
    """'a.heic, b.heic and 7 more (no decoder), c.md (neither image nor caption)', in the order of the things."""
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
