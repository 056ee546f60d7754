"""What a page says of sweeps in stages: each one's own seeds and level, and one level for the verdicts of them all."""

import pytest
from made_runs import make_run, notes

from unigen.config.stages import Plan, write_plan
from unigen.evaluation.looks import Looks
from unigen.tools.report.report import build_report

LOOKS = [2, 4]


def sweep(root, names: str, seeds: int, *, stop: str = "", looks=LOOKS, tuned: dict | None = None, rate: float = 1e-3):
    """A sweep of these arms, a letter each, with its plan."""
    for name in names:
        for seed in range(seeds):
            f1 = 0.3 + ord(name) / 1000 + seed / 100
            make_run(root / f"{name}{seed}", name, seed, f1=f1, config={"optimizer": {"lr": rate}})
    seen = [{"seeds": each} for each in looks if each <= seeds]
    tune = {"optimizer.lr": "1e-3,2e-3"} if tuned else {}
    write_plan(root, Plan([f"+exp={names}"], None, looks, tune, tuned, seen, stop))
    return root


def levels(report) -> set[float]:
    return {verdict.alpha for verdict in report.family.verdicts.values()}


def test_two_sweeps_of_one_page_have_their_own_seeds_and_the_smallest_of_their_levels(tmp_path):
    sweep(tmp_path / "x", "ab", 4, stop="limit")
    sweep(tmp_path / "y", "cd", 2)
    report, said = build_report(str(tmp_path)), notes(build_report(str(tmp_path)))
    small, large = (Looks(tuple(LOOKS)).level(n) for n in LOOKS)
    assert levels(report) == {small}
    assert "The sweep x stopped at its last look (2 of 2), after 4 seeds, with differences open." in said
    assert f"verdicts at 4 seeds may spend {large:.2g} of it" in said, "not those of the other sweep"
    assert "The sweep y has looked 1 of 2 times and goes on to 4 seeds." in said
    assert f"All verdicts of this page have one level, {small:.2g}: the smallest" in said
    alone = build_report(str(tmp_path / "x"))
    assert levels(alone) == {large} and "one level" not in notes(alone) and "The sweep stopped" in notes(alone)


def test_an_arm_outside_a_sweep_does_not_count_as_its_seeds(tmp_path):
    sweep(tmp_path / "x", "ab", 4, stop="limit")
    make_run(tmp_path / "alone" / "c", "c")
    report = build_report(str(tmp_path))
    large = Looks(tuple(LOOKS)).level(4)
    assert levels(report) == {large} and f"one level, {large:.2g}" in notes(report)
    assert "verdicts at 4 seeds" in notes(report)


def test_sweeps_of_one_name_are_told_apart(tmp_path):
    sweep(tmp_path / "p" / "s", "ab", 2), sweep(tmp_path / "q" / "s", "cd", 2)
    said = notes(build_report(str(tmp_path)))
    assert "The sweep p/s has looked" in said and "The sweep q/s has looked" in said


@pytest.mark.parametrize(("seeds", "said"), [(1, "at 1 seed may"), (2, "at 2 seeds may")])
def test_one_seed_is_one_seed(tmp_path, seeds, said):
    sweep(tmp_path, "ab", seeds)
    assert said in notes(build_report(str(tmp_path)))


def test_arms_of_an_untuned_sweep_are_named_beside_a_tuned_one(tmp_path):
    tuned = {f"+exp={name}": {"chosen": {"optimizer.lr": "2e-3"}, "losses": {}} for name in "ab"}
    sweep(tmp_path / "x", "ab", 2, looks=[], stop="done", tuned=tuned, rate=2e-3)
    sweep(tmp_path / "y", "cd", 2, looks=[], stop="done")
    said = notes(build_report(str(tmp_path)))
    assert "Tuned for each arm of the sweep x by the loss" in said
    assert "Not tuned: c, d have optimizer.lr 0.001." in said
    only = notes(build_report(str(tmp_path / "x")))
    assert "Tuned for each arm by the loss" in only and "Not tuned" not in only, "negative control"
