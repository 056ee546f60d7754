"""Captions beside the user's own images: every form is read, the first of several counts, and the rest is told."""

import json
from pathlib import Path

import pytest

from datamodules.reading.captions import CAPTION
from datamodules.reading.folder import scan
from datamodules.reading.folder_captions import NO_IMAGE

pytestmark = pytest.mark.usefixtures("without_heif")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return written(tmp_path, **{f"{name}.png": "-" for name in "abcdefgh"})


def written(root: Path, **texts: str | bytes) -> Path:
    """The folder with files by path."""
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def captions(root: Path) -> dict[str, str]:
    """The captions that there are, by the image's key."""
    return {record.key: record.caption for record in scan(root, ["canny"]).records if record.caption is not None}


def left(root: Path) -> dict[str, str]:
    return dict(scan(root, ["canny"]).left_out)


def rows(*pairs: tuple[str, str | None]) -> str:
    return "".join(json.dumps({"file_name": name, "text": text}) + "\n" for name, text in pairs)


def test_a_caption_lies_beside_its_image_in_every_usual_form(root):
    written(root, **{"a.txt": "a cat\n", "b.caption": "a dog", "c.json": '{"prompt": "x", "caption": "a cow"}'})
    written(root, **{"d.TXT": "loud", "e.png.txt": "long name", "target/i.png": "-", "target/i.txt": "in a folder"})
    written(root, **{"sub dir/caf\u00e9 1.JPG": "-", "sub dir/caf\u00e9 1.txt": "with spaces"})
    assert captions(root) == {
        "a": "a cat",
        "b": "a dog",
        "c": "a cow",
        "d": "loud",
        "e": "long name",
        "i": "in a folder",
        "sub dir/caf\u00e9 1": "with spaces",
    }
    assert left(root) == {} and scan(root, []).notes == ()


def test_marks_line_ends_and_old_encodings_are_read(root):
    texts = {"a.txt": "\ufeff a \r\n cat\r\n".encode(), "b.txt": b"caf\xe9", "c.caption": "caf\u00e9".encode("utf-16")}
    written(root, **texts)
    assert captions(root) == {"a": "a cat", "b": "caf\u00e9", "c": "caf\u00e9"}
    (note,) = scan(root, []).notes
    assert note == "captions that are not UTF-8 were read so: b.txt as Windows-1252, c.caption as UTF-16"


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv"])
def test_captions_are_read_from_tables_as_imagefolder_has_them(root, suffix):
    """File names are relative to the folder that the table lies in."""
    images = ("train/a.png", "train/sub/b.png", "train/c.png", "test/a.png")
    written(root, **dict.fromkeys(images, "-"))

    def table(*pairs: tuple[str, str | None]) -> str:
        comma = "," if suffix == "csv" else "\t"
        lines = "".join(f"{name}{comma}{text or ''}\r\n" for name, text in [("file_name", "text"), *pairs])
        return rows(*pairs) if suffix == "jsonl" else f"\ufeff{lines}"

    written(root, **{f"train/metadata.{suffix}": table(("a.png", "one"), ("sub/b.png", "two"), ("c.png", None))})
    written(root, **{f"captions.{suffix}": table(("./test\\a.png", "three"))})
    assert captions(root) == {"test/a": "three", "train/a": "one", "train/sub/b": "two"}
    assert left(root) == {} and scan(root, []).notes == ()


def test_rows_of_no_image_are_told(root):
    told = [("a.png", "x"), ("gone.png", "y"), ("x_canny.png", "z"), ("../../etc/b.png", "w"), ("/etc/b.png", "w")]
    written(root, **{"metadata.jsonl": rows(*told) + "{\n", "x_canny.png": "-"})
    assert captions(root) == {"a": "x"}
    (note,) = scan(root, ["canny"]).notes
    assert note == (
        "rows of tables left out: gone.png in metadata.jsonl, line 2 (there is no such image), x_canny.png in "
        "metadata.jsonl, line 3 (its image is left out), ../../etc/b.png in metadata.jsonl, line 4, /etc/b.png in "
        "metadata.jsonl, line 5 (its file name leads out of the folder), metadata.jsonl, line 6 (it is no JSON)"
    )


def test_of_captions_that_differ_the_first_counts_and_both_are_named(root):
    written(
        root, **{"metadata.csv": "file_name,text\na.png,csv\nb.png,same\nc.png,csv\n", "a.json": '{"text": "json"}'}
    )
    written(root, **{"captions.jsonl": rows(("a.png", "lines"), ("c.png", "lines")), "b.txt": "same", "a.txt": " "})
    assert captions(root) == {"a": "json", "b": "same", "c": "lines"}
    (note,) = scan(root, []).notes
    assert note.startswith(
        "2 images have captions that differ, of which the first of .txt, .caption, .json, .jsonl, .csv"
    )
    assert note.endswith(
        "a.json and not captions.jsonl, line 1 for a.png, captions.jsonl, line 2 and not metadata.csv, line 4 for c.png"
    )
    assert left(root) == {"a.txt": "an empty caption"}
    written(root, **{"a.caption": "caption"})
    assert captions(root)["a"] == "caption" and left(root)["a.json"] == "another caption of its image counts"


def test_the_nearest_table_counts(root):
    written(
        root,
        **{
            "sub/i.png": "-",
            "metadata.jsonl": rows(("sub/i.png", "far")),
            "sub/metadata.jsonl": rows(("i.png", "near")),
        },
    )
    assert captions(root) == {"sub/i": "near"} and left(root) == {
        "metadata.jsonl": "another caption of its image counts"
    }


def test_files_that_hold_no_caption_are_left_out_by_name(root):
    bad = {
        "a.txt": (b"", "an empty caption"),
        "b.txt": (b" \n", "an empty caption"),
        "c.txt": (b"\x89PNG\0", "it is no text (byte 0 is not UTF-8)"),
        "d.json": (b"[1", "it is no JSON"),
        "e.json": (b'{"tags": "x"}', "it has no text, caption or prompt"),
        "f.json": (b'{"text": ["x"]}', "its text is no string"),
        "g.caption": (b"x" * 2**21, "it has more than 1048576 bytes"),
        "README.txt": (b"x", NO_IMAGE),
        "a_canny.txt": (b"x", NO_IMAGE),
        "labels.csv": (
            b"id,label\n1,2",
            "it is no table of captions: no row has file_name and text, caption or prompt",
        ),
        "metadata.jsonl": (rows(("gone.png", "x")).encode(), "no row of it is the caption of an image that is used"),
        "i.heic": (b"-", "no decoder: pip install pillow-heif"),
        "i.txt": (b"x", "a caption of an image that is left out"),
    }
    written(root, **{path: data for path, (data, _) in bad.items()})
    assert captions(root) == {} and left(root) == {path: reason for path, (_, reason) in bad.items()}


def test_a_caption_that_is_cut_is_told(root):
    written(root, **{"a.txt": "x" * CAPTION, "b.txt": "x" * (CAPTION + 1)})
    assert {len(text) for text in captions(root).values()} == {CAPTION}
    (note,) = scan(root, []).notes
    assert note == "1 image has a caption of more than 4096 characters, of which the rest was cut: b.png"
