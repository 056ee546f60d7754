"""Finding records in a folder of the user's own pictures by file name alone."""

import json
import os
import unicodedata
from pathlib import Path

import pytest

from datamodules.folder import Record, scan
from datamodules.reading import BadPicture

NAMES = ("canny", "depth", "mask", "sam2_mask")


def filled(root: Path, *paths: str, **texts: str) -> Path:
    """The folder with empty files (no picture is opened), and with texts by path, '__' for '/' and 'X' for '.'."""
    for path in (*paths, *texts):
        file = root / path.replace("__", "/").replace("X", ".") if path in texts else root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(texts.get(path, ""), encoding="utf-8")
    return root


def found(root: Path, names=NAMES) -> dict[str, tuple[str, dict[str, str]]]:
    """{key: (picture, {annotation: path})}, as paths relative to the root."""
    records = scan(root, names).records
    assert [record.key for record in records] == sorted(record.key for record in records)
    return {
        record.key: (
            record.target.relative_to(root).as_posix(),
            {name: path.relative_to(root).as_posix() for name, path in record.annotations.items()},
        )
        for record in records
    }


def rows(*pairs: tuple[str, str | None]) -> str:
    return "".join(json.dumps({"file_name": name, "text": text}) + "\n" for name, text in pairs)


# --- pictures and annotations --------------------------------------------------------------------------------------


def test_annotations_lie_beside_their_picture(tmp_path):
    filled(tmp_path, "b.JPG", "a.png", "a.canny.png", "a_depth.jpeg", "sub/a.webp", "sub/a.sam2_mask.tif", "a.mask.npy")
    assert found(tmp_path) == {
        "a": ("a.png", {"canny": "a.canny.png", "depth": "a_depth.jpeg", "mask": "a.mask.npy"}),
        "b": ("b.JPG", {}),
        "sub/a": ("sub/a.webp", {"sam2_mask": "sub/a.sam2_mask.tif"}),
    }
    (record,) = [record for record in scan(tmp_path, NAMES).records if record.key == "a"]
    assert record == Record("a", tmp_path / "a.png", record.annotations, None) and list(record.annotations) == [
        "canny",
        "depth",
        "mask",
    ]


@pytest.mark.parametrize("folder", ["target/", "images/", ""])
@pytest.mark.parametrize("above", ["", "day1/", "day1/morning/"])
def test_annotations_lie_in_folders_of_their_own(tmp_path, folder, above):
    filled(tmp_path, *(f"{above}{place}a.png" for place in (folder, "canny/", "depth/")), f"{above}{folder}b.png")
    filled(tmp_path, f"{above}depth/deep/c_depth.npy", f"{above}{folder}deep/c.png")
    assert found(tmp_path) == {
        f"{above}a": (f"{above}{folder}a.png", {"canny": f"{above}canny/a.png", "depth": f"{above}depth/a.png"}),
        f"{above}b": (f"{above}{folder}b.png", {}),
        f"{above}deep/c": (f"{above}{folder}deep/c.png", {"depth": f"{above}depth/deep/c_depth.npy"}),
    }


def test_the_longest_word_that_fits_a_picture_counts(tmp_path):
    filled(tmp_path, "a.png", "a_sam2_mask.png", "b_sam2.png", "b_sam2_mask.png")
    assert found(tmp_path) == {
        "a": ("a.png", {"sam2_mask": "a_sam2_mask.png"}),
        "b_sam2": ("b_sam2.png", {"mask": "b_sam2_mask.png"}),
    }


def test_numbers_and_words_of_no_other_picture_are_part_of_a_name(tmp_path):
    names = ["dog.png", "dog_2.png", "dog.3.png", "dog_on_beach.png", "my_cat.v2.png", "_canny.png", "2024/dog.png"]
    filled(tmp_path, *names, "dog_2_canny.png")
    scanned = scan(tmp_path, NAMES)
    assert [record.key for record in scanned.records] == sorted(name.removesuffix(".png") for name in names)
    assert scanned.notes == () and found(tmp_path)["dog_2"][1] == {"canny": "dog_2_canny.png"}


def test_in_a_folder_of_pictures_a_name_like_an_annotations_is_a_picture(tmp_path):
    filled(tmp_path, "target/big_mask.png", "canny/big_mask.png", "target/a.png", "target/a_mask.png")
    assert found(tmp_path) == {
        "a": ("target/a.png", {"mask": "target/a_mask.png"}),
        "big_mask": ("target/big_mask.png", {"canny": "canny/big_mask.png"}),
    }


def test_the_order_of_files_on_disk_plays_no_part(tmp_path):
    paths = ["z.png", "a.png", "a_canny.png", "m/k.png", "m/canny/k.png", "z.txt"]
    one, other = filled(tmp_path / "one", *paths), filled(tmp_path / "other", *reversed(paths))
    assert found(one) == found(other) and list(found(one)) == ["a", "m/k", "z"]
    filled(other, "b.png")
    assert found(one) != found(other)


# --- what is left out ----------------------------------------------------------------------------------------------


def test_hidden_files_and_others_are_counted(tmp_path):
    filled(tmp_path, "a.png", ".a.png", ".git/b.png", "sub/.DS_Store", "notes.md", "raw.npy", "lone.txt", "clip.mp4")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "sub" / "again").symlink_to(tmp_path)
    (tmp_path / "broken.png").symlink_to(tmp_path / "gone.png")
    scanned = scan(tmp_path, NAMES)
    assert [record.key for record in scanned.records] == ["a"] and scanned.notes == ()
    assert (scanned.hidden, scanned.others) == (3, 7)


def test_misspelt_annotations_are_told_and_no_pictures(tmp_path):
    filled(tmp_path, "a.png", "b.png", "a_cany.png", "b.cany.png", "a_edges.png", "a_Sam2_Mask.png", "a.canny.png")
    scanned = scan(tmp_path, NAMES)
    assert [record.key for record in scanned.records] == ["a", "b"] and scanned.others == 0
    (note,) = scanned.notes
    assert "'cany' in 2, such as 'a_cany.png' (did you mean 'canny'?)" in note
    assert "'edges' in 1, such as 'a_edges.png';" in note and "'Sam2_Mask'" in note and "mean 'sam2_mask'" in note
    assert note.endswith("annotations are canny, depth, mask, sam2_mask")
    assert scan(tmp_path, (*NAMES, "cany", "edges", "Sam2_Mask")).notes == ()


@pytest.mark.parametrize("folder", ["target/", ""])
def test_a_misspelt_folder_is_told_and_left_out_as_a_whole(tmp_path, folder):
    filled(tmp_path, *(f"{folder}{i}.png" for i in "abc"), *(f"dephts/{i}.png" for i in "abx"), "canny/a.png")
    filled(tmp_path, "other/a.png", "day/a.png", "day/more/a.png")
    scanned = scan(tmp_path, NAMES)
    assert found(tmp_path)["a"] == (f"{folder}a.png", {"canny": "canny/a.png"})
    assert [record.key for record in scanned.records] == ["a", "b", "c"]
    (note,) = scanned.notes
    assert "'other' in 1" in note and "'day' in 2" in note
    assert "'dephts' in 3, such as 'dephts/a.png' (did you mean 'depth'?)" in note


def test_other_folders_may_hold_pictures_of_the_same_name(tmp_path):
    filled(tmp_path, "1.png", "cats/1.png", "dogs/1.png", "dogs/canny/1.png", "2024/1.png")
    assert list(found(tmp_path)) == ["1", "2024/1", "cats/1", "dogs/1"] and scan(tmp_path, NAMES).notes == ()
    filled(tmp_path, "canny/1.png")  # now folders beside the picture say what is in them
    assert list(found(tmp_path)) == ["1", "2024/1", "dogs/1"] and "'cats' in 1" in scan(tmp_path, NAMES).notes[0]


def test_days_with_folders_of_their_own_are_not_taken_for_annotations(tmp_path):
    filled(tmp_path, "target/a.png", "day/target/a.png", "day/canny/a.png")
    assert found(tmp_path) == {"a": ("target/a.png", {}), "day/a": ("day/target/a.png", {"canny": "day/canny/a.png"})}


def test_annotations_and_captions_without_a_picture_are_told(tmp_path):
    filled(tmp_path, "a.png", "b_canny.png", "depth/c.png", *(f"canny/{i}.png" for i in range(9)))
    filled(tmp_path, metadataXjsonl=rows(("a.png", "x"), ("gone.png", "y"), ("b_canny.png", "z")))
    first, second = scan(tmp_path, NAMES).notes
    assert first.startswith("11 annotations of no picture were left out, such as 'b_canny.png', 'canny/0.png'")
    assert second == (
        "2 captions of no picture were left out, such as 'metadata.jsonl', line 2, 'metadata.jsonl', line 3"
    )


def test_a_folder_without_pictures_is_refused_with_the_reasons(tmp_path):
    filled(tmp_path, "canny/a.png", "x.md", ".y.png")
    with pytest.raises(ValueError, match=r"no picture in folder '.*': 1 hidden and 1 other files .* 'canny/a\.png'"):
        scan(tmp_path, NAMES)
    for bad in (tmp_path / "nowhere", tmp_path / "x.md"):
        with pytest.raises(ValueError, match="cannot list folder"):
            scan(bad, NAMES)


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (("a.png", "a.jpg"), "'a.jpg' and 'a.png' are both the picture of 'a'"),
        (("a.png", "target/a.png"), "'a.png' and 'target/a.png' are both the picture of 'a'"),
        (("images/a.png", "target/a.png"), "'images/a.png' and 'target/a.png' are both the picture of 'a'"),
        (("a.png", "a_canny.png", "a.canny.png"), "'a.canny.png' and 'a_canny.png' are both the canny of 'a'"),
        (("a.png", "a_canny.png", "canny/a.png"), "'a_canny.png' and 'canny/a.png' are both the canny of 'a'"),
        (("a.png", "canny/a.npy", "canny/a.png"), "'canny/a.npy' and 'canny/a.png' are both the canny of 'a'"),
        (("images/canny/a.png",), "'images/canny/a.png' lies in the folders 'images' and 'canny'"),
        (("a.png", "target/a_canny.png", "canny/a.png"), "'canny/a.png' and 'target/a_canny.png' are both the canny"),
        (("target/a.png", "target/a_canny.png", "target/b.png", "canny/a_canny.png", "canny/a.png"), "both the canny"),
    ],
)
def test_ambiguous_and_duplicate_files_are_errors_that_name_both(tmp_path, paths, words):
    filled(tmp_path, *paths)
    with pytest.raises(ValueError, match=words.replace(".", r"\.")):
        scan(tmp_path, NAMES)
    (tmp_path / paths[-1]).unlink()
    filled(tmp_path, "other.png")
    if "are both the canny of" in words or "picture" in words:
        assert scan(tmp_path, NAMES).records  # one of the two is legal


def test_a_file_that_fits_two_pictures_is_an_error(tmp_path):
    filled(tmp_path, "a.png", "a_2.png", "a_2_mask.png")
    assert set(found(tmp_path, ("mask", "canny"))) == {"a", "a_2"}
    with pytest.raises(ValueError, match=r"'a_2_mask\.png' could be the mask of 'a_2\.png' or the 2_mask of 'a\.png'"):
        scan(tmp_path, ("mask", "2_mask"))


def test_links_that_leave_the_folder_are_refused_by_name(tmp_path):
    root = filled(tmp_path / "root", "a.png", "store/b.png")
    filled(tmp_path, "secret.png", "others/c.png")
    (root / "near_canny.png").symlink_to(root / "store" / "b.png")
    (root / "near.png").symlink_to(root / "a.png")
    assert set(found(root)) == {"a", "near", "store/b"}
    (root / "sub").mkdir()
    for name, where in (("far.png", "secret.png"), ("sub/far", "others"), ("note.txt", "gone.txt")):
        (root / name).symlink_to(tmp_path / where)
        with pytest.raises(BadPicture, match=f"'{name}': it leads out of its folder"):
            scan(root, NAMES)
        (root / name).unlink()
    (tmp_path / "link").symlink_to(root)
    assert len(scan(tmp_path / "link", NAMES).records) == 3


@pytest.mark.parametrize("names", [("canny", "canny"), ("target",), ("a/b",), ("",), "canny"])
def test_illegal_names_of_annotations_are_refused(tmp_path, names):
    filled(tmp_path, "a.png")
    with pytest.raises(ValueError, match="annotation"):
        scan(tmp_path, names)
    assert scan(tmp_path, ()).records


# --- captions ------------------------------------------------------------------------------------------------------


def captions(root: Path) -> dict[str, str | None]:
    return {record.key: record.caption for record in scan(root, NAMES).records}


def test_captions_are_read_from_text_files(tmp_path):
    filled(tmp_path, "a.png", "a_canny.png", "b.png", "c.png", "target/d.png", "README.txt")
    filled(tmp_path, aXtxt="\ufeff a  cat\n", cXtxt=" \n", target__dXtxt="a dog", a_cannyXtxt="edges")
    scanned = scan(tmp_path, NAMES)
    assert captions(tmp_path) == {"a": "a cat", "b": None, "c": None, "d": "a dog"}
    assert scanned.others == 2  # the README and the text of an annotation


def test_captions_are_read_from_tables_as_imagefolder_has_them(tmp_path):
    """File names are relative to the folder that the table lies in."""
    filled(tmp_path, "train/a.png", "train/sub/b.png", "train/c.png", "test/a.png", "d.png")
    filled(
        tmp_path,
        train__metadataXjsonl=rows(("a.png", "one"), ("sub/b.png", "two"), ("c.png", None)),
        captionsXjsonl=rows(("./test\\a.png", "three")),
    )
    expected = {"d": None, "test/a": "three", "train/a": "one", "train/c": None, "train/sub/b": "two"}
    assert captions(tmp_path) == expected and scan(tmp_path, NAMES).notes == ()


def test_two_captions_of_a_picture_are_an_error_that_names_both(tmp_path):
    filled(tmp_path, "a.png", metadataXjsonl=rows(("a.png", "one")), captionsXjsonl=rows(("a.png", "two")))
    with pytest.raises(
        ValueError, match=r"'a\.png' has two captions, in 'captions.jsonl', line 1 and 'metadata.jsonl'"
    ):
        scan(tmp_path, NAMES)
    (tmp_path / "captions.jsonl").unlink()
    assert captions(tmp_path) == {"a": "one"}
    filled(tmp_path, aXtxt="three")
    with pytest.raises(ValueError, match=r"in 'a\.txt' and 'metadata\.jsonl', line 1: remove one"):
        scan(tmp_path, NAMES)


def test_captions_that_cannot_be_read_are_errors(tmp_path):
    filled(tmp_path, "a.png", metadataXjsonl='{"file_name": "a.png", "caption": "x"}')
    with pytest.raises(ValueError, match=r"metadata\.jsonl', line 1: it has no 'text'"):
        scan(tmp_path, NAMES)
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"a\.txt' is not UTF-8"):
        scan(tmp_path, NAMES)


def test_spellings_of_unicode_are_one(tmp_path):
    """Some systems write é as e and an accent: keys are the same everywhere, and tables find their pictures."""
    composed = unicodedata.normalize("NFC", "caf\u00e9")
    apart = unicodedata.normalize("NFD", composed)
    assert composed != apart
    one, other = filled(tmp_path / "one", f"{composed}.png"), filled(tmp_path / "other", f"{apart}.png")
    for root, name in ((one, apart), (other, composed)):
        filled(root, metadataXjsonl=rows((f"{name}.png", "x")))
    assert captions(one) == captions(other) == {composed: "x"}
    assert scan(other, NAMES).records[0].target.is_file()
    filled(one, f"{apart}.png")
    with pytest.raises(ValueError, match="is there in two spellings"):
        scan(one, NAMES)


def test_names_that_are_not_utf8_have_printable_keys(tmp_path):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb"):
        pass
    (record,) = scan(tmp_path, NAMES).records
    assert record.key == r"caf\xe9" and record.target.is_file() and record.key.encode("utf-8")
