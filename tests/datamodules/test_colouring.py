"""colour_in: areas of an edge map take colours that are drawn, one after the other; the lines decide where they end."""

import itertools
import random

import numpy as np

from datamodules.pretraining.clips import ClipData
from datamodules.pretraining.colouring import PALETTE, colour_in
from datamodules.pretraining.motions import choose

TONES = {tuple(colour.to_bytes(3)) for colour in PALETTE} | {(0, 0, 0), (255, 255, 255)}


def squares(gap: int = 0) -> np.ndarray:
    """Two squares of lines, the left one open at its top by `gap` pixels."""
    image = np.zeros((3, 24, 48), np.uint8)
    for left in (4, 28):
        image[:, 4:20, [left, left + 15]] = image[:, [4, 19], left : left + 16] = 255
    image[:, 4, 10 : 10 + gap] = 0
    return image


def colours(image: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in image.reshape(3, -1).T.tolist()}


def test_areas_between_lines_take_one_colour_each():
    seen = set()
    for seed in range(30):
        words, (start, end) = colour_in(squares(), (0.0, 1.0), random.Random(seed))
        assert words == "getting coloured in" and np.array_equal(start, squares())
        for inside in (end[:, 6:18, 6:17], end[:, 6:18, 30:41]):
            assert len(colours(inside)) == 1 and colours(inside) <= TONES
            seen |= colours(inside)
        around = end[:, [0, -1]]
        assert colours(around) in ({(0, 0, 0)}, {(255, 255, 255)})
    assert len(seen) > 15


def test_small_gaps_are_closed_and_large_ones_are_not():
    """Whether the inside of the left square can differ from what lies around it."""
    for gap, closed in ((0, True), (2, True), (6, False)):
        ends = [colour_in(squares(gap), [1.0], random.Random(seed))[1][0] for seed in range(20)]
        assert any(not np.array_equal(end[:, 12, 10], end[:, 0, 0]) for end in ends) == closed


def test_areas_turn_one_after_the_other_and_stay():
    frames = np.stack(colour_in(squares(), [k / 20 for k in range(21)], random.Random(5))[1])
    changes = [(a != b).any(axis=0).sum() for a, b in itertools.pairwise(frames)]
    assert sum(change > 0 for change in changes) >= 3
    for before, after in itertools.pairwise(frames):
        turned = (before != frames[0]).any(axis=0)
        assert np.array_equal(before[:, turned], after[:, turned])


def test_colours_do_not_depend_on_the_image():
    """The same draw colours another edge map alike: nothing of the glyph's own colours can come in."""
    one, other = squares(), np.ascontiguousarray(squares()[..., ::-1])
    ends = [colour_in(image, [1.0], random.Random(3))[1][0] for image in (one, other)]
    assert colours(ends[0]) == colours(ends[1]) != colours(colour_in(one, [1.0], random.Random(4))[1][0])


def test_blank_and_full_maps_are_no_error():
    for level in (0, 255):
        image = np.full((3, 16, 16), level, np.uint8)
        assert colour_in(image, [0.5, 1.0], random.Random(0))[1][1].shape == (3, 16, 16)


def test_only_edge_maps_are_coloured_in(tmp_path_factory):
    data = ClipData(
        size=32, limit=280, cache=tmp_path_factory.mktemp("fills"), clips=500, motions={"fill": 1, "move": 1}
    )
    data.prepare_data()
    dataset = data.dataset("train")
    plans = [dataset.plan(i) for i in range(400)]
    assert {plan.kind for plan in plans if plan.motion == "colour_in"} == {"canny"}
    assert {plan.kind for plan in plans} > {"canny", "twemoji"}
    edges = data.emoji.images.image("canny", 3)
    assert choose({"fill": 0.0, "move": 1.0}, edges, "canny", False, random.Random(0))[0] != "colour_in"
