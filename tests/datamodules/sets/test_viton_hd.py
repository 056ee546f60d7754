"""VITON-HD on a miniature of its folders: pairs, the maps that are there, the names that folders have."""

from pathlib import Path

import numpy as np
import pytest
from miniature import pixels, png, written

from datamodules.reading.images import BadImage
from datamodules.sets.viton_hd import VitonHD


def made(root: Path, agnostic: str = "agnostic-v3.2", openpose: str = "openpose_img", **options) -> VitonHD:
    for i in (2, 0, 1):
        stem = f"{i:05}_00"
        written(root / f"train/image/{stem}.jpg", png(i, 12, 16))
        written(root / f"train/cloth/{stem}.jpg", png(i + 10, 12, 16))
        written(root / f"train/cloth-mask/{stem}.jpg", png(i + 20, 12, 16))
        written(root / f"train/{openpose}/{stem}_rendered.png", png(i + 30, 12, 16))
    written(root / f"train/{agnostic}/00000_00.jpg", png(40, 24, 32))
    written(root / f"train/{agnostic}/00001_00.jpg", png(41, 16, 16))
    written(root / "train_pairs.txt", "00000_00.jpg 00002_00.jpg\n")
    return VitonHD(root, **options)


@pytest.mark.parametrize(("agnostic", "openpose"), [("agnostic-v3.2", "openpose_img"), ("agnostic", "openpose-img")])
def test_a_person_has_her_own_garment_and_the_maps_that_are_there(tmp_path, agnostic, openpose):
    found = made(tmp_path, agnostic, openpose)
    assert [found.record(i).key for i in range(len(found))] == [f"train/0000{i}_00" for i in range(3)]
    record = found.record(0)
    assert set(record.images) == {"target", "garment", "garment_mask", "agnostic", "openpose"}
    for name, seed in (("target", 0), ("garment", 10), ("garment_mask", 20), ("openpose", 30)):
        assert np.array_equal(record.read(name), pixels(seed, 12, 16)), name
    assert record.read("agnostic").shape == (3, 16, 12) and record.size() == (12, 16)
    assert "agnostic" not in found.record(2).images and record.captions == {}


def test_a_map_of_another_shape_and_a_broken_file_are_refused(tmp_path):
    found = made(tmp_path)
    with pytest.raises(BadImage, match=r"agnostic-v3\.2/00001_00\.jpg.*16 x 16"):
        found.record(1).read("agnostic")
    written(tmp_path / "train/cloth/00002_00.jpg", png(1)[:60])
    with pytest.raises(BadImage, match=r"train/cloth/00002_00\.jpg"):
        found.record(2).read("garment")
    assert found.record(2).read("target").shape == (3, 16, 12)


def test_a_limit_and_the_middle(tmp_path):
    few = made(tmp_path, limit=2)
    assert len(few) == 2 and few.record(1).key == "train/00001_00"
    with pytest.raises(IndexError):
        few.record(2)


def test_wrong_folders_are_named_with_those_that_are_there(tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*test.*github\.com/shadow2496/VITON-HD"):
        len(VitonHD(tmp_path, "test"))
    found = made(tmp_path)
    (tmp_path / "train/cloth").rename(tmp_path / "train/clothes")
    with pytest.raises(ValueError, match=r"has no folder cloth; it has agnostic-v3\.2, cloth-mask, clothes, image"):
        len(found)
    (tmp_path / "test/image").mkdir(parents=True)
    (tmp_path / "test/cloth").mkdir()
    with pytest.raises(ValueError, match=r"no \.jpg in folder .*image"):
        len(VitonHD(tmp_path, "test"))
