"""Miniatures of published data sets: images, and tables as `datasets` writes them, for the tests of their readers."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def pixels(seed: int, width: int = 16, height: int = 16) -> np.ndarray:
    """uint8 (3, H, W) noise that the seed decides."""
    return np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)


def png(seed: int, width: int = 16, height: int = 16) -> bytes:
    """`pixels` as the bytes of a PNG, from which they come back exactly."""
    return encoded(pixels(seed, width, height))


def encoded(array: np.ndarray, kind: str = "PNG") -> bytes:
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0))).save(file, kind)
    return file.getvalue()


def cell(data: bytes | None, path: str | None = None) -> dict[str, Any] | None:
    """An image's cell, null if there is none."""
    return None if data is None and path is None else {"bytes": data, "path": path}


def written(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def table(
    path: Path, rows: Sequence[Mapping[str, Any]], types: Mapping[str, Any], group: int = 2, kind: str = "stream"
) -> Path:
    """A table of these columns: parquet with so many rows in a group, or arrow as a stream or a file, by suffix.

    types: pyarrow types by column; 'image' stands for that of an image.
    """
    pa = pytest.importorskip("pyarrow", reason="the extra 'data' is not installed")
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([(name, image if kind == "image" else kind) for name, kind in types.items()])
    content = pa.Table.from_pylist([{name: row.get(name) for name in types} for row in rows], schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(content, path, row_group_size=group)
    else:
        new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with new(str(path), schema) as writer:
            writer.write_table(content, max_chunksize=group)
    return path
