"""Whether a page without any difference claims one, by simulation; whether a large one is found; what is never told.

n sweeps have a Monte Carlo error: a share that is truly 5 % is found above `most(n)` once in a thousand tests.
"""

import functools
import statistics

import numpy as np
import pytest
import scipy.stats
from sweeps import CASES, CLUSTERS, ITEMS, as_arm, pairs, sweep

from unigen.core.intervals import over_seeds
from unigen.evaluation.clusters import Clusters, cells, error, resampled
from unigen.evaluation.verdicts import Arm, holm, judge


def most(n: int, share: float = 0.05) -> float:
    """What a share of `n` draws exceeds once in a thousand times."""
    return scipy.stats.binom.ppf(0.999, n, share) / n


def false_pages(case: str, seeds: int, n: int) -> float:
    """The share of sweeps without a difference in which at least one is called resolved."""
    draw = np.random.default_rng(seeds)
    return sum(any(found.resolved for found in judge(pairs(draw, CASES[case], seeds))) for _ in range(n)) / n


@pytest.mark.parametrize("case", CASES)
def test_a_page_without_a_difference_seldom_claims_one(case):
    assert false_pages(case, 3, 100) <= most(100)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 8])
@pytest.mark.parametrize("case", CASES)
def test_a_page_without_a_difference_claims_one_in_five_of_a_hundred(case, seeds):
    found = false_pages(case, seeds, 2000)
    print(f"\n{case}, {seeds} seeds: {found:.2%} of 2,000 sweeps")
    assert found <= most(2000)


def old_pages(case: str, seeds: int, n: int) -> dict[str, float]:
    """Negative controls, the shares of what was called resolved before: by a t test of every two arms with a spread
    pooled over arms and no correction; by the percentiles of a bootstrap over single items and seeds; and by ours with
    a pooled spread, Holm's correction and no items."""
    draw, wrong = np.random.default_rng(seeds), dict.fromkeys(("t", "bootstrap", "pooled"), 0)
    for _ in range(n):
        by_t, by_bootstrap, ps = False, False, []
        for arms in sweep(draw, CASES[case], seeds):
            x_AS = np.stack([arm.mean(axis=1) for arm in arms])
            left = x_AS - x_AS.mean(axis=0) - x_AS.mean(axis=1, keepdims=True) + x_AS.mean()
            df = (len(x_AS) - 1) * (seeds - 1)
            se = np.sqrt((left**2).sum() / df * 2 / seeds)
            means = x_AS.mean(axis=1)
            by_t |= (means.max() - means.min()) / se > scipy.stats.t.ppf(0.975, df)
            ps += [2 * scipy.stats.t.sf(abs(m - means[0]) / se, df) for m in means[1:]]
            for arm in arms[1:]:
                low, high = np.quantile(plain_bootstrap(arm - arms[0]), (0.025, 0.975))
                by_bootstrap |= low > 0 or high < 0
        wrong["t"] += by_t
        wrong["bootstrap"] += by_bootstrap
        wrong["pooled"] += min(holm(ps)) <= 0.05
    return {name: count / n for name, count in wrong.items()}


def plain_bootstrap(x_SN: np.ndarray, count: int = 500) -> np.ndarray:
    w_RS, w_RN = (plain_shares(n, count) for n in x_SN.shape)
    return ((w_RN @ x_SN.T) * w_RS).sum(axis=1)


@functools.cache
def plain_shares(n: int, count: int) -> np.ndarray:
    return np.random.default_rng(n).multinomial(n, [1 / n] * n, size=count) / n


def test_what_was_called_resolved_before_was_often_wrong():
    """The negative control: the same sweeps, the verdicts of before."""
    seeds, items = old_pages("seeds", 3, 60), old_pages("arms x items", 3, 60)
    assert seeds["t"] > 0.25 and seeds["bootstrap"] > 0.5, seeds
    assert items["t"] > 0.9 and items["bootstrap"] > 0.5, items


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_how_often_the_verdicts_of_before_were_wrong(case):
    for seeds in (3, 8):
        found = old_pages(case, seeds, 1000)
        print(f"\n{case}, {seeds} seeds: {', '.join(f'{name} {share:.1%}' for name, share in found.items())} of 1,000")
        assert found["t"] > 2 * most(1000)
        if case == "seeds, one arm more":
            assert found["pooled"] > most(1000), "the reason that no spread is pooled over arms"


def covered(case: str, seeds: int, n: int) -> dict[str, float]:
    """How often the 95 % intervals of both tests hold the true difference, 0."""
    draw, held = np.random.default_rng(seeds + 100), {"seeds": [], "items": []}
    for _ in range(n):
        for found in judge(pairs(draw, CASES[case], seeds)):
            held["seeds"].append(abs(found.difference) <= found.seeds.limit(0.05))
            held["items"].append(abs(found.difference) <= found.items.limit(0.05))
    return {name: statistics.fmean(each) for name, each in held.items()}


def test_intervals_cover_where_they_claim_to():
    """The t interval covers what seeds leave open and not what items do; the bootstrap's the other way round."""
    seeds, items = covered("seeds", 3, 60), covered("arms x items", 3, 60)
    assert 0.92 < seeds["seeds"] < 0.98 and seeds["items"] < 0.9
    assert 0.92 < items["items"] < 0.98 and items["seeds"] < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 8])
@pytest.mark.parametrize("case", CASES)
def test_coverage(case, seeds):
    found = covered(case, seeds, 1000)
    print(f"\n{case}, {seeds} seeds: seeds {found['seeds']:.1%}, items {found['items']:.1%} of 9,000")
    if case != "arms x items" and case != "all":
        assert 0.93 < found["seeds"] < 0.97
    if case == "arms x items":
        assert 0.93 < found["items"] < 0.97
    if case == "items":
        assert found["items"] > 0.95, "noise counts several times: the bootstrap errs on the wide side"


def power(lead: float, seeds: int, n: int, case: str = "seeds") -> float:
    """The share of true differences that are resolved, all others being as large."""
    draw = np.random.default_rng(seeds)
    found = [each.resolved for _ in range(n) for each in judge(pairs(draw, CASES[case], seeds, lead))]
    return statistics.fmean(found)


def test_a_large_difference_is_resolved_and_more_seeds_resolve_a_smaller_one():
    """In units of the standard deviation of a paired difference over seeds, √2 times `Case.seeds`."""
    unit = 2**0.5 * CASES["seeds"].seeds
    assert power(20 * unit, 3, 20) > 0.8 and power(2.5 * unit, 8, 20) > 0.8
    assert power(2.5 * unit, 3, 20) < 0.5, "three seeds do not resolve what eight do"


@pytest.mark.slow
def test_power():
    unit = 2**0.5 * CASES["seeds"].seeds
    for seeds, leads in {3: (2, 4, 6, 8, 10, 12, 15, 20), 5: (1, 2, 3, 4, 5), 8: (1, 1.5, 2, 2.5)}.items():
        found = {lead: power(lead * unit, seeds, 200) for lead in leads}
        print(f"\n{seeds} seeds: {', '.join(f'{lead} s: {share:.0%}' for lead, share in found.items())} of 1,800")
        assert [*found.values()] == sorted(found.values()) and found[leads[-1]] > 0.85


# what is never told ---------------------------------------------------------------------------------------------------


def two(seeds: int = 3, lead: float = 1.0) -> tuple[Arm, Arm]:
    draw = np.random.default_rng(0)
    first, second = (draw.normal(0.5, 0.01, (seeds, ITEMS)) for _ in range(2))
    return as_arm(first + lead), as_arm(second)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (lambda arm: Arm({0: arm.values[0]}, {0: arm.scores[0]}, arm.clusters), "one seed"),
        (lambda arm: Arm(arm.values), "no scores of single items"),
        (lambda arm: arm._replace(scores={0: arm.scores[0]}), "no scores of single items"),
        (lambda arm: arm._replace(clusters=Clusters(("x",), (("a",) * ITEMS,))), "other items"),
        (lambda arm: arm._replace(clusters=Clusters.single(ITEMS + 1)), "other items"),
    ],
)
def test_what_cannot_be_tested_is_never_resolved_and_says_why(changed, why):
    first, second = two()
    [whole] = judge([(first, second)])
    assert whole.resolved and whole.word == "resolved" and whole.p < 1e-3
    found = judge([(changed(first), second), (first, second)])
    assert not found[0].resolved and found[0].word == f"not resolved: {why}" and found[0].limit is None
    assert found[0].difference == pytest.approx(1, abs=0.01) and found[1].p == whole.p, "it is not corrected for"


def test_items_of_one_cluster_are_one_item():
    lone = Clusters(("subject",), (("dog",) * ITEMS,))
    found = judge([tuple(arm._replace(clusters=lone) for arm in two())])
    assert found[0].word == "not resolved: all items are one cluster"


def test_a_verdict_needs_both_tests():
    steady = Arm({0: 0.50, 1: 0.51, 2: 0.50}), Arm({0: 0.40, 1: 0.41, 2: 0.40})
    item_N = np.r_[np.ones(ITEMS // 2), -np.ones(ITEMS // 2)]
    first, second = (
        arm._replace(scores={s: x + sign * item_N for s, x in arm.values.items()}, clusters=CLUSTERS)
        for arm, sign in zip(steady, (1, -1), strict=True)
    )
    [found] = judge([(first, second)])
    assert found.seeds.p < 1e-3 and found.items.p > 0.5 and not found.resolved
    apart = {0: 0.5, 1: 0.1, 2: 0.6}
    flat = [Arm(v, {s: np.full(ITEMS, x) for s, x in v.items()}, CLUSTERS) for v in (apart, {0: 0.1, 1: 0.0, 2: 0.1})]
    [found] = judge([tuple(flat)])
    assert found.seeds.p > 0.05 > found.items.p and not found.resolved


def test_what_a_file_told_of_clusters_counts_for_one_that_did_not():
    first, second = two()
    [told] = judge([(first, second)])
    [mixed] = judge([(first._replace(clusters=Clusters.single(ITEMS)), second)])
    [untold] = judge([tuple(arm._replace(clusters=Clusters.single(ITEMS)) for arm in (first, second))])
    assert mixed == told and told.items.df == 72 and untold.items.df == ITEMS - 1


def test_holm_is_the_correction_of_the_books():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm 1979, step by step
    assert holm([0.4, 0.9]) == [0.8, 0.9] and holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == []
    assert holm([0.02]) == [0.02]


def test_a_difference_beyond_the_limit_is_resolved_whatever_the_others_are():
    draw, checked = np.random.default_rng(3), 0
    for lead in (0.05, 0.15, 0.3):
        for found in judge(pairs(draw, CASES["seeds"], 3, lead)):
            checked += abs(found.difference) > found.limit
            assert found.resolved or abs(found.difference) <= found.limit
    assert checked > 3


# the bootstrap --------------------------------------------------------------------------------------------------------


def test_one_seed_is_the_bootstrap_over_items_and_its_width_is_known():
    """The standard error of a mean of N items, each by itself, is s / √N with the unbiased s."""
    x = np.random.default_rng(0).normal(0.5, 0.2, 64)
    assert error(resampled({7: x}, Clusters.single(64))) == pytest.approx(x.std(ddof=1) / 8, rel=0.05)


def test_items_of_a_cluster_are_drawn_together():
    """Each item four times over is no more evidence; as items by themselves they would be taken for four times as
    many."""
    x = np.random.default_rng(0).normal(0.5, 0.2, 64)
    four = Clusters(("base glyph",), (tuple(str(i // 4) for i in range(256)),))
    alone = error(resampled({0: x}, Clusters.single(64)))
    assert error(resampled({0: x.repeat(4)}, four)) == pytest.approx(alone, rel=0.05)
    assert error(resampled({0: x.repeat(4)}, Clusters.single(256))) == pytest.approx(alone / 2, rel=0.05)
    assert four.text == "256 (base glyph: 64)" and Clusters.single(256).text == "256" and four.degrees == 63


def test_clusters_in_two_ways_are_crossed():
    """DreamBench: 30 subjects by 25 prompts by 4 images. What subjects and what prompts do adds up as it should;
    drawing subjects alone would not see the prompts."""
    draw = np.random.default_rng(0)
    subject, prompt, _ = (i.ravel() for i in np.indices((30, 25, 4)))
    crossed = Clusters(("subject", "prompt"), (tuple(map(str, subject)), tuple(map(str, prompt))))
    a, b = draw.normal(0, 0.1, 30), draw.normal(0, 0.3, 25)
    x = a[subject] + b[prompt]
    known = (a.var(ddof=1) / 30 + b.var(ddof=1) / 25) ** 0.5
    assert error(resampled({0: x}, crossed)) == pytest.approx(known, rel=0.05)
    one_way = error(resampled({0: x}, Clusters(("subject",), crossed.columns[:1])))
    assert one_way < known / 2 and crossed.degrees == 24
    assert crossed.text == "3,000 (subject: 30, prompt: 25)" and cells(crossed)[0].shape[1] == 750


def test_seeds_are_drawn_too_and_pairing_takes_out_what_arms_have_in_common():
    x = np.random.default_rng(0).normal(0.5, 0.2, 64)
    own = Clusters.single(64)
    same, apart = dict.fromkeys(range(3), x), {s: x + 0.3 * s for s in range(3)}
    assert error(resampled(same, own)) == pytest.approx(error(resampled({0: x}, own)))
    wide = error(resampled(apart, own))
    assert wide > 2 * error(resampled(same, own))
    assert wide**2 == pytest.approx(error(resampled(same, own)) ** 2 + 0.3**2 / 3, rel=0.1), "s² / 3 of three seeds"
    values = [Arm({s: float(y.mean()) for s, y in each.items()}, each, own) for each in (apart, same)]
    shifted = Arm({s: v + 0.02 for s, v in values[0].values.items()}, {s: y + 0.02 for s, y in apart.items()}, own)
    [found] = judge([(shifted, values[0])])
    assert found.items.error < 1e-9 and found.difference == pytest.approx(0.02) and found.resolved
    later = shifted._replace(**{k: {s + 9: v for s, v in getattr(shifted, k).items()} for k in ("values", "scores")})
    [found] = judge([(later, values[0])])
    assert found.shared == 0 and found.items.error > 0.2 and not found.resolved
    assert found.seeds == over_seeds(later.values, values[0].values)


def test_a_crossing_with_holes_is_drawn_where_a_resample_holds_something():
    sparse = Clusters(("subject", "prompt"), (("a", "b", "c"), ("x", "y", "z")))
    assert 0 < error(resampled({0: np.array([0.0, 1.0, 2.0])}, sparse)) < 2


# margins and intervals ------------------------------------------------------------------------------------------------


def agrees(found) -> bool:
    """Whether the interval says what the state says."""
    apart, inside = abs(found.difference) > found.half, abs(found.difference) + found.half < (found.margin or 0)
    return {"resolved": apart, "equal": inside, "open": not apart and not inside}[found.state]


@pytest.mark.parametrize("margin", [None, 0.03, 0.2])
def test_the_interval_says_what_the_verdict_says(margin):
    draw, states = np.random.default_rng(5), set()
    for lead in (0, 0.02, 0.05, 0.1, 0.3):
        for _ in range(4):
            several = pairs(draw, CASES["seeds"], 4, lead)
            for found in judge(several, [margin] * len(several)):
                assert agrees(found), found
                states.add(found.state)
    assert states == {None: {"resolved", "open"}, 0.03: {"resolved", "open"}}.get(margin, {"resolved", "open", "equal"})
    wrong = found._replace(half=2 * abs(found.difference))
    assert found.state == "resolved" and not agrees(wrong), "the check can fail"


def test_equal_is_what_two_one_sided_tests_say():
    """Over seeds by scipy's one-sided tests against both ends of the margin; without a margin nothing is equal."""
    first, second = two(seeds=5, lead=0.001)
    difference = [first.values[s] - second.values[s] for s in range(5)]
    for margin in (0.001, 0.002, 0.005):
        [found] = judge([(first, second)], [margin])
        ends = (
            scipy.stats.ttest_1samp(difference, -margin, alternative="greater").pvalue,
            scipy.stats.ttest_1samp(difference, margin, alternative="less").pvalue,
        )
        assert found.seeds.p_equal(margin) == pytest.approx(max(ends)) and found.p_equal >= max(ends)
        assert found.equal == (found.p_equal <= 0.05) == (margin == 0.005)
    [without] = judge([(first, second)])
    assert without.p_equal is None and not without.equal and found.state == "equal" and found.word == "equal"


def test_equality_needs_both_tests_and_can_meet_a_resolved_difference():
    flat = np.full(ITEMS, 0.5)
    rough = np.where(np.arange(ITEMS) % 2, 2.0, -2.0)
    second = Arm(dict.fromkeys(range(3), 0.5), dict.fromkeys(range(3), flat), Clusters.single(ITEMS))
    first = second._replace(scores=dict.fromkeys(range(3), flat + rough))
    [found] = judge([(first, second)], [0.1])
    assert found.seeds.p_equal(0.1) == 0 and found.items.p_equal(0.1) > 0.05 and found.state == "open"
    [found] = judge([two(lead=0.02)], [0.1])
    assert found.resolved and found.equal and found.state == "resolved"
    assert found.word == "resolved, smaller than the margin" and found.difference + found.half < 0.1


def test_two_tests_of_a_pair_count_once_until_both_are_rejected():
    """Shaffer 1986: a pair cannot lack any difference and have one of the margin. Counted twice, every p is doubled."""
    ps, owners = [0.001, 0.5, 0.03, 0.04], ["a", "a", "b", "b"]
    assert holm(ps, owners) == pytest.approx([0.002, 0.5, 0.06, 0.08])
    assert holm(ps) == pytest.approx([0.004, 0.5, 0.09, 0.09])
    assert holm([0.001, 0.002, 0.03], ["a", "a", "b"]) == pytest.approx([0.002, 0.004, 0.03]), "a is settled"


def test_a_margin_does_not_count_for_pairs_that_have_none_and_alpha_decides():
    several = pairs(np.random.default_rng(1), CASES["seeds"], 4, 0.02)
    plain, some = judge(several), judge(several, [1.0] + [None] * 8)
    assert some[0].equal and all(found.p_equal is None for found in some[1:])
    assert [a.limit for a in plain] == [b.limit for b in some]
    [strict], [loose] = (judge([two(lead=0.01)], alpha=alpha) for alpha in (1e-9, 0.05))
    assert strict.p == loose.p and not strict.resolved and loose.resolved and strict.half > loose.half


def wide_margin(case: str, seeds: int) -> float:
    """Twice what so many seeds resolve in this case, so that arms which are alike can be called equal."""
    draw = np.random.default_rng(seeds)
    return 2 * statistics.fmean(v.limit for _ in range(10) for v in judge(pairs(draw, CASES[case], seeds)))


def pages(case: str, seeds: int, n: int, leads: tuple[float, ...]) -> dict[str, float]:
    """Shares of pages on which something is not so: a claim of `judge`, a claim at 5 % that nothing corrects, an
    interval that does not hold the truth; and of differences that are answered. `leads` are in units of the margin."""
    margin, draw = wide_margin(case, seeds), np.random.default_rng(seeds + 50)
    truth = [margin * lead for lead in leads] * 3
    counts = dict.fromkeys(("judge", "uncorrected", "intervals", "answered"), 0.0)
    for _ in range(n):
        several = []
        for arms in sweep(draw, CASES[case], seeds):
            reference, *others = map(as_arm, [x + d for x, d in zip(arms, [0.0, *truth[:3]], strict=True)])
            several += [(other, reference) for other in others]
        found = judge(several, [margin] * 9)
        plain = [uncorrected(v) for v in found]
        counts["judge"] += any(wrong(v, d, margin) for v, d in zip(found, truth, strict=True))
        counts["uncorrected"] += any(wrong(v, d, margin) for v, d in zip(plain, truth, strict=True))
        counts["intervals"] += any(abs(v.difference - d) > v.half for v, d in zip(found, truth, strict=True))
        counts["answered"] += statistics.fmean(v.state != "open" for v in found)
    return {name: count / n for name, count in counts.items()}


def uncorrected(found):
    """The verdict that the same two tests would give alone."""
    p = max(test.p for test in (found.seeds, found.items))
    equal = max(test.p_equal(found.margin) for test in (found.seeds, found.items))
    return found._replace(p=p, p_equal=equal)


def wrong(found, truth: float, margin: float) -> bool:
    """Whether a verdict states what is not so."""
    return (found.resolved and found.difference * truth <= 0) or (found.equal and abs(truth) >= margin)


TRUTHS = {"none": (0.0, 0.0, 0.0), "of the margin": (1.0, -1.0, 1.0), "both": (0.0, 1.0, -1.0)}


def test_a_page_with_margins_seldom_states_what_is_not_so_and_one_without_correction_does():
    found = pages("seeds", 8, 60, TRUTHS["of the margin"])
    assert found["judge"] <= most(60) < found["uncorrected"], found
    assert pages("seeds", 8, 20, TRUTHS["none"])["answered"] > 0.9, "the margin is wide enough to call arms equal"


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 8])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("truth", TRUTHS)
def test_a_page_with_margins_states_what_is_not_so_in_five_of_a_hundred(case, seeds, truth):
    found = pages(case, seeds, 500, TRUTHS[truth])
    shares = ", ".join(f"{name} {share:.1%}" for name, share in found.items())
    print(f"\n{case}, {seeds} seeds, differences {truth}: {shares} of 500")
    assert found["judge"] <= most(500)


def test_the_seeds_needed_are_those_of_the_way_to_zero_or_to_the_margin():
    """A difference far beyond the margin needs few seeds, one near 0 those of the margin, one between the most."""
    draw = np.random.default_rng(0)
    first, second, *_ = next(iter(sweep(draw, CASES["seeds"], 2)))
    first = first - first.mean() + second.mean()  # no difference
    spread = float(np.std(first.mean(axis=1) - second.mean(axis=1), ddof=1))

    def needed(difference: float, margin: float | None) -> int | None:
        return judge([(as_arm(first + difference * spread), as_arm(second))], [margin and margin * spread])[
            0
        ].seeds_needed

    assert needed(2, None) == needed(2, 1e-9) == needed(0, 2) == needed(1, 3)
    assert needed(1, 2) == needed(1, None) > needed(2, None), "half of the margin"
    assert needed(0.5, 2.5) == needed(2, None) < needed(0.5, None), "to the margin, which is nearer"
    assert needed(2, 2.5) == needed(2, None), "to 0, although the margin is near"
