"""Subjects200K on a miniature of its schema: halves, both directions, the selection by scores, a fixed choice."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from miniature import cell, encoded, pixels, table

from datamodules.reading.images import BadImage
from datamodules.sets import subjects200k
from datamodules.sets.subjects200k import Subjects200K

pa = pytest.importorskip("pyarrow", reason="the extra 'data' is not installed")
SCORES = ("compositeStructure", "objectConsistency", "imageQuality")
TYPES = {
    "image": "image",
    "collection": pa.string(),
    "quality_assessment": pa.struct([(name, pa.int64()) for name in SCORES]),
    "description": pa.struct(
        [(name, pa.string()) for name in ("item", "description_0", "description_1", "category")]
        + [("description_valid", pa.bool_())]
    ),
}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(subjects200k, "SIDES", {"collection_1": 16, "collection_2": 16, "collection_3": 32})


def pair(seed: int, border: int, gap: int, side: int = 16) -> np.ndarray:
    """`pixels` of seed and seed + 1, side by side on white."""
    whole = np.full((3, side + 2 * border, 2 * (side + border) + gap), 255, np.uint8)
    for i, x in enumerate((border, border + side + gap)):
        whole[:, border : border + side, x : x + side] = pixels(seed + i, side, side)
    return whole


def row(number: int, scores=(5, 5, 5), collection: str = "collection_2", image: np.ndarray | None = None) -> dict:
    image = pair(2 * number, 1, 2) if image is None else image
    return {
        "image": cell(encoded(image)),
        "collection": collection,
        "quality_assessment": None if scores is None else dict(zip(SCORES, scores, strict=True)),
        "description": {"item": f"Cup {number}", "description_0": f"left {number}", "description_1": f"right {number}"},
    }


def made(folder: Path, *rows: dict, types=TYPES, **options) -> Subjects200K:
    for start in range(0, len(rows), 3):
        table(folder / f"data/train-{start // 3:05}.parquet", rows[start : start + 3], types)
    return Subjects200K(folder, cache=folder / "cache", **options)


@pytest.mark.parametrize(("border", "gap"), [(0, 0), (1, 1), (1, 2), (2, 2)])
def test_each_half_is_the_target_once_however_wide_the_border_is(tmp_path, border, gap):
    found = made(tmp_path, row(0, image=pair(50, border, gap)))
    assert len(found) == 2
    for i, other in ((0, 1), (1, 0)):
        record = found.record(i)
        assert np.array_equal(record.read("target"), pixels(50 + i)) and record.size() == (16, 16)
        assert np.array_equal(record.read("reference"), pixels(50 + other))
        assert record.caption() == ("left 0", "right 0")[i] and record.caption("reference") == ("right 0", "left 0")[i]
        assert record.subjects == ("Cup 0",) and record.key.endswith(("row 0, left", "row 0, right")[i])


def test_the_two_directions_of_a_pair_are_of_one_origin_and_pairs_are_not(tmp_path):
    found = made(tmp_path, row(0), row(1))
    first, second, other = (found.record(i).origin for i in range(3))
    assert first == second and first and first != other


def test_the_card_selects_pairs_with_all_scores_at_5_from_collection_2(tmp_path):
    rows = [row(0), row(1, (5, 4, 5)), row(2, None), row(3, collection="collection_1"), row(4), row(5, (5, None, 5))]
    found = made(tmp_path, *rows)
    assert [found.record(i).caption() for i in range(len(found))] == ["left 0", "right 0", "left 4", "right 4"]
    options = {"cache": tmp_path / "cache"}
    assert len(Subjects200K(tmp_path, least_score=4, **options)) == 6
    assert len(Subjects200K(tmp_path, least_score=None, **options)) == 10
    assert len(Subjects200K(tmp_path, collections=["collection_1", "collection_2"], **options)) == 6


def test_squares_have_the_side_of_their_collection(tmp_path):
    found = made(tmp_path, row(0, collection="collection_3", image=pair(9, 1, 2, 32)), collections=["collection_3"])
    assert found.record(1).read("target").shape == (3, 32, 32)


@pytest.mark.parametrize("shape", [(15, 40), (18, 33), (16, 31)])
def test_an_image_too_small_for_two_squares_is_refused(tmp_path, shape):
    found = made(tmp_path, row(0), row(1, image=np.zeros((3, *shape), np.uint8)))
    assert found.record(1).read("target").shape == (3, 16, 16)
    for read in (found.record(2).size, lambda: found.record(2).read("reference")):
        with pytest.raises(BadImage, match=r"row 1, image.*two squares of 16"):
            read()


def test_a_truncated_image_is_refused_when_it_is_read(tmp_path):
    broken = row(0)
    broken["image"]["bytes"] = broken["image"]["bytes"][:200]
    record = made(tmp_path, broken).record(0)
    with pytest.raises(BadImage, match="row 0, image"):
        record.read("target")


def test_a_number_of_pairs_is_a_fixed_choice_that_is_no_beginning(tmp_path):
    rows = [row(i) for i in range(12)]
    everything, chosen = made(tmp_path, *rows), Subjects200K(tmp_path, pairs=4, cache=tmp_path / "cache")
    keys = [chosen.record(i).key for i in range(len(chosen))]
    assert keys == [made(tmp_path, *rows, pairs=4).record(i).key for i in range(8)]
    assert set(keys) < {everything.record(i).key for i in range(24)}
    assert keys != [everything.record(i).key for i in range(8)]
    assert {key.rpartition(",")[0] for key in keys[::2]} == {key.rpartition(",")[0] for key in keys[1::2]}
    with pytest.raises(ValueError, match=r"pairs=13.*1 to 12 pairs"):
        len(Subjects200K(tmp_path, pairs=13, cache=tmp_path / "cache"))


def test_a_limit_counts_records_and_a_run_goes_on_from_the_middle(tmp_path):
    found = made(tmp_path, *[row(i) for i in range(4)])
    few = Subjects200K(tmp_path, limit=3, cache=tmp_path / "cache")
    assert len(few) == 3 and [few.record(i).key for i in (2, 0)] == [found.record(i).key for i in (2, 0)]
    with pytest.raises(IndexError):
        few.record(3)
    assert pickle.loads(pickle.dumps(found)).record(7).caption() == "right 3"


def test_wrong_schemas_and_names_are_refused(tmp_path):
    found = made(tmp_path, row(0), types={name: kind for name, kind in TYPES.items() if name != "quality_assessment"})
    with pytest.raises(ValueError, match="has no column quality_assessment; it has image, collection, description"):
        len(found)
    with pytest.raises(ValueError, match="collections: unknown name 'collection_9'"):
        Subjects200K(tmp_path, collections=["collection_9"])
