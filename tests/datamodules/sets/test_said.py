"""What own images say before training: counts by split, few of them, annotations that are not there."""

from pathlib import Path

import pytest
from miniature import png, written

from datamodules.graph.graph import AnnotationGraph
from datamodules.sets.data import SetGraphData
from datamodules.sets.own_folder import OwnFolder

pytestmark = pytest.mark.usefixtures("without_heif")

GRAPH = AnnotationGraph(
    nodes={"condition": ["depth", "canny", "hed"], "degradation": ["blur"]},
    groups={"make": {"maps": ["depth|canny|hed > target", "depth + hed > target"], "restore": ["blur > target"]}},
)


def folder(root: Path, images: int, *annotated: int, kind: str = "depth") -> Path:
    for i in range(images):
        written(root / f"{i:02}.png", png(i))
    for i in annotated:
        written(root / f"{i:02}.{kind}.png", png(100 + i))
    return root


def data(root: Path, annotations=(), reader=OwnFolder, **options) -> SetGraphData:
    settings = {"tasks": ["canny>target"], "rows": [0, 0], "size": 64, "batch_size": 2, "held_out": 5} | options
    return SetGraphData(graph=GRAPH, train=reader(root, annotations), **settings)


def test_counts_by_split_and_captions_are_said(tmp_path):
    written(folder(tmp_path, 12) / "00.caption", "a cat")
    written(tmp_path / "a.heic", "x")
    made = data(tmp_path)
    assert made.said() == (
        "12 images (6 train, 4 val, 2 test), 1 with captions; left out: a.heic (no decoder: pip install pillow-heif)"
    )
    assert made.on_training_images == ()
    other = data(tmp_path, val=OwnFolder(folder(tmp_path / "more", 3), []))
    assert other.said().startswith("images: 11 train, 3 val, 4 test, 1 of train with captions, 0 of val with captions")


@pytest.mark.parametrize("n", [1, 2, 4, 5, 9])
def test_a_few_images_all_train_and_it_is_said(tmp_path, n):
    made = data(folder(tmp_path, n), report=tmp_path / "refused")
    made.prepare_data()
    made.start_batch = 0
    seen = {key for _, batch in zip(range(8), made.train_dataloader(), strict=False) for key in batch.keys}
    assert len(seen) == n and made.on_training_images == ("val", "test")
    assert sum(map(len, made.test_dataloader())) == sum(map(len, made.val_dataloader())) == n
    warning = (
        "val and test show training images, so their scores are not of held-out images: data.held_out=5 holds images "
        "out from 10 images on (data.held_out=3 from 6), and data.val.root=<folder> and data.test.root=<folder> name "
        "other images"
    )
    images = "1 image" if n == 1 else f"{n} images"
    assert made.said() == f"{images} ({n} train, {n} val, {n} test), 0 with captions; {warning}"
    assert made.report() == f"no record was refused; {warning}"


def test_the_key_that_is_named_changes_it(tmp_path):
    folder(tmp_path, 6)
    made = data(tmp_path, held_out=3)
    assert made.said() == "6 images (2 train, 2 val, 2 test), 0 with captions" and made.on_training_images == ()
    made = data(folder(tmp_path, 20), held_out=None)
    assert "data.held_out=null holds nothing out" in made.said() and "20 images (20 train, 20 val, 20" in made.said()
    made = data(tmp_path, test=OwnFolder(folder(tmp_path / "test", 2), []), held_out=None)
    assert made.on_training_images == ("val",)
    assert made.said().split("; ")[1] == (
        "val shows training images, so its scores are not of held-out images: data.held_out=null holds nothing out, "
        "and data.val.root=<folder> names other images"
    )


def test_what_is_no_reader_is_told_by_its_key(tmp_path):
    folder(tmp_path, 12)
    for split, value in (("val", {"root": "x"}), ("test", "x"), ("val", 0)):
        with pytest.raises(
            ValueError, match=rf"data\.{split} is .*, which is no reader of images; legal is data\.{split}="
        ):
            data(tmp_path, **{split: value})
    data(tmp_path, val=OwnFolder(tmp_path), test=None)


def test_a_published_set_keeps_its_rule(tmp_path):
    class Published(OwnFolder):
        own = False

    made = data(folder(tmp_path, 4), reader=Published)
    made.start_batch = 0
    with pytest.raises(ValueError, match=r"train has none of the 4 images \(0 train, 2 val.*data\.held_out=5"):
        made.train_dataloader()


def test_an_annotation_that_no_image_has_is_told_with_the_files_that_were_looked_for(tmp_path):
    folder(tmp_path, 8)
    with pytest.raises(ValueError, match="no depth file beside any of 8 images") as missed:
        data(tmp_path, ["depth"], tasks=["depth>target"]).prepare_data()
    assert str(missed.value) == (
        "no depth file beside any of 8 images, which task depth>target needs: looked for 00.depth.png, 00_depth.png "
        f"and depth/00.png (or .jpg, .webp, ..., .npy) in '{tmp_path}'; data.train.computed.depth names a model that "
        "computes it"
    )
    folder(tmp_path, 8, 1)
    data(tmp_path, ["depth"], tasks=["depth>target"]).prepare_data()
    folder(tmp_path, 8, 2, kind="hed")
    with pytest.raises(ValueError, match="no files of depth and hed and target beside one of 8 images"):
        data(tmp_path, ["depth", "hed"], tasks=["depth+hed>target"]).prepare_data()
    data(tmp_path, [], tasks=None).prepare_data()


def test_a_held_out_part_without_the_annotation_is_told_before_training(tmp_path):
    folder(tmp_path, 12, 5)
    with pytest.raises(ValueError, match="no depth file beside any of 4 images of val, which task depth>target needs"):
        data(tmp_path, ["depth"], tasks=["depth>target"]).prepare_data()
    folder(tmp_path, 12, 0, 3, 5)
    data(tmp_path, ["depth"], tasks=["depth>target"]).prepare_data()


def test_an_annotation_that_is_not_named_says_how_to(tmp_path):
    with pytest.raises(ValueError, match=r"with data\.train\.annotations=\[depth\], photo\.depth\.png, photo_"):
        data(folder(tmp_path, 8), tasks=["depth>target"])
