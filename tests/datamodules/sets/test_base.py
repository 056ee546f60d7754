"""What all readers share: images that are decoded when read, records, captions, and the error without pyarrow."""

import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from miniature import encoded, pixels, png, written

from datamodules.reading.images import BadImage
from datamodules.sets.base import LazyImage, SetRecord, aligned, captions_of, stored, stored_map
from datamodules.sets.cells import TableError
from datamodules.sets.coco import Coco
from datamodules.sets.dreambench import DreamBench
from datamodules.sets.edit_pairs import EditPairs
from datamodules.sets.frames import Frames
from datamodules.sets.graph200k import Graph200K
from datamodules.sets.omniedit import OmniEdit
from datamodules.sets.own_folder import OwnFolder
from datamodules.sets.subjects200k import Subjects200K
from datamodules.sets.text_to_image_2m import TextToImage2M
from datamodules.sets.viton_hd import VitonHD

READERS = {
    "coco": Coco,
    "dreambench": DreamBench,
    "edit pairs": lambda root, **options: EditPairs(root, ["relighting"], **options),
    "frames": Frames,
    "graph200k": Graph200K,
    "omniedit": OmniEdit,
    "own folder": lambda root, **options: OwnFolder(root, ["canny"], **options),
    "subjects200k": Subjects200K,
    "text-to-image-2M": TextToImage2M,
    "viton-hd": VitonHD,
}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_is_built_before_its_data_is_there_and_names_the_folder_on_use(name, tmp_path):
    reader = READERS[name](tmp_path / "nowhere")
    assert all(isinstance(image, str) for image in reader.names)
    with pytest.raises(ValueError, match="nowhere"):
        len(reader)


@pytest.mark.parametrize("name", READERS)
def test_every_reader_checks_its_limit(name, tmp_path):
    for limit in (0, -3, 1.5):
        with pytest.raises(ValueError, match=f"limit={limit}"):
            READERS[name](tmp_path, limit=limit)


@pytest.mark.parametrize("name", READERS)
def test_the_images_of_a_reader_are_words_of_the_grammar(name, tmp_path):
    names = READERS[name](tmp_path).names
    assert names and all(re.fullmatch(r"\w+", image) for image in names) and len(set(names)) == len(names)
    for make in (
        partial(EditPairs, kinds=["by-night"]),
        partial(OmniEdit, tasks=["a>b"]),
        partial(OmniEdit, tasks="add"),
    ):
        with pytest.raises(ValueError, match="must be a list of names"):
            make(tmp_path)


def test_tables_without_pyarrow_say_in_one_sentence_what_to_install(tmp_path, monkeypatch):
    written(tmp_path / "data/train-00000.parquet", "x")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TableError, match=r"^reading .* needs pyarrow: pip install 'unigen\[data\]'$"):
        len(OmniEdit(tmp_path, cache=tmp_path / "cache"))


def test_an_image_is_read_when_asked_and_states_its_size_without(tmp_path):
    asked: list[int] = []

    def content() -> bytes:
        asked.append(1)
        return png(3, 24)

    image = stored(content, "it")
    assert not asked and image.size() == (24, 16) and np.array_equal(image.read(), pixels(3, 24)) and len(asked) == 2
    cut = encoded(pixels(1, 200, 100), "JPEG")[:1500]
    assert stored(lambda: cut, "it").size() == (200, 100), "the header is whole"
    for broken in (lambda: b"", lambda: b"\xff\xd8nothing", tmp_path / "none.png", tmp_path):
        for use in (stored(broken, "its name").size, stored(broken, "its name").read):
            with pytest.raises(BadImage, match="its name"):
                use()


def test_a_map_of_an_image_or_an_array_has_three_equal_channels(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0.0, 2.0], [4.0, 1.0], [0.0, 0.0]]))
    path = written(tmp_path / "b.png", encoded(np.repeat(pixels(1)[:1], 3, axis=0)))
    array, grey = stored_map(tmp_path / "a.npy", "a"), stored_map(path, "b")
    assert array.size() == (2, 3) and array.read()[:, 0].tolist() == [[0, 128]] * 3
    assert grey.size() == (16, 16) and np.array_equal(grey.read(), np.repeat(pixels(1)[:1], 3, axis=0))
    assert stored_map(lambda: (tmp_path / "a.npy").read_bytes(), "a").size() == (2, 3)


def test_an_aligned_image_has_the_size_of_the_other():
    whole, half, tall = (
        LazyImage(lambda size=size: pixels(1, *size), lambda size=size: size) for size in ((32, 16), (16, 8), (8, 32))
    )
    assert aligned(half, whole, "half").read().shape == (3, 16, 32) and aligned(half, whole, "half").size() == (32, 16)
    with pytest.raises(BadImage, match="tall"):
        aligned(tall, whole, "tall").read()


def test_a_record_tells_what_it_lacks():
    record = SetRecord("row 3", {"target": stored(lambda: png(1), "t")}, captions_of({"target": ["b", "a"]}))
    assert record.caption() == "b" and record.caption("depth") == ""
    for use in (record.read, record.size):
        with pytest.raises(BadImage, match=r"row 3, depth.*there is no depth.*it has target"):
            use("depth")


def test_captions_are_strings_that_say_something():
    found = captions_of({"target": [" a\n b ", "", None, 3, "\u200b"], "other": [None], "third": []})
    assert found == {"target": ("a b",)}


def test_no_file_of_the_package_unpickles():
    folder = Path(sys.modules["datamodules.sets.base"].__file__).parent
    source = "".join(path.read_text() for path in folder.glob("*.py"))
    loads = re.findall(r"np\.load\([^)]*\)", source)
    assert loads and all("allow_pickle=False" in load for load in loads)
    assert not re.search(r"import pickle|torch\.load|extractall|\beval\(", source)
