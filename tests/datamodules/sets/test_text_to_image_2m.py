"""text-to-image-2M on miniature tars: samples in order, the cached places, broken tars and samples, limits."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from miniature import encoded, pixels

from datamodules.reading.images import BadImage
from datamodules.sets import tars
from datamodules.sets.text_to_image_2m import TextToImage2M


def sample(number: int) -> dict[str, bytes]:
    told = {"prompt": f" picture  {number}", "source": "x"}
    return {"jpg": encoded(pixels(number), "PNG"), "json": json.dumps(told).encode()}


def tar(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for base, parts in samples.items():
            for part, data in parts.items():
                member = tarfile.TarInfo(f"{base}.{part}")
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Samples 0 to 2 in one tar, 3 and 4 in the next; and one of the larger images."""
    folder = tmp_path / "set"
    tar(folder / "data_512_2M/data_000000.tar", {f"a/{i:06}": sample(i) for i in range(3)})
    tar(folder / "data_512_2M/data_000001.tar", {f"{i:06}": sample(i) for i in (3, 4)})
    tar(folder / "data_1024_10K/data_000000.tar", {"9": sample(9)})
    return folder


def made(root: Path, **options) -> TextToImage2M:
    return TextToImage2M(root, cache=root.parent / "cache", **options)


def test_samples_come_in_order_from_any_place(root):
    found = made(root)
    assert len(found) == 5
    for i in (3, 0, 4, 1, 2):
        record = found.record(i)
        assert np.array_equal(record.read("target"), pixels(i)) and not np.array_equal(
            record.read("target"), pixels(i + 1)
        )
        assert record.caption() == f"picture {i}" and record.size() == (16, 16)
    assert found.record(4).key == "data_512_2M/data_000001.tar, sample 1"
    assert made(root, part="data_1024_10K").record(0).caption() == "picture 9"
    with pytest.raises(IndexError):
        found.record(5)
    assert pickle.loads(pickle.dumps(found)).record(4).caption() == "picture 4"


def test_a_limit_takes_the_first_and_opens_no_tar_beyond(root):
    (root / "data_512_2M/data_000001.tar").write_bytes(b"nothing")
    for limit in (2, 3):
        few = made(root, limit=limit)
        assert len(few) == limit and few.record(limit - 1).caption() == f"picture {limit - 1}"
        with pytest.raises(IndexError):
            few.record(limit)
    with pytest.raises(ValueError, match=r"data_000001\.tar"):
        len(made(root, limit=4))


def test_a_tar_is_scanned_once_and_again_when_it_changes(root, monkeypatch):
    scanned = []
    true = tars._scanned
    monkeypatch.setattr(tars, "_scanned", lambda path, parts: scanned.append(path.name) or true(path, parts))
    assert len(made(root)) == len(made(root)) == 5 and len(scanned) == 2
    tar(root / "data_512_2M/data_000000.tar", {"b": sample(7)})
    assert [made(root).record(i).caption() for i in range(3)] == ["picture 7", "picture 3", "picture 4"]
    assert scanned[2:] == ["data_000000.tar"]
    for cached in (root.parent / "cache").iterdir():
        cached.write_bytes(cached.read_bytes()[:40])
    assert len(made(root)) == 3 and len(scanned) == 5


def test_a_truncated_tar_is_refused_by_name(root):
    path = root / "data_512_2M/data_000000.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as file:
        last = file.getmembers()[-1].offset_data
    for kept in (last + 5, last, last - 100, 700, 100, 0):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=r"data_000000\.tar"):
            len(made(root))


def test_tars_of_another_schema_name_what_is_there(root):
    tar(root / "data_512_2M/data_000000.tar", {"1": {"png": b"x", "txt": b"y", "json": b"{}"}})
    with pytest.raises(ValueError, match=r"no sample of .* has jpg; they have png, txt, json"):
        len(made(root))
    with pytest.raises(ValueError, match=r"no tar in folder .*data_9/\*\.tar"):
        len(made(root, part="data_9"))


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"jpg": b"x"}, "there is no json"),
        ({"jpg": b"x", "json": b"{"}, "line 1"),
        ({"jpg": b"x", "json": b'{"text": "a"}'}, "it has no 'prompt' but text"),
        ({"jpg": b"x", "json": b"[]"}, "list indices"),
    ],
)
def test_a_broken_sample_is_refused_by_name_and_its_neighbours_are_not(root, parts, told):
    tar(root / "data_512_2M/data_000000.tar", {"0": sample(0), "1": parts, "2": sample(2)})
    found = made(root)
    with pytest.raises(BadImage, match=f"sample 1, json.*{told}"):
        found.record(1)
    assert found.record(2).caption() == "picture 2"


def test_a_truncated_image_is_refused_when_it_is_read(root):
    tar(root / "data_512_2M/data_000000.tar", {"0": {**sample(0), "jpg": encoded(pixels(0), "JPEG")[:300]}})
    record = made(root).record(0)
    assert record.caption() == "picture 0"
    with pytest.raises(BadImage, match="sample 0, jpg"):
        record.read("target")


def test_depth_is_a_models_that_is_named(root):
    assert made(root, computed={"depth": None}).names == ("target",)
    asked = made(root, computed={"depth": "/nowhere"})
    assert asked.names == ("target", "depth") and asked.record(0).captions
    with pytest.raises(ValueError, match=r"'/nowhere'.*data\.train\.computed\.depth"):
        len(asked)
