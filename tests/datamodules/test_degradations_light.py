"""Tone, colour, quantisation, compression and resolution against other implementations or the formula."""

import itertools

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from datamodules.degradations import apply
from datamodules.degradations.colour import FilledChannel, Gray, ScaledChroma, ScaledSaturation, SwappedChannels
from datamodules.degradations.compression import Jpeg, Jpeg2000
from datamodules.degradations.quantization import EqualisedLevels, MedianCut, MultiOtsu, otsu_thresholds
from datamodules.degradations.resolution import LowResolution, Mosaic, Pixelate
from datamodules.degradations.tone import (
    GammaRGB,
    GammaV,
    LowLight,
    ScaledContrast,
    ShiftedRGB,
    ShiftedV,
    StretchedContrast,
)

CHANCE = np.random.default_rng(0)
NOISE = CHANCE.integers(0, 256, (3, 40, 52), dtype=np.uint8)
SMOOTH = cv2.resize(CHANCE.integers(0, 256, (9, 9, 3), dtype=np.uint8), (96, 80), interpolation=cv2.INTER_CUBIC)
SMOOTH = np.ascontiguousarray(SMOOTH.transpose(2, 0, 1))
PLAIN = np.repeat(np.arange(256, dtype=np.uint8).reshape(1, 16, 16), 3, axis=0)  # every grey once


def pixels(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(1, 2, 0))


def off(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference, in grey levels."""
    return float(np.abs(one.astype(np.float64) - other).max())


def in_hsv(image: np.ndarray, channel: int, curve) -> np.ndarray:
    """One channel of float HSV through a curve, by OpenCV; (3, H, W) of 0 to 255, clipped."""
    hsv = cv2.cvtColor(pixels(image).astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hsv[..., channel] = curve(hsv[..., channel])
    return (255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)).clip(0, 255).transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("value", "formula", "other"),
    [
        (ShiftedRGB(0.2), lambda x: x + 0.2, lambda x: x + 0.25),
        (ShiftedRGB(-0.35), lambda x: x - 0.35, lambda x: x + 0.35),
        (GammaRGB(0.45), lambda x: x**0.45, lambda x: x**0.6),
        (GammaRGB(2.6), lambda x: x**2.6, lambda x: x ** (1 / 2.6)),
        (LowLight(0.37), lambda x: 0.37 * x, lambda x: 0.4 * x),
    ],
)
def test_tones_follow_their_formula(value, formula, other):
    made = apply(PLAIN, value)
    assert off(made, 255 * formula(PLAIN / 255).clip(0, 1)) <= 0.51
    assert off(made, 255 * other(PLAIN / 255).clip(0, 1)) > 3, "negative control"


@pytest.mark.parametrize("by", [0.1, 0.5, -0.1, -0.5])
def test_v_shifts_as_in_opencv(by):
    made = apply(NOISE, ShiftedV(by))
    assert off(made, in_hsv(NOISE, 2, lambda v: v + by)) <= 1
    assert off(made, in_hsv(NOISE, 2, lambda v: v - by)) > 20
    black = apply(np.zeros((3, 8, 8), np.uint8), ShiftedV(by))
    assert np.unique(black).tolist() == [round(255 * max(by, 0))]


@pytest.mark.parametrize("gamma", [0.25, 0.7, 1.5, 3.5])
def test_v_takes_a_power_as_in_opencv(gamma):
    made = apply(NOISE, GammaV(gamma))
    assert off(made, in_hsv(NOISE, 2, lambda v: v**gamma)) <= 1
    assert off(made, apply(NOISE, GammaRGB(gamma))) > 20  # negative control: a power of each channel is another


@pytest.mark.parametrize("scale", [0, 0.4, 3, 64])
def test_saturation_scales_as_in_opencv(scale):
    made = apply(NOISE, ScaledSaturation(scale))
    assert off(made, in_hsv(NOISE, 1, lambda s: (scale * s).clip(0, 1))) <= 1
    assert off(made, in_hsv(NOISE, 1, lambda s: (0.8 * scale * s).clip(0, 1) + 0.1)) > 5
    assert np.array_equal(apply(PLAIN, ScaledSaturation(scale)), PLAIN)  # no colour, nothing to scale


@pytest.mark.parametrize("scale", [0, 0.2, 0.6])
def test_less_chroma_keeps_the_luma(scale):
    made, was = (
        cv2.cvtColor(pixels(p), cv2.COLOR_RGB2YCrCb).astype(int) for p in (apply(SMOOTH, ScaledChroma(scale)), SMOOTH)
    )
    assert off(made[..., 0], was[..., 0]) <= 2
    assert off(made[..., 1:] - 128, scale * (was[..., 1:] - 128)) <= 2
    assert off(made[..., 1:] - 128, was[..., 1:] - 128) > 20


def test_much_chroma_reaches_the_corners():
    assert off(apply(SMOOTH, ScaledChroma(16)), SMOOTH) > 100 and set(np.unique(apply(SMOOTH, ScaledChroma(16)))) >= {
        0,
        255,
    }


def test_gray_is_luma():
    made = apply(NOISE, Gray())
    assert off(made, np.tensordot([0.299, 0.587, 0.114], NOISE, 1)[None]) <= 0.51
    assert off(made, NOISE.mean(axis=0)[None]) > 20, "negative control: the mean is not the luma"


def test_channels():
    swapped = apply(NOISE, SwappedChannels((1, 2, 0)))
    assert np.array_equal(swapped, np.stack([NOISE[1], NOISE[2], NOISE[0]]))
    assert not np.array_equal(swapped, np.stack([NOISE[2], NOISE[0], NOISE[1]]))
    filled = apply(NOISE, FilledChannel(1, 255))
    assert (filled[1] == 255).all() and np.array_equal(filled[::2], NOISE[::2])


@pytest.mark.parametrize("scale", [0.2, 0.75, 1.4, 4.0])
def test_contrast_scales_as_in_pillow(scale):
    theirs = np.asarray(ImageEnhance.Contrast(Image.fromarray(pixels(SMOOTH))).enhance(scale)).transpose(2, 0, 1)
    assert off(apply(SMOOTH, ScaledContrast(scale)), theirs) <= 1 + abs(scale - 1) / 2  # Pillow rounds the mean
    assert off(apply(SMOOTH, ScaledContrast(1 / scale)), theirs) > 20


@pytest.mark.parametrize("exponent", [0.4, 1, 2, 10])
def test_contrast_stretches_by_its_formula(exponent):
    x = SMOOTH.astype(np.float64)
    mean = x.mean(axis=(1, 2), keepdims=True)
    formula = 255 / (1 + (mean / np.maximum(x, 1e-9)) ** exponent)
    made = apply(SMOOTH, StretchedContrast(exponent))
    assert off(made, formula) <= 0.51 and off(made, 255 - formula) > 20
    red = SMOOTH * np.array([1, 0, 0], np.uint8)[:, None, None]
    assert apply(red, StretchedContrast(exponent))[1:].max() == 0  # black channels stay black


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_otsu_finds_the_best_of_all_cuts(classes):
    chance, counts = np.random.default_rng(classes), np.zeros(256, int)
    levels = np.sort(chance.choice(256, 20, replace=False))
    counts[levels] = chance.integers(1, 50, 20)

    def within(cuts):
        parts = np.split(np.arange(256), cuts)
        means = [np.average(p, weights=counts[p]) if counts[p].any() else 0 for p in parts]
        return sum((counts[p] * (p - m) ** 2).sum() for p, m in zip(parts, means, strict=True))

    best = min(within(cuts) for cuts in itertools.combinations(levels[1:], classes - 1))
    found = otsu_thresholds(counts, classes)
    assert len(found) == classes - 1 and found == sorted(found) and abs(within(found) - best) < 1e-6 * best
    assert within([f // 2 for f in found]) > 1.1 * best, "negative control"


@pytest.mark.parametrize(("kind", "counts"), [(MultiOtsu, (15, 11, 8)), (MedianCut, (20, 15, 10))])
def test_channels_keep_so_many_levels_at_the_means_of_their_classes(kind, counts):
    for count in counts:
        made = apply(SMOOTH, kind(count))
        for channel, was in zip(made, SMOOTH, strict=True):
            levels = np.unique(channel)
            assert len(levels) == count
            assert all(abs(was[channel == level].mean() - level) <= 0.51 for level in levels)
            assert len(np.unique(was)) > 3 * count
    few = (PLAIN // 64) * np.uint8(80)
    assert np.array_equal(apply(few, kind(8)), few)  # fewer levels than classes: nothing to do


def test_otsu_loses_less_than_the_median_cut():
    def loss(value):
        return np.square(apply(SMOOTH, value).astype(float) - SMOOTH).mean()

    assert loss(MultiOtsu(15)) < loss(MedianCut(15)) < 2 * loss(MultiOtsu(15))
    assert loss(MultiOtsu(15)) < loss(MultiOtsu(11)) < loss(MultiOtsu(8))


@pytest.mark.parametrize("count", [24, 16, 8])
def test_equalised_levels(count):
    dark = (SMOOTH // 3).astype(np.uint8)
    made, levels = apply(dark, EqualisedLevels(count)), np.unique(apply(dark, EqualisedLevels(count)))
    assert len(levels) == len(np.unique(np.rint(dark / 255 * (count - 1)))) <= count
    assert levels[0] == 0 and levels[-1] == 255 and dark.max() < 90  # spread over the whole range
    share = (np.rint(dark / 255 * (count - 1)) <= np.rint(50 / 255 * (count - 1))).mean()
    black = (made == 0).mean()
    assert off(made[dark == 50], 255 * (share - black) / (1 - black)) <= 0.51
    assert np.unique(apply(np.full_like(dark, 100), EqualisedLevels(8))).tolist() == [round(255 * 3 / 7)]


@pytest.mark.parametrize("quality", [10, 25, 40])
def test_jpeg_as_opencv_codes_it(quality):
    def theirs(quality):
        coded = cv2.imencode(".jpg", pixels(SMOOTH)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1].transpose(2, 0, 1).astype(int)

    made = apply(SMOOTH, Jpeg(quality))
    assert np.abs(made - theirs(quality)).mean() < 0.3  # two builds of libjpeg-turbo
    assert np.abs(made - theirs(quality + 15)).mean() > 0.6, "negative control"


@pytest.mark.parametrize("decibels", [29, 27.5, 26])
def test_jpeg_2000_has_its_ratio_of_signal_to_noise(decibels):
    image = cv2.resize(pixels(NOISE), (208, 160), interpolation=cv2.INTER_CUBIC)
    image = np.ascontiguousarray(image.transpose(2, 0, 1))

    def ratio(made):
        return 10 * np.log10(255**2 / np.square(made.astype(float) - image).mean())

    assert abs(ratio(apply(image, Jpeg2000(decibels))) - decibels) < 1
    assert abs(ratio(apply(image, Jpeg2000(decibels - 3))) - decibels) > 2


@pytest.mark.parametrize("scale", [0.5, 0.25])
def test_pixelate_as_pillow_does(scale):
    image = Image.fromarray(pixels(SMOOTH))

    def theirs(scale):
        small = image.resize((int(96 * scale), int(80 * scale)), Image.Resampling.BOX)
        return np.asarray(small.resize((96, 80), Image.Resampling.NEAREST)).transpose(2, 0, 1)

    assert off(apply(SMOOTH, Pixelate(scale)), theirs(scale)) <= 1
    assert off(apply(SMOOTH, Pixelate(scale)), theirs(0.8 * scale)) > 5


@pytest.mark.parametrize(("scale", "cells"), [(0.3, (24, 28)), (0.2, (16, 19))])
def test_pixelate_leaves_so_many_cells(scale, cells):
    image = np.random.default_rng(0).integers(0, 256, (3, 80, 96), dtype=np.uint8)

    def count(image, axis):
        return 1 + int(np.diff(image, axis=axis).any(axis=(0, 3 - axis)).sum())

    made = apply(image, Pixelate(scale))
    assert (count(made, 1), count(made, 2)) == cells and (count(image, 1), count(image, 2)) == (80, 96)


@pytest.mark.parametrize("factor", [2, 4])
def test_low_resolution_loses_fine_stripes_and_keeps_coarse_ones(factor):
    def contrast(period):
        stripes = np.where(np.arange(64) % period < period // 2, 80, 160).astype(np.uint8)
        made = apply(np.broadcast_to(stripes, (3, 64, 64)), LowResolution(factor))
        return int(np.ptp(made[:, :, 8:-8]))

    assert contrast(2) <= 1 and contrast(8 * factor) >= 78


@pytest.mark.parametrize("factor", [2, 4])
def test_low_resolution_shifts_nothing(factor):
    ramp = np.broadcast_to(np.arange(0, 256, 4, dtype=np.uint8), (3, 64, 64))
    made = apply(ramp, LowResolution(factor))[:, :, 12:-12]
    assert off(made, ramp[:, :, 12:-12]) <= 1 < 2 <= off(made, ramp[:, :, 12:-12] + 2)


def test_mosaic_is_rggb():
    made = apply(np.maximum(NOISE, 1), Mosaic())
    assert ((made > 0).sum(axis=0) == 1).all()  # one channel a pixel
    first = made[:, :2, :2].astype(bool)
    assert first.tolist() == [
        [[True, False], [False, False]],
        [[False, True], [True, False]],
        [[False, False], [False, True]],
    ]
    assert np.array_equal(made.max(axis=0)[1::2, 1::2], np.maximum(NOISE, 1)[2, 1::2, 1::2])
    assert not np.array_equal(made.max(axis=0)[1::2, 1::2], np.maximum(NOISE, 1)[0, 1::2, 1::2])
