"""AnnotationGraph: Graph200K's tasks to the number, what leads back to the target, the grammar."""

import itertools
import math
import random
import subprocess
import sys
from collections import Counter

import pytest
from small_graphs import DEGRADATIONS, MAPS, RELEASED, ROOT, WITH_BBOX, drawings, graph200k, names, released

from datamodules.graph.graph import KINDS, UNSEEN, AnnotationGraph, Node
from datamodules.graph.sampling import Task

__all__ = ["released"]  # the fixture


# --- Graph200K -----------------------------------------------------------------------------------------------------


def test_graph200k_has_the_49_annotation_types(released):
    kinds = Counter(node.kind for node in released.nodes.values())
    assert kinds == {"condition": 12, "degradation": 32, "style": 2, "edit": 2, "reference": 1}
    assert list(released.of_kind("degradation")) == DEGRADATIONS and len(set(DEGRADATIONS)) == 32
    assert set(released.of_kind("condition")) == {*MAPS, "bbox", "foreground", "background"}
    assert released.nodes["redux_style"].images == ("redux_style_ref", "redux_style")
    assert released.nodes["depth"].images == ("depth",)
    assert len(released.node_of) == 49 + 2 + 1 and released.node_of["redux_style_ref"] == "redux_style"


def test_graph200k_has_exactly_the_released_tasks(released):
    groups = {group: [t.name for t in released.tasks if t.group == group] for group in RELEASED}
    assert groups == {group: sorted(tasks, key=groups[group].index) for group, tasks in RELEASED.items()}
    assert len(released.tasks) == len(set(names(released.tasks))) == 129
    assert [len(tasks) for tasks in RELEASED.values()] == [11, 10, 18, 8, 1, 1, 3, 9, 2, 2, 32, 32]
    assert Counter(len(task.images) for task in released.tasks) == {2: 55, 3: 65, 4: 9}
    assert len({task.meta_task for task in released.tasks}) == 5


def test_the_papers_graph_has_the_bounding_box_wherever_the_mask_is_a_condition(released):
    paper = graph200k("graph200k_bbox")
    assert len(paper.tasks) == 134 and len(paper.nodes) == 49
    assert set(names(paper.tasks)) - set(names(released.tasks)) == WITH_BBOX
    assert set(names(released.tasks)) < set(names(paper.tasks))
    masked = [task for task in released.tasks if "mask" in task.conditions]
    assert {name.replace("bbox", "mask") for name in WITH_BBOX} == set(names(masked))


def test_the_released_shares_are_uniform_over_groups_and_then_inside(released):
    shares = released.training.probabilities()
    assert math.isclose(sum(shares.values()), 1) and list(shares) == names(released.tasks)
    for tasks in RELEASED.values():
        assert all(math.isclose(shares[name], 1 / 12 / len(tasks)) for name in tasks)
    assert round(100 * shares["reference>target"], 1) == 8.3
    assert round(100 * shares["blur>target"], 2) == 0.26


def test_the_unseen_menu_is_never_trained_on(released):
    """Several maps, several targets, a stylised image into its layout and style (the paper's reverse generation)."""
    unseen = names(released.unseen_tasks)
    assert {"openpose+canny>target", "target>depth+normal+hed", "canny>target+depth+normal"} <= set(unseen)
    assert "instant_style>depth+instant_style_ref" in unseen
    assert all(task.group == task.meta_task == UNSEEN for task in released.unseen_tasks)
    assert not set(unseen) & set(released.training.probabilities())


def test_the_summary_counts_what_there_is(released):
    summary = released.summary()
    assert (summary["nodes"], summary["tasks"], summary["training_tasks"]) == (49, 129, 129)
    assert summary["tasks_by_group"] == {group: len(tasks) for group, tasks in RELEASED.items()}
    assert summary["tasks_by_meta_task"] == {
        "conditional_generation": 47,
        "ip_preservation": 2,
        "style_transfer": 12,
        "editing": 4,
        "restoration": 64,
    }
    assert summary["tasks_by_length"] == {2: 55, 3: 65, 4: 9}
    assert summary["nodes_by_kind"] == {kind: len(released.of_kind(kind)) for kind in KINDS}
    held = graph200k(held_out=["depth>target", "restoration*"]).summary()
    assert held["training_tasks"] == 129 - 65 and len(held["held_out_tasks"]) == 65 and held["tasks"] == 129


# --- strongly connected --------------------------------------------------------------------------------------------


def unreachable(graph: AnnotationGraph, tasks) -> set[tuple[str, str]]:
    """Pairs of nodes without a path, by Warshall's closure over every pair: slow, and another way than the graph's."""
    everything = ["target", *graph.nodes]
    reached = {*graph.edges(tasks), *((name, name) for name in everything)}
    for middle, start in itertools.product(everything, everything):
        if (start, middle) in reached:
            reached |= {(start, end) for end in everything if (middle, end) in reached}
    return set(itertools.product(everything, everything)) - reached


def test_the_papers_graph_is_strongly_connected_with_its_reverse_generation_and_not_without():
    paper = graph200k("graph200k_bbox")
    every = (*paper.tasks, *paper.unseen_tasks)
    assert paper.strongly_connected() and paper.dead_ends() == () and unreachable(paper, every) == set()
    assert paper.dead_ends(paper.tasks) == ("instant_style", "redux_style")
    assert {start for start, _ in unreachable(paper, paper.tasks)} == {"instant_style", "redux_style"}


def test_the_released_graph_ends_at_the_bounding_box_that_it_has_no_task_for(released):
    assert released.dead_ends() == ("bbox",) and not released.strongly_connected()
    summary = released.summary()
    assert not summary["strongly_connected"] and summary["dead_ends"] == ["bbox"]
    assert summary["dead_ends_in_training"] == ["bbox", "instant_style", "redux_style"]


@pytest.mark.parametrize("seed", range(20))
def test_dead_ends_are_what_has_no_path_to_some_node(seed):
    graph, rng = drawings(), random.Random(seed)
    tasks = rng.sample(graph.tasks, rng.randrange(len(graph.tasks)))
    lost = unreachable(graph, tasks)
    assert set(graph.dead_ends(tasks)) == {start for start, _ in lost}
    assert graph.strongly_connected(tasks) == (not lost)


def test_edges_lead_to_annotations_and_from_every_condition_to_every_target():
    graph = drawings()
    derived = {("target", name) for name in graph.nodes}
    assert graph.edges([]) == derived
    assert graph.edges([graph.task("line+flat_ref>target+round_ref")]) == derived | {
        ("line", "target"),
        ("line", "round"),
        ("flat", "target"),
        ("flat", "round"),
    }


def test_a_node_that_nothing_leads_out_of_is_named():
    """Negative control, with a task that leads into it and none back; and a way back that takes two steps."""
    nodes = {"condition": ["line", "alpha"]}
    groups = {"all": {"one": ["line > target"], "in": ["line > alpha"]}}
    graph = AnnotationGraph(nodes=nodes, groups=groups)
    assert graph.dead_ends() == ("alpha",) and not graph.strongly_connected()
    graph = AnnotationGraph(nodes=nodes, groups=groups, unseen=["alpha > line"])
    assert graph.strongly_connected() and graph.dead_ends(graph.training_tasks) == ("alpha",)


# --- the grammar ---------------------------------------------------------------------------------------------------


def test_a_rule_stands_for_every_combination_of_its_alternatives():
    graph = drawings()
    assert names(t for t in graph.tasks if t.group == "one") == [
        "line>target",
        "colours>target",
        "grey>target",
        "alpha>target",
    ]
    assert names(t for t in graph.tasks if t.group == "style") == [
        "target+flat_ref>flat",
        "line+flat_ref>flat",
        "target+round_ref>round",
        "flat>target",
        "round>target",
    ]
    assert names(graph.expand("degradation|edit > target")) == ["blur>target", "rain>target", "skin_tone>target"]
    assert names(graph.expand("style>target")) == ["flat>target", "round>target"]


def test_images_twice_and_mere_orders_are_left_out():
    graph = drawings()
    assert names(t for t in graph.tasks if t.group == "two") == [
        "line+colours>target",
        "line+grey>target",
        "colours+grey>target",
    ]
    assert names(graph.expand("line > maps+maps")) == ["line>colours+grey"]


def test_a_name_gives_any_task_with_one_or_several_targets():
    graph = drawings()
    known = graph.task("grey + line > target")
    assert known in graph.tasks and known.name == "line+grey>target" and known.group == "two"
    composed = graph.task("line>target+grey+flat")
    assert composed == Task(("line",), ("target", "grey", "flat"), UNSEEN, UNSEEN)
    assert composed not in graph.tasks and composed.name == "line>target+grey+flat"
    assert graph.task(composed.name) == composed != graph.task("line>target+grey")


@pytest.mark.parametrize("name", ["line>target", "target>flat+flat_ref", "line+grey+blur>target+skin_tone"])
def test_a_task_is_named_as_it_is_written(name):
    assert drawings().task(name).name == name


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("lime>target", "unknown annotation 'lime' in 'lime>target'; did you mean 'line'?"),
        ("line>target+graey", "unknown annotation 'graey'.*did you mean 'grey'?"),
        ("zzz>target", "legal are "),
        ("line", "write conditions>targets"),
        ("line>grey>target", "write conditions>targets"),
        ("line+>target", "unknown annotation ''"),
        ("target>target", "no image may be in two places"),
        ("line+line>target", "no image may be in two places"),
        ("line+grey>line", "no image may be in two places"),
        ("line|grey>target", "stands for 2 tasks"),
    ],
)
def test_what_is_no_task_is_refused(rule, said):
    with pytest.raises(ValueError, match=said):
        drawings().task(rule)


def test_unknown_annotations_of_graph200k_are_refused_with_the_nearest(released):
    with pytest.raises(ValueError, match="unknown annotation 'dpeth' in 'dpeth>target'; did you mean 'depth'"):
        released.task("dpeth>target")


NODES = {"condition": ["line", "grey"]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nodes": {"conditoin": ["line"]}}, "nodes: unknown name 'conditoin'; did you mean 'condition'"),
        ({"nodes": {"condition": ["line", "line"]}}, "an image 'line' already"),
        ({"nodes": {"condition": ["line", "target"]}}, "an image 'target' already"),
        ({"nodes": {"condition": ["flat_ref"], "style": ["flat"]}}, "an image 'flat_ref' already"),
        ({"nodes": {"condition": ["line", "edit"]}}, "'edit' is a kind's name"),
        ({"nodes": {"reference": ["reference", "other"]}}, "'reference' is a kind's name"),
        ({"nodes": {"condition": ["line+grey"]}}, "'line.grey' is no name"),
        ({"nodes": {"condition": "line"}}, "nodes.condition is 'line'; it must be a list"),
        ({"nodes": ["line"]}, "nodes is .*it must be a mapping"),
        ({"sets": {"line": ["grey"]}}, "sets: 'line' is the name of an image"),
        (
            {"sets": {"degradation": ["grey"], "condition": ["grey"]}},
            "sets: 'condition' is the name of an image or of",
        ),
        ({"sets": {"maps": ["lines"]}}, "sets.maps: unknown name 'lines'; did you mean 'line'"),
        ({"groups": {"all": {"one": "line>target"}}}, "groups.all.one is .*it must be a list"),
        ({"groups": {"all": None}}, "groups.all is None; it must be a mapping"),
        ({"groups": {"all": {"one>": ["line>target"]}}}, "'one>' is no name"),
        ({"groups": {"all": {"unseen": ["line>target"]}}}, "a group is called 'unseen' already"),
        ({"groups": {"a": {"one": ["line>target"]}, "b": {"one": ["grey>target"]}}}, "called 'one' already"),
        ({"groups": {"all": {"one": ["line>target"], "two": ["line|grey>target"]}}}, "which group one has already"),
        ({"groups": {"all": {"one": ["line+grey>target"], "two": ["grey+line>target"]}}}, "which group one has"),
        ({"groups": {"all": {"one": ["lien>target"]}}}, "groups.all.one: unknown annotation 'lien'"),
        ({"groups": {"all": {"one": []}}}, "no task is left to train on"),
        ({"held_out": ["*>target"]}, "no task is left to train on: groups has 1"),
        ({"held_out": "line>target"}, "held_out is 'line>target'; it must be a list"),
        ({"held_out": ["lien>target"]}, "held_out: 'lien>target' matches .* task; did you mean 'line>target'"),
        ({"held_out": ["oen"]}, "held_out: 'oen' matches .* group .*; did you mean 'one'"),
        ({"unseen": ["line>target"]}, "unseen: 'line>target' is a task of group one; list it under held_out"),
        ({"unseen": ["lien>target+grey"]}, "unseen: unknown annotation 'lien'"),
        ({"uniform_over": "group"}, "uniform_over='group' must be groups or tasks"),
        ({"weights": {"tow": 2.0}}, "weights: 'tow' matches"),
        ({"weights": {"one": 0}}, "'one' is 0; it must be a number above 0"),
        ({"weights": {"one": True}}, "'one' is True"),
        ({"weights": {"line>*": math.inf}}, "is inf"),
    ],
)
def test_a_wrong_configuration_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        AnnotationGraph(**{"nodes": NODES, "groups": {"all": {"one": ["line>target"]}}, **changes})


def test_a_right_configuration_is_not():
    """Negative control of the refusals above."""
    graph = AnnotationGraph(
        nodes={**NODES, "reference": ["reference"]},
        groups={"all": {"one": ["line>target"], "with_reference": ["reference + condition > target"]}},
        unseen=["line+grey>target"],
        held_out=["reference+grey>*"],
        weights={"one": 2, "reference+*": 0.5},
    )
    assert graph.nodes["reference"] == Node("reference", "reference") and len(graph.tasks) == 3


def test_another_graph_comes_to_134_tasks_in_a_dozen_lines():
    groups = {
        "conditional_generation": {"one": ["condition>target"], "two": ["condition+condition>target"]},
        "prediction": {"prediction": ["target>condition"], "several": ["target>condition+condition"]},
        "restoration": {"restoration": ["degradation>target"], "with_map": ["degradation + line|alpha > target"]},
        "editing": {"editing": ["edit>target"], "edited_map": ["edit+condition>target"]},
        "style_transfer": {"flat": ["target|condition+flat_ref>flat"], "round": ["target|condition+round_ref>round"]},
    }
    graph = AnnotationGraph(
        nodes={
            "condition": ["line", "colours", "alpha", "canny", "grey"],
            "degradation": [f"fault_{i}" for i in range(32)],
            "style": ["flat", "round"],
            "edit": ["skin_tone", "gender"],
        },
        groups=groups,
        unseen=["flat>alpha+flat_ref", "round>alpha+round_ref"],
    )
    assert len(graph.tasks) == 5 + 10 + 5 + 10 + 32 + 64 + 2 + 10 + 6 + 6
    assert graph.strongly_connected()


def test_the_graph_needs_no_torch():
    code = "import sys, datamodules.graph.graph; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
