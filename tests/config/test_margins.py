"""Margins of tables: their spelling, their size, and what is refused."""

import pytest

from unigen.config.margins import Margin, read_margins
from unigen.config.values import ConfigError
from unigen.evaluation.runs import paper_table


@pytest.mark.parametrize(
    ("said", "margin"),
    [("2 %", Margin(0.02, True)), ("0.5%", Margin(0.005, True)), (0.1, Margin(0.1)), (3, Margin(3.0)), (None, None)],
)
def test_one_margin_is_that_of_all_columns(said, margin):
    assert read_margins(said, ["a", "b"], "here") == ({} if margin is None else {"a": margin, "b": margin})


def test_a_mapping_names_columns_and_null_is_no_margin():
    assert read_margins({"a": "1 %", "b": None}, ["a", "b", "c"], "here") == {"a": Margin(0.01, True)}


def test_a_relative_margin_is_of_the_size_of_the_mean_and_an_absolute_one_is_not():
    assert Margin(0.02, True).at(-0.5) == pytest.approx(0.01) and Margin(0.02).at(-0.5) == 0.02
    assert [Margin(0.02, True).text, Margin(0.02).text] == ["2 %", "0.02"]


@pytest.mark.parametrize(
    "said", ["2", "2 percent", "-1 %", 0, -0.1, True, [0.1], float("nan"), float("inf"), {"a": "x"}]
)
def test_what_is_no_margin_is_refused_with_what_would_be_one(said):
    with pytest.raises(ConfigError, match=r"^table.margin in t.yaml is .*, which is no margin; write a number, .*2 %"):
        read_margins(said, ["a"], "table.margin in t.yaml")


def test_a_column_that_the_table_does_not_have_is_refused():
    with pytest.raises(ConfigError, match=r"names the column 'clip', .*; did you mean 'clip_i'\?"):
        read_margins({"clip": 0.1}, ["clip_i"], "here")


def test_a_table_hands_its_margins_to_the_report_for_columns_of_every_scale():
    told = {"name": "t", "order": ["x"], "metrics": {"a": "f1"}, "metrics_at": {"paper": {"b": "g"}}, "margin": "2 %"}
    assert paper_table(told).margins == dict.fromkeys("ab", Margin(0.02, True))
    assert paper_table(told | {"margin": None}).margins == {}
    with pytest.raises(ConfigError, match=r"table.margin of t names the column 'z'"):
        paper_table(told | {"margin": {"z": 1}})
