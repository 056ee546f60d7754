"""Student's t against printed tables, the tests of two arms against scipy's own, intervals by simulation."""

import math
import random
import warnings

import numpy as np
import pytest
import scipy.stats

from unigen.core.intervals import Contrast, Interval, critical, mean_interval, over_seeds, paired, rounded, welch


@pytest.mark.parametrize(
    ("p", "df", "value"),
    [(0.975, 1, 12.706205), (0.975, 2, 4.302653), (0.975, 6, 2.446912), (0.95, 5, 2.015048), (0.9995, 7, 5.407883)],
)
def test_critical_values_are_those_of_the_tables(p, df, value):
    assert critical(df, 2 * (1 - p)) == pytest.approx(value, abs=1e-6)
    assert critical(df + 1, 2 * (1 - p)) != pytest.approx(value, abs=1e-4)  # a neighbouring row is another number


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


@pytest.mark.parametrize("seed", range(4))
def test_arms_that_share_seeds_are_compared_by_the_paired_test_and_others_by_welchs(seed):
    draw = np.random.default_rng(seed)
    a, b = draw.normal(0, 1, 4), draw.normal(0.5, 3, 4)
    found, theirs = over_seeds(dict(enumerate(a)), dict(enumerate(b))), scipy.stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.99)
    assert (found.p, found.df) == (pytest.approx(theirs.pvalue), 3) and found == paired([*(a - b)])
    assert found.limit(0.01) == pytest.approx((interval.high - interval.low) / 2)
    swapped = over_seeds(dict(enumerate(a)), dict(enumerate(b[[1, 0, 2, 3]])))
    assert swapped.p != pytest.approx(found.p, rel=0.01), "other pairs are another test"
    apart, theirs = over_seeds(dict(enumerate(a)), {9 + i: x for i, x in enumerate(b[:3])}), welch([*a], [*b[:3]])
    expected = scipy.stats.ttest_ind(a, b[:3], equal_var=False)
    assert apart == theirs and (apart.p, apart.df) == (pytest.approx(expected.pvalue), pytest.approx(expected.df))


def test_arms_are_compared_over_the_seeds_that_both_have_and_never_from_one():
    whole, part = {0: 0.1, 1: 0.5, 2: 0.9}, {0: 0.2, 2: 0.7, 9: 5.0}
    assert over_seeds(whole, part) == paired([0.1 - 0.2, 0.9 - 0.7])
    assert over_seeds(whole, {0: 0.3}) is None and over_seeds({0: 1.0}, {0: 2.0}) is None
    assert over_seeds({0: 1.0}, {1: 2.0, 2: 3.0}) is None
    assert over_seeds(whole, {2: 0.1, 7: 0.3}) == welch([0.1, 0.5, 0.9], [0.1, 0.3]), "one shared seed pairs nothing"


def test_without_any_spread_a_difference_is_certain_and_no_difference_is_none():
    assert Contrast(0.5, 0.0, 2).p == 0 and Contrast(0.0, 0.0, 2).p == 1
    assert welch([1.0, 1.0], [1.0, 1.0]).p == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Contrast(1.0, 0.5, 2).p == pytest.approx(2 * scipy.stats.t.sf(2, 2))


def test_a_number_is_printed_with_two_digits_of_its_uncertainty():
    assert [rounded(0.12345, unit) for unit in (0.0134, None, 0.0, float("inf"))] == ["0.123"] * 4
    assert rounded(0.12345, 1.34) == "0.1" and rounded(0.12345, 0.00134, "+") == "+0.1235"  # negative control
