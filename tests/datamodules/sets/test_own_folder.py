"""A folder of the user's own images as records: sizes, references, arrays, broken files, resume and limit."""

from pathlib import Path

import numpy as np
import pytest
from miniature import encoded, pixels, png, written
from PIL import Image

from datamodules.reading import folder
from datamodules.reading.images import BadImage
from datamodules.reading.records import Refusals
from datamodules.sets.online import Draw, with_online
from datamodules.sets.own_folder import OwnFolder

NAMES = ("canny", "depth", "reference")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    for number, name in enumerate("abcd"):
        written(folder / f"{name}.png", png(number, 24, 16))
    written(folder / "a.depth.png", png(10, 48, 32))
    written(folder / "a_reference.png", png(11, 10, 30))
    written(folder / "a.txt", " A  cat\n")
    np.save(folder / "b.depth.npy", np.arange(24 * 16, dtype=np.float32).reshape(16, 24))
    written(folder / "c.depth.png", png(12, 16, 16))
    written(folder / "notes.pdf", b"x")
    return folder


def test_records_have_the_images_that_lie_beside_them(root):
    found = OwnFolder(root, NAMES)
    assert found.names == ("target", *NAMES) and len(found) == 4
    first = found.record(0)
    assert (first.key, set(first.images), first.caption()) == ("a", {"target", "depth", "reference"}, "A cat")
    assert np.array_equal(first.read("target"), pixels(0, 24)) and first.size() == (24, 16)
    assert set(found.record(3).images) == {"target"} and found.record(3).captions == {}


def test_annotations_get_the_size_of_their_image_and_references_keep_theirs(root):
    first = OwnFolder(root, NAMES).record(0)
    assert first.read("depth").shape == (3, 16, 24) and first.size("depth") == (24, 16)
    assert first.read("reference").shape == (3, 30, 10) and first.size("reference") == (10, 30)
    with pytest.raises(BadImage, match=r"a_reference\.png"):
        OwnFolder(root, NAMES, references=()).record(0).read("reference")
    with pytest.raises(BadImage, match=r"c\.depth\.png.*16 x 16.*24 x 16"):
        OwnFolder(root, NAMES).record(2).read("depth")


def test_an_array_becomes_three_equal_channels(root):
    depth = OwnFolder(root, NAMES).record(1).read("depth")
    assert depth.shape == (3, 16, 24) and depth.dtype == np.uint8
    assert (depth == depth[:1]).all() and depth[0, 0, 0] == 0 and depth[0, -1, -1] == 255


def test_an_array_may_be_a_reference_and_states_its_size(root):
    np.save(root / "d.depth.npy", np.zeros((8, 4), np.float32))
    assert OwnFolder(root, NAMES, references=("depth",)).record(3).size("depth") == (4, 8)


def test_what_is_missing_is_computed_and_what_is_there_is_not(root):
    written(root / "a.canny.png", encoded(np.zeros((3, 16, 24), np.uint8)))
    found = OwnFolder(root, NAMES)
    stored, computed = (with_online(found.record(i), Draw(1)).read("canny") for i in (0, 3))
    assert not stored.any() and computed.any()


def test_a_broken_file_is_refused_by_name_and_another_record_read(root):
    written(root / "b.png", png(1)[:80])
    written(root / "d.png", png(3)[:90])
    found, refusals = OwnFolder(root, NAMES), Refusals("mine", share=1.0)
    read = [refusals.read(lambda i, seed: found.record(i).read("target").shape, (i, 3), 4) for i in range(4)]
    assert read == [(3, 16, 24)] * 4
    assert sorted({text.split(":")[0] for text in refusals.first}) == ["'b.png'", "'d.png'"]
    with pytest.raises(BadImage, match=r"d\.png"):
        found.record(3).read("target")


def test_what_is_no_image_by_its_header_is_left_out_at_once(root, monkeypatch):
    written(root / "d.png", "<html>404</html>")
    written(root / "e.png", png(0, 1000, 10))
    written(root / "d.txt", "a page")
    (root / "a.depth.png").write_bytes(b"x")
    found = OwnFolder(root, NAMES)
    assert len(found) == 3 and set(found.record(0).images) == {"target", "reference"}
    assert dict(found.account.left_out) == {
        "a.depth.png": "no known image format",
        "d.png": "no known image format",
        "d.txt": "a caption of an image that is left out",
        "e.png": "it has 1000 x 10 pixels, but its sides must be within 1 : 32",
        "notes.pdf": "an image format that is not read: save it as PNG or JPEG",
    }
    monkeypatch.setattr(folder, "CHECKED", 6)
    assert len(OwnFolder(root, NAMES)) == 5, "a large folder is not opened"


def test_upright_sizes_are_stated(root):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(root / "a.jpg", exif=exif)
    (root / "a.png").unlink()
    record = OwnFolder(root, NAMES).record(0)
    assert record.size() == (16, 24) and record.read("target").shape == (3, 24, 16)


def test_images_of_the_same_content_are_said(root):
    assert OwnFolder(root, NAMES).account.notes == ()
    written(root / "e.png", png(0, 24, 16))
    (root / "sub").mkdir()
    (root / "sub/f.png").symlink_to("../b.png")
    found = OwnFolder(root, NAMES)
    assert found.account.notes == ("images of the same content are used each: e.png as a.png, sub/f.png as b.png",)
    assert len(found) == 6


def test_animations_are_said(root):
    assert OwnFolder(root, NAMES).account.notes == (), "negative control"
    for name in ("e.gif", "d.canny.gif"):
        frames = [Image.fromarray(pixels(seed, 24, 16).transpose(1, 2, 0)) for seed in (30, 31)]
        frames[0].save(root / name, save_all=True, append_images=frames[1:])
    (said,) = OwnFolder(root, NAMES).account.notes
    assert said == "not stills: d.canny.gif, e.gif (an animation, of which the first frame alone is used)"


def test_images_that_differ_in_the_suffix_alone_have_one_origin(root):
    written(root / "a.jpg", encoded(pixels(20, 24, 16), "JPEG"))
    records = [OwnFolder(root, NAMES).record(i) for i in range(5)]
    assert [record.key for record in records] == ["a", "a.png", "b", "c", "d"]
    assert len({record.origin for record in records}) == 4 and records[0].origin == records[1].origin


def test_a_limit_and_the_middle(root):
    found, few = OwnFolder(root, NAMES), OwnFolder(root, NAMES, limit=2)
    assert len(few) == 2 and few.record(1).key == found.record(1).key == "b"
    with pytest.raises(IndexError):
        few.record(2)


def test_a_folder_that_is_not_there_is_told_on_use(tmp_path):
    found = OwnFolder(tmp_path / "nowhere", NAMES)
    with pytest.raises(ValueError, match="nowhere"):
        len(found)


def test_what_the_scan_left_out_is_told(root):
    written(root / "a_cany.png", png(0))
    written(root / "b.txt", " ")
    account = OwnFolder(root, NAMES).account
    assert (account.noun, account.captioned, account.notes) == ("images", 1, ())
    assert dict(account.left_out) == {
        "a_cany.png": "'cany' reads as an annotation of another image: did you mean canny?",
        "b.txt": "an empty caption",
        "notes.pdf": "an image format that is not read: save it as PNG or JPEG",
    }


def test_a_file_is_no_folder(root):
    with pytest.raises(ValueError, match=r"a\.png' is a file, not a folder with images; name a folder that is there$"):
        len(OwnFolder(root / "a.png"))
    with pytest.raises(ValueError, match=r"there is no folder '.*none' with images"):
        len(OwnFolder(root / "none"))


@pytest.mark.parametrize(
    ("folders", "named", "apart"),
    [
        (
            ["train", "validation"],
            "train and validation",
            "data.train.root={root}/train data.val.root={root}/validation",
        ),
        (
            ["test", "train", "val"],
            "train, val and test",
            "data.train.root={root}/train data.val.root={root}/val data.test.root={root}/test",
        ),
        (["train", "cats"], "", ""),
        (["validation", "cats"], "", ""),
    ],
)
def test_folders_of_splits_that_are_used_as_one_are_told(tmp_path, folders, named, apart):
    for i, name in enumerate(folders):
        written(tmp_path / name / f"{i}.png", png(i))
    written(tmp_path / "test.png", png(9))
    told = f"folders {named} of {tmp_path} are used as one set; {apart.format(root=tmp_path)} uses them apart"
    found = OwnFolder(tmp_path)
    assert found.account.notes == ((told,) if named else ()) and len(found) == len(folders) + 1
    assert OwnFolder(tmp_path / folders[0]).account.notes == (), "apart"


def test_captions_that_are_named_as_others_do_say_once_how_they_are_named_here(root):
    for name in ("caption.txt", "captions/a.txt", "prompts.txt", "images.txt", "meta_cap.json"):
        written(root / name, "x")
    told = OwnFolder(root, NAMES).account.sentences[0]
    assert told.count("no image beside it has its name; captions are a.txt beside a.png, or metadata.csv or") == 1
    assert told.count("captions are") == 1 and "caption.txt, captions/a.txt, images.txt and 2 more (" in told
