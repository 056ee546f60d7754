"""Motions and restylings: every one is seen, does what its words say, and takes no torch."""

import itertools
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_clips import COLOUR_KINDS, EIGHTHS, maker

from datamodules.emoji.cache import KINDS
from datamodules.pretraining.clips import FAMILY
from datamodules.pretraining.motions import (
    GROUPS,
    MOTIONS,
    NEEDS_COLOUR,
    NEEDS_FILL,
    NEEDS_LINES,
    Pose,
    background,
    choose,
    fitting,
    posed,
)
from datamodules.pretraining.restylings import COVERS, RESTYLINGS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def make(folder):
    return maker(folder)


def drawn(make, kind: str) -> list[np.ndarray]:
    """A dozen real images of a kind."""
    data = make()
    return [data.emoji.images.image(kind, i) for i in range(0, 280, 24)]


@pytest.mark.parametrize("name", list(MOTIONS))
@pytest.mark.parametrize("kind", KINDS)
def test_every_motion_is_seen_and_starts_from_the_image(make, name, kind):
    """Also: a frame depends on its own amount alone, and what a motion draws by rng is the same for every form."""
    images = [p for p in drawn(make, kind) if name in itertools.chain(*fitting(p, kind, False).values())]
    filled = {"twemoji", "openmoji", "grey"} - ({"openmoji"} if name == "thin" else set())
    legal = COLOUR_KINDS if name in NEEDS_COLOUR else filled if name in NEEDS_FILL else KINDS
    legal = ("canny",) if name in NEEDS_LINES else legal
    assert bool(images) == (kind in legal)
    changes = []
    for seed, image in enumerate(images):
        words, frames = MOTIONS[name](image, EIGHTHS, random.Random(seed))
        assert words and len(frames) == 9 and np.array_equal(frames[0], image)
        assert all(f.shape == image.shape and f.dtype == np.uint8 and f.flags.c_contiguous for f in frames)
        again, some = MOTIONS[name](image, (0.0, 0.5), random.Random(seed))
        assert again == words and np.array_equal(some[1], frames[4])
        changes.append(np.abs(frames[-1 if name in NEEDS_LINES else 4].astype(int) - image).mean())
    if name == "still":
        assert not np.any(changes)
    elif changes:
        assert np.median(changes) > 2 and np.min(changes) > 0


def shift(one: np.ndarray, other: np.ndarray) -> float:
    """How far one must be shifted for its contours to lie on the other's, in pixels, whatever their sign and colour."""
    contours = [np.abs(np.gradient(p.astype(float).mean(axis=0))).sum(axis=0) for p in (one, other)]
    match = np.fft.ifft2(np.fft.fft2(contours[0]) * np.conj(np.fft.fft2(contours[1]))).real
    side = match.shape[0]
    return float(np.hypot(*((i + side // 2) % side - side // 2 for i in np.unravel_index(match.argmax(), match.shape))))


def test_restylings_keep_the_layout_and_moves_do_not(make):
    """Those that cover a part are left out, since what they cover has no contours, and squares have their own."""
    for motion in [m for m in RESTYLINGS if m not in COVERS and m.__name__ != "pixelate"]:
        shifts = []
        for kind in KINDS:
            fit = [p for p in drawn(make, kind) if motion.__name__ in fitting(p, kind, False)["restyle"]]
            shifts += [shift(p, motion(p, [1.0], random.Random(i))[1][0]) for i, p in enumerate(fit)]
        assert shifts and np.mean(np.array(shifts) <= 2) > 0.8, (motion.__name__, shifts)
    moved = [shift(p, MOTIONS["move"](p, [1.0], random.Random(i))[1][0]) for i, p in enumerate(drawn(make, "openmoji"))]
    assert np.mean(np.array(moved) <= 2) < 0.2  # the check can fail


def test_covers_take_nothing_but_what_they_cover(make):
    """Each pixel is the image's own or the one flat colour of the cover."""
    for motion, image in itertools.product(COVERS, drawn(make, "twemoji")):
        end = motion(image, [1.0], random.Random(3))[1][0]
        new = end[:, (end != image).any(axis=0)]
        assert 0 < new.shape[1] < 0.8 * image[0].size and len(np.unique(new, axis=1).T) == 1


def test_words_say_where_an_image_goes():
    """A white square in the middle: its centre moves as the words say."""
    image = np.zeros((3, 33, 33), np.uint8)
    image[:, 14:19, 14:19] = 255
    seen = set()
    for seed in range(40):
        words, frames = MOTIONS["move"](image, (0.0, 1.0), random.Random(seed))
        rows, columns = np.nonzero(frames[1][0] > 127)
        down, right = rows.mean() - 16, columns.mean() - 16
        assert (down < -2) == ("up" in words) and (down > 2) == ("down" in words)
        assert (right < -2) == ("left" in words) and (right > 2) == ("right" in words)
        seen.add(words)
    assert len(seen) == 8
    image[:, :14, 16] = 255  # a hand that points up
    for seed in range(6):
        words, frames = MOTIONS["turn"](image, (0.0, 1.0), random.Random(seed))
        assert (np.nonzero(frames[1][0, :10] > 60)[1].mean() > 16) == (words == "turning right")
    for seed in range(6):
        words, frames = MOTIONS["zoom"](image, (0.0, 1.0), random.Random(seed))
        assert (frames[1].sum() > image.sum()) == (words == "zooming in")


def test_a_pose_moves_nothing_by_default_and_uncovers_the_background(make):
    image, edges = drawn(make, "openmoji")[3], drawn(make, "canny")[3]
    assert np.array_equal(posed(image, Pose()), image)
    assert not np.array_equal(posed(image, Pose(right=0.1)), image)
    assert posed(image, Pose(right=0.4))[..., :10].min() == 255
    assert posed(edges, Pose(right=0.4))[..., :10].max() == 0
    assert background(image) == background(np.ascontiguousarray(image.transpose(1, 2, 0))) == 255
    assert {background(p) for p in drawn(make, "canny")} == {0}
    assert {background(p) for kind in KINDS if kind != "canny" for p in drawn(make, kind)} == {255}


def test_groups_without_a_fitting_motion_leave_their_share_to_the_others(make):
    image, rng = drawn(make, "line")[0], random.Random(0)
    names = {choose({"family": 9.0, "move": 1.0}, image, "line", False, rng)[0] for _ in range(50)}
    assert names <= set(GROUPS["move"]) and len(names) > 5
    assert choose({"family": 1.0}, image, "line", False, rng) == ("still", False)
    assert choose({"family": 1.0}, image, "line", True, rng) == (FAMILY, False)
    only = make(motions={"restyle": 1}).dataset("train")
    assert {only.plan(i).motion for i in range(300)} == set(GROUPS["restyle"])


def test_motions_need_no_torch():
    code = "import sys, datamodules.pretraining.motions; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
