"""Rows of images at the sizes that VisualCloze's released sampler gives them, and what no grid can be made of."""

import numpy as np
import pytest

from datamodules.graph.rows import fit_rows, fitted, reference_sizes, row_sizes

SQUARE, PORTRAIT, LANDSCAPE = (1024, 1024), (768, 1024), (1344, 768)


def flat(size: tuple[int, int], value: int = 200) -> np.ndarray:
    return np.full((3, size[1], size[0]), value, np.uint8)


@pytest.mark.parametrize(
    ("rows", "resolution", "expected"),
    [
        ([[SQUARE, None]], 384, [(384, 384)]),
        ([[PORTRAIT, SQUARE, None]], 384, [(320, 432)]),  # the first image of a row sizes it
        ([[None, PORTRAIT]], 384, [(320, 432)]),  # the first that is there
        ([[PORTRAIT, SQUARE], [LANDSCAPE, None]], 384, [(320, 432), (496, 288)]),  # every row by itself
        ([[PORTRAIT, SQUARE], [None, None]], 512, [(432, 576), (432, 576)]),  # a query that only an example sizes
        ([[LANDSCAPE] * 3, [PORTRAIT, None, None]], 384, [(320, 176), (320, 432)]),  # several targets: equally wide
        ([[PORTRAIT] * 3, [LANDSCAPE, None, None]], 384, [(496, 656), (496, 288)]),
    ],
)
def test_the_released_rule_row_by_row(rows, resolution, expected):
    assert row_sizes(rows, resolution) == expected


def test_only_several_targets_make_rows_equally_wide():
    one, two = [[LANDSCAPE] * 3, [PORTRAIT, PORTRAIT, None]], [[LANDSCAPE] * 3, [PORTRAIT, None, None]]
    assert row_sizes(one, 384) == reference_sizes(one, 384) == reference_sizes(two, 384) != row_sizes(two, 384)


@pytest.mark.parametrize(
    ("size", "row", "bars"),
    [
        (SQUARE, (320, 432), (56, 0)),  # 320×320 in the middle of a portrait, as published
        (SQUARE, (496, 288), (0, 0)),  # as wide as the row, and 104 pixels too high on either side
        (LANDSCAPE, (496, 288), (0, 0)),
        (LANDSCAPE, (384, 384), (0, 0)),
    ],
)
def test_an_image_fits_its_shorter_side_and_the_rest_is_black(size, row, bars):
    made = fitted(flat(size), row, 384)
    assert made.shape == (3, row[1], row[0]) and made.dtype == np.uint8
    top, left = bars
    inner = made[:, top : row[1] - top, left : row[0] - left]
    assert (inner == 200).all() and made.sum() == inner.sum(dtype=made.sum().dtype)
    assert top == 0 or (made[:, top - 1] == 0).all(), "the bars are where they are said to be"


def test_an_image_is_cropped_around_its_centre():
    wide = np.zeros((3, 100, 300), np.uint8)
    wide[:, :, 100:200] = 250
    made = fitted(wide, (384, 384), 384)
    assert (made[:, :, 20:364] > 240).all()
    wide[:] = np.roll(wide, 100, axis=2)
    assert (fitted(wide, (384, 384), 384)[:, :, 20:364] < 10).all(), "negative control"


def test_rows_of_images_get_the_sizes_of_the_rule():
    rows = [[flat((60, 40)), flat((30, 50)), flat((50, 50))], [flat((40, 60)), None, None]]
    made = fit_rows(rows, 64)
    (example, query) = row_sizes([[(60, 40)] * 3, [(40, 60), None, None]], 64)
    assert example[0] == query[0] and example[1] < query[1]
    assert [[p if p is None else p.shape for p in row] for row in made] == [
        [(3, example[1], example[0])] * 3,
        [(3, query[1], query[0]), None, None],
    ]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "rows is empty"),
        ([[SQUARE, SQUARE], [SQUARE, None, None]], "row 0 has 2 images, the last row 3"),
        ([[SQUARE, None], [SQUARE, None]], "image 1 of row 0 is missing; only the last row, 1,"),
        ([[None, None]], "nothing says how large the images are to be"),
    ],
)
def test_what_makes_no_grid_is_said(rows, said):
    with pytest.raises(ValueError, match=said):
        row_sizes(rows, 384)
