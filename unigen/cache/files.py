"""Entries by key in safetensors shards: every shard is whole or not there, and the shards alone are the index.

A cache folder holds one folder for each encoder, named after it; in that lie shards `<random>.safetensors`. A tensor's
name is its entry's key. The header's metadata says which encoder it is, what it was, and the sha256 of all entries.
Writers never share a file name, so any number of processes may write at once; an entry that two of them wrote is
harmless, and `unigen.cache.upkeep.gc` drops one.
"""

import re
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from unigen.config.files import whole_file

if TYPE_CHECKING:
    from safetensors import safe_open
    from torch import Tensor

SHARD_BYTES = 64 * 2**20  # a shard is written when so much waits
PATIENCE = 60.0  # ... or when the oldest entry has waited so many seconds
OPEN_SHARDS = 64  # memory-mapped at a time


class BadShard(ValueError):
    """A shard that cannot be read, or that does not hold what it says."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path} {what}")
        self.path = path


def homes(folder: Path) -> list[Path]:
    """The encoders' folders of a cache; other files and folders there are ignored."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and re.fullmatch("[0-9a-f]{64}", path.name))


def shards(home: Path) -> list[Path]:
    """All shards of an encoder, in a fixed order."""
    return sorted(home.glob("*.safetensors"))


def write_shard(folder: Path, entries: "Mapping[str, Tensor]", about: Mapping[str, str]) -> Path:
    """Write a new shard with these entries. It is on the disk when this returns.

    `about` goes into the metadata beside "encoder" (the folder's name) and "sha256". Raises OSError if the shard cannot
    be written; then it leaves no trace.
    """
    from safetensors.torch import save

    path = folder / f"{uuid.uuid4().hex}.safetensors"
    data = save(dict(entries), {**about, "encoder": folder.name, "sha256": checksum(entries)})
    with whole_file(path) as part:
        part.write_bytes(data)
    return path


def open_shard(path: Path) -> "safe_open":
    """Open a shard memory-mapped, and read its header. Raises BadShard, or FileNotFoundError if it is gone."""
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise BadShard(path, f"is no whole shard ({error})") from error


def read_shard(path: Path) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """Read all entries, checked against the checksum, and the metadata. Raises BadShard, or FileNotFoundError."""
    shard = open_shard(path)
    entries, about = {key: shard.get_tensor(key) for key in shard.keys()}, shard.metadata() or {}  # noqa: SIM118
    if about.get("encoder") != path.parent.name:
        raise BadShard(path, f"says that it belongs to encoder {about.get('encoder')}: it lies in the wrong folder")
    if about.get("sha256") != checksum(entries):
        raise BadShard(path, "does not hold what was written: its checksum differs")
    return entries, about


def checksum(entries: "Mapping[str, Tensor]") -> str:
    """sha256 over keys, types, shapes and bytes, in the order of the keys."""
    import torch

    found = sha256()
    for key in sorted(entries):
        x = entries[key].contiguous()
        found.update(f"{key} {x.dtype} {tuple(x.shape)} ".encode())
        found.update(memoryview(x.flatten().view(torch.uint8).numpy()))
    return found.hexdigest()


class Shelf:
    """The entries of one encoder: those in its shards, of which only the headers are in memory, and those not yet
    written.

    If several shards hold an entry, the first one seen counts. A shard that cannot be read is skipped with a warning:
    its entries count as missing. An entry takes about 250 bytes of memory.
    """

    def __init__(self, folder: Path, about: Mapping[str, str]) -> None:
        self.folder, self.about = folder, dict(about)
        self.read = self.made = self.bytes = 0  # entries found, entries put, bytes put
        self._where: dict[str, str] = {}
        self._seen: set[str] = set()
        self._waiting: dict[str, Tensor] = {}
        self._size, self._since = 0, 0.0
        self._open = lru_cache(OPEN_SHARDS)(lambda name: open_shard(self.folder / name))
        self._scan()

    def __len__(self) -> int:
        return len(self._where.keys() | self._waiting.keys())

    def __contains__(self, key: str) -> bool:
        return key in self._where or key in self._waiting

    def __iter__(self) -> Iterator[str]:
        return iter(self._where.keys() | self._waiting.keys())

    def place(self, key: str) -> Path:
        """The shard that holds an entry."""
        return self.folder / self._where[key]

    def get(self, key: str) -> "Tensor | None":
        """The entry, a view of the file; None if there is none."""
        while (found := self._waiting.get(key)) is None and key in self._where:
            try:
                found = self._open(self._where[key]).get_tensor(key)
                break
            except (FileNotFoundError, BadShard):  # merged or damaged since it was seen
                self._where.clear(), self._seen.clear(), self._open.cache_clear()
                self._scan()
        self.read += found is not None
        return found

    def put(self, key: str, value: "Tensor") -> None:
        """Keep an entry; it is on the disk after the next `flush` at the latest. Raises OSError as `flush`."""
        self._since = self._since if self._waiting else time.monotonic()
        self._waiting[key] = value
        self._size += value.nbytes
        self.made, self.bytes = self.made + 1, self.bytes + value.nbytes
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Call `flush` if enough entries wait, or one has waited long enough."""
        if self._size >= SHARD_BYTES or (self._waiting and time.monotonic() - self._since > PATIENCE):
            self.flush()

    def flush(self) -> None:
        """Write the waiting entries, and index what others wrote. Raises OSError; then the waiting entries
        are dropped.
        """
        if not self._waiting:
            return
        entries, self._waiting, self._size = self._waiting, {}, 0
        write_shard(self.folder, entries, self.about)
        self._scan()

    def _scan(self) -> None:
        """Index the shards that are new since the last scan."""
        for path in shards(self.folder):
            if path.name in self._seen:
                continue
            self._seen.add(path.name)
            try:
                names = open_shard(path).keys()
            except FileNotFoundError:  # merged a moment ago
                continue
            except BadShard as error:
                warnings.warn(f"{error}; its entries count as missing", stacklevel=2)
                continue
            for key in names:
                self._where.setdefault(key, path.name)
