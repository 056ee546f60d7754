"""The spread of scores over draws of the examples or of the noise, against numbers worked out by hand."""

import math
from statistics import stdev

import pytest

from unigen.evaluation.spread import spreads


def records(items: int = 2, images: int = 1, examples: int = 1) -> list[dict[str, int]]:
    """Item by item, as a gallery orders them; image i of draw d is drawn with noise i."""
    said = [{"seed": i, "examples": d} for d in range(examples) for i in range(images)]
    return [{"item": item, **one} for item in range(items) for one in said]


def test_the_spread_over_examples_by_hand():
    found = spreads(records(examples=3), [1.0, 2.0, 6.0, 5.0, 5.0, 5.0], "higher")
    assert found.keys() == {"over_examples"}
    of = found["over_examples"]
    assert of["deviation"] == pytest.approx((stdev([1, 2, 6]) + 0) / 2) and of["draws"] == 3
    assert of["values"] == [3.0, 3.5, 5.5] and (of["best"], of["worst"]) == (5.5, 3.0)
    lower = spreads(records(examples=3), [1.0, 2.0, 6.0, 5.0, 5.0, 5.0], "lower")["over_examples"]
    assert (lower["best"], lower["worst"]) == (3.0, 5.5)


def test_each_factor_is_looked_at_with_the_other_one_fixed():
    """Scores of one item that are 10 × draw + noise: the deviation over draws knows nothing of the noise."""
    one = records(items=1, images=2, examples=3)
    scores = [10.0 * r["examples"] + r["seed"] for r in one]
    found = spreads(one, scores, "higher")
    assert found["over_examples"]["deviation"] == pytest.approx(10) != stdev(scores)
    assert found["over_noise"]["deviation"] == pytest.approx(stdev([0, 1]))
    assert found["over_noise"]["values"] == [10.0, 11.0]


def test_differences_between_items_are_no_spread():
    of = spreads(records(examples=2), [0.0, 0.0, 9.0, 9.0], "higher")["over_examples"]
    assert of["deviation"] == 0 and stdev([0.0, 0.0, 9.0, 9.0]) > 1, "negative control"


def test_one_draw_a_set_metric_and_scores_that_are_not_finite_have_none():
    assert spreads(records(), [1.0, 2.0], "higher") == {}
    assert spreads(records(examples=2), None, "lower") == {}
    assert spreads(records(examples=2), [1.0, math.inf, 1.0, 1.0], "lower") == {}


def test_an_item_that_lacks_a_draw_is_left_out():
    drawn = [{"item": item, "seed": seed} for item in range(2) for seed in range(2)]
    scores = [0.1, 0.3, 0.5, 0.9]
    whole = spreads(drawn, scores, "higher")["over_noise"]
    assert whole["values"] == pytest.approx([0.3, 0.6])
    assert spreads(drawn[:3], scores[:3], "higher")["over_noise"]["values"] == pytest.approx([0.1, 0.3])
    assert spreads([drawn[0], drawn[3]], [0.1, 0.9], "higher") == {}
