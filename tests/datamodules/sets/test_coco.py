"""COCO on a miniature of its files: captions by image, order, wrong files, paths."""

import json
from pathlib import Path

import pytest
from miniature import encoded, pixels, png, written

from datamodules.reading.annotators import ANNOTATORS, Annotator
from datamodules.reading.images import BadImage
from datamodules.sets.coco import Coco


def made(root: Path, change=lambda table: None, **options) -> Coco:
    """Images 7, 3 and 5 in the file's order; 5 has no caption."""
    images = [
        {"id": i, "file_name": f"{i:012}.jpg", "width": 24, "height": 16, "license": 4, "flickr_url": "http://x"}
        for i in (7, 3, 5)
    ]
    texts = [(31, 3, "second of 3\n"), (30, 3, " first of  3"), (70, 7, "of 7"), (32, 3, "")]
    table = {
        "info": {},
        "licenses": [],
        "images": images,
        "annotations": [{"id": i, "image_id": image, "caption": text} for i, image, text in texts],
    }
    change(table)
    written(root / "annotations/captions_val2017.json", json.dumps(table))
    for i in (3, 5, 7):
        written(root / f"val2017/{i:012}.jpg", encoded(pixels(i, 24), "JPEG"))
    return Coco(root, **options)


def test_images_come_by_id_with_their_captions_by_id(tmp_path):
    found = made(tmp_path)
    assert [found.record(i).key for i in range(len(found))] == ["3", "5", "7"]
    assert found.record(0).captions == {"target": ("first of 3", "second of 3")}
    assert found.record(1).captions == {} and found.record(2).caption() == "of 7"
    assert found.record(0).size() == (24, 16) and found.record(0).read("target").shape == (3, 16, 24)


class Halves(Annotator):
    """An annotation without a model: the target at half its brightness."""

    def load(self) -> None:
        """There is nothing to load."""

    def __call__(self, image):
        return image // 2

    _weights = "none"


def test_depth_that_a_model_computes_is_an_image_of_the_record(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"data\.test\.computed: 'canny' cannot be computed by a model"):
        made(tmp_path, computed={"canny": "m"})
    assert made(tmp_path, computed={"depth": None}).names == ("target",)
    monkeypatch.setitem(ANNOTATORS, "depth", Halves)
    found = made(tmp_path, computed={"depth": "m"}, cache=tmp_path / "kept")
    record = found.record(0)
    assert found.names == ("target", "depth") and (record.read("depth") == record.read("target") // 2).all()
    assert record.size("depth") == (24, 16) and len(list((tmp_path / "kept").iterdir())) == 1
    assert found.looked_for("depth") == "data.test.computed.depth names a model that computes it"
    assert found.looked_for("mlsd") == ""


def test_a_limit_and_the_middle(tmp_path):
    few = made(tmp_path, limit=2)
    assert len(few) == 2 and few.record(1).key == "5"
    with pytest.raises(IndexError):
        few.record(2)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda table: table.pop("annotations"), "has no annotations; it has info, licenses, images"),
        (lambda table: table["images"][1].pop("file_name"), r"images\[1\] has no file_name; it has id, width"),
        (
            lambda table: table["annotations"][2].pop("image_id"),
            r"annotations\[2\] has no image_id; it has id",
        ),
        (lambda table: table["images"][0].update(id="7"), r"images\[0\]: id is str; it must be int"),
        (lambda table: table.update(images=3), "images is int; it must be list"),
        (lambda table: table["images"].append(4), r"images\[3\] is int"),
    ],
)
def test_a_wrong_schema_names_the_place_and_what_is_there(tmp_path, change, told):
    found = made(tmp_path, change)
    with pytest.raises(ValueError, match=told):
        len(found)


def test_files_that_are_not_there_or_broken_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*captions_val2017\.json.*cocodataset\.org"):
        len(Coco(tmp_path))
    found = made(tmp_path)
    (tmp_path / "val2017/000000000003.jpg").unlink()
    written(tmp_path / "val2017/000000000005.jpg", png(5)[:70])
    for i, name in ((0, "000000000003.jpg"), (1, "000000000005.jpg")):
        with pytest.raises(BadImage, match=name):
            found.record(i).read("target")
    with pytest.raises(BadImage, match="there is no such file"):
        found.record(0).size()
    written(tmp_path / "annotations/captions_val2017.json", '{"images": [')
    with pytest.raises(ValueError, match="no JSON"):
        len(Coco(tmp_path))


def test_a_path_that_leaves_the_folder_is_refused(tmp_path):
    written(tmp_path / "secret.jpg", encoded(pixels(1), "JPEG"))
    found = made(tmp_path, lambda table: table["images"][1].update(file_name="../secret.jpg"))
    with pytest.raises(BadImage, match="leads out"):
        found.record(0)
    assert found.record(1).read("target").shape == (3, 16, 24)
