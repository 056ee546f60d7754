"""Repeated looks by simulation: how often a sweep claims what is not so, and what it finds."""

import statistics
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats
from sweeps import CASES, as_arm, sweep
from test_power import mean_spread
from test_verdicts import most

from unigen.evaluation import looks as stopping
from unigen.evaluation import verdicts
from unigen.evaluation.looks import Looks, decide
from unigen.evaluation.power import POWER, smallest
from unigen.evaluation.verdicts import Verdict, judge

PLAN = Looks((4, 8, 12, 16))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The number of seeds that a difference needs is not looked at here, and would take half of the time."""
    monkeypatch.setattr(verdicts, "seeds_needed", lambda *_: None)


# the plan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [(4, 8, 12, 16), (3, 6, 8), (5,), (2, 4, 6, 8, 10, 12, 14)])
def test_the_levels_of_all_looks_sum_up_to_alpha(seeds):
    plan = Looks(seeds)
    levels = [plan.level(n) for n in seeds]
    assert sum(levels) == pytest.approx(plan.alpha) and min(levels) > 0
    assert sum(plan.level(n) for n in seeds[:-1]) == pytest.approx(plan.spent(seeds[-2]) if seeds[:-1] else 0)


def test_a_look_between_two_spends_what_one_that_was_planned_there_would():
    assert PLAN.level(10) == pytest.approx(Looks((4, 8, 10, 16)).level(10)) and PLAN.level(20) == PLAN.level(16)
    assert [PLAN.after(n) for n in (0, 4, 5, 15, 16)] == [4, 8, 8, 16, None]


def verdict(**given) -> Verdict:
    return Verdict(0.1, 4, None, None, **{"p": 0.5, "alpha": PLAN.level(4)} | given)


@pytest.mark.parametrize(
    ("seeds", "found", "stop"),
    [
        (4, [verdict(), verdict(p=0.0)], ""),
        (4, [verdict(p=0.0), verdict(p_equal=0.0)], stopping.ANSWERED),
        (4, [verdict(p=0.0), verdict(why="no scores of single items")], stopping.ANSWERED),
        (16, [verdict(), verdict(p=0.0)], stopping.LIMIT),
        (16, [verdict(p=0.0)], stopping.ANSWERED),
    ],
)
def test_a_sweep_stops_where_nothing_is_open_and_at_the_last_look(seeds, found, stop):
    assert decide(PLAN, seeds, found).stop == stop


def test_a_question_that_no_seed_answers_is_refused():
    with pytest.raises(ValueError, match=r"no number of seeds .*: no scores of single items"):
        decide(PLAN, 4, [verdict(why="no scores of single items")])
    with pytest.raises(ValueError, match="there is no difference to test"):
        decide(PLAN, 4, [])


# sweeps -----------------------------------------------------------------------------------------------------------


class Stopped(tuple):
    """The numbers of seeds and the verdicts at the look at which a simulated sweep stopped."""

    seeds = property(lambda self: self[0])
    verdicts = property(lambda self: self[1])


def run(draw, case: str, plan: Looks, leads: Sequence[float], margin: float | None, corrected: bool = True) -> Stopped:
    """Simulate one sweep by the rule that run.py and slurm/sweep.py use. `leads` are those of the three other arms."""
    metrics = [
        [arm + lead for arm, lead in zip(arms, (0.0, *leads), strict=True)]
        for arms in sweep(draw, CASES[case], plan.seeds[-1])
    ]
    seeds = plan.after(0)
    while True:
        several = [(as_arm(arm[:seeds]), as_arm(arms[0][:seeds])) for arms in metrics for arm in arms[1:]]
        level = plan.level(seeds) if corrected else plan.alpha
        found = judge(several, [margin] * len(several), level)
        if decide(plan, seeds, found).stop or (not corrected and any(each.resolved for each in found)):
            return Stopped((seeds, found))
        seeds = plan.after(seeds)


def claims_too_much(stopped: Stopped, leads: Sequence[float], margin: float | None) -> bool:
    """True if a verdict states what is not so: a difference where there is none, its wrong sign, or equality."""
    wrong = False
    for found, lead in zip(stopped.verdicts, [*leads] * 3, strict=True):
        wrong |= found.resolved and found.difference * lead <= 0
        wrong |= found.equal and abs(lead) >= margin
    return wrong


def false_sweeps(case: str, n: int, leads=(0.0, 0.0, 0.0), margin: float | None = None, corrected=True) -> float:
    draw = np.random.default_rng(11)
    return statistics.fmean(
        claims_too_much(run(draw, case, PLAN, leads, margin, corrected), leads, margin) for _ in range(n)
    )


def test_a_sweep_that_looks_four_times_seldom_claims_too_much():
    assert false_sweeps("seeds", 50) <= most(50)


def test_uncorrected_looks_that_stop_at_the_first_difference_claim_more():
    """The negative control: each look tests at 5 %, and the sweep stops at the first difference that it likes."""
    share = false_sweeps("seeds", 100, corrected=False)
    assert share > most(100), share


MIXTURES = {  # what is true: leads of the three arms in units of the margin
    "no difference": (0.0, 0.0, 0.0),
    "all differences as large as the margin": (1.0, -1.0, 1.0),
    "both": (0.0, 1.0, -1.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mixture", MIXTURES)
def test_a_sweep_claims_too_much_in_five_of_a_hundred(case, mixture):
    """The margin is as large as the arms' spread can resolve with all seeds, so that equality is claimed at all."""
    margin = 2 * smallest(mean_spread(CASES[case]), PLAN.seeds[-1], PLAN.level(16) / 9)
    leads = [margin * lead for lead in MIXTURES[mixture]]
    draw = np.random.default_rng(12)
    ends = [run(draw, case, PLAN, leads, margin) for _ in range(2000)]
    share = statistics.fmean(claims_too_much(end, leads, margin) for end in ends)
    states = statistics.fmean(each.state != "open" for end in ends for each in end.verdicts)
    seeds = statistics.fmean(end.seeds for end in ends)
    print(f"\n{case}, {mixture}: {share:.2%} of 2,000 sweeps wrong, {states:.0%} answered, {seeds:.1f} seeds")
    assert share <= most(2000)


@pytest.mark.slow
def test_uncorrected_looks_at_2000_sweeps():
    share = false_sweeps("seeds", 2000, corrected=False)
    print(f"\nuncorrected: {share:.1%} of 2,000 sweeps claim a difference where there is none")
    assert share > 1.5 * most(2000)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["seeds", "items", "arms x items", "all"])
def test_power_is_what_is_promised(case):
    """A difference that `power` promises to resolve at the level of the last look is resolved by a sweep that stops by
    itself."""
    size = smallest(mean_spread(CASES[case]), PLAN.seeds[-1], PLAN.level(16) / 9)
    draw = np.random.default_rng(13)
    ends = [run(draw, case, PLAN, [size] * 3, None) for _ in range(300)]
    share = statistics.fmean(each.resolved for end in ends for each in end.verdicts)
    seeds = statistics.fmean(end.seeds for end in ends)
    print(f"\n{case}: {share:.1%} of 2,700 differences of {size:.3g} resolved, 80 % promised; {seeds:.1f} seeds")
    assert share > POWER - 0.03


# boundaries -------------------------------------------------------------------------------------------------------


def sequential(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Two-sided p values (n, looks) without a difference: of t tests at every look, and of z tests of the same data."""
    draws = np.random.default_rng(0).standard_normal((n, PLAN.seeds[-1]))
    t, z = [], []
    for seeds in PLAN.seeds:
        mean, deviation = draws[:, :seeds].mean(axis=1), draws[:, :seeds].std(axis=1, ddof=1)
        t.append(2 * scipy.stats.t.sf(abs(mean) / deviation * seeds**0.5, seeds - 1))
        z.append(2 * scipy.stats.norm.sf(abs(mean) * seeds**0.5))
    return np.stack(t, axis=1), np.stack(z, axis=1)


def boundaries(p_NL: np.ndarray, spent: Sequence[float]) -> list[float]:
    """Lan and DeMets' levels from simulated p values: each look rejects what spending allows of what is left."""
    left, levels, before = np.ones(len(p_NL), bool), [], 0.0
    for look, share in enumerate(spent):
        count = round((share - before) * len(p_NL))
        levels.append(np.sort(p_NL[left, look])[count])
        left &= p_NL[:, look] > levels[-1]
        before = share
    return levels


def test_boundaries_for_normal_variables_spend_too_much_with_t_tests_and_ours_do_not():
    t_NL, z_NL = sequential(200_000)
    normal = boundaries(z_NL, [PLAN.spent(n) for n in PLAN.seeds])
    ours = [PLAN.level(n) for n in PLAN.seeds]
    assert (z_NL <= normal).any(axis=1).mean() == pytest.approx(0.05, abs=1e-3), "they are what they should be for z"
    assert (t_NL <= normal).any(axis=1).mean() > most(200_000)
    assert 0.035 < (t_NL <= ours).any(axis=1).mean() <= 0.05
