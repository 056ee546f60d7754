"""Previews of an annotation graph: of data with in-context rows, and of a graph alone, printed honestly."""

import math
import re
from collections import Counter
from html import unescape

import pytest
from previews import figures, made, run, texts
from small_runs import line
from tiny import composed

from datamodules.graph.graph import AnnotationGraph
from unigen.pipeline.build import build
from unigen.tools.preview.gathering import IMPOSSIBLE, Preview, drawn, expectation, images_of, shown
from unigen.tools.preview.graph import connection_table, draws_table, strict_dead_ends
from unigen.tools.preview.html import page
from unigen.tools.preview.tables import tasks_table

GRID = ("data=emoji_graph", "data.tasks=null", "data.rows=[0,3]", "conditioning/embedding=none", "data.batch_size=20")


@pytest.fixture(scope="module")
def grid() -> Preview:
    return made(*GRID)


# --- a graph's data with in-context rows -----------------------------------------------------------------------------


def test_draws_are_counted_without_decoding_as_with_it():
    data = build(composed(*line(*GRID))["data"])
    data.prepare_data()
    loader = data.train_dataloader()
    draws = drawn(loader, 45, data.tasks)
    decoded = [loader.dataset[draw.item] for draw in draws]
    assert [(draw.slots, draw.task) for draw in draws] == [(sample.slots, sample.task) for sample in decoded]
    assert len(draws) == 45 and len({draw.slots for draw in draws}) > 1
    assert [draw.task for draw in draws[1:]] != [sample.task for sample in decoded[:-1]]  # negative control
    several = shown(draws, 2)
    assert several[:2] == draws[:2] and len({draw.slots for draw in several}) == len(several) - 1


def test_the_histogram_adds_up_and_stands_beside_the_graphs_probabilities(grid):
    assert sum(grid.tasks.values()) == grid.drawn == 1000 and math.isclose(sum(grid.expected.values()), 1)
    groups = Counter(task.group for task in grid.graph.training_tasks)
    likely = {t.name: 1 / len(groups) / groups[t.group] for t in grid.graph.training_tasks if t.name in grid.expected}
    assert set(grid.tasks) <= set(grid.expected) == set(likely) and len(likely) > 120  # a few need more glyphs
    rows = {row[0]: row[1:3] for row in texts(tasks_table(grid))}
    assert sum(int(count.replace(",", "")) for count, _ in rows.values()) == 1000
    wanted = {name: f"{1000 * share / sum(likely.values()):.1f}" for name, share in likely.items()}
    assert {name: expected for name, (_, expected) in rows.items()} == wanted
    assert wanted["jpeg>target"] != wanted["target>reference"]  # negative control
    forms = Counter(len({slot.row for slot in bucket.slots}) for bucket in grid.buckets for _ in range(bucket.count))
    assert sum(forms.values()) == 1000 and set(forms) == {1, 2, 3, 4}


def test_rows_are_a_grid_and_the_page_says_what_refuses_them(grid):
    html = page(grid)
    refusal = "temporal positions; the backbone holds 11 (backbone.config"
    assert any(r.startswith(IMPOSSIBLE) and refusal in r for r in grid.refusals) and refusal in unescape(html)
    assert len(html) < 2_000_000
    blocks = html.split('<div class="sample')[2:]  # the first is the block around them
    for sample, block in zip(grid.samples, blocks, strict=True):
        rows = {slot.row for slot in sample.slots}
        labels = ["query"] if len(rows) > 1 else []
        wanted = [*(f"example {i + 1}" for i in range(len(rows) - 1)), *labels] or ["time →"]
        assert re.findall(r'<div class="row">([^<]+)</div>', block) == wanted
        words = figures(block)
        assert [w.split()[1] for w in words] == [slot.name for slot in sample.slots]
        conditions, targets = (side.split("+") for side in sample.task.split(">"))
        assert [w.split()[2].rstrip(",") for w in words] == [*conditions, *targets] * len(rows)
    placed = [words for block in blocks if "no layout" not in block for words in figures(block)]
    examples = [words for words in placed if words.split()[1].startswith("example")]
    assert examples and all(w.startswith("clean|") and "role example" in w for w in examples), "as frames"
    assert "no layout: see above" in html and "The graph that tasks are drawn from" in html
    assert not made("data=emoji_graph", "data.tasks=null", "data.rows=[0,0]", "conditioning/embedding=none").refusals


def test_one_task_is_expected_alone_and_keeps_the_graphs_proportions(grid):
    two = expectation(grid.graph, ("target>reference", "jpeg>target"))  # half of a group's share, and a 32nd
    assert two == pytest.approx({"target>reference": 16 / 17, "jpeg>target": 1 / 17})
    assert two["jpeg>target"] != pytest.approx(1 / 2)
    slots = grid.samples[0].slots
    assert images_of("canny", slots) == [""] * len(slots) != images_of(grid.samples[0].task, slots)


def test_three_rows_of_four_columns(tmp_path, capsys):
    task = "reference+canny+openmoji_ref>openmoji"
    words = ["data=emoji_graph", f"data.tasks=['{task}']", "data.rows=[2,2]", "conditioning/embedding=none"]
    code, said, _ = run(capsys, *words, *line(), f"out={tmp_path}", "samples=1")
    assert code == 0 and "no run of this is possible: formatter 'frames': 12 images take 12 temporal positions" in said
    assert "8 example, 3 condition, 1 target in 3 rows" in said
    shows = [words.split()[2] for words in figures((tmp_path / "preview.html").read_text())]
    assert shows == ["reference,", "canny,", "openmoji_ref,", "openmoji,"] * 3


# --- graphs ----------------------------------------------------------------------------------------------------------


def row_of(said: str, start: str) -> list[str]:
    return re.split(r"\s{2,}", next(text for text in said.splitlines() if text.strip().startswith(start)).strip())


def test_graph200k_as_released(tmp_path, capsys):
    code, said, _ = run(capsys, "graph=graph200k", f"out={tmp_path / 'g.html'}")
    assert code == 0 and said.endswith(f"preview: {tmp_path / 'g.html'}\n")
    assert "49 annotation types" in said and row_of(said, "degradation")[1] == "32"
    assert "129 tasks, and 1,000 draws of them" in said and "134 tasks, and" not in said
    loose = "bbox, instant_style, redux_style"
    told = f"no: {loose} do not lead back to the target"
    assert row_of(said, "the 129 of its groups") == ["the 129 of its groups", told]
    assert row_of(said, "with the 6 unseen ones")[1] == "no: bbox does not lead back to the target"
    assert "55 of 2, 65 of 3, 9 of 4" in said and "restoration 64" in said
    assert row_of(said, "graph200k_bbox")[2] == "134"
    html = (tmp_path / "g.html").read_text()
    histogram = html.split("<h2>Draws by task</h2>")[1].split("</table>")[0]
    counts = [int(n) for n in re.findall(r"<td>[^<]+</td><td data-sort=\"(\d+)\"", histogram)]
    assert len(counts) == 130 and sum(counts[:-1]) == counts[-1] == 1000  # the last one is the sum
    assert "<td>reference&gt;target</td>" in histogram and "83.3" in histogram


def test_the_bounding_box_makes_134_tasks_and_with_reversed_ones_all_is_connected(tmp_path, capsys):
    code, said, _ = run(capsys, "graph=graph200k_bbox", f"out={tmp_path}")
    assert code == 0 and "134 tasks, and 1,000 draws" in said and (tmp_path / "preview.html").is_file()
    told = "no: instant_style, redux_style do not lead back to the target"
    assert row_of(said, "the 134 of its groups")[1] == told
    assert row_of(said, "with the 6 unseen ones")[1:] == ["yes: every type leads to every other"]
    assert row_of(said, "graph200k_bbox")[5:] == ["no", "yes"] and row_of(said, "graph200k ")[5:] == ["no", "no"]
    code, said, _ = run(capsys, "graph=emoji", "graph.held_out=['canny>target']", f"out={tmp_path}")
    assert row_of(said, "the 136 trained on")[1].startswith("yes: ") and row_of(said, "canny>target")[1] == "held out"


def test_a_path_by_all_conditions_is_harder_than_by_one():
    nodes = {"condition": ["a", "b"], "reference": ["reference"]}
    graph = AnnotationGraph(nodes=nodes, groups={"m": {"g": ["a + b > target", "reference > a"]}})
    assert graph.dead_ends(graph.tasks) == () and strict_dead_ends(graph, graph.tasks) == ("a", "b", "reference")
    (row,) = texts(connection_table(graph))
    assert " ".join(row[1].split()) == (
        "yes: every type leads to every other; but no: a, b, reference do not lead back to the target, if a task needs "
        "all of its conditions at hand"
    )
    easy = AnnotationGraph(nodes=nodes, groups={"m": {"g": ["a|b > target", "reference > a"]}})
    assert strict_dead_ends(easy, easy.tasks) == ()
    assert texts(connection_table(easy)) == [["the 3 of its groups", "yes: every type leads to every other"]]


def test_a_histogram_without_probabilities_has_no_such_column():
    assert draws_table({"a": 1, "b": 3}, None, "t").header == ["task", "drawn", ""]
    table = draws_table({"a": 1, "b": 3}, {"a": 0.75, "b": 0.25}, "t")
    assert [row[:3] for row in texts(table)] == [["a", "1", "3.0"], ["b", "3", "1.0"]]
    assert [row[3].count("█") for row in texts(table)] == [8, 24]
