"""Blur, noise, geometry and overlays: impulse responses, statistics and places against the formula."""

import math

import cv2
import numpy as np
import pytest

from datamodules.degradations import apply
from datamodules.degradations.blur import DiskBlur, GaussianBlur, GlassBlur, Jitter, MotionBlur, Oversharpen, ZoomBlur
from datamodules.degradations.geometry import Elastic, QuarterTurns, RadialDistortion
from datamodules.degradations.ice import fractal, frost_texture
from datamodules.degradations.noise import GaussianNoise, PoissonNoise, SaltPepperNoise
from datamodules.degradations.overlays import Frost, Lines, Rain

BARREL, PINCUSHION = RadialDistortion(0.1, 0.05), RadialDistortion(-0.1, -0.05)


def flat(level: int, height: int = 128, width: int = 128) -> np.ndarray:
    return np.full((3, height, width), level, np.uint8)


def response(value, side: int = 81) -> np.ndarray:
    """What a white square of one pixel becomes, in shares of its light (to 1/255)."""
    point = flat(0, side, side)
    point[:, side // 2, side // 2] = 255
    return apply(point, value)[0] / 255


def places(height: int, width: int) -> np.ndarray:
    """An image whose red says x and whose green says y."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, 0 * x]).astype(np.uint8)


@pytest.mark.parametrize(("sigma", "window"), [(1, 9), (2, 17), (2.5, 15)])
def test_gaussian_blur_is_a_gaussian_cut_off(sigma, window):
    def kernel(sigma):
        span = np.arange(window) - window // 2
        one = np.exp(-(span**2) / (2 * sigma**2))
        one /= one.sum()
        return np.pad(np.outer(one, one), 40 - window // 2)

    made = response(GaussianBlur(sigma, window))
    assert np.abs(made - kernel(sigma)).max() <= 1 / 255
    assert np.abs(made - kernel(1.4 * sigma)).max() > 2 / 255


@pytest.mark.parametrize(("radius", "soft"), [(2, 0.0), (3, 0.0), (3, 0.2), (6, 0.0)])
def test_disk_blur_is_a_disk(radius, soft):
    y, x = np.mgrid[-40:41, -40:41]
    disk = (x**2 + y**2 <= radius**2).astype(float)
    made = response(DiskBlur(radius, soft))
    assert (
        np.abs(made - disk / disk.sum()).max() <= 0.6 / 255 and made[40, 40] > 0
    )  # softening by 0.2 is less than that
    wrong = (abs(x) <= radius) & (abs(y) <= radius)
    assert np.abs(made - wrong / wrong.sum()).max() > 0.6 / 255


@pytest.mark.parametrize("angle", [0.0, 30.0, -45.0, 90.0])
def test_motion_blur_is_a_fading_trail_to_one_side(angle):
    radius, sigma = 5, 3
    made = response(MotionBlur(radius, sigma, angle))
    y, x = np.mgrid[-40:41, -40:41]
    along = x * math.cos(math.radians(angle)) + y * math.sin(math.radians(angle))
    across = x * math.sin(math.radians(angle)) - y * math.cos(math.radians(angle))
    lit = made > 0
    assert np.abs(across[lit]).max() <= 0.75 and 7 <= -along[lit].min() <= 10.75 and along[lit].max() < 0.75
    weight = np.exp(-(np.arange(2 * radius + 1.0) ** 2) / (2 * sigma**2))
    middle = -(weight * np.arange(2 * radius + 1)).sum() / weight.sum()
    assert abs((made * along).sum() / made.sum() - middle) < 0.2 and abs(made.sum() - 1) < 0.02
    assert abs((made * along).sum() / made.sum() + middle) > 2, "negative control: to the other side"
    if angle in (0, 90):
        trail = made[40, 40:29:-1] if angle == 0 else made[40:29:-1, 40]
        assert np.abs(trail - weight / weight.sum()).max() <= 0.6 / 255


def test_zoom_blurs_more_outside_than_at_the_centre():
    stripes = flat(0, 129, 129)
    stripes[:, :, ::2] = 255
    made = apply(stripes, ZoomBlur(8))[0].astype(int)
    assert np.ptp(made[:, 62:67]) > 200 > 120 > np.ptp(made[:, 2:12])
    assert np.array_equal(apply(places(64, 64), ZoomBlur(1)), places(64, 64))  # one layer is the image itself


@pytest.mark.parametrize("shift", [1, 3, 5])
def test_jitter_takes_from_so_far_away_and_no_farther(shift):
    was = places(60, 80).astype(int)
    made = apply(was.astype(np.uint8), Jitter(shift, 0)).astype(int)
    moved = (made - was)[:2, 8:-8, 8:-8]
    assert moved.min() == -shift and moved.max() == shift
    share = [(moved == d).mean() for d in range(-shift, shift + 1)]
    assert max(share) < 1.2 * min(share)  # uniform


def test_glass_is_jitter_between_two_blurs():
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    value = GlassBlur(1.2, 2, 2, 0)
    smooth = GaussianBlur(1.2, 11)
    twice = apply(apply(noise, smooth), smooth)
    made = apply(noise, value)
    assert np.abs(made.astype(int) - twice).mean() > 2 and made.std() < 1.1 * twice.std()
    ramp = apply(places(100, 100), value)[:2, 15:-15, 15:-15].astype(int) - places(100, 100)[:2, 15:-15, 15:-15]
    assert abs(ramp.mean()) < 0.3 and np.abs(ramp).max() <= 4


def test_oversharpening_overshoots_at_an_edge():
    edge = flat(100, 16, 16)
    edge[:, :, 8:] = 140
    weights = np.exp(-(np.arange(-2, 3.0) ** 2) / (2 * 1.1**2))
    weights /= weights.sum()
    smooth = np.convolve(np.pad(edge[0, 0].astype(float), 2, mode="edge"), weights, "valid")
    made = apply(edge, Oversharpen(2.8))
    assert np.abs(made[0, 0] - (edge[0, 0] + 2.8 * (edge[0, 0] - smooth))).max() <= 2.4  # the blur is 8 bits, times 2.8
    assert made[0, 0, 7] < 90 and made[0, 0, 8] > 150 and (made[0, 0, :5] == 100).all()


@pytest.mark.parametrize("sigma", [10.0, 50.0])
def test_gaussian_noise_has_its_deviation(sigma):
    made = apply(flat(128), GaussianNoise(sigma, 0)).astype(float)
    clipped = np.random.default_rng(1).normal(128, sigma, 10**5).clip(0, 255).std()
    assert abs(made.std() / clipped - 1) < 0.02 and abs(made.mean() - 128) < 1
    assert abs(made.std() / (1.2 * clipped) - 1) > 0.1
    assert abs(np.corrcoef(made[0].ravel(), made[1].ravel())[0, 1]) < 0.03  # channels are independent


@pytest.mark.parametrize("level", [3, 26, 128, 220])
def test_poisson_noise_counts_photons(level):
    """Mean, variance and share of zeros of a Poisson law."""
    made = apply(flat(level), PoissonNoise(0)).astype(float)
    rate = level * 100 / 255
    drawn = np.rint(np.minimum(np.random.default_rng(1).poisson(rate, 10**5), 100) * 2.55)
    assert abs(made.mean() / drawn.mean() - 1) < 0.02 and abs(made.std() / drawn.std() - 1) < 0.02
    assert abs((made == 0).mean() - math.exp(-rate)) < 0.01
    assert abs(made.std() / (drawn.std() * 1.1) - 1) > 0.05
    assert set(np.unique(made)) <= {round(k * 2.55) for k in range(101)}


def test_poisson_leaves_black_alone():
    assert apply(flat(0), PoissonNoise(0)).max() == 0


def test_salt_and_pepper_are_one_pixel_in_forty_each():
    made = apply(flat(100, 256, 256), SaltPepperNoise(0))
    assert np.array_equal(made[0], made[2]) and set(np.unique(made)) == {0, 100, 255}
    for level in (0, 255):
        assert abs((made[0] == level).mean() - 0.025) < 0.003
    for seed in range(20):  # on 64 pixels too
        assert set(np.unique(apply(flat(100, 8, 8), SaltPepperNoise(seed)))) == {0, 100, 255}


def test_turns_are_clockwise():
    corner = flat(0, 10, 16)
    corner[:, 0, 0] = 255
    ends = {turns: tuple(np.argwhere(apply(corner, QuarterTurns(turns))[0])[0]) for turns in (1, 2, 3)}
    assert ends == {1: (0, 9), 2: (9, 15), 3: (15, 0)}  # top left goes to top right, bottom right, bottom left
    image = np.random.default_rng(0).integers(0, 256, (3, 10, 16), dtype=np.uint8)
    for turns, code in ((1, cv2.ROTATE_90_CLOCKWISE), (2, cv2.ROTATE_180), (3, cv2.ROTATE_90_COUNTERCLOCKWISE)):
        theirs = cv2.rotate(np.ascontiguousarray(image.transpose(1, 2, 0)), code).transpose(2, 0, 1)
        assert np.array_equal(apply(image, QuarterTurns(turns)), theirs)
        assert not np.array_equal(apply(image, QuarterTurns((turns + 1) % 4)), theirs)


@pytest.mark.parametrize("value", [BARREL, PINCUSHION], ids=["barrel", "pincushion"])
def test_radial_distortion_follows_its_polynomial(value):
    side = 129
    made = apply(places(side, side), value)[0]
    r = np.arange(side) / 64 - 1  # along the middle row
    source = (r * (1 + value.k1 * r**2 + value.k2 * r**4) + 1) * 64
    inside = (source >= 0) & (source <= side - 1)
    assert np.abs(made[64, inside] - source[inside]).max() <= 0.55 and inside.sum() > 80
    assert np.abs(made[64, inside] - np.arange(side)[inside]).max() > 3, "negative control"
    assert made[64, 64] == 64  # the centre stays


def test_barrel_leaves_a_quarter_black_and_pincushion_nothing():
    bare = (apply(flat(255, 512, 512), BARREL) == 0).mean()
    assert abs(bare - 0.24) < 0.01 and (apply(flat(255, 512, 512), PINCUSHION) == 255).all()
    assert apply(flat(255, 17, 31), BARREL)[:, 8, 15].tolist() == [255] * 3


def test_elastic_moves_by_two_pixels_smoothly():
    moved = (apply(places(200, 200), Elastic(0)).astype(float) - places(200, 200))[:2, 20:-20, 20:-20]
    assert 1.5 < moved.std() < 2.7 and np.abs(moved.mean()) < 0.5
    assert np.corrcoef(moved[0, :, :-1].ravel(), moved[0, :, 1:].ravel())[0, 1] > 0.8  # neighbours move together
    assert abs(np.corrcoef(moved[0].ravel(), moved[1].ravel())[0, 1]) < 0.3  # across and down do not


@pytest.mark.parametrize("value", [0, 255])
def test_lines_hide_the_same_share_at_every_size(value):
    small, large = (apply(flat(100, side, side), Lines(30, 15, value, 1)) for side in (128, 512))
    assert set(np.unique(large)) == {100, value}
    hidden = [(p[0] == value).mean() for p in (small, large)]
    assert 0.15 < hidden[1] < 0.8 and abs(hidden[0] - hidden[1]) < 0.1
    more = (apply(flat(100, 512, 512), Lines(50, 20, value, 1))[0] == value).mean()
    assert more > hidden[1] + 0.1, "negative control"


def test_rain_only_adds_light_and_falls_at_its_angle():
    ground = flat(60, 127, 129)
    lean = {}
    for angle in (-40, 0, 40):
        made = apply(ground, Rain(60, 35, angle, 3, 5))
        assert made.shape == ground.shape and made.min() == 60 and made.max() == 255
        assert np.array_equal(made[0], made[1])
        dy, dx = np.gradient(made[0].astype(float))
        lean[angle] = math.degrees(0.5 * math.atan2(2 * (dx * dy).mean(), (dx**2 - dy**2).mean()))
    assert abs(lean[0]) < 6 and lean[-40] * lean[40] < 0 and all(abs(abs(lean[a]) - 40) < 10 for a in (-40, 40))


def test_more_rain_and_the_least_rain():
    few, many = ((apply(flat(0, 256, 256), Rain(amount, 35, 10, 5, 1)) > 0).mean() for amount in (40, 200))
    assert 0.1 < few < 0.5 * many
    for seed in range(20):
        assert apply(flat(0, 8, 8), Rain(40, 30, 0, 3, seed)).max() == 255  # a drop falls on 64 pixels too


def test_frost_is_seen_and_blends_as_published():
    black, white, grey = (apply(flat(level, 160, 200), Frost(0)).astype(float) for level in (0, 255, 80))
    ice = frost_texture(160, 200, 0)
    assert ice.dtype == np.float32 and ice.min() >= 0 and ice.max() <= 1
    assert np.abs(black[2] - 0.7 * 255 * ice).max() <= 0.51  # blue; red and green are tinted down
    assert np.abs(grey - black - 0.65 * 80).max() <= 1.01
    assert np.abs(grey - black - 0.85 * 80).max() > 10, "negative control"
    assert (white <= 255).all() and 20 < black.mean() < 90 and black.std() > 15 and black.max() > 140
    assert (white < 250).mean() > 0.3  # between the crystals a white image is darker


@pytest.mark.parametrize("seed", range(3))
def test_frost_has_fine_crystals_and_bare_places(seed):
    ice = frost_texture(256, 256, seed)
    fine = np.abs(ice - cv2.GaussianBlur(ice, (0, 0), 3))
    assert np.quantile(fine, 0.98) > 0.08 and np.quantile(ice, 0.1) < 0.12
    smooth = cv2.GaussianBlur(ice, (0, 0), 6)
    assert np.quantile(np.abs(smooth - cv2.GaussianBlur(smooth, (0, 0), 3)), 0.98) < 0.08, "negative control: clouds"
    assert np.abs(ice - frost_texture(256, 256, seed + 1)).mean() > 0.05


def test_fractal_noise_has_detail_of_every_size():
    def detail(octaves):
        clouds = fractal(np.random.default_rng(0), 100, 128, 4, octaves)
        assert clouds.shape == (100, 128) and clouds.min() == 0 and clouds.max() == 1
        return np.abs(np.diff(clouds, axis=1)).mean()

    assert detail(6) > 1.5 * detail(3) > 1.5 * detail(1)
