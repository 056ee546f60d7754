"""Ordered frames: which of them are taken, by number, which end is the target; short sequences."""

from pathlib import Path

import numpy as np
import pytest
from miniature import pixels, png, written

from datamodules.reading.images import BadImage
from datamodules.sets.frames import Frames


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two sequences of 12 frames named without leading zeros, and one of 3."""
    for number, name in enumerate(("painting 2", "painting 10")):
        for i in range(12):
            written(tmp_path / f"frames/{name}/step{i}.png", png(100 * number + i, 24))
    for i in range(3):
        written(tmp_path / f"frames/short/{i}.png", png(i))
    written(tmp_path / "frames/painting 2/caption.txt", " A  vase\n")
    return tmp_path / "frames"


def assert_shows(record, seeds: dict[str, int]) -> None:
    assert tuple(record.images) == tuple(seeds)
    for name, seed in seeds.items():
        assert np.array_equal(record.read(name), pixels(seed, 24)), name


def test_frames_are_spread_from_the_first_to_the_last_by_number(root):
    found = Frames(root, count=4)
    assert [found.record(i).key for i in (0, 1)] == ["painting 2", "painting 10"] and len(found) == 3
    assert_shows(found.record(0), {"frame0": 0, "frame1": 3, "frame2": 7, "target": 11})
    assert_shows(found.record(1), {"frame0": 100, "frame1": 103, "frame2": 107, "target": 111})
    assert_shows(Frames(root, count=12).record(0), {**{f"frame{i}": i for i in range(11)}, "target": 11})
    assert found.names == ("frame0", "frame1", "frame2", "target") and found.record(0).size() == (24, 16)
    assert (found.record(0).caption(), found.record(1).caption()) == ("A vase", "")


def test_the_first_may_be_the_target(root):
    assert_shows(Frames(root, count=3, target="first").record(0), {"target": 0, "frame1": 5, "frame2": 11})


def test_a_short_sequence_and_a_broken_frame_are_refused(root):
    with pytest.raises(BadImage, match=r"short.*it has 3 frames.*at least 4"):
        Frames(root, count=4).record(2)
    assert Frames(root, count=3).record(2).size("frame1") == (16, 16)
    written(root / "painting 2/step0.png", png(0)[:40])
    with pytest.raises(BadImage, match=r"painting 2/step0\.png"):
        Frames(root).record(0).read("frame0")


def test_a_limit_and_the_middle(root):
    few = Frames(root, limit=2)
    assert len(few) == 2 and few.record(1).key == "painting 10"
    with pytest.raises(IndexError):
        few.record(2)


def test_wrong_arguments_and_folders_are_told(root, tmp_path):
    for told, options in (
        ("count=1", {"count": 1}),
        ("target='middle'", {"target": "middle"}),
        ("limit", {"limit": 0}),
    ):
        with pytest.raises(ValueError, match=told):
            Frames(root, **options)
    with pytest.raises(ValueError, match="nowhere"):
        len(Frames(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="has no folder"):
        len(Frames(root / "short"))


def test_a_text_that_is_none_is_no_caption(root):
    written(root / "painting 2/caption.txt", b"\xff\x00\x01")
    assert Frames(root).record(0).caption() == "" and Frames(root).account.captioned == 0
