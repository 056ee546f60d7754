"""Sizes: the released rule on its published examples, buckets, and filling without distortion."""

import numpy as np
import pytest
from miniature import pixels

from datamodules.sets.sizes import area_size, bucket_of, buckets_of, filled


@pytest.mark.parametrize(
    ("size", "resolution", "expected"),
    [
        ((1024, 1024), 384, (384, 384)),  # these three are given with the rule
        ((768, 1024), 384, (320, 432)),
        ((1344, 768), 384, (496, 288)),
        ((512, 512), 512, (512, 512)),
        ((1, 100), 64, (16, 640)),  # never less than a multiple
    ],
)
def test_the_released_rule(size, resolution, expected):
    assert area_size(*size, resolution) == expected


def test_sides_are_multiples_and_the_area_is_not_exceeded():
    for width in range(200, 600, 37):
        for height in range(200, 600, 41):
            wide, tall = area_size(width, height, 384)
            assert wide % 16 == tall % 16 == 0 and 0.85 * 384**2 < wide * tall <= 384**2
    assert area_size(768, 1024, 384, multiple=8) == (328, 440), "the multiple is not used"


@pytest.mark.parametrize("arguments", [(0, 5, 384), (5, 5, 15), (5, -1, 384)])
def test_impossible_sizes_are_refused(arguments):
    with pytest.raises(ValueError, match="no size for"):
        area_size(*arguments)


def test_a_bucket_is_the_nearest_ratio_as_a_factor():
    buckets = buckets_of(["1:1", "4:3", "3:4", "16:9", "8:6"], 384)
    assert buckets == ((384, 384), (432, 320), (320, 432), (512, 288))
    for size, expected in (((512, 512), 0), ((640, 480), 1), ((480, 640), 2), ((1000, 100), 3), ((100, 1000), 2)):
        assert bucket_of(size, buckets) == buckets[expected]
    assert bucket_of((100, 199), [(100, 100), (100, 400)]) == (100, 100)
    assert bucket_of((100, 201), [(100, 100), (100, 400)]) == (100, 400)


@pytest.mark.parametrize("ratios", [[], ["1x1"], ["0:1"], ["a:b"], ["1:1:"]])
def test_wrong_ratios_are_refused(ratios):
    with pytest.raises(ValueError, match="ratio"):
        buckets_of(ratios, 384)


def test_filling_covers_the_size_from_the_centre():
    wide = np.zeros((3, 20, 60), np.uint8)
    wide[:, :, 20:40] = 200
    assert (filled(wide, (20, 20)) == 200).all() and filled(wide, (60, 20)) is wide
    larger = filled(wide, (40, 40))
    assert larger.shape == (3, 40, 40) and larger.dtype == np.uint8 and (larger[:, :, 8:32] == 200).all()
    assert filled(pixels(1, 30, 50), (16, 32)).shape == (3, 32, 16)
