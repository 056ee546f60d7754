"""What is drawn: exactly the published kinds, severities and ranges (figures of VisualCloze's code at b3dda64)."""

import dataclasses
import random
from collections import Counter
from functools import cache
from itertools import permutations, product

import pytest

from datamodules.degradations import draw

DRAWN = 900


@cache
def drawn(name: str) -> tuple:
    rng = random.Random(name)
    return tuple(draw(name, rng) for _ in range(DRAWN))


def settings(value, *without: str) -> tuple:
    """(kind, value, value, ...), without the seed and `without`."""
    left = (f.name for f in dataclasses.fields(value) if f.name not in ("seed", *without))
    return type(value).__name__, *(getattr(value, name) for name in left)


def kinds(**values) -> set[tuple]:
    """{("Kind", value, ...)} of a list of values, or of tuples of them, for each kind."""
    return {(kind, *(v if isinstance(v, tuple) else (v,))) for kind, many in values.items() for v in many}


CHOICES = {
    "blur": kinds(
        GaussianBlur=[(1, 9), (2, 17), (3, 25), (4, 33), (5, 41)],
        MotionBlur=[(5, 3), (10, 5), (15, 7), (15, 9), (20, 12)],
        GlassBlur=[(0.7, 1, 1), (0.9, 2, 1), (1.2, 2, 2), (1.4, 3, 2), (1.6, 4, 2)],
        DiskBlur=[(2, 0), (3, 0), (4, 0), (6, 0), (8, 0)],
        ZoomBlur=[2, 3, 5, 8, 11],
        Jitter=[1, 2, 3, 4, 5],
    ),
    "compression": kinds(Jpeg=[25, 18, 12], Jpeg2000=[29, 27.5, 26]),
    "pixelate": kinds(Pixelate=[0.5, 0.4, 0.3, 0.25, 0.2]),
    "oversharpen": kinds(Oversharpen=[2, 2.8, 4, 6, 8]),
    "contrast_strengthen": kinds(ScaledContrast=[1.4, 1.7, 2.1, 2.6, 4], StretchedContrast=[2, 4, 6, 8, 10]),
    "contrast_weaken": kinds(ScaledContrast=[0.75, 0.6, 0.45, 0.3, 0.2], StretchedContrast=[1, 0.9, 0.8, 0.6, 0.4]),
    "quantization": kinds(MultiOtsu=[15, 11, 8], MedianCut=[20, 15, 10], EqualisedLevels=[24, 16, 8]),
    "brighten": kinds(
        ShiftedV=[0.1, 0.2, 0.3, 0.4, 0.5],
        ShiftedRGB=[0.1, 0.15, 0.2, 0.27, 0.35],
        GammaRGB=[0.8, 0.7, 0.6, 0.45, 0.3],
        GammaV=[0.7, 0.58, 0.47, 0.36, 0.25],
    ),
    "darken": kinds(
        ShiftedV=[-0.1, -0.2, -0.3, -0.4, -0.5],
        ShiftedRGB=[-0.1, -0.15, -0.2, -0.27, -0.35],
        GammaRGB=[1.4, 1.7, 2.1, 2.6, 3.2],
        GammaV=[1.5, 1.8, 2.2, 2.7, 3.5],
    ),
    "saturate_strengthen": kinds(ScaledSaturation=[3, 6, 12, 20, 64], ScaledChroma=[2, 3, 5, 8, 16]),
    "saturate_weaken": kinds(ScaledSaturation=[0.7, 0.55, 0.4, 0.2, 0], ScaledChroma=[0.6, 0.4, 0.2, 0.1, 0]),
    "sr_x2": kinds(LowResolution=[2]),
    "sr_x4": kinds(LowResolution=[4]),
    "jpeg": kinds(Jpeg=range(10, 41)),
    "salt_pepper_noise": kinds(SaltPepperNoise=[()]),
    "poisson_noise": kinds(PoissonNoise=[()]),
    "gray": kinds(Gray=[()]),
    "color_distortion": {
        *(("SwappedChannels", order) for order in permutations(range(3)) if order != (0, 1, 2)),
        *(("FilledChannel", *filled) for filled in product(range(3), (0, 255))),
    },
    "mosaic": kinds(Mosaic=[()]),
    "defocus": kinds(DiskBlur=[(3, 0.2)]),
    "barrel": kinds(RadialDistortion=[(0.1, 0.05)]),
    "pincushion": kinds(RadialDistortion=[(-0.1, -0.05)]),
    "elastic": kinds(Elastic=[()]),
    "frost": kinds(Frost=[()]),
    "rotate_90": kinds(QuarterTurns=[1]),
    "rotate_180": kinds(QuarterTurns=[2]),
    "rotate_270": kinds(QuarterTurns=[3]),
}
RANGES = [
    ("gaussian_noise", "sigma", 10, 50),
    ("gaussian_blur", "sigma", 2, 4),
    ("low_light", "scale", 0.3, 0.4),
    ("rain", "amount", 40, 200),
    ("blur", "angle", -90, 90),
    ("inpainting", "count", 20, 50),
    ("inpainting", "thick", 10, 20),
    ("rain", "length", 30, 40),
    ("rain", "angle", -45, 44),
]


@pytest.mark.parametrize("name", CHOICES)
def test_every_published_choice_is_drawn_and_no_other(name):
    seen = {settings(value, "angle") for value in drawn(name)}
    assert seen == CHOICES[name]
    assert seen != CHOICES[name] | {("Unheard", 1)} and seen - {next(iter(seen))} != CHOICES[name]  # negative control


@pytest.mark.parametrize(("name", "field", "least", "most"), RANGES)
def test_ranges_are_filled_to_their_ends(name, field, least, most):
    seen = [getattr(value, field) for value in drawn(name) if hasattr(value, field)]
    assert least <= min(seen) <= least + 0.05 * (most - least)
    assert most - 0.05 * (most - least) <= max(seen) <= most
    middle = sum(seen) / len(seen)
    assert abs(middle - (least + most) / 2) < 0.1 * (most - least)


def test_every_name_is_covered_above():
    assert len(CHOICES.keys() | {name for name, *_ in RANGES}) == 32


@pytest.mark.parametrize(
    ("name", "field", "values"), [("inpainting", "value", {0, 255}), ("rain", "width", {3, 5, 7, 9, 11})]
)
def test_choices_beside_ranges(name, field, values):
    assert {getattr(value, field) for value in drawn(name)} == values


@pytest.mark.parametrize(
    "name", [n for n, values in CHOICES.items() if len({kind for kind, *_ in values}) > 1 and n != "color_distortion"]
)
def test_kinds_are_equally_likely(name):
    counts = Counter(type(value).__name__ for value in drawn(name))
    fair = DRAWN / len(counts)
    assert all(abs(count - fair) < 5 * fair**0.5 for count in counts.values()), counts


@pytest.mark.parametrize(("name", "mild"), [("compression", True), ("quantization", True), ("pixelate", False)])
def test_the_mild_ones_take_the_third_severity_three_times_as_often(name, mild):
    third = {("Jpeg", 12), ("Jpeg2000", 26), ("MultiOtsu", 8), ("MedianCut", 10), ("EqualisedLevels", 8)}
    third |= {("Pixelate", 0.3)}
    share = sum(settings(value) in third for value in drawn(name)) / DRAWN
    assert abs(share - (0.6 if mild else 0.2)) < 0.07


def test_color_distortion_swaps_half_of_the_time():
    share = sum(type(value).__name__ == "SwappedChannels" for value in drawn("color_distortion")) / DRAWN
    assert abs(share - 0.5) < 0.07


def test_seeds_are_all_different():
    for name in ("gaussian_noise", "frost", "elastic", "rain"):
        assert len({value.seed for value in drawn(name)}) == DRAWN
