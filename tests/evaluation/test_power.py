"""Power against the noncentral t distribution and against simulated sweeps; the number of seeds that a size needs."""

import statistics

import numpy as np
import pytest
import scipy.stats
from sweeps import CASES, Case, pairs

from unigen.core.intervals import critical
from unigen.evaluation.power import POWER, Spread, power, seeds_needed, smallest
from unigen.evaluation.verdicts import judge

SEEDS = Spread(seeds=1.0, items=0.0, both=0.0, clusters=72)
ITEMS = Spread(seeds=0.01, items=1.0, both=0.01, clusters=72)


@pytest.mark.parametrize(("n", "size"), [(3, 5.0), (5, 2.0), (8, 1.5), (16, 1.0)])
def test_where_items_do_not_matter_it_is_that_of_the_t_test(n, size):
    limit, shift = critical(n - 1, 0.05), size * n**0.5
    theirs = scipy.stats.nct.sf(limit, n - 1, shift) + scipy.stats.nct.cdf(-limit, n - 1, shift)
    assert power(size, SEEDS, n, 0.05) == pytest.approx(theirs, abs=0.003)
    normal = scipy.stats.norm.sf(1.96 - shift)
    assert power(size, SEEDS, n, 0.05) < normal - 0.01, "a normal approximation promises more"


def test_where_only_items_matter_seeds_do_not_help():
    assert power(3.0, ITEMS, 4, 0.05) == pytest.approx(power(3.0, ITEMS, 400, 0.05), abs=0.05)
    assert seeds_needed(1.0, ITEMS, 0.05) is None and seeds_needed(4.0, ITEMS, 0.05) is not None


def test_the_number_of_seeds_is_the_smallest_that_suffices():
    for size in (0.5, 1.0, 2.0, 5.0):
        n = seeds_needed(size, SEEDS, 0.05 / 9)
        assert power(size, SEEDS, n, 0.05 / 9) >= POWER > power(size, SEEDS, n - 1, 0.05 / 9)
    assert seeds_needed(1e-3, SEEDS, 0.05) is None


@pytest.mark.parametrize("spread", [SEEDS, ITEMS])
def test_the_smallest_difference_has_the_power_that_was_wanted(spread):
    assert power(smallest(spread, 6, 0.01), spread, 6, 0.01) == pytest.approx(POWER, abs=1e-3)
    assert smallest(SEEDS, 12, 0.01) < smallest(SEEDS, 6, 0.01)


def test_without_any_spread_every_difference_is_resolved():
    none = Spread(0.0, 0.0, 0.0, 72)
    assert power(1e-9, none, 2, 0.05) == 1 and power(0.0, none, 2, 0.05) == 0 and seeds_needed(1e-9, none, 0.05) == 2
    assert smallest(none, 3, 0.05) == 0


def spreads(case: Case, seeds: int, n: int) -> list[Spread]:
    draw = np.random.default_rng(4)
    return [found.spread for _ in range(n) for found in judge(pairs(draw, case, seeds))]


def mean_spread(case: Case, n: int = 40) -> Spread:
    found = spreads(case, 8, n)
    means = [statistics.fmean(each) for each in list(zip(*found, strict=True))[:3]]
    return Spread(*means, found[0].clusters)


def test_what_items_do_under_all_seeds_is_told_from_what_they_do_under_one():
    """In the variance of a difference of two arms, of which clusters of unequal size make up the items."""
    lasting, passing = mean_spread(CASES["arms x items"]), mean_spread(CASES["items"])
    assert lasting.items == pytest.approx(2 * 0.1**2 / 73, rel=0.5) and lasting.items > 2 * lasting.both
    assert passing.items < passing.both / 20
    assert mean_spread(CASES["seeds"]).seeds == pytest.approx(2 * CASES["seeds"].seeds ** 2, rel=0.1)


def promised(case: str, seeds: int, n: int) -> tuple[float, float]:
    """The share of differences that are resolved with `seeds`, and the size of each, for which 80 % are promised."""
    size = smallest(mean_spread(CASES[case], max(40, n // 2)), seeds, 0.05 / 9)
    draw = np.random.default_rng(6)
    found = [judge(pairs(draw, CASES[case], seeds, size)) for _ in range(n)]
    return statistics.fmean(abs(v.difference) > v.limit for sweep in found for v in sweep), size


def test_four_of_five_differences_of_the_promised_size_are_beyond_the_limit():
    share, _ = promised("seeds", 8, 20)
    assert share == pytest.approx(POWER, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 8])
@pytest.mark.parametrize("case", ["seeds", "items", "arms x items", "all"])
def test_the_promise_is_kept(case, seeds):
    share, size = promised(case, seeds, 400)
    print(f"\n{case}, {seeds} seeds: {share:.1%} of 3,600 differences of {size:.3g}, for which 80 % were promised")
    assert share > 0.77
