"""Finding records in a folder of the user's own images by file name alone, and naming what no record uses."""

import os
import unicodedata
from pathlib import Path

import pytest

from datamodules.reading import images as reading
from datamodules.reading.folder import Record, scan
from datamodules.reading.folder_captions import NO_IMAGE

pytestmark = pytest.mark.usefixtures("without_heif")

NAMES = ("canny", "depth", "mask", "sam2_mask")


def filled(root: Path, *paths: str, **texts: str) -> Path:
    """The folder with files of one byte (no image is opened), and with texts by path, '__' for '/' and 'X' for '.'."""
    for path in (*paths, *texts):
        file = root / path.replace("__", "/").replace("X", ".") if path in texts else root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(texts.get(path, "-"), encoding="utf-8")
    return root


def found(root: Path, names=NAMES) -> dict[str, tuple[str, dict[str, str]]]:
    """{key: (image, {annotation: path})}, as paths relative to the root."""
    records = scan(root, names).records
    assert [record.key for record in records] == sorted(record.key for record in records)
    return {
        record.key: (
            record.target.relative_to(root).as_posix(),
            {name: path.relative_to(root).as_posix() for name, path in record.annotations.items()},
        )
        for record in records
    }


def left(root: Path, names=NAMES) -> dict[str, str]:
    """{file: reason} of what the scan leaves out."""
    out = scan(root, names).left_out
    assert len({name for name, _ in out}) == len(out), "named once"
    return dict(out)


# --- images and annotations --------------------------------------------------------------------------------------


def test_annotations_lie_beside_their_image(tmp_path):
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


def test_the_longest_word_that_fits_an_image_counts(tmp_path):
    filled(tmp_path, "a.png", "a_sam2_mask.png", "b_sam2.png", "b_sam2_mask.png")
    assert found(tmp_path) == {
        "a": ("a.png", {"sam2_mask": "a_sam2_mask.png"}),
        "b_sam2": ("b_sam2.png", {"mask": "b_sam2_mask.png"}),
    }


def test_numbers_and_words_of_no_other_image_are_part_of_a_name(tmp_path):
    names = ["dog.png", "dog_2.png", "dog.3.png", "dog_on_beach.png", "my_cat.v2.png", "_canny.png", "2024/dog.png"]
    filled(tmp_path, *names, "dog_2_canny.png")
    scanned = scan(tmp_path, NAMES)
    assert [record.key for record in scanned.records] == sorted(name.removesuffix(".png") for name in names)
    assert scanned.notes == scanned.left_out == () and found(tmp_path)["dog_2"][1] == {"canny": "dog_2_canny.png"}


def test_in_a_folder_of_images_a_name_like_an_annotations_is_an_image(tmp_path):
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


def test_every_file_that_is_no_record_is_named_with_its_reason(tmp_path):
    filled(tmp_path, "a.png", ".a.png", ".git/b.png", "sub/.DS_Store", "notes.md", "raw.npy", "lone.txt", "clip.mp4")
    filled(tmp_path, "b.heic", "c.NEF", emptyXpng="")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    scanned = scan(tmp_path, NAMES)
    assert [record.key for record in scanned.records] == ["a"] and scanned.notes == () and scanned.used == {"a.png"}
    assert left(tmp_path) == {
        "b.heic": "no decoder: pip install pillow-heif",
        "c.NEF": "an image format that is not read: save it as PNG or JPEG",
        "empty.png": "the file is empty",
        "raw.npy": "an array that annotates no image",
        "lone.txt": NO_IMAGE,
        "clip.mp4": "a video",
        "notes.md": "neither image nor caption",
        "broken.png": "a link to nothing",
        "loop.png": "a link to nothing",
        "pipe.png": "not a regular file",
        ".a.png": "hidden",
        ".git": "hidden",
        "sub/.DS_Store": "hidden",
    }
    assert [name for name, _ in scanned.left_out][-3:] == [".a.png", ".git", "sub/.DS_Store"], "least interesting last"


def test_heic_is_an_image_where_its_decoder_is_installed(tmp_path, monkeypatch):
    filled(tmp_path, "a.png", "b.HEIC")
    assert list(found(tmp_path)) == ["a"]
    monkeypatch.setattr(reading, "formats", lambda: (*reading.FORMATS, "HEIF"))
    assert list(found(tmp_path)) == ["a", "b"] and left(tmp_path) == {}


def test_misspelt_annotations_are_told_and_no_images(tmp_path):
    filled(tmp_path, "a.png", "b.png", "a_cany.png", "b.cany.png", "a_edges.png", "a_Sam2_Mask.png", "a.canny.png")
    assert list(found(tmp_path)) == ["a", "b"]
    said = left(tmp_path)
    assert (
        said["a_cany.png"]
        == said["b.cany.png"]
        == "'cany' reads as an annotation of another image: did you mean canny?"
    )
    assert "'Sam2_Mask'" in said["a_Sam2_Mask.png"] and "mean sam2_mask?" in said["a_Sam2_Mask.png"]
    assert said["a_edges.png"].endswith("rename it, or name edges in data.train.annotations") and len(said) == 4
    assert left(tmp_path, (*NAMES, "cany", "edges", "Sam2_Mask")) == {}


def test_the_folder_of_a_run_holds_no_data(tmp_path):
    """A run that wrote into the folder of its data must not train on its own samples when it goes on."""
    filled(
        tmp_path,
        "a.png",
        "run/config.yaml",
        "run/samples/step_1.png",
        "run/metrics.jsonl",
        "day/config.yaml",
        "day/b.png",
    )
    assert list(found(tmp_path)) == ["a", "day/b"] and left(tmp_path)["run/"] == "the folder of a run"


@pytest.mark.parametrize("control", ["canny", "control", "conditioning_images", "depth"])
@pytest.mark.parametrize("place", ["", "images/"])
def test_sub_folders_of_controls_are_no_images_even_if_no_annotation_is_named(tmp_path, control, place):
    filled(tmp_path, f"{place}a.png", f"{place}b.png", f"{place}{control}/a.png", f"{place}other/c.png", "night/a.png")
    assert {f"{control}/a", "b"} & set(found(tmp_path, ())) == {"b"}
    reason = left(tmp_path, ())[f"{place}{control}/a.png"]
    assert reason.startswith(f"'{control}' reads as") and f"name {control} in data.train.annotations" in reason
    assert ("night/a" in found(tmp_path, ())) is (not place), (
        "negative control: any other folder, unless images/ is beside"
    )


@pytest.mark.parametrize("folder", ["target/", ""])
def test_a_misspelt_folder_is_told_and_left_out_as_a_whole(tmp_path, folder):
    filled(tmp_path, *(f"{folder}{i}.png" for i in "abc"), *(f"dephts/{i}.png" for i in "abx"), "canny/a.png")
    filled(tmp_path, "other/a.png", "day/a.png", "day/more/a.png")
    assert found(tmp_path)["a"] == (f"{folder}a.png", {"canny": "canny/a.png"})
    assert list(found(tmp_path)) == ["a", "b", "c"]
    words = {path: reason.split("'")[1] for path, reason in left(tmp_path).items()}
    dephts = dict.fromkeys((f"dephts/{i}.png" for i in "abx"), "dephts")
    assert words == {"other/a.png": "other", "day/a.png": "day", "day/more/a.png": "day", **dephts}
    assert left(tmp_path)["dephts/x.png"].endswith("did you mean depth?")


def test_other_folders_may_hold_images_of_the_same_name(tmp_path):
    filled(tmp_path, "1.png", "cats/1.png", "dogs/1.png", "dogs/canny/1.png", "2024/1.png")
    assert list(found(tmp_path)) == ["1", "2024/1", "cats/1", "dogs/1"] and left(tmp_path) == {}
    filled(tmp_path, "canny/1.png")  # now folders beside the image say what is in them
    assert list(found(tmp_path)) == ["1", "2024/1", "dogs/1"] and "'cats'" in left(tmp_path)["cats/1.png"]


def test_days_with_folders_of_their_own_are_not_taken_for_annotations(tmp_path):
    filled(tmp_path, "target/a.png", "day/target/a.png", "day/canny/a.png")
    assert found(tmp_path) == {"a": ("target/a.png", {}), "day/a": ("day/target/a.png", {"canny": "day/canny/a.png"})}


def test_annotations_without_an_image_are_told(tmp_path):
    filled(tmp_path, "a.png", "b_canny.png", "depth/c.png", *(f"canny/{i}.png" for i in range(9)))
    assert set(left(tmp_path).values()) == {"an annotation of no image"} and len(left(tmp_path)) == 11


def test_a_folder_without_images_is_refused_with_the_reasons(tmp_path):
    filled(tmp_path, "canny/a.png", "x.md", ".y.png", "z.heic")
    with pytest.raises(
        ValueError, match=r"no image in folder '.*': left out: canny/a\.png \(an annotation of no image\)"
    ) as no:
        scan(tmp_path, NAMES)
    assert "z.heic (no decoder: pip install pillow-heif), x.md" in str(no.value) and ".y.png (hidden)" in str(no.value)
    for bad in (tmp_path / "nowhere", tmp_path / "x.md"):
        with pytest.raises(ValueError, match="cannot list folder"):
            scan(bad, NAMES)


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (("a.png", "target/a.png"), "'a.png' and 'target/a.png' are both the image of 'a'"),
        (("images/a.png", "target/a.png"), "'images/a.png' and 'target/a.png' are both the image of 'a'"),
        (("a.png", "a_canny.png", "a.canny.png"), "'a.canny.png' and 'a_canny.png' are both the canny of 'a.png'"),
        (("a.png", "a_canny.png", "canny/a.png"), "'a_canny.png' and 'canny/a.png' are both the canny of 'a.png'"),
        (("a.png", "canny/a.npy", "canny/a.png"), "'canny/a.npy' and 'canny/a.png' are both the canny of 'a.png'"),
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
    if "are both the canny of" in words or "image of" in words:
        assert scan(tmp_path, NAMES).records  # one of the two is legal


def test_a_file_that_fits_two_images_is_an_error(tmp_path):
    filled(tmp_path, "a.png", "a_2.png", "a_2_mask.png")
    assert set(found(tmp_path, ("mask", "canny"))) == {"a", "a_2"}
    with pytest.raises(ValueError, match=r"'a_2_mask\.png' could be the mask of 'a_2\.png' or the 2_mask of 'a\.png'"):
        scan(tmp_path, ("mask", "2_mask"))


# --- links and names -----------------------------------------------------------------------------------------------


def test_links_are_followed_wherever_they_lead(tmp_path):
    """A snapshot of the Hugging Face Hub holds nothing but links to blobs, which have no suffix."""
    root = tmp_path / "snapshots" / "1"
    filled(tmp_path, "blobs/5ba7", "others/c.png", "others/deep/d.png", "snapshots/1/store/b.png")
    for name in ("a.png", "a_canny.png", "sub/e.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).symlink_to(os.path.relpath(tmp_path / "blobs" / "5ba7", (root / name).parent))
    (root / "note.txt").symlink_to("gone.txt")
    (root / "day").symlink_to(tmp_path / "others")
    assert found(root) == {
        "a": ("a.png", {"canny": "a_canny.png"}),
        "day/c": ("day/c.png", {}),
        "day/deep/d": ("day/deep/d.png", {}),
        "store/b": ("store/b.png", {}),
        "sub/e": ("sub/e.png", {}),
    }
    assert left(root) == {"note.txt": "a link to nothing"}
    (tmp_path / "link").symlink_to(root)
    assert len(scan(tmp_path / "link", NAMES).records) == 5


def test_a_folder_is_read_once_whatever_links_lead_to_it(tmp_path):
    root = filled(tmp_path / "root", "a.png", "real/b.png", "real/more/c.png")
    filled(tmp_path, "out/d.png", "out/in/e.png", "root/sub/f.png")
    links = {"again": root, "up": tmp_path, "first": root / "real", "sub/back": root, "x": tmp_path / "out/in"}
    for name, where in (links | {"y": tmp_path / "out", "z": tmp_path / "out"}).items():
        (root / name).symlink_to(where)
    (tmp_path / "out" / "round").symlink_to(tmp_path / "out")
    assert list(found(root)) == ["a", "real/b", "real/more/c", "sub/f", "x/e", "y/d"]
    same = {"again/", "up/", "first/", "sub/back/", "y/in/", "y/round/", "z/"}
    assert left(root) == dict.fromkeys(same, "a link to a folder that is read already")


def test_images_that_differ_in_the_suffix_alone_share_caption_and_annotations(tmp_path):
    filled(tmp_path, "a.png", "a.JPG", "a.webp", "a_canny.png", "b.png", "b.jpg", aXtxt="a cat")
    records = scan(tmp_path, NAMES).records
    assert {record.key: record.target.name for record in records} == {
        "a": "a.JPG",
        "a.png": "a.png",
        "a.webp": "a.webp",
        "b": "b.jpg",
        "b.png": "b.png",
    }
    for record in records:
        shared = record.key.startswith("a")
        assert (record.caption, list(record.annotations)) == (("a cat", ["canny"]) if shared else (None, []))
    (note,) = scan(tmp_path, NAMES).notes
    assert note.startswith("images of one name share their caption and annotations: a.JPG and a.png, a.JPG and a.webp")
    filled(tmp_path, "c.png", "c_cany.png", "c_cany.jpg")
    assert {"c_cany.png", "c_cany.jpg"} <= set(left(tmp_path))


@pytest.mark.parametrize("names", [("canny", "canny"), ("target",), ("a/b",), ("",), "canny"])
def test_illegal_names_of_annotations_are_refused(tmp_path, names):
    filled(tmp_path, "a.png")
    with pytest.raises(ValueError, match="annotation"):
        scan(tmp_path, names)
    assert scan(tmp_path, ()).records


def test_spellings_of_unicode_are_one(tmp_path):
    """Some systems write é as e and an accent: keys are the same everywhere, and tables find their images."""
    composed = unicodedata.normalize("NFC", "caf\u00e9")
    apart = unicodedata.normalize("NFD", composed)
    assert composed != apart
    one, other = filled(tmp_path / "one", f"{composed}.png"), filled(tmp_path / "other", f"{apart}.png")
    for root, name in ((one, apart), (other, composed)):
        filled(root, metadataXcsv=f"file_name,text\n{name}.png,x\n")
        ((record,), _, out, notes) = scan(root, NAMES)
        assert (record.key, record.caption, out, notes) == (composed, "x", (), ()) and record.target.is_file()
    filled(one, f"{apart}.png")
    assert left(one) == {f"{composed}.png": "another file has this name in another spelling of Unicode"}


def test_names_that_are_not_utf8_have_printable_keys(tmp_path):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb") as file:
        file.write(b"-")
    (record,) = scan(tmp_path, NAMES).records
    assert record.key == r"caf\xe9" and record.target.is_file() and record.key.encode("utf-8")
