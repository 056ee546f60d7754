"""Lines that ask for stages: what they mean, what is refused, and the runs of each stage."""

import json
from pathlib import Path

import pytest

from unigen.config.manifest import run_folder
from unigen.config.stages import (
    PLAN,
    STAGED,
    TUNE_SEED,
    Plan,
    arm_names,
    arm_of,
    batch,
    read_line,
    read_plan,
    write_plan,
)
from unigen.config.values import ConfigError


def plan_of(*words: str) -> Plan:
    plan, _ = read_line(words)
    return plan


@pytest.mark.parametrize(
    ("seeds", "looks"), [("4..16", [4, 8, 12, 16]), ("3..8", [3, 6, 8]), ("5..5", [5]), ("2..5", [2, 4, 5])]
)
def test_a_sweep_looks_after_multiples_of_the_first_number_and_at_the_limit(seeds, looks):
    assert plan_of("+table=both", "until=resolved", f"seeds={seeds}").looks == looks


def test_a_line_without_such_words_has_no_plan_and_a_folder_is_no_word_of_it():
    assert read_line(["+table=both", "seed=0,1", "hydra.sweep.dir=x"]) == (None, None)
    plan, folder = read_line(["+table=both", "until=resolved", "seeds=2..4", "hydra.sweep.dir='a b'"])
    assert folder == Path("a b").absolute() and plan.words == ["+table=both"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("until=resolved", "until=resolved without seeds is no range; write the first look and the limit"),
        ("until=resolved seeds=4", "seeds=4 is no range"),
        ("until=resolved seeds=8..4", "seeds=8..4 is no range"),
        ("until=resolved seeds=1..4", "seeds=1..4 is no range; write the first look and the limit, 2 to 1000"),
        ("until=answered seeds=4..8", "until=answered has no meaning; write until=resolved seeds=4..16"),
        ("seeds=4..8", "seeds=4..8 without until has no meaning"),
        ("seeds=0,1,2", "or fixed seeds as seed=0,1,2"),
        ("until=resolved seeds=4..8 seed=1", "'seed=1' is said beside seeds=4..8"),
        ("tune.optimizer.lr=1e-3", "is no grid; write several values, as in tune.optimizer.lr=1e-3,3e-3"),
        ("tune.optimizer.lr=1e-3,1e-3", "tune.optimizer.lr=1e-3,1e-3 has a value twice"),
        ("tune.optimizer.lr=1e-3,3e-3,0.001", "write each value of the grid once"),
        ("tune.x=[1,2]", "tune.x=[1,2] is no grid"),
        ("tune.x=1,", "tune.x=1, cannot be read"),
        ("tune=1,2", "'tune=1,2' names no key; write tune.KEY=a,b, as in tune.optimizer.lr=1e-3,3e-3"),
        ("tune.debug=true,false debug=true", "'debug' is said beside tune.debug"),
        ("tune.seed=0,1", "it cannot be tuned"),
        ("tune.trainer.max_steps=3,5", "arms that differ in trainer.max_steps are not compared, so it cannot be tuned"),
        (f"tune.debug=true,false seed=0,{TUNE_SEED}", f"seed {TUNE_SEED} is that of the runs that tune"),
    ],
)
def test_bad_words_are_refused_in_a_sentence(words, said):
    with pytest.raises(ConfigError) as error:
        plan_of("+exp=a", *words.split())
    assert said in str(error.value)


def test_each_stage_runs_the_seeds_that_are_new(conf, tmp_path):
    plan, names = plan_of("+table=both", "until=resolved", "seeds=2..5"), []
    for seeds in (2, 4, 5):
        sweep = batch(conf, plan, tmp_path / "s")
        names.append([run_folder(line).name for line in sweep.lines])
        plan = plan._replace(seen=[*plan.seen, {"seeds": seeds}])
    assert names[0] == ["0_a_seed0", "1_a_seed1", "2_b_seed0", "3_b_seed1"]
    assert names[1:] == [["0_a_seed2", "1_a_seed3", "2_b_seed2", "3_b_seed3"], ["0_a_seed4", "1_b_seed4"]]
    assert sweep.folder == tmp_path / "s"


def test_a_grid_is_the_same_for_each_arm_and_its_seed_and_test_are_no_others(conf, tmp_path):
    plan = plan_of("+table=both", "tune.optimizer.warmup=3,5", "seed=0,1", "metric=[x]")
    grid = batch(conf, plan, tmp_path).lines
    assert plan.tuning and {run_folder(line).parent for line in grid} == {tmp_path / "tune"}
    assert all(f"seed={TUNE_SEED}" in line and "metric=[]" in line and "metric=[x]" not in line for line in grid)
    arms = [arm_of(line, plan) for line in grid]
    assert arms == [arms[0], arms[0], arms[2], arms[2]] and arm_names(arms[1:3]) == ["+exp=a", "+exp=b"]
    plan = plan._replace(
        tuned={arm: {"chosen": {"optimizer.warmup": n}} for arm, n in ((arms[0], "3"), (arms[2], "5"))}
    )
    lines = batch(conf, plan, tmp_path).lines
    steps = [[word for word in line if word.startswith("optimizer")] for line in lines]
    assert steps == [["optimizer.warmup=3"]] * 2 + [["optimizer.warmup=5"]] * 2 and not plan.tuning
    assert all("metric=[x]" in line for line in lines) and run_folder(lines[0]) == tmp_path / "0_a_seed0"
    assert arm_names(["x\ty"]) == ["x y"]


def test_a_plan_reads_back_and_a_damaged_one_is_refused(tmp_path):
    plan = plan_of("+exp=a", "until=resolved", "seeds=2..4", "tune.debug=true,false")._replace(seen=[{"seeds": 2}])
    assert read_plan(tmp_path) is None
    write_plan(tmp_path, plan)
    assert read_plan(tmp_path) == plan and plan.seeds == (2, 4)
    assert plan.same_line(plan_of("+exp=a", "until=resolved", "seeds=2..4", "tune.debug=true,false"))
    assert not plan.same_line(plan_of("+exp=a", "until=resolved", "seeds=2..6", "tune.debug=true,false"))
    whole = plan._asdict()
    kinds = (
        {"looks": "abc"},
        {"looks": ["2"]},
        {"seen": [{"seeds": "x"}]},
        {"seen": [3]},
        {"tune": []},
        {"words": "a"},
    )
    odd = [json.dumps(whole | kind) for kind in (*kinds, {"stop": 1}, {"tuned": "x"})]
    for text in ("{", "[]", '{"words": []}', '{"x": 1}', *odd):
        (tmp_path / PLAN).write_text(text)
        with pytest.raises(ConfigError, match=r"plan.json is damaged and no plan of a sweep"):
            read_plan(tmp_path)


def test_words_that_ask_for_stages_are_those_that_run_py_hands_over():
    """What begins otherwise goes to Hydra, which lists all keys."""
    assert all(word.startswith(STAGED) for word in ("until=x", "seeds=1", "tune.a=1,2", "tune=1,2"))
    assert not "tuned=1".startswith(STAGED), "negative control"


def test_a_plus_before_such_a_word_is_no_other_word():
    """Who writes it for every key that the configuration does not have need not know that these are none."""
    plan = plan_of("+exp=a,b", "+until=resolved", "+seeds=2..4", "+tune.x=1,2")
    assert plan.looks == [2, 4] and plan.tune == {"x": "1,2"} and plan.words == ["+exp=a,b"]


def test_values_that_only_look_equal_are_a_grid():
    assert plan_of("+exp=a", "tune.x=1,true").tune == {"x": "1,true"}
    assert plan_of("+exp=a", "tune.x=[1,2],[1,3]").tune == {"x": "[1,2],[1,3]"}


@pytest.mark.parametrize("words", [["+exp=a"], ["+exp=a", "tune.optimizer.warmup=3,5"]])
def test_one_arm_has_no_question_that_seeds_resolve(conf, tmp_path, words):
    with pytest.raises(ConfigError, match=r"until=resolved with one arm has nothing to compare; .* as in \+exp=a,b"):
        batch(conf, plan_of(*words, "until=resolved", "seeds=2..4"), tmp_path)
    two = plan_of("+exp=a,b", *words[1:], "until=resolved", "seeds=2..4")
    assert len(batch(conf, two, tmp_path).lines) == 4, "negative control"
