"""OmniEdit on a miniature of its schema: additions and removals apart, the other tasks left out."""

import pickle
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from miniature import cell, pixels, png, table

from datamodules.graph.graph import AnnotationGraph
from datamodules.reading.images import BadImage
from datamodules.sets import cells
from datamodules.sets.data import SetGraphData
from datamodules.sets.omniedit import OmniEdit

pa = pytest.importorskip("pyarrow", reason="the extra 'data' is not installed")
TYPES = {
    "omni_edit_id": pa.string(),
    "task": pa.string(),
    "src_img": "image",
    "edited_img": "image",
    "edited_prompt_list": pa.list_(pa.string()),
    "width": pa.int64(),
    "height": pa.int64(),
}
TASKS = ("addition", "swap", "removal", "addition", "style")


def rows() -> list[dict]:
    return [
        {
            "omni_edit_id": f"{task}_{i}",
            "task": task,
            "src_img": cell(png(i, 24, 16)),
            "edited_img": cell(png(i + 50, 24, 16)),
            "edited_prompt_list": [f" edit {i}", "", f"please edit {i}"],
            "width": 24,
            "height": 16,
        }
        for i, task in enumerate(TASKS)
    ]


def made(folder: Path, given: list[dict], types=TYPES, **options) -> OmniEdit:
    table(folder / "data/train-00000-of-00002.parquet", given[:2], types)
    table(folder / "data/train-00001-of-00002.parquet", given[2:], types)
    return OmniEdit(folder, cache=folder / "cache", **options)


def test_additions_and_removals_are_kept_and_told_apart(tmp_path):
    found = made(tmp_path, rows())
    assert found.names == ("target", "addition_source", "removal_source")
    for i, (number, task) in enumerate(((0, "addition"), (2, "removal"), (3, "addition"))):
        record = found.record(i)
        assert set(record.images) == {"target", f"{task}_source"} and record.size() == (24, 16)
        assert np.array_equal(record.read(f"{task}_source"), pixels(number, 24))
        assert np.array_equal(record.read("target"), pixels(number + 50, 24))
        assert record.captions == {"target": (f"edit {number}", f"please edit {number}")}
    assert len(found) == 3 and pickle.loads(pickle.dumps(found)).record(2).caption() == "edit 3"


def test_tasks_and_limit(tmp_path):
    found = made(tmp_path, rows(), tasks=["style"], limit=5)
    assert len(found) == 1 and "style_source" in found.record(0).images
    few = OmniEdit(tmp_path, limit=2, cache=tmp_path / "cache")
    assert [few.record(i).caption() for i in range(len(few))] == ["edit 0", "edit 2"]
    with pytest.raises(ValueError, match="no row with a task of inpainting"):
        len(OmniEdit(tmp_path, tasks=["inpainting"], cache=tmp_path / "cache"))


def test_what_is_broken_is_refused_by_name(tmp_path):
    given = rows()
    given[0]["src_img"], given[2]["edited_img"], given[3]["edited_prompt_list"] = None, cell(png(1)[:60]), None
    found = made(tmp_path, given)
    with pytest.raises(BadImage, match=r"00000-of-00002\.parquet, row 0, src_img"):
        found.record(0)
    with pytest.raises(BadImage, match=r"00001-of-00002\.parquet, row 0, edited_img"):
        found.record(1).read("target")
    assert found.record(2).captions == {} and found.record(2).read("target").shape == (3, 16, 24)


@pytest.mark.parametrize("column", ["task", "edited_img", "edited_prompt_list"])
def test_a_wrong_schema_names_the_missing_column(tmp_path, column):
    found = made(tmp_path, rows(), types={name: kind for name, kind in TYPES.items() if name != column})
    with pytest.raises(ValueError, match=f"has no column {column}; it has omni_edit_id, "):
        len(found)


def test_records_in_order_read_each_image_column_of_a_row_group_once(tmp_path):
    found = made(tmp_path, [{**row, "task": "addition"} for row in rows()])
    cells._images.cache_clear()
    for i in range(len(found)):
        for name in ("addition_source", "target"):
            found.record(i).read(name)
    assert cells._images.cache_info().misses == 2 * 3, "5 rows lie in 3 row groups"
    for i in (0, 4, 2):  # another group each time
        found.record(i).read("target")
    assert cells._images.cache_info().misses > 2 * 3


def test_loader_workers_read_what_the_main_process_opened(tmp_path):
    """Files, and row groups, that are kept when a worker is forked must not hang or mislead it."""
    source = made(tmp_path, [{**row, "task": "addition"} for row in rows()])
    graph = AnnotationGraph(
        nodes={"edit": ["addition_source"]}, groups={"editing": {"addition": ["addition_source > target"]}}
    )

    def batches(seed: int, workers: int) -> list:
        sources = dict.fromkeys(("train", "val", "test"), source)
        data = SetGraphData(graph=graph, size=16, batch_size=3, seed=seed, num_workers=workers, **sources)
        return list(islice(data.train_dataloader(), 3))

    alone, other, forked = batches(1, 0), batches(2, 0), batches(1, 1)
    assert [batch.keys for batch in alone] == [batch.keys for batch in forked] != [batch.keys for batch in other]
    for one, same in zip(alone, forked, strict=True):
        assert all(bool((one.images[name] == same.images[name]).all()) for name in one.images)
