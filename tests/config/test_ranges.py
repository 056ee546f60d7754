"""A range in one word, and what it refuses in one sentence."""

import math

import pytest
from tiny import tiny

from unigen.config import ranges
from unigen.config.ranges import Range, legal, read, refusal, refusals
from unigen.pipeline.build import build_pipeline


@pytest.mark.parametrize(
    ("text", "inside", "outside", "said"),
    [
        ("(0, 1]", [1, 1e-9, 1.0], [0, -1, 1.1, math.inf, math.nan, True, "1", None], "numbers above 0 and at most 1"),
        ("[0, 1)", [0, 0.0, 0.999], [1, -1e-9], "numbers at least 0 and below 1"),
        ("[0, 1e6]", [0, 1_000_000], [1_000_001, 10**40], "numbers from 0 to 1e+06"),
        ("1..9", [1, 9], [0, 10, 1.0, False], "whole numbers from 1 to 9"),
        ("1..1e9 or -1 or auto", [-1, "auto", 10**9], [0, -2, "all", [], {}], "1 to 1,000,000,000, or -1, or auto"),
        ("part", [{"_target_": "x"}], [1, 1e30, "fitting", True, []], "legal is null, or a part of its config group"),
        ("table", [{}, {"clip_i": None}], [1, 1e30, "clip_i", []], "legal is a table in braces"),
        ("auto or cpu or 16", ["auto", "cpu", 16], [1, "gpu", True, 0.0], "legal are auto, cpu, 16"),
    ],
)
def test_a_range(text, inside, outside, said):
    made = read(text)
    assert [value for value in inside if not made.holds(value)] == []
    assert [value for value in outside if made.holds(value)] == []
    assert said in str(made)


@pytest.mark.parametrize("text", ["[0, 1", "(a, b)", "1..x", ""])
def test_what_is_no_range(text):
    with pytest.raises(ValueError):
        read(text)


def test_the_first_pattern_that_matches_decides():
    assert legal("backbone.config.num_layers") == read("0..1000")
    assert legal("backbone.config.in_channels") == read("1..1e6")._replace(broad=True)
    assert legal("data.seed") == legal("callback.sample_grid.seed") == legal("seed") == Range(0, 2**63 - 1, whole=True)
    assert legal("optimizer.betas.1") == read("[0, 1)")
    assert legal("optimizer.betas") is legal("my.own.key") is None


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("optimizer.lr", math.inf, ("inf", "legal are numbers above 0 and at most 1")),
        ("optimizer.lr", 1e8, ("1e+08", "legal are numbers above 0 and at most 1")),
        ("my.own.key", math.nan, ("nan", "legal are finite numbers")),
        ("my.own.key", 2**63, ("9,223,372,036,854,775,808", "legal are whole numbers of 64 bits")),
        ("my.own.key", -0.0, ("-0.0", "write 0")),
        ("seed", 10**400, ("a whole number of 1332 bits", "legal are whole numbers from 0 to")),
        ("data.instruction", 1e30, ("1e+30", "legal is null, or a part of its config group")),
        ("dropout.condition", "nan", ("'nan'", "legal are numbers from 0 to 1")),
        ("dropout.condition", True, ("true", "legal are numbers from 0 to 1")),
    ],
)
def test_what_is_refused(key, value, said):
    found = refusal(key, value)
    assert found[0] == said[0] and found[1].startswith(said[1])


@pytest.mark.parametrize("value", [3, -1.5, "nan", None, True, 2**63 - 1, "${seed}", "???"])
def test_a_key_of_a_plug_in_of_ones_own_takes_what_is_finite(value):
    assert refusal("my.own.key", value) is None
    assert refusal("seed", "${x}") is refusal("seed", None) is None


def test_everything_below_a_key_is_seen():
    node = {"betas": [0.9, 1.0], "lr": math.nan, "warmup": 3, "mine": [{"deep": [math.inf]}]}
    found = {".".join(wrong.parts) for wrong in refusals(("optimizer",), node, lambda parts: True)}
    assert found == {"optimizer.betas.1", "optimizer.lr", "optimizer.mine.0.deep.0"}
    assert [wrong.value for wrong in refusals(("optimizer", "betas"), [0.9], lambda parts: True)] == ["a list of 1"]


def test_a_key_that_means_something_else_is_only_finite():
    """`judged` is false where a plug-in of one's own gives a key of the table another meaning."""
    assert refusal("metric.mine.crop", 0.5) is not None
    assert refusal("metric.mine.crop", 0.5, judged=False) is None
    assert refusal("metric.mine.crop", math.inf, judged=False) is not None


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("dropout.text=2", r"dropout.text is 2(\.0)?; legal are numbers from 0 to 1"),
        ("loss.weights.target=-1", "loss.weights.target is -1; legal are numbers from 0"),
        ("loss.weights.target=.inf", "loss.weights.target is inf"),
        ("guidance.strength=.nan", "guidance.strength is nan"),
    ],
)
def test_what_is_built_without_a_preflight_is_checked_too(word, said):
    key, _, value = word.partition("=")
    config, (*above, last) = tiny(), key.split(".")
    node = config
    for part in above:
        node = node[part]
    build_pipeline(config)
    node[last] = float(value.removeprefix("."))
    with pytest.raises(ValueError, match=said):
        build_pipeline(config)


def test_one_sentence_for_who_builds_by_hand():
    ranges.check("optimizer", {"lr": 0.1, "betas": [0.9, 0.95]})
    with pytest.raises(ValueError, match=r"callback.sample_grid.items is 0; legal are whole numbers from 1 to 10,000"):
        ranges.check("callback.sample_grid.items", 0)
