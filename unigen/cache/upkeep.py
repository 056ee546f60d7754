"""Checks and tidies a cache folder: damaged shards, temporary files, small shards, entries of other encoders."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from unigen.cache.files import SHARD_BYTES, BadShard, homes, read_shard, shards, write_shard

if TYPE_CHECKING:
    from torch import Tensor

STALE = 3600.0  # seconds after which a temporary file has lost its writer
SMALL = SHARD_BYTES // 2  # bytes below which a shard is merged


@dataclass
class Stock:
    """The content of one encoder's folder."""

    about: dict[str, str]
    shards: int = 0
    entries: int = 0
    bytes: int = 0


@dataclass
class Tidied:
    """The files that `gc` handled. It removes files that hold data only with yes=true."""

    temporary: list[Path] = field(default_factory=list)
    merged: list[Path] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    broken: list[BadShard] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)


def verify(folder: Path) -> tuple[dict[str, Stock], list[BadShard]]:
    """Read every shard; return the content by encoder, and the damaged shards."""
    stocks: dict[str, Stock] = {}
    bad: list[BadShard] = []
    for home in homes(folder):
        for _, entries, about in _readable(shards(home), bad):
            stock = stocks.setdefault(home.name, Stock(about))
            stock.shards, stock.entries = stock.shards + 1, stock.entries + len(entries)
            stock.bytes += sum(x.nbytes for x in entries.values())
    return stocks, bad


def gc(folder: Path, yes: bool, keep: set[str] | None = None) -> Tidied:
    """Remove stale temporary files and merge small shards; with `yes` also remove what holds data.

    That is: shards that cannot be read, and (if `keep` names encoders) all shards of encoders not in it.
    Safe beside writers and readers: a merged shard is on the disk before those it replaces go.
    """
    done = Tidied()
    for home in homes(folder):
        for path in filter(_stale, home.glob(".*.part")):
            path.unlink(missing_ok=True)
            done.temporary.append(path)
        if keep is None or home.name in keep:
            _merge(home, *_loose(home, done), done)
        else:
            done.others += shards(home)
    if yes:
        for path in [*done.others, *(bad.path for bad in done.broken)]:
            path.unlink(missing_ok=True)
    return done


def _stale(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > STALE
    except FileNotFoundError:  # its writer renamed it a moment ago
        return False


def _readable(paths: list[Path], bad: list[BadShard]) -> "Iterator[tuple[Path, dict[str, Tensor], dict[str, str]]]":
    """(path, entries, metadata) of each shard; those that cannot be read go into `bad`."""
    for path in paths:
        try:
            yield path, *read_shard(path)
        except FileNotFoundError:  # another gc was faster
            continue
        except BadShard as error:
            bad.append(error)


def _loose(home: Path, done: Tidied) -> tuple[list[Path], set[str]]:
    """Return the shards to merge (small ones, and those that repeat entries) and the keys that the other
    shards hold.
    """
    loose, held, repeated = [], set(), False
    for path, entries, _ in _readable(shards(home), done.broken):
        again = not held.isdisjoint(entries)
        if again or sum(x.nbytes for x in entries.values()) < SMALL:
            loose.append(path)
            repeated = repeated or again
        else:
            held |= entries.keys()
    return (loose if len(loose) > 1 or repeated else []), held


def _merge(home: Path, loose: list[Path], held: set[str], done: Tidied) -> None:
    """Write the entries of `loose` that are not in `held`, once each, into new shards; then remove the old shards."""
    waiting: dict[str, Tensor] = {}
    size, about, read = 0, {}, []
    for path, entries, about in _readable(loose, []):
        read.append(path)
        for key in sorted(entries.keys() - held):
            if waiting and size + entries[key].nbytes > SHARD_BYTES:
                done.written.append(write_shard(home, waiting, about))
                waiting, size = {}, 0
            waiting[key], size = entries[key], size + entries[key].nbytes
            held.add(key)
    if waiting:
        done.written.append(write_shard(home, waiting, about))
    for path in read:
        path.unlink(missing_ok=True)
        done.merged.append(path)
