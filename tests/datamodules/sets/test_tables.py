"""Rows of parquet and arrow files: positions, selections, limits, the cached index, wrong schemas, broken cells."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from miniature import cell, pixels, png, table, written

from datamodules.reading.images import BadImage
from datamodules.sets.tables import Selection, Tables

pa = pytest.importorskip("pyarrow", reason="the extra 'data' is not installed")
TYPES = {"id": pa.int64(), "image": "image", "empty": "image"}
ODD = Selection("odd ids", ("id",), lambda row: row["id"] % 2 == 1)


def rows(first: int, count: int) -> list[dict]:
    return [
        {"id": i, "image": cell(png(i)), "empty": None if i % 2 else cell(png(-i % 99))}
        for i in range(first, first + count)
    ]


@pytest.fixture(params=["train/data-{}-of-00002.arrow", "data/train-{}-of-00002.parquet", "train/{}.parquet"])
def root(request, tmp_path: Path) -> Path:
    """Rows 0 to 4 in one file, 5 to 7 in the next."""
    folder = tmp_path / "set"
    table(folder / request.param.format("00000"), rows(0, 5), TYPES)
    table(folder / request.param.format("00001"), rows(5, 3), TYPES)
    return folder


def tables(root: Path, **options) -> Tables:
    return Tables(root, "train", images=("image",), values=("id",), cache=root.parent / "cache", **options)


def ids(found: Tables) -> list[int]:
    return [found.value(i, "id") for i in range(len(found))]


def test_rows_are_those_of_all_files_in_order(root):
    found = tables(root)
    assert ids(found) == list(range(8))
    assert [found.position(i)[1] for i in range(8)] == [0, 1, 2, 3, 4, 0, 1, 2]
    assert found.name(6).endswith(", row 1") and str(root) not in found.name(6)
    for i in (7, 0, 5, 3):  # from the middle, in any order
        image = found.image(i, "image")
        assert image.size() == (16, 16)
        assert np.array_equal(image.read(), pixels(i)) and not np.array_equal(image.read(), pixels(i + 1))
    for outside in (8, -1):
        with pytest.raises(IndexError, match=str(outside)):
            found.position(outside)


def test_the_file_format_of_arrow_is_read_too(tmp_path):
    table(tmp_path / "train/a.arrow", rows(0, 3), TYPES, kind="file")
    assert ids(tables(tmp_path)) == [0, 1, 2]


def test_a_null_cell_is_told_without_reading_it(root):
    found = tables(root)
    assert [found.has(i, "empty") for i in range(8)] == [i % 2 == 0 for i in range(8)]
    assert found.image(1, "empty") is None and found.image(2, "empty") is not None


@pytest.mark.parametrize("limit", [1, 5, 6, 100])
def test_a_limit_takes_the_first_rows_of_the_selected_ones(root, limit):
    assert ids(tables(root, limit=limit)) == list(range(8))[:limit]
    assert ids(tables(root, limit=limit, selection=ODD)) == [1, 3, 5, 7][:limit]


def test_a_limit_opens_no_file_beyond_it(root):
    last = sorted(path for path in root.rglob("*") if path.is_file())[-1]
    last.write_bytes(b"not a table")
    assert ids(tables(root, limit=5)) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=last.name):
        len(tables(root, limit=6))


@pytest.mark.parametrize("limit", [0, -1, 2.5, True])
def test_a_limit_that_is_no_number_of_rows_is_refused(tmp_path, limit):
    with pytest.raises(ValueError, match="limit"):
        Tables(tmp_path, "train", images=(), values=(), limit=limit)


def test_selections_are_cached_apart_and_looked_up_anew_when_a_file_changes(root):
    asked = []

    def keep(row) -> bool:
        asked.append(row["id"])
        return row["id"] > 3

    selection = Selection("large ids", ("id",), keep)
    assert ids(tables(root, selection=selection)) == [4, 5, 6, 7] and len(asked) == 8
    assert ids(tables(root, selection=selection)) == [4, 5, 6, 7] and len(asked) == 8, "the index was not cached"
    assert ids(tables(root)) == list(range(8)) and ids(tables(root, selection=ODD)) == [1, 3, 5, 7]
    first = sorted(path for path in root.rglob("*") if path.is_file())[0]
    table(first, rows(90, 2), TYPES)
    os.utime(first, ns=(1, 1))
    assert ids(tables(root, selection=selection)) == [90, 91, 5, 6, 7] and len(asked) == 10


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null"])
def test_a_broken_index_is_made_again(root, content):
    assert len(tables(root)) == 8
    (index,) = (root.parent / "cache").iterdir()
    whole = json.loads(index.read_bytes())
    index.write_bytes(content)
    assert ids(tables(root)) == list(range(8))
    assert json.loads(index.read_bytes()) == whole, "it was not replaced"
    assert list(index.parent.iterdir()) == [index], "something was left behind"


@pytest.mark.parametrize("rows", [7, "all", None, [1, 3, 5], -1, 10**30])
def test_rows_of_an_index_that_are_not_those_found_are_looked_up_anew(root, rows):
    """A damaged number would have given other records without a word."""
    assert ids(tables(root, selection=ODD)) == [1, 3, 5, 7]
    (index,) = (root.parent / "cache").iterdir()
    whole = json.loads(index.read_bytes())
    damaged = {path: entry | {"rows": rows} for path, entry in whole.items()}
    assert damaged != whole
    index.write_text(json.dumps(damaged))
    assert ids(tables(root, selection=ODD)) == [1, 3, 5, 7] and json.loads(index.read_bytes()) == whole


def test_an_index_that_cannot_be_written_is_done_without(root):
    written(root.parent / "file", "")
    found = Tables(root, "train", images=("image",), values=("id",), cache=root.parent / "file" / "cache")
    assert len(found) == 8


def test_tables_travel_to_loader_workers(root):
    found = tables(root)
    assert ids(found) == ids(pickle.loads(pickle.dumps(found)))


def test_nothing_is_looked_at_before_it_is_used(tmp_path):
    found = tables(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no table of split 'train'.*nowhere.*data/train-\*\.parquet"):
        len(found)


def test_a_selection_of_nothing_is_refused(root):
    with pytest.raises(ValueError, match="no row with unicorns in the 2 files"):
        len(tables(root, selection=Selection("unicorns", ("id",), lambda row: False)))


def test_a_wrong_schema_names_the_missing_column_and_those_that_are_there(root):
    with pytest.raises(ValueError, match="no column depth, score; it has id, image, empty"):
        len(Tables(root, "train", images=("image", "depth"), values=("score",), cache=root.parent / "cache"))
    with pytest.raises(ValueError, match=r"no column colour; it has id"):
        len(tables(root, selection=Selection("x", ("colour",), lambda row: True)))
    with pytest.raises(ValueError, match=r"column id .* holds int64; it must hold images"):
        len(Tables(root, "train", images=("id",), values=(), cache=root.parent / "cache"))


def test_a_broken_cell_is_refused_by_name_and_its_neighbours_are_not(tmp_path):
    good = png(3)
    broken = [good, good[: len(good) // 2], b"", b"nothing"]
    table(tmp_path / "train/a.arrow", [{"id": i, "image": cell(data)} for i, data in enumerate(broken)], TYPES)
    found = tables(tmp_path)
    assert np.array_equal(found.image(0, "image").read(), pixels(3))
    for i in (1, 2, 3):
        with pytest.raises(BadImage, match=rf"a\.arrow, row {i}, image"):
            found.image(i, "image").read()


def test_a_path_in_a_cell_stays_inside_the_folder(tmp_path):
    root = tmp_path / "set"
    written(root / "pictures/1.png", png(1))
    written(tmp_path / "secret.png", png(2))
    paths = ["pictures/1.png", "../secret.png", str(tmp_path / "secret.png"), "pictures/none.png", ""]
    table(root / "train/a.arrow", [{"id": i, "image": cell(None, path)} for i, path in enumerate(paths)], TYPES)
    found = tables(root)
    assert np.array_equal(found.image(0, "image").read(), pixels(1))
    for i, reason in ((1, "leads out"), (2, "leads out"), (3, "No such file"), (4, "empty")):
        with pytest.raises(BadImage, match=reason):
            found.image(i, "image").read()
