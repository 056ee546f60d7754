"""TaskDistribution: shares to the number, records, and held-out tasks that are never drawn."""

import math
import random
from collections import Counter

import pytest
from small_graphs import RELEASED, drawings, graph200k, names, released

from datamodules.graph.graph import AnnotationGraph

__all__ = ["released"]  # the fixture


# --- shares --------------------------------------------------------------------------------------------------------


def by_group(graph: AnnotationGraph) -> dict[str, float]:
    shares = graph.training.probabilities()
    found = dict.fromkeys((task.group for task in graph.tasks), 0.0)
    for task in graph.training_tasks:
        found[task.group] += shares[task.name]
    return found


def test_uniform_over_tasks_gives_every_task_the_same():
    graph = drawings(uniform_over="tasks")
    shares = graph.training.probabilities()
    assert len(set(shares.values())) == 1 and math.isclose(sum(shares.values()), 1)
    assert len(set(drawings().training.probabilities().values())) > 1
    doubled = drawings(uniform_over="tasks", weights={"line>target": 2}).training.probabilities()
    assert math.isclose(doubled["line>target"], 2 / (len(shares) + 1))
    assert math.isclose(doubled["grey>target"], 1 / (len(shares) + 1))


def test_a_pattern_for_groups_weighs_groups_and_one_for_tasks_weighs_inside():
    plain, sixth = by_group(drawings()), 1 / 6
    assert len(plain) == 6 and all(math.isclose(share, sixth) for share in plain.values())
    groups = by_group(drawings(weights={"restoration": 3.0, "*tion": 2}))
    assert math.isclose(groups["restoration"], 6 / 12) and math.isclose(groups["prediction"], 2 / 12)
    assert math.isclose(groups["one"], 1 / 12)
    graph = drawings(weights={"grey>target": 4, "flat>*": 3, "*+grey>target": 1})
    shares = graph.training.probabilities()
    assert all(math.isclose(share, sixth) for share in by_group(graph).values())
    assert math.isclose(shares["grey>target"], sixth * 4 / 7) and math.isclose(shares["line>target"], sixth / 7)
    assert math.isclose(shares["flat>target"], sixth * 3 / 7) and math.isclose(shares["round>target"], sixth / 7)


def test_a_seed_or_a_generator_decides_the_draw(released):
    draw = released.training.draw
    assert [draw(seed) for seed in range(50)] == [draw(random.Random(seed)) for seed in range(50)]
    assert len({draw(seed) for seed in range(50)}) > 10
    rng, again = random.Random(3), random.Random(3)
    assert [draw(rng) for _ in range(50)] == [draw(again) for _ in range(50)] != [draw(again) for _ in range(50)]


def test_a_histogram_is_of_draws_and_comes_close_to_the_shares(released):
    rng = random.Random(5)
    one_by_one = Counter(released.training.draw(rng).name for _ in range(300))
    histogram = released.training.histogram(300, 5)
    assert +Counter(histogram) == one_by_one and list(histogram) == names(released.tasks)
    assert histogram != released.training.histogram(300, 6)
    many, shares, n = released.training.histogram(100_000, 0), released.training.probabilities(), 100_000
    off = [(many[name] - n * p) / math.sqrt(n * p * (1 - p)) for name, p in shares.items()]
    assert max(map(abs, off)) < 5
    flat = [(many[name] - n / 129) / math.sqrt(n / 129) for name in shares]
    assert max(map(abs, flat)) > 5, "the same bound finds another distribution"


# --- records -------------------------------------------------------------------------------------------------------


def test_a_task_is_legal_if_every_row_has_its_images(released):
    one, two = {"target", "canny", "depth", "reference", "blur"}, ["target", "canny", "blur", "hed"]
    assert names(released.training.legal(one)) == [
        *("canny>target", "depth>target", "reference+canny>target", "reference+depth>target"),
        *("target>canny", "target>depth", "reference>target", "target>reference", "blur>target"),
        "reference+blur>target",
    ]
    assert names(released.training.legal(one, two)) == ["canny>target", "target>canny", "blur>target"]
    assert names(released.training.legal()) == names(released.tasks)
    unseen = released.task("target>canny+depth")
    assert unseen.fits(one) and not unseen.fits(one, two) and not unseen.fits(two)


def test_a_style_needs_both_of_its_images(released):
    record = {"target", "instant_style"}
    assert released.training.legal(record) == ()
    assert names(released.training.legal(record | {"instant_style_ref"})) == ["target+instant_style_ref>instant_style"]


def test_what_is_legal_keeps_its_proportions(released):
    records = {"target", "canny", "blur"}, {"target", "canny", "blur", "depth"}
    whole, some = released.training.probabilities(), released.training.probabilities(*records)
    assert math.isclose(sum(some.values()), 1) and set(some) == {"canny>target", "target>canny", "blur>target"}
    assert math.isclose(some["canny>target"] / some["blur>target"], whole["canny>target"] / whole["blur>target"])
    rng = random.Random(0)
    assert {released.training.draw(rng, *records).name for _ in range(300)} == set(some)
    assert any(not released.training.draw(rng).fits(*records) for _ in range(300))


def test_records_without_a_legal_task_are_refused(released):
    with pytest.raises(ValueError, match=r"none of 129 training tasks is legal for these 2 records: .* are target$"):
        released.training.draw(0, ["target", "canny"], ["target", "depth"])
    with pytest.raises(ValueError, match=r"are none$"):
        released.training.probabilities(["canny"], ["depth"])


# --- held out ------------------------------------------------------------------------------------------------------

HELD_OUT = [
    ["depth>target"],
    ["reference + *_x? > target", "style_transfer*"],
    ["*>canny", "*depth*>*", "restoration"],
    [f"{group}*" for group in RELEASED if group != "editing"],
]


@pytest.mark.parametrize("patterns", HELD_OUT, ids=str)
@pytest.mark.parametrize("uniform_over", ["groups", "tasks"])
def test_a_held_out_task_is_never_drawn(patterns, uniform_over):
    graph = graph200k(held_out=patterns, uniform_over=uniform_over, weights={"depth>target": 1e9, "restoration": 50})
    held, trained = set(names(graph.held_out_tasks)), set(names(graph.training_tasks))
    assert held and trained and not held & trained and held | trained == set(names(graph.tasks))
    shares = graph.training.probabilities()
    assert set(shares) == trained and math.isclose(sum(shares.values()), 1) and min(shares.values()) > 0
    assert set(graph.training.histogram(20_000, 0)) == trained
    everything, rng = list(graph.node_of), random.Random(1)
    for seed in range(300):
        record = {"target", "canny", "depth", "reference", "depth_edit", *rng.sample(everything, 12)}
        assert graph.training.draw(seed, record).name in trained
    assert not held & {task.name for task in graph.training.legal(everything)}


def test_without_being_held_out_these_tasks_are_drawn(released):
    """Negative control of the test above."""
    held = {task.name for task in graph200k(held_out=HELD_OUT[0]).held_out_tasks}
    assert held == {"depth>target"} and released.training.histogram(20_000, 0)["depth>target"] > 0


def test_a_whole_name_holds_a_task_out_in_whatever_order():
    assert names(drawings(held_out=["grey + line > target"]).held_out_tasks) == ["line+grey>target"]
    with pytest.raises(ValueError, match="matches the name of no task"):
        drawings(held_out=["grey+alpha>target"])


def test_held_out_tasks_leave_their_share_to_their_group():
    graph = drawings(held_out=["line>target", "two"])
    shares = graph.training.probabilities()
    assert names(graph.held_out_tasks) == [
        "line>target",
        "line+colours>target",
        "line+grey>target",
        "colours+grey>target",
    ]
    assert math.isclose(shares["grey>target"], 1 / 5 / 3) and math.isclose(shares["skin_tone>target"], 1 / 5)
