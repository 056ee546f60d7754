"""Which runs are an arm: one name and treatment, whatever is measured, and whether or not a key was there yet."""

from made_runs import make_run

from unigen.evaluation.arms import group_arms
from unigen.evaluation.runs import read_run


def arms_of(tmp_path, *configs: dict) -> list[tuple[str, list[int]]]:
    runs = [make_run(tmp_path / f"r{seed}", seed=seed, config=config) for seed, config in enumerate(configs)]
    return [
        (arm.label, [run.summary["seed"] for run in arm.runs])
        for arm in group_arms([read_run(r, r.name) for r in runs])
    ]


def test_a_key_that_is_off_and_one_that_was_not_there_yet_are_one_arm(tmp_path):
    """Seeds of a sweep that goes on with a later version of this project."""
    assert arms_of(
        tmp_path, {"guidance": {"strength": 2.0}}, {"guidance": {"strength": 2.0, "negative": None, "hide": {}}}
    ) == [("a", [0, 1])]


def test_a_key_that_is_on_is_another_arm(tmp_path):
    """Negative control."""
    found = arms_of(tmp_path, {"guidance": {"strength": 2.0}}, {"guidance": {"strength": 2.0, "negative": "blurred"}})
    assert found == [("a (guidance.negative=null)", [0]), ("a (guidance.negative=blurred)", [1])]


def test_another_choice_of_metrics_is_no_other_arm_and_another_treatment_is(tmp_path):
    measured = {"metric": {"psnr": {"_target_": "unigen.metrics.pixels.PSNR"}}}
    assert arms_of(tmp_path / "one", {}, measured) == [("a", [0, 1])]
    found = arms_of(tmp_path / "two", {}, measured | {"lr": 0.2})
    assert found == [("a (lr=0.1)", [0]), ("a (lr=0.2)", [1])], "negative control"
