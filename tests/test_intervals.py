"""Student's t against printed tables, and the spreads against sums done by hand."""

import math
import random

import numpy as np
import pytest

from unigen.intervals import (
    Interval,
    Spread,
    compare,
    critical,
    mean_interval,
    pooled,
    residual,
    resolution,
    resolvable,
)
from unigen.intervals import student_t as t


def rows(*arms: list[float]) -> list[dict[int, float]]:
    """Arms as {seed: number}, seeds counted from 0."""
    return [dict(enumerate(arm)) for arm in arms]


@pytest.mark.parametrize(
    ("p", "df", "value"),
    [
        (0.975, 1, 12.706205),
        (0.975, 2, 4.302653),
        (0.975, 3, 3.182446),
        (0.975, 4, 2.776445),
        (0.975, 6, 2.446912),
        (0.975, 8, 2.306004),
        (0.975, 30, 2.042272),
        (0.975, 120, 1.979930),
        (0.95, 5, 2.015048),
        (0.995, 10, 3.169273),
        (0.9995, 7, 5.407883),
    ],
)
def test_quantiles_are_those_of_the_tables(p, df, value):
    assert t(p, df) == pytest.approx(value, abs=1e-6)
    assert t(p, df + 1) != pytest.approx(value, abs=1e-4)  # a neighbouring row is another number


def test_quantiles_have_closed_forms_at_one_and_two_degrees_and_the_normal_limit():
    for p in (0.5, 0.6, 0.9, 0.999):
        assert t(p, 1) == pytest.approx(math.tan(math.pi * (p - 0.5)), abs=1e-9)
        assert t(p, 2) == pytest.approx((2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p))), abs=1e-9)
    assert t(0.975, 10_000) == pytest.approx(1.959964, abs=3e-4) != t(0.975, 30)


@pytest.mark.parametrize(("p", "df"), [(0.4, 3), (1.0, 3), (0.9, 0)])
def test_quantiles_that_do_not_exist_are_refused(p, df):
    with pytest.raises(ValueError, match="must be in"):
        t(p, df)


def test_an_interval_is_the_one_computed_by_hand():
    mean, half, n = mean_interval([1.0, 2.0, 3.0])
    assert (mean, n) == (2.0, 3) and half == pytest.approx(4.302653 * 1 / math.sqrt(3), abs=1e-6)
    assert half != pytest.approx(1.959964 / math.sqrt(3), abs=0.1)  # what a normal interval would claim
    assert mean_interval([0.5]) == Interval(0.5, None, 1)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_an_interval_covers_the_truth_as_often_as_it_says():
    """By simulation; with the normal's 1.96 in place of t, 3 seeds would cover 81 % only."""
    draw = random.Random(0)
    intervals = [mean_interval([draw.gauss(0, 1) for _ in range(3)]) for _ in range(4000)]
    covered = sum(abs(i.mean) <= i.half for i in intervals) / len(intervals)
    normal = sum(abs(i.mean) <= i.half * 1.96 / critical(2) for i in intervals) / len(intervals)
    assert covered == pytest.approx(0.95, abs=0.012) and normal < 0.85


def test_the_pooled_spread_is_within_arms():
    assert pooled([[1.0, 3.0], [11.0, 13.0]]) == Spread(pytest.approx(math.sqrt(2)), 2)
    assert pooled([[1.0, 3.0], [5.0]]) == Spread(pytest.approx(math.sqrt(2)), 1)  # one seed adds no degree of freedom
    assert pooled([[1.0, 3.0, 5.0], [0.0, 0.0]]) == Spread(pytest.approx(math.sqrt(8 / 3)), 3)
    assert pooled([[1.0], [2.0]]) is None and pooled([]) is None


def test_what_seeds_have_in_common_leaves_the_paired_spread():
    additive = rows(*([arm + seed for seed in (0.0, 5.0, 9.0)] for arm in (1.0, 2.0, 4.0)))
    assert residual(additive) == Spread(pytest.approx(0, abs=1e-12), 4)
    assert pooled([list(arm.values()) for arm in additive]).sd > 4
    # by hand: means of rows 2 and 3, of columns 1.5 and 3.5; residuals ±0.5, so s² = 4 · 0.25 / 1
    assert residual(rows([1.5, 2.5], [1.5, 4.5])) == Spread(pytest.approx(1.0), 1)
    assert residual(rows([1.0, 2.0])) is None and residual(rows([1.0], [2.0])) is None


def test_an_arm_that_lacks_a_seed_is_fitted_by_least_squares():
    """Against numpy's solution of the same model, which shares no code; and the formula of a whole table is another."""
    table = rows([0.1, 0.9, 0.4], [0.3, 0.8, 0.7], [0.2, 1.4, 0.1])
    del table[0][2], table[2][0]
    cells = [(a, s, x) for a, arm in enumerate(table) for s, x in arm.items()]
    design = np.array([[a == i for i in range(3)] + [s == j for j in range(3)] for a, s, _ in cells], dtype=float)
    values = np.array([x for *_, x in cells])
    left = values - design @ np.linalg.lstsq(design, values)[0]
    found = residual(table)
    assert found == Spread(
        pytest.approx(math.sqrt(left @ left / found.df)), len(values) - np.linalg.matrix_rank(design)
    )
    assert found.df == 2
    assert residual([{0: 1.0, 1: 2.0}, {0: 3.0, 1: 5.0}, {7: 1.0, 8: 2.0}]).df == 1, "another group adds nothing"
    assert residual([{0: 1.0, 1: 2.0}, {1: 3.0, 2: 5.0}]) is None, "one shared seed fits anything"


def test_two_arms_are_compared_over_the_seeds_that_both_have():
    whole = [{0: 0.1, 1: 0.5, 2: 0.9}, {0: 0.2, 1: 0.7, 2: 1.0}, {0: 0.0, 1: 0.4, 2: 0.9}]
    found = compare(whole[0], whole[1], resolution(whole))
    assert (found.shared, found.difference) == (3, pytest.approx(-0.4 / 3)) and found.means == pytest.approx(-0.4 / 3)
    assert found.paired_limit == pytest.approx(resolvable(residual(whole), 3, 3)) and found.resolved
    short = [whole[0], {0: 0.2, 1: 0.7}, whole[2]]
    found, other = compare(short[0], short[1], resolution(short)), compare(short[0], short[2], resolution(short))
    assert (found.shared, found.difference) == (2, pytest.approx(-0.15)) and found.means == pytest.approx(0.05)
    assert other.shared == 3 and found.limit == pytest.approx(resolvable(residual(short), 2, 2))
    assert found.limit > other.limit
    apart = [whole[0], {2: 0.9, 3: 0.2}]
    found = compare(*apart, resolution(apart))
    assert (found.shared, found.paired, found.paired_limit) == (1, None, None) and found.difference == found.means
    assert compare({0: 1.0}, {0: 2.0}, resolution([{0: 1.0}, {0: 2.0}])).resolved is None


def test_two_arms_paired_are_the_paired_t_test():
    """With two arms √2 · s_res is the standard deviation of the differences; swapping two seeds undoes the pairing."""
    a, b = [0.1, 0.5, 0.9], [0.2, 0.55, 1.05]
    differences = [y - x for x, y in zip(a, b, strict=True)]
    half = mean_interval(differences).half
    assert resolvable(residual(rows(a, b)), 3, 3) == pytest.approx(half)
    assert resolvable(residual(rows(a, [b[1], b[0], b[2]])), 3, 3) != pytest.approx(half, rel=0.1)


def test_pairing_needs_the_same_seeds():
    a, b = {0: 0.1, 1: 0.5, 2: 0.9}, {2: 1.0, 0: 0.2, 1: 0.6}
    paired = resolution([a, b, {}])
    assert paired.paired.df == 2 and paired.paired.sd == pytest.approx(0) and paired.spread == paired.paired
    other = resolution([a, {3: 0.2, 4: 0.6, 5: 1.0}])
    assert other.paired is None and other.spread == other.unpaired == paired.unpaired
    assert resolution([{0: 1.0}, {0: 2.0}]).spread is None and resolution([]).spread is None


def test_the_smallest_resolvable_difference_is_the_one_computed_by_hand():
    spread = Spread(0.01, 6)
    assert resolvable(spread, 3, 3) == pytest.approx(2.446912 * 0.01 * math.sqrt(2 / 3), abs=1e-8)
    assert resolvable(spread, 3, 1) == pytest.approx(2.446912 * 0.01 * math.sqrt(4 / 3), abs=1e-8)
    assert resolvable(spread, 3, 3) != pytest.approx(resolvable(Spread(0.01, 3), 3, 3), rel=0.1)


def test_of_equal_arms_one_in_twenty_differs_by_more():
    """By simulation, seeds shared and with an effect: both versions keep 5 %, and pairing resolves the smaller one."""
    draw, trials = random.Random(1), 3000
    wrong, sizes = {"paired": 0, "unpaired": 0}, {"paired": 0.0, "unpaired": 0.0}
    for _ in range(trials):
        seeds = [draw.gauss(0, 2) for _ in range(3)]
        arms = [{s: effect + draw.gauss(0, 1) for s, effect in enumerate(seeds)} for _ in range(4)]
        found = resolution(arms)
        difference = abs(sum(arms[0].values()) - sum(arms[1].values())) / 3
        for name, spread in (("paired", found.paired), ("unpaired", found.unpaired)):
            sizes[name] += resolvable(spread, 3, 3) / trials
            wrong[name] += difference > resolvable(spread, 3, 3)
    assert wrong["paired"] / trials == pytest.approx(0.05, abs=0.012)
    assert wrong["unpaired"] / trials < 0.01 and sizes["paired"] < 0.6 * sizes["unpaired"]
