"""Images that are computed when they are read: which there are, and what the rows of a sample share."""

import numpy as np
import pytest
from miniature import pixels

from datamodules import degradations
from datamodules.reading.drawing import canny, grey
from datamodules.reading.images import BadImage
from datamodules.sets.base import LazyImage, SetRecord
from datamodules.sets.online import ONLINE, Draw, with_online

TARGET = pixels(1, 48, 32)


def counted(reads: list[int], array: np.ndarray = TARGET) -> LazyImage:
    def read() -> np.ndarray:
        reads.append(1)
        return array.copy()

    return LazyImage(read, lambda: array.shape[:0:-1])


def record(**others: LazyImage) -> SetRecord:
    return SetRecord("one", {"target": counted([]), **others}, {})


def test_nothing_is_computed_before_it_is_read():
    reads: list[int] = []
    full = with_online(SetRecord("one", {"target": counted(reads)}, {}), Draw(1))
    assert set(full.images) == {"target", *ONLINE} and not reads
    assert np.array_equal(full.read("canny"), canny(TARGET)) and np.array_equal(full.read("grey"), grey(TARGET))
    assert len(reads) == 2


def test_stored_images_stay_and_a_record_without_a_target_gets_none():
    mine = np.zeros((3, 32, 48), np.uint8)
    assert not with_online(record(canny=counted([], mine)), Draw(1)).read("canny").any()
    alone = SetRecord("one", {"reference": counted([])}, {})
    assert with_online(alone, Draw(1)) is alone


@pytest.mark.parametrize("name", degradations.NAMES)
def test_every_degradation_can_be_read_again(name):
    one, again = (with_online(record(), Draw(5)).read(name) for _ in range(2))
    assert np.array_equal(one, again) and one.dtype == np.uint8


def test_rows_share_a_strength_but_no_noise_unless_they_draw_all_of_it():
    def noise(draw: Draw) -> np.ndarray:
        flat = np.full((3, 64, 64), 128, np.uint8)
        full = with_online(SetRecord("one", {"target": counted([], flat)}, {}), draw)
        return full.read("gaussian_noise").astype(float) - 128

    shared = [[noise(Draw(seed, row)) for row in (0, 1)] for seed in range(12)]
    apart = [[noise(Draw(seed, row, shared=False)) for row in (0, 1)] for seed in range(12)]
    assert all(not np.array_equal(*pair) for pair in (*shared, *apart))
    spread = [max(abs(a.std() / b.std() - 1) for a, b in rows) for rows in (shared, apart)]
    assert spread[0] < 0.05 < spread[1]


def test_a_target_that_is_too_small_is_refused():
    tiny = SetRecord("one", {"target": counted([], pixels(1, 4, 4))}, {})
    with pytest.raises(BadImage, match="blur"):
        with_online(tiny, Draw(1)).read("blur")
