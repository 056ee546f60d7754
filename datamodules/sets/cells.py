"""Cells of parquet and arrow files by file, row and column: nothing else of a row is read.

Arrow files (as `save_to_disk` of `datasets` writes them, in the stream format, and in the file format) are
memory-mapped: a cell costs what it holds. Of a parquet file the smallest part that can be read is a column of a row
group, of which the last few are kept: cells read in order, or in the neighbourhood, cost little, and those drawn at
random from a large set cost a row group each. pyarrow is an extra of this package, imported when the first file is
opened, and told to use no threads, as this runs in loader workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from datamodules.reading.images import BadImage

PARQUET = ".parquet"
OPEN, IMAGES, VALUES = 128, 4, 256  # files, and columns of row groups with and without images, that a process keeps


class TableError(ValueError):
    """A file that is no table, or not of the data set's schema: unlike a bad row, it ends the run."""


def height(path: Path) -> int:
    """The number of rows of a table. Raises TableError if it cannot be opened."""
    table = _opened(path)
    return table.metadata.num_rows if path.suffix == PARQUET else table.num_rows


def value(path: Path, column: str, row: int) -> Any:
    """A cell without an image as plain Python, a dict for a struct and None for null. Raises as `refusing` does."""
    return _cell(path, column, row, _values).as_py()


def image(path: Path, column: str, row: int) -> dict[str, Any] | None:
    """An image's cell, {bytes, path} or None for null. Raises as `refusing` does."""
    return _cell(path, column, row, _images).as_py()


def filled(path: Path, column: str, row: int) -> bool:
    """True if an image's cell is not null; the image is not read. Raises as `refusing` does."""
    leaf = f"{column}.path" if path.suffix == PARQUET else column  # one leaf of a struct tells, and is small
    return _cell(path, leaf, row, _values).is_valid


def rows(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """All rows of a table, of these columns alone. Raises TableError if they cannot be read."""
    table = _opened(path)
    try:
        read = table.read(list(columns), use_threads=False) if path.suffix == PARQUET else table.select(list(columns))
        return read.to_pylist()
    except (OSError, ValueError) as error:
        raise TableError(f"cannot read table '{path}': {error}; download it again") from error


def check_columns(path: Path, images: Sequence[str], values: Sequence[str]) -> None:
    """Check a table's columns. Raises TableError, naming the file, for a missing column (and those that are there) or
    one without images.
    """
    pyarrow, table = _pyarrow(), _opened(path)
    schema = table.schema_arrow if path.suffix == PARQUET else table.schema
    if missing := [column for column in (*images, *values) if column not in schema.names]:
        raise TableError(f"table '{path}' has no column {', '.join(missing)}; it has {', '.join(schema.names)}")
    for column in images:
        kind = schema.field(column).type
        fields = {kind.field(i).name for i in range(kind.num_fields)} if pyarrow.types.is_struct(kind) else set()
        if not {"bytes", "path"} <= fields:
            raise TableError(f"column {column} of table '{path}' holds {kind}; it must hold images, {{bytes, path}}")


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """Turn a fault of a cell into a BadImage of this name; a fault of its file stays a TableError."""
    try:
        yield
    except (BadImage, TableError):
        raise
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise BadImage.of(name, " ".join(str(error).split()), "the file must be whole: download it again") from error


def _cell(path: Path, column: str, row: int, read: Callable[[Path, int, int, str], Any]) -> Any:
    """A pyarrow scalar; `read` reads the column of a row group."""
    table = _opened(path)
    if path.suffix != PARQUET:
        return table.column(column)[row]
    group = 0
    while row >= (rows_there := table.metadata.row_group(group).num_rows):
        group, row = group + 1, row - rows_there
    return read(path, path.stat().st_mtime_ns, group, column)[row]


def _opened(path: Path) -> Any:
    """A ParquetFile, or a memory-mapped Table. Raises TableError, naming the file, if it is neither."""
    try:
        return _open(path, path.stat().st_mtime_ns)
    except TableError:
        raise
    except (OSError, ValueError) as error:
        raise TableError(f"cannot open table '{path}': {error}; download it again") from error


@lru_cache(maxsize=OPEN)
def _open(path: Path, mtime: int) -> Any:
    pyarrow = _pyarrow()
    if path.suffix == PARQUET:
        return pyarrow.parquet.ParquetFile(path)
    mapped = pyarrow.memory_map(str(path))
    try:
        return pyarrow.ipc.open_stream(mapped).read_all()
    except pyarrow.ArrowInvalid:
        mapped.seek(0)
        return pyarrow.ipc.open_file(mapped).read_all()


def _group(path: Path, mtime: int, group: int, column: str) -> Any:
    """A column, or a leaf of a struct, of a row group."""
    return _open(path, mtime).read_row_group(group, columns=[column], use_threads=False).column(0)


_images, _values = lru_cache(maxsize=IMAGES)(_group), lru_cache(maxsize=VALUES)(_group)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise TableError("reading parquet and arrow files needs pyarrow: pip install 'unigen[data]'") from error
    return pyarrow
