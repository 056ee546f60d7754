"""The rows of a Hugging Face data set in parquet or arrow files, by index.

What an index means depends on the files alone: rows in the order of file names and rows, those selected. So there is no
state to save, and a stopped run goes on exactly. Which rows are selected is found out once and cached. For what a row
costs see `datamodules.sets.cells`.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.reading.accounts import Account
from datamodules.reading.images import BadImage, inside
from datamodules.sets import cells
from datamodules.sets.base import LazyImage, check_index, check_limit, stored
from unigen.config.files import user_cache, write_text

LAYOUTS = ("{split}/*.arrow", "{split}/*.parquet", "data/{split}-*.parquet", "data/{split}-*.arrow")


class Selection(NamedTuple):
    """The rows to keep: those for which `keep` is true of the values in `columns`. `name` tells selections apart."""

    name: str
    columns: tuple[str, ...]
    keep: Callable[[Mapping[str, Any]], bool]


class Tables:
    """The selected rows of all files of a split.

    root: the folder that the data set was downloaded to; its files lie as one of LAYOUTS says. images, values: the
    columns that every file must have. limit: at most so many rows, the first; later files are not opened then.
    cache: the folder for the cached index, by default ~/.cache/unigen/sets; a change of a file makes it look anew.
    Using it raises ValueError if there is no file, one cannot be opened or lacks a column, or no row is selected.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        images: Sequence[str],
        values: Sequence[str],
        selection: Selection | None = None,
        limit: int | None = None,
        cache: str | Path | None = None,
    ) -> None:
        self.root, self.split, self.limit = Path(root).expanduser(), split, check_limit(limit)
        self.images, self.values, self.selection = tuple(images), tuple(values), selection
        self.cache = Path(cache or user_cache("sets")).expanduser()

    def __len__(self) -> int:
        return self._starts[-1]

    def position(self, index: int) -> tuple[Path, int]:
        """The file of a selected row, and its row there."""
        shard = bisect_right(self._starts, check_index(index, len(self))) - 1
        path, rows, _ = self._shards[shard]
        return path, rows[index - self._starts[shard]]

    def name(self, index: int) -> str:
        """The name of a row in reports: 'train/data-00000-of-00380.arrow, row 17'."""
        path, row = self.position(index)
        return f"{path.relative_to(self.root).as_posix()}, row {row}"

    def value(self, index: int, column: str) -> Any:
        """A cell as plain Python: a dict for a struct, None for null. Raises BadImage if it cannot be read."""
        with cells.refusing(f"{self.name(index)}, {column}"):
            path, row = self.position(index)
            return cells.value(path, column, row)

    def has(self, index: int, column: str) -> bool:
        """True if the row has an image in this column; it is not read. Raises BadImage if the cell cannot be read."""
        with cells.refusing(f"{self.name(index)}, {column}"):
            path, row = self.position(index)
            return cells.filled(path, column, row)

    def image(self, index: int, column: str) -> LazyImage | None:
        """The image in a cell, {bytes, path} as the `Image` feature of `datasets` stores it, or None for null."""
        name = f"{self.name(index)}, {column}"
        if not self.has(index, column):
            return None

        def content() -> bytes:
            with cells.refusing(name):
                path, row = self.position(index)
                value = cells.image(path, column, row) or {}
                if value.get("bytes") is not None:
                    return value["bytes"]
                if not value.get("path"):
                    raise BadImage.of(name, "the cell is empty", "it must hold the bytes of an image or its path")
                return inside(self.root, value["path"]).read_bytes()

        return stored(content, name)

    @property
    def account(self) -> Account:
        """The account: the number of rows, in the files that were opened, that are not selected."""
        dropped = sum(others for *_, others in self._shards)
        notes = (f"{dropped} rows left out that are not {self.selection.name}",) if dropped and self.selection else ()
        return Account(notes=notes)

    @cached_property
    def _shards(self) -> list[tuple[Path, Sequence[int], int]]:
        """Files, their selected rows, no more than `limit` of them, and how many others a file has."""
        index, found, missing = _Index(self._index_file), [], self.limit
        for path in self._files():
            rows, others = index.rows(path, self._selected)
            rows = rows if missing is None else rows[:missing]
            found.append((path, rows, others))
            missing = None if missing is None else missing - len(rows)
            if missing == 0:
                break
        index.write()
        if not any(rows for _, rows, _ in found):
            where = f"in the {len(found)} files of split '{self.split}' in '{self.root}'"
            raise ValueError(f"no row with {self.selection.name} {where}" if self.selection else f"no row {where}")
        return found

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(len(rows) for _, rows, _ in self._shards)]

    @property
    def _index_file(self) -> Path:
        which = [str(self.root.resolve()), self.split, self.selection.name if self.selection else ""]
        return self.cache / f"rows-{hashlib.sha256(json.dumps(which).encode()).hexdigest()[:16]}.json"

    def _files(self) -> list[Path]:
        for layout in LAYOUTS:
            if files := sorted(self.root.glob(layout.format(split=self.split))):
                return files
        legal = ", ".join(layout.format(split=self.split) for layout in LAYOUTS)
        raise ValueError(f"no table of split '{self.split}' in folder '{self.root}'; there must be one of {legal}")

    def _selected(self, path: Path) -> Sequence[int]:
        """The selected rows of a file, whose columns are checked first."""
        needed = self.selection.columns if self.selection else ()
        cells.check_columns(path, self.images, (*self.values, *needed))
        if self.selection is None:
            return range(cells.height(path))
        return [number for number, row in enumerate(cells.rows(path, needed)) if self.selection.keep(row)]


class _Index:
    """An index of the selected rows of each file, cached as JSON {file: {size, mtime, height, rows, crc}}.

    `height` is the number of rows in the file; `rows` may be their number, where all are selected.
    An entry is valid while its table keeps its size and time of change, and its rows match their checksum.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.entries, self.changed = path, {}, False
        with suppress(OSError, ValueError, RecursionError):
            found = json.loads(path.read_bytes())
            self.entries = found if isinstance(found, dict) else {}

    def rows(self, path: Path, select: Callable[[Path], Sequence[int]]) -> tuple[Sequence[int], int]:
        """The rows of the entry, or else those that `select` finds, and how many others there are."""
        status = path.stat()
        stamp = {"size": status.st_size, "mtime": status.st_mtime_ns}
        entry = self.entries.get(str(path))
        entry = entry if isinstance(entry, dict) else {}
        same = {key: entry.get(key) for key in stamp} == stamp and {"rows", "height"} <= entry.keys()
        if not same or entry.get("crc") != _crc(entry["rows"]):
            rows = select(path)
            rows = len(rows) if isinstance(rows, range) else rows
            entry = {**stamp, "height": cells.height(path), "rows": rows, "crc": _crc(rows)}
            self.entries[str(path)], self.changed = entry, True
        rows = range(entry["rows"]) if isinstance(entry["rows"], int) else entry["rows"]
        return rows, entry["height"] - len(rows)

    def write(self) -> None:
        """Replace the cached file; where the folder cannot be written, the next run looks again."""
        if not self.changed:
            return
        with suppress(OSError):
            write_text(self.path, json.dumps(self.entries))


def _crc(rows: Any) -> int:
    """The checksum of an entry's rows."""
    return zlib.crc32(json.dumps(rows).encode())
