"""Graph200K on a miniature of its schema: all 49 annotation types, variants, missing images, the quality gate."""

import pickle
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import yaml
from miniature import cell, encoded, pixels, png, table
from small_graphs import by_task
from tiny import CONF

from datamodules.reading.images import BadImage
from datamodules.reading.records import Refusals
from datamodules.sets.graph200k import IMAGES, MAPS, VALUES, Graph200K
from datamodules.sets.online import Draw, with_online
from unigen.pipeline.build import build

pa = pytest.importorskip("pyarrow", reason="the extra 'data' is not installed")
TYPES = {
    **dict.fromkeys(IMAGES, "image"),
    "quality_assessment": pa.struct([(name, pa.int64()) for name in ("objectConsistency", "imageQuality")]),
    "description": pa.struct([(name, pa.string()) for name in ("item", "description_0", "description_1")]),
    "collection": pa.string(),
    "FillEdit_meta": pa.struct([("name", pa.string()), ("description", pa.list_(pa.string()))]),
}
HALVES = np.repeat(np.array([[[0, 255]]], np.uint8), 3, axis=0).repeat(8, axis=2).repeat(16, axis=1)  # right is subject
SEEDS = {column: number for number, column in enumerate(IMAGES)}


def row(consistency: int | None = 3, **changed) -> dict:
    """A record that has everything; the image of a column is noise of its own."""
    images = {column: cell(png(number)) for column, number in SEEDS.items()} | {"foreground": cell(encoded(HALVES))}
    return {
        **images,
        "quality_assessment": None if consistency is None else {"objectConsistency": consistency, "imageQuality": 5},
        "description": {"item": "Teapot", "description_0": " on a  table ", "description_1": "in\u200b a garden"},
        "collection": "collection_2",
        "FillEdit_meta": {"name": "cup", "description": [f"cup {i}" for i in range(5)]},
        **changed,
    }


def made(folder: Path, *rows: dict, types=TYPES, **options) -> Graph200K:
    """Two rows in each file."""
    for start in range(0, len(rows), 2):
        table(folder / f"train/data-{start // 2:05}.arrow", rows[start : start + 2], types)
    return Graph200K(folder, cache=folder / "cache", **options)


def graph():
    return build(yaml.safe_load((CONF / "graph" / "graph200k.yaml").read_text()))


def test_a_whole_record_has_all_49_annotation_types_and_every_task_is_legal(tmp_path):
    record = with_online(made(tmp_path, row()).record(0), Draw(7))
    known = graph()
    assert {known.node_of[name] for name in record.images if name in known.node_of} == {*known.nodes, "target"}
    assert len(known.nodes) == 49 and known.training.legal(record.images) == known.tasks
    assert len(known.training.legal({"target": None})) < len(known.tasks)


def test_every_stored_image_is_that_of_its_column(tmp_path):
    record = made(tmp_path, row()).record(0)
    columns = {"target": "target", "reference": "ref", "depth_edit": "DepthEdit", **MAPS}
    for name, column in columns.items():
        assert np.array_equal(record.read(name), pixels(SEEDS[column])), name
    assert len({record.read(name).tobytes() for name in columns}) == len(columns)
    assert record.size() == record.size("reference") == (16, 16)


def test_foreground_and_background_are_the_target_on_black(tmp_path):
    record = made(tmp_path, row()).record(0)
    target, front, back = (record.read(name) for name in ("target", "foreground", "background"))
    assert np.array_equal(front[..., 8:], target[..., 8:]) and not front[..., :8].any()
    assert np.array_equal(back[..., :8], target[..., :8]) and not back[..., 8:].any()


def test_a_seed_draws_a_style_with_its_own_reference_and_an_edit_with_its_own_caption(tmp_path):
    found = made(tmp_path, row())
    by_bytes = {pixels(number).tobytes(): column for column, number in SEEDS.items()}
    styles, edits = set(), set()
    for seed in range(40):
        record = found.record(0, seed)
        for name, column in (("instant_style", "InstantStyle"), ("redux_style", "ReduxStyle")):
            image, reference = (by_bytes[record.read(part).tobytes()] for part in (name, f"{name}_ref"))
            assert image.startswith(f"{column}_image_") and reference == image.replace("_image_", "_ref_")
            styles.add(image)
        edit = by_bytes[record.read("fill_edit").tobytes()]
        assert record.caption("fill_edit") == f"cup {edit[-1]}"
        edits.add(edit)
    assert (len(styles), len(edits)) == (6, 5)
    assert found.record(0, 3).read("fill_edit").tobytes() == found.record(0, 3).read("fill_edit").tobytes()


def test_captions_are_cleaned_and_belong_to_images_that_are_there(tmp_path):
    found = made(tmp_path, row(), row(consistency=1), row(description=None, FillEdit_meta=None))
    record = found.record(0)
    assert (record.caption(), record.caption("reference"), record.subjects) == (
        "on a table",
        "in a garden",
        ("Teapot",),
    )
    assert "reference" not in found.record(1).captions
    assert found.record(2).captions == {} and found.record(2).caption() == "" and found.record(2).subjects == ()


@pytest.mark.parametrize(("score", "least", "there"), [(3, 3, True), (2, 3, False), (None, 0, False), (3, 4, False)])
def test_a_reference_needs_a_consistent_pair(tmp_path, score, least, there):
    found = made(tmp_path, row(consistency=score), least_consistency=least)
    assert ("reference" in found.record(0).images) is there


def test_what_is_missing_is_not_there_and_its_tasks_are_not_legal(tmp_path):
    lacking = {"openpose": None, "foreground": None, "DepthEdit": None, "InstantStyle_ref_0": None}
    lacking |= {f"ReduxStyle_image_{i}": None for i in range(3)} | {f"FillEdit_image_{i}": None for i in (0, 1, 2, 4)}
    found = made(tmp_path, row(**lacking))
    record = found.record(0)
    gone = {"openpose", "foreground", "background", "depth_edit", "redux_style", "redux_style_ref"}
    assert set(Graph200K.names) - set(record.images) == gone
    assert {found.record(0, seed).caption("fill_edit") for seed in range(20)} == {"cup 3"}
    left = {pixels(SEEDS[f"InstantStyle_image_{i}"]).tobytes() for i in (1, 2)}
    assert {found.record(0, seed).read("instant_style").tobytes() for seed in range(20)} == left
    legal = graph().training.legal(record.images)
    assert legal and not any(gone & set(task.images) for task in legal)
    with pytest.raises(BadImage, match=r"row 0, openpose.*there is no openpose"):
        record.read("openpose")


def test_a_record_without_its_target_is_refused_and_another_takes_its_place(tmp_path):
    found = made(tmp_path, row(), row(target=None), row(target=cell(png(SEEDS["target"])[:-30])), row())
    with pytest.raises(BadImage, match="row 1, target"):
        found.record(1)
    refusals = Refusals("Graph200K", share=1.0)
    read = [refusals.read(lambda i, seed: found.record(i, seed).read("target").shape, (i, 5), 4) for i in range(4)]
    assert read == [(3, 16, 16)] * 4 and refusals.bad >= 2
    assert any("row 1, target" in text for text in refusals.first)


def test_a_map_of_another_size_is_resized_and_of_another_shape_refused(tmp_path):
    found = made(tmp_path, row(depth=cell(png(1, 32, 32)), normal=cell(png(1, 32, 16))))
    record = found.record(0)
    assert record.read("depth").shape == (3, 16, 16) and record.size("depth") == (16, 16)
    with pytest.raises(BadImage, match="row 0, normal"):
        record.read("normal")


def test_a_run_goes_on_from_the_middle_and_a_limit_cuts_the_end(tmp_path):
    rows = [row(target=cell(png(100 + i))) for i in range(5)]
    found, again = made(tmp_path, *rows), Graph200K(tmp_path, cache=tmp_path / "cache")
    assert len(found) == 5
    for i in (4, 3, 1):
        assert again.record(i).key == found.record(i).key
        assert np.array_equal(again.record(i).read("target"), pixels(100 + i))
    few = Graph200K(tmp_path, limit=3, cache=tmp_path / "cache")
    assert len(few) == 3 and few.record(2).key == found.record(2).key
    with pytest.raises(IndexError):
        few.record(3)
    assert pickle.loads(pickle.dumps(found)).record(4).key == found.record(4).key


@pytest.mark.parametrize("column", ["qwen_2_5_mask", "quality_assessment", "FillEdit_image_4"])
def test_a_wrong_schema_names_the_missing_column(tmp_path, column):
    found = made(tmp_path, row(), types={name: kind for name, kind in TYPES.items() if name != column})
    with pytest.raises(ValueError, match=rf"has no column {column}; it has ref, target, "):
        len(found)


def test_the_columns_are_those_of_the_released_preprocessing():
    """15 single images, 5 edits, 3 of each of two styles with their references, and four columns without images."""
    assert len(IMAGES) == len(set(IMAGES)) == 14 + 5 + 12 and len(VALUES) == 4


@pytest.mark.slow
def test_batches_of_all_sorts_of_tasks_come_from_a_config_as_documented(tmp_path):
    made(tmp_path / "set", *[row(target=cell(png(100 + i))) for i in range(6)])
    source = {"_target_": "datamodules.sets.graph200k.Graph200K", "root": str(tmp_path / "set"), "cache": str(tmp_path)}
    node = {
        "_target_": "datamodules.sets.data.SetGraphData",
        "graph": yaml.safe_load((CONF / "graph" / "graph200k.yaml").read_text()),
        **dict.fromkeys(("train", "val", "test"), source),
        "size": 16,
        "batch_size": 4,
        "test_tasks": ["unseen", "restoration"],
    }
    data = build(node)
    assert len(data.tasks) == 129 and build({**node, "train": {**source, "root": "nowhere"}}).tasks == data.tasks
    groups = Counter()
    for batch in islice(data.train_dataloader(), 40):
        assert {tuple(image.shape[2:]) for image in batch.images.values()} == {(3, 16, 16)}
        groups.update(data_task.group for data_task in map(graph().task, batch.tasks))
    assert set(groups) == {task.group for task in graph().tasks}, "every group is drawn as often as any"
    found = by_task(data.test_dataloader())
    assert len(found) == 6 + 32
    unseen = found["canny>target+depth+normal"][0]
    assert [slot.role for slot in unseen.slots if slot.row == unseen.slots[-1].row] == ["condition", *["target"] * 3]
