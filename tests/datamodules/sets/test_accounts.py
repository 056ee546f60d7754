"""Every reader follows the links of a snapshot of the Hub, and says what it leaves out."""

import json
import os
from pathlib import Path

import pytest
import test_coco
import test_dreambench
import test_edit_pairs
import test_subjects200k
import test_text_to_image_2m
import test_viton_hd
from miniature import png, written

from datamodules.reading.accounts import Account, LeftOut, account_of, listed_out
from datamodules.reading.images import BadImage
from datamodules.sets.coco import Coco
from datamodules.sets.dreambench import DreamBench
from datamodules.sets.edit_pairs import EditPairs
from datamodules.sets.frames import Frames
from datamodules.sets.own_folder import OwnFolder
from datamodules.sets.subjects200k import Subjects200K
from datamodules.sets.text_to_image_2m import TextToImage2M
from datamodules.sets.viton_hd import VitonHD

pytestmark = pytest.mark.usefixtures("without_heif")


def as_on_the_hub(root: Path) -> None:
    """Every file becomes a link to a blob without a suffix that lies elsewhere, as in the cache of huggingface_hub."""
    blobs = root.parent / f"{root.name}-blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(root.rglob("*"))):
        if path.is_file():
            path.rename(blobs / f"{number:040x}")
            path.symlink_to(os.path.relpath(blobs / f"{number:040x}", path.parent))


def own(root: Path) -> OwnFolder:
    for name, seed in (("a.png", 0), ("a.canny.png", 1), ("sub/b.png", 2)):
        written(root / name, png(seed))
    written(root / "a.txt", "a cat")
    written(root / "sub/metadata.csv", "file_name,text\nb.png,a dog\n")
    return OwnFolder(root, ["canny"])


def frames(root: Path) -> Frames:
    for i in range(4):
        written(root / f"vase/{i}.png", png(i))
    written(root / "vase/caption.txt", "a vase")
    return Frames(root, count=3)


def tars(root: Path) -> TextToImage2M:
    test_text_to_image_2m.tar(root / "data_512_2M/0.tar", {str(i): test_text_to_image_2m.sample(i) for i in range(3)})
    return TextToImage2M(root, cache=root.parent / "cache")


MAKE = {
    "coco": test_coco.made,
    "dreambench": test_dreambench.made,
    "edit pairs": test_edit_pairs.made,
    "frames": frames,
    "own folder": own,
    "subjects200k": lambda root: test_subjects200k.made(root, *(test_subjects200k.row(i) for i in range(3))),
    "tars": tars,
    "viton-hd": test_viton_hd.made,
}
OPEN = {
    "coco": Coco,
    "dreambench": DreamBench,
    "edit pairs": lambda root: EditPairs(root, test_edit_pairs.KINDS),
    "frames": lambda root: Frames(root, count=3),
    "own folder": lambda root: OwnFolder(root, ["canny"]),
    "subjects200k": lambda root: Subjects200K(root, cache=root.parent / "cache"),
    "tars": lambda root: TextToImage2M(root, cache=root.parent / "cache"),
    "viton-hd": VitonHD,
}


def shown(reader) -> list:
    """All that can be read of a reader."""
    found = []
    for i in range(len(reader)):
        record = reader.record(i)
        for name, image in record.images.items():
            try:
                found.append((record.key, record.captions, name, image.read().tolist()))
            except BadImage as error:
                found.append((record.key, record.captions, name, error.reason))
    return found


@pytest.mark.parametrize("name", MAKE)
def test_a_snapshot_of_the_hub_is_read_as_the_files_are(name, tmp_path):
    before = shown(MAKE[name](tmp_path / "set"))
    as_on_the_hub(tmp_path / "set")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    for root in (tmp_path / "set", tmp_path / "link"):
        assert shown(OPEN[name](root)) == before and len(before) > 1
    for path in (tmp_path / "set-blobs").iterdir():
        path.write_bytes(b"x")
    try:  # negative control: it was the blobs that were read
        assert shown(OPEN[name](tmp_path / "set")) != before
    except ValueError as error:
        assert str(tmp_path / "set") in str(error)


def test_links_to_folders_are_followed(tmp_path):
    frames(tmp_path / "elsewhere")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/linked").symlink_to(tmp_path / "elsewhere/vase")
    assert Frames(tmp_path / "set", count=3).record(0).read("target").shape == (3, 16, 16)
    test_edit_pairs.made(tmp_path / "pairs")
    (tmp_path / "pairs/relighting").rename(tmp_path / "light")
    (tmp_path / "pairs/relighting").symlink_to(tmp_path / "light")
    assert EditPairs(tmp_path / "pairs", ["relighting"]).record(0).read("target").shape == (3, 16, 24)


def test_what_is_left_out_is_named_a_few_for_each_reason():
    things = [LeftOut(f"{i}.heic", "no decoder") for i in range(5)] + [LeftOut("a.md", "no image")]
    assert listed_out(things) == "0.heic, 1.heic, 2.heic and 2 more (no decoder), a.md (no image)"
    many = listed_out([LeftOut(f"{i}", f"reason {i // 2}") for i in range(40)])
    assert many.endswith("22, 23 (reason 11), 16 for 8 other reasons")
    assert Account().sentences == () and account_of(object()) == Account()


def test_a_folder_of_frames_says_what_is_no_frame(tmp_path):
    root = tmp_path / "set"
    frames(root)
    written(root / "short/0.png", png(0))
    written(root / "vase/notes.md", "x")
    written(root / "vase/4.heic", "x")
    written(root / "vase/.hidden", "x")
    written(root / "short/caption.txt", b"\xff\0")
    written(root / "README.md", "x")
    (root / "vase/9.png").symlink_to("gone.png")
    account = Frames(root, count=3).account
    assert dict(account.left_out) == {
        "short/": "it has fewer frames than data.train.count=3",
        "short/caption.txt": "no image",
        "vase/4.heic": "no decoder: pip install pillow-heif",
        "vase/9.png": "a link to nothing",
        "vase/notes.md": "no image",
        "vase/.hidden": "hidden",
        "README.md": "no image",
    }
    assert (account.noun, account.captioned) == ("sequences", 1)
    assert Frames(root, count=3).record(1).read("target").shape == (3, 16, 16), "a dangling link is no frame"


def test_the_readers_of_published_sets_say_what_they_drop(tmp_path):
    found = test_coco.made(
        tmp_path / "coco", lambda t: t["annotations"].append({"id": 9, "image_id": 8, "caption": "x"})
    )
    assert found.account == Account("images", 2, (LeftOut("caption 9", "there is no image of its image_id"),))
    found = test_dreambench.made(tmp_path / "dreambench")
    written(tmp_path / "dreambench/extra/0.png", png(0))
    (tmp_path / "dreambench/dog/z.jpg").symlink_to("gone.jpg")
    said = dict(found.account.left_out)
    assert said["extra/"] == "prompts_and_classes.txt does not name it" and said["dog/z.jpg"] == "a link to nothing"
    assert said["dog/notes.txt"] == "no image" and len(found.photographs("dog")) == 2
    found = test_viton_hd.made(tmp_path / "viton")
    written(tmp_path / "viton/train/image/00009_00.JPG", png(0))
    assert found.account.left_out == (LeftOut("train/image/00009_00.JPG", "no .jpg file"),)
    assert found.account.notes == (f"folder '{tmp_path / 'viton/train'}' has no densepose",)
    found = test_edit_pairs.made(tmp_path / "pairs", json.dumps({"source": "0.png", "target": "0.png", "text": " "}))
    assert found.account == Account("pairs", 3)
    assert EditPairs(tmp_path / "pairs", ["relighting"]).account.left_out == (
        LeftOut("sksmagiceffects/", "not one of data.train.kinds"),
    )


def test_tables_say_how_many_rows_are_not_selected(tmp_path):
    rows = [test_subjects200k.row(i, scores) for i, scores in enumerate([(5, 5, 5), (4, 5, 5), None, (5, 5, 5)])]
    for _ in range(2):  # from the files, then from the cached index
        found = test_subjects200k.made(tmp_path / "set", *rows, pairs=1)
        assert found.account.notes == (
            "2 rows left out that are not collection_2, scores of at least 5",
            "data.train.pairs=1 leaves out 1 of 2 pairs",
        )
    assert test_subjects200k.made(tmp_path / "all", *rows, least_score=None).account == Account()


def test_tars_say_how_many_samples_lack_a_part(tmp_path):
    assert tars(tmp_path / "whole").account == Account()
    path = tmp_path / "set/data_512_2M/0.tar"
    test_text_to_image_2m.tar(path, {"1": test_text_to_image_2m.sample(1), "README": {"md": b"x"}})
    found = TextToImage2M(tmp_path / "set", cache=tmp_path / "cache")
    assert found.account.notes == ("1 sample lacks one of jpg, json and will be refused",)


def test_own_images_say_their_limit(tmp_path):
    own(tmp_path)
    assert OwnFolder(tmp_path, ["canny"]).account == Account("images", 2)
    assert OwnFolder(tmp_path, ["canny"], limit=1).account == Account(
        "images", 1, notes=("data.train.limit=1 leaves out 1 of 2 images",)
    )
