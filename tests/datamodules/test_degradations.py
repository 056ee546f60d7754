"""What all 32 degradations have in common: names, sides, determinism, an untouched input, errors."""

import dataclasses
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest

from datamodules.degradations import DRAWS, FAMILIES, NAMES, apply, draw, reseeded

A = (
    "blur compression pixelate oversharpen contrast_strengthen contrast_weaken quantization brighten darken "
    "saturate_strengthen saturate_weaken"
)
B = (
    "sr_x2 sr_x4 gaussian_noise gaussian_blur jpeg salt_pepper_noise poisson_noise low_light gray color_distortion "
    "inpainting mosaic rain"
)
C, D = "defocus barrel pincushion elastic frost", "rotate_90 rotate_180 rotate_270"
SEEDED = {"gaussian_noise", "salt_pepper_noise", "poisson_noise", "inpainting", "rain", "elastic", "frost"}
SIDES = ((8, 8), (17, 31), (64, 64), (100, 9))
FLOOR = 1.0  # of 255: the least mean change that counts as one


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Colours that differ by place, dark and bright, with edges and fine noise: uint8 (3, H, W), read-only."""
    y, x = np.mgrid[:height, :width] / 8.0
    waves = np.stack([np.sin(x + 1), np.sin(y + 0.5 * x), np.sign(np.sin(0.7 * x - y + 2))])
    noise = np.random.default_rng(seed).normal(0, 8, (3, height, width))
    image = (128 + np.array([100, 80, 60])[:, None, None] * waves + noise).clip(0, 255).astype(np.uint8)
    image.flags.writeable = False
    return image


def change(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference, in grey levels."""
    return float(np.abs(one.astype(np.int16) - other).mean())


def turned(name: str, height: int, width: int) -> tuple[int, int, int]:
    return (3, width, height) if name in ("rotate_90", "rotate_270") else (3, height, width)


def test_names():
    assert NAMES == (*A.split(), *B.split(), *C.split(), *D.split()) and len(set(NAMES)) == 32
    assert {family: len(members) for family, members in FAMILIES.items()} == {"A": 11, "B": 13, "C": 5, "D": 3}


@pytest.mark.parametrize("name", NAMES)
def test_changes_the_image_whatever_is_drawn(name):
    image = textured(64, 64)
    for seed in range(16):
        value = draw(name, random.Random(seed))
        assert change(apply(image, value), image) > FLOOR, value


def test_an_image_that_is_only_copied_does_not_count_as_changed():
    """Negative control; the other end is that the least of these changes, pixels two by two, is seen."""
    image = textured(64, 64)
    assert change(image.copy(), image) == 0
    barely = image.copy()
    barely[:, ::8, ::8] ^= 1
    assert 0 < change(barely, image) < FLOOR


@pytest.mark.parametrize("name", NAMES)
def test_drawn_values_are_plain(name):
    value, again, other = (draw(name, random.Random(seed)) for seed in (3, 3, 4))
    assert value == again and hash(value) == hash(again) and repr(value) == repr(again)
    assert pickle.loads(pickle.dumps(value)) == value
    assert str(value).startswith(type(value).__name__ + "(") and len({value, again, other}) <= 2
    if name in SEEDED:
        assert value != other
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_sides_type_and_an_untouched_input(name, sides):
    image = textured(*sides)
    before = image.copy()
    for seed in range(4):
        made = apply(image, draw(name, random.Random(seed)))  # the input is read-only: writing to it raises
        assert made.shape == turned(name, *sides) and made.dtype == np.uint8
        assert made.flags.c_contiguous and made.flags.writeable and not np.shares_memory(made, image)
    assert np.array_equal(image, before)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_value_makes_the_same_image(name):
    image, values = textured(40, 48), [draw(name, random.Random(seed)) for seed in range(6)]
    for value in values:
        assert np.array_equal(apply(image, value), apply(image.copy(), dataclasses.replace(value)))
    outcomes = {apply(image, value).tobytes() for value in values}
    assert (len(outcomes) > 1) == (len(set(values)) > 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_view_with_strides_gives_the_same(name):
    image = textured(24, 40)
    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
    for view in (np.repeat(image, 2, axis=2)[:, :, ::2], pixels.transpose(2, 0, 1)):
        assert not view.flags.c_contiguous and np.array_equal(view, image)
        for seed in range(6):
            value = draw(name, random.Random(seed))
            made = apply(view, value)
            assert made.flags.c_contiguous and np.array_equal(made, apply(image, value))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_flat_images(name, level):
    """No division by zero, and what neither draws at random nor uncovers anything leaves flat what is flat."""
    image = np.full((3, 17, 24), level, np.uint8)
    for seed in range(8):
        value = draw(name, random.Random(seed))
        made = apply(image, value)
        assert made.shape == turned(name, 17, 24)
        flat = bool((np.ptp(made, axis=(1, 2)) == 0).all())
        assert flat or name in (*SEEDED, "mosaic", "barrel"), value
    if name in ("gaussian_noise", "salt_pepper_noise", "inpainting", "frost"):
        values = [draw(name, random.Random(seed)) for seed in range(8)]
        assert any(np.ptp(apply(image, value)) > 0 for value in values), "negative control: these are seen"


@pytest.mark.filterwarnings("error")
def test_random_images():
    """A little fuzz: noise, two colours, one channel alone, in odd sides."""
    chance = np.random.default_rng(0)
    for round_ in range(6):
        height, width = chance.integers(8, 50, 2)
        noise = chance.integers(0, 256, (3, height, width), dtype=np.uint8)
        images = noise, (noise // 128) * np.uint8(255), noise * np.array([1, 0, 0], np.uint8)[:, None, None]
        for image in images:
            for name in NAMES:
                made = apply(image, draw(name, random.Random(round_)))
                assert made.shape == turned(name, height, width) and made.dtype == np.uint8


@pytest.mark.parametrize("name", sorted({*SEEDED, "blur", "gray", "jpeg"}))
def test_reseeding_keeps_all_but_the_seed(name):
    image = textured(64, 64)
    for seed in range(8):
        value = draw(name, random.Random(seed))
        other = reseeded(value, random.Random(seed + 100))
        if not hasattr(value, "seed"):
            assert other is value
            continue
        assert other.seed != value.seed and dataclasses.replace(other, seed=value.seed) == value
        assert not np.array_equal(apply(image, other), apply(image, value))


def test_rows_that_share_a_value_share_its_noise():
    """The residual of one row is that of the other: what `reseeded` is for."""
    rows = [np.full((3, 32, 32), level, np.uint8) for level in (120, 130)]
    value = draw("gaussian_noise", random.Random(0))
    one, two = (apply(row, value).astype(int) - row for row in rows)
    inside = (np.abs(one) < 110) & (np.abs(two) < 110)  # not clipped
    assert inside.mean() > 0.9 and np.array_equal(one[inside], two[inside])
    other = apply(rows[1], reseeded(value, random.Random(1))).astype(int) - rows[1]
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.1


@pytest.mark.parametrize(("name", "said"), [("rotate_9", "did you mean 'rotate_90'?"), ("x", "legal are blur, comp")])
def test_an_unknown_name(name, said):
    with pytest.raises(ValueError, match=f"unknown degradation '{name}'") as caught:
        draw(name, random.Random(0))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "image",
    [np.zeros((3, 16, 16), np.float32), np.zeros((16, 16, 3), np.uint8), np.zeros((3, 7, 16), np.uint8), np.zeros(3)],
    ids=lambda p: f"{p.dtype}-{p.shape}",
)
def test_an_image_of_another_kind_is_refused(image):
    with pytest.raises(ValueError, match="it must be uint8 \\(3, H, W\\) with sides of at least 8"):
        apply(image, draw("gray", random.Random(0)))


def test_workers_need_no_torch_and_importing_needs_no_opencv():
    code = (
        "import sys, random, numpy\n"
        "from datamodules.degradations import NAMES, apply, draw\n"
        "assert not {'cv2', 'PIL', 'torch'} & set(sys.modules)\n"
        "for name in NAMES: apply(numpy.zeros((3, 16, 16), 'uint8'), draw(name, random.Random(0)))\n"
        "assert 'cv2' in sys.modules and not {'torch', 'torchvision', 'scipy', 'skimage'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_every_draw_is_documented():
    assert all(made.__doc__ and made.__annotations__["return"] for made in DRAWS.values())
