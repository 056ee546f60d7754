"""A published table beside ours, on made-up run folders: what it computes, what it does not claim, what is missing."""

import json
import statistics
from pathlib import Path

import pytest
import scipy.stats
from made_runs import make_run, write_item_scores
from made_runs import table as table_of

from unigen.core.intervals import decimals, mean_interval
from unigen.evaluation.answers import Answer, sentences
from unigen.tools.forms.tables import Table
from unigen.tools.report.html import to_html
from unigen.tools.report.markdown import print_report, to_markdown
from unigen.tools.report.report import build_report

ORDER = ["c", "b", "a"]
PUBLISHED = {"a": 0.9, "b": 0.8, "c": 0.8}
# Seeds do the same to every arm (0, 4, 8 hundredths) up to a hundredth: paired differences are clear, unpaired are not.
VALUES = {"a": (0.50, 0.55, 0.58), "b": (0.45, 0.49, 0.53), "c": (0.45, 0.48, 0.54)}
KEY = {"name": "t", "title": "Paper, Table 9", "order": ORDER, "metrics": {"clip_i": "ours_i"}}


def metric(value: float | None, better: str = "higher") -> dict:
    return {"ours_i": {"value": value, "low": 0.1, "high": 0.9, "better": better, "items": 128}}


def make(root: Path, values=VALUES, seeds=(0, 1, 2), key=KEY, published=PUBLISHED, better="higher", **changes) -> Path:
    for name, numbers in values.items():
        for seed, value in zip(seeds, numbers, strict=False):
            told = {"published": {"source": "Table 9", "clip_i": published[name]}} if name in published else {}
            config = {"table": key, "mask": name, "task": {"name": changes.get("task", "canny")}}
            summary = {"metrics": metric(value, better), **told, **changes}
            make_run(root / f"{name}{seed}", name, seed, config=config, **summary)
    return root


def views(root: Path) -> dict[str, Table]:
    """The tables of the published one by the end of their titles."""
    found = build_report(str(root)).tables
    return {t.title.partition(", task canny")[2].removeprefix(": "): t for t in found if t.title.startswith("Paper")}


def answer(root: Path) -> Answer:
    """The one answer of a sweep's report."""
    [found] = build_report(str(root)).answers
    return found


def differences(root: Path) -> dict[str, dict[str, str]]:
    """The cells of the table of differences, by arms and by column."""
    found = table_of(build_report(str(root)), "Differences")
    return {row[1].text: dict(zip(found.header, (cell.text for cell in row), strict=True)) for row in found.rows}


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def notes(table: Table) -> str:
    return "\n".join(table.notes)


def test_a_table_of_ones_own_does_not_speak_of_published_numbers(tmp_path):
    root = make(tmp_path / "own", published={})
    table = views(root)[""]
    assert table.header == ["arm", "seeds", "ours_i (ours) ↑"] and "nothing is published" in notes(table)
    assert answer(root).title == "ours_i (higher is better)"
    assert answer(make(tmp_path / "paper")).title == "ours_i (higher is better; published as clip_i)", "control"


def test_published_and_ours_stand_side_by_side_in_the_papers_order(tmp_path):
    table = views(make(tmp_path))[""]
    assert table.title == "Paper, Table 9, task canny" and table.terminal
    assert table.header == ["arm", "seeds", "clip_i (published)", "ours_i (ours) ↑"]
    mean, half, _ = mean_interval(VALUES["c"])  # wider than the interval over items
    assert texts(table)[0] == ["c", "3", "0.8", f"{mean:.2f} [{mean - half:.2f}, {mean + half:.2f}]"]
    assert [row[0] for row in texts(table)] == ORDER != list(VALUES)  # the folders are in another order
    assert "Compare orders and signs, not values" in notes(table)
    assert "n=1" not in notes(table)
    assert not any(t.title.startswith("Published (") for t in build_report(str(tmp_path)).tables)  # it is all above


def test_an_arm_of_ones_own_is_compared_with_the_papers(tmp_path):
    """It is the last row and has no number; the paper's last row stays the reference, and its differences are told."""
    numbers = {name: {"clip_i": value} for name, value in PUBLISHED.items()}
    mine = VALUES | {"mine": (0.60, 0.65, 0.68)}
    with_mine = KEY | {"order": [*ORDER, "mine"], "published": numbers, "source": "Table 9"}
    root = make(tmp_path / "own", mine, key=with_mine, published={})
    assert texts(views(root)[""])[-1][:3] == ["mine", "3", "–"]
    assert [(line.arm, line.state) for line in answer(root).lines] == [
        *(("c", "worse"), ("b", "worse"), ("a", "reference"), ("mine", "better"))
    ]
    unpublished = answer(make(tmp_path / "none", mine, key=KEY | {"order": [*ORDER, "mine"]}, published={}))
    assert unpublished.against == "mine", "negative control: a table without numbers"


def test_one_seed_has_an_interval_over_items_and_tells_nothing(tmp_path):
    found = views(make(tmp_path, seeds=(5,)))
    assert [row[3].split(" [")[0] for row in texts(found[""])] == ["0.450", "0.450", "0.500"]
    assert all(row[3].endswith("] (n=1)") for row in texts(found[""]))
    assert "the interval is over items only" in notes(found[""])
    said = answer(tmp_path)
    assert [line.state for line in said.lines] == ["open", "open", "reference"]
    assert sentences(said) == [
        "Cannot yet be told from a: c (-0.050; one seed), b (-0.050; one seed).",
        "Of 2 published differences: 2 open.",
    ]
    report = build_report(str(tmp_path))
    assert "run two seeds or more" in report.summary and "0 resolved" not in report.summary
    assert not any(cell.bold for each in report.tables[:-3] for row in each.rows for cell in row)


def test_the_smallest_resolvable_difference_is_the_one_computed_by_hand(tmp_path):
    """Two differences are tested, so each has 5 % / 2: t(0.9875, 2) = 6.2053 by printed tables."""
    found = differences(make(tmp_path))
    for name in "bc":
        gaps = [x - y for x, y in zip(VALUES[name], VALUES["a"], strict=True)]
        limit = 6.205347 * statistics.stdev(gaps) / 3**0.5
        assert float(found[f"{name} − a"]["resolved from"]) == pytest.approx(limit, rel=0.02), "two digits are shown"
        assert found[f"{name} − a"]["shared seeds"] == "3"
    table = table_of(build_report(str(tmp_path)), "Differences")
    assert all(word in notes(table) for word in ("Corrected for 2 differences", "about half"))


def test_shared_seeds_resolve_what_other_seeds_do_not(tmp_path):
    shared = make(tmp_path / "shared")
    for i, (name, numbers) in enumerate(VALUES.items()):
        make(tmp_path / "own", {name: numbers}, seeds=range(3 * i, 3 * i + 3))
    assert [line.state for line in answer(shared).lines] == ["worse", "worse", "reference"]
    assert sentences(answer(shared))[-1] == "Of 2 published differences: 2 as published."
    own = answer(tmp_path / "own")
    assert [line.state for line in own.lines] == ["open", "open", "reference"]
    assert sentences(own)[-1] == "Of 2 published differences: 2 open."
    rows = differences(shared)
    assert list(rows) == ["c − a", "b − a"] and {row["published"] for row in rows.values()} == {"-0.1"}
    assert {row["verdict"] for row in rows.values()} == {"worse, as published"}
    expected = scipy.stats.ttest_rel(VALUES["b"], VALUES["a"]).pvalue
    table = table_of(build_report(str(shared)), "Differences")
    cells = dict(zip(table.header, table.rows[1], strict=True))
    assert cells["p, seeds"].sort == pytest.approx(expected)
    assert cells["p after Holm"].sort == pytest.approx(2 * expected), "the smaller of two, by Holm"
    assert all(row[3].bold for row in table.rows)
    others = differences(tmp_path / "own")
    assert {(row["shared seeds"], row["verdict"][:11]) for row in others.values()} == {("0", "cannot tell")}


def test_a_difference_against_the_published_one_is_called_so(tmp_path):
    root = make(tmp_path, published={"a": 0.7, "b": 0.8, "c": 0.7})
    assert sentences(answer(root))[-1] == "Of 2 published differences: 1 opposite, 1 published as equal."
    said = [row["verdict"] for row in differences(root).values()]
    assert said == ["worse, published as equal", "worse, opposite"]
    lower = make(tmp_path / "lower", better="lower")
    assert [line.state for line in answer(lower).lines] == ["better", "better", "reference"]


def test_an_arm_that_is_equal_here_and_was_published_as_different_is_not_called_open(tmp_path):
    same = {"a": VALUES["a"], "b": VALUES["a"], "c": (0.2, 0.9, 0.4)}
    said = sentences(answer(make(tmp_path / "other", same, key=KEY | {"margin": "2 %"})))
    assert said[-1] == "Of 2 published differences: 1 equal here, 1 open.", "the first sentences say the same"
    alike = make(tmp_path / "alike", same, key=KEY | {"margin": "2 %"}, published={"a": 0.9, "b": 0.9, "c": 0.8})
    assert sentences(answer(alike))[-1] == "Of 2 published differences: 1 as published, 1 open."


def test_equal_arms_are_never_resolved_and_a_margin_calls_them_equal(tmp_path):
    same = {"a": VALUES["a"], "b": VALUES["a"]}
    own = KEY | {"order": ["a", "b"]}
    open_ = answer(make(tmp_path / "same", same, key=own))
    assert [line.state for line in open_.lines] == ["open", "reference"]
    equal = answer(make(tmp_path / "margin", same, key=own | {"margin": 0.01}))
    assert [line.state for line in equal.lines] == ["equal", "reference"]
    assert sentences(equal)[0] == "Equal to b: a within ± 0.010."
    moved = {"a": VALUES["a"], "b": tuple(x + 0.001 for x in VALUES["a"])}
    found = answer(make(tmp_path / "moved", moved, key=own))
    assert [line.state for line in found.lines] == ["worse", "reference"]


def test_the_family_is_what_the_table_asks_about(tmp_path):
    """Other metrics of the runs have no verdict, and are not corrected for."""
    make(tmp_path)
    for i, folder in enumerate(sorted(tmp_path.iterdir())):
        path = folder / "summary.json"
        summary = json.loads(path.read_text())
        summary["metrics"]["other"] = {"value": i / 10, "better": "higher"}
        path.write_text(json.dumps(summary))
        write_item_scores(folder)
    report = build_report(str(tmp_path))
    results = report.tables[0]
    assert "for the 2 differences to the reference that this page tests" in notes(results)
    assert "Verdicts are on the metrics that Paper, Table 9 asks about" in notes(results)
    assert [found.metric for found in report.answers] == ["ours_i"] and "other ↑" in results.header
    alone = build_report(str(make(tmp_path / "alone", key=None)))
    assert "asks about" not in notes(alone.tables[0]), "negative control"


def test_what_is_missing_is_named(tmp_path):
    key = KEY | {"metrics": {"clip_i": "ours_i", "dino": "ours_dino"}, "order": [*ORDER, "d"]}
    make(tmp_path, VALUES | {"extra": (0.1, 0.2, 0.3)}, key=key)
    for seed in (0, 1, 2):
        path = tmp_path / f"b{seed}" / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"metrics": {}}))
    path = tmp_path / "a2" / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metrics": metric(float("nan"))}))
    found = views(tmp_path)
    assert [row[0] for row in texts(found[""])] == ["c", "b", "a", "d", "extra"]
    rows = {row[0]: row[1:] for row in texts(found[""])}
    assert rows["b"] == ["3", "0.8", "–", "–", "–"] and rows["d"] == ["0", "–", "–", "–", "–"]
    assert rows["a"][2].endswith(" (n=2)") and rows["extra"][1] == "–"
    said = notes(found[""])
    assert "No run here has ours_dino, which corresponds to dino." in said and "Without ours_i: b." in said
    assert "No finished run here: d." in said and "Not in the published table: extra." in said
    assert [(told.metric, told.paper) for told in build_report(str(tmp_path)).answers] == [("ours_i", "clip_i")]
    whole = notes(views(make(tmp_path / "whole"))[""])
    assert not any(text in whole for text in ("No run here", "Without", "No finished run", "Not in the published"))


def test_runs_without_any_of_the_metrics_show_the_published_numbers_only(tmp_path):
    found = views(make(tmp_path, metrics={"rmse": {"value": 0.1, "better": "lower"}}))
    assert [line.state for line in answer(tmp_path).lines] == ["open", "open", "reference"], "then all have verdicts"
    assert list(found) == [""] and [row[2:] for row in texts(found[""])] == [["0.8", "–"], ["0.8", "–"], ["0.9", "–"]]


def test_arms_under_another_protocol_are_marked_and_left_out_of_comparisons(tmp_path):
    make(tmp_path)
    for seed in (0, 1, 2):
        path = tmp_path / f"a{seed}" / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": 100}))
    found = views(tmp_path)
    assert [row[0] for row in texts(found[""])] == ["c", "b", "a [1]"] and "left out of the comparisons" in notes(
        found[""]
    )
    assert [line.state for line in answer(tmp_path).lines] == ["open", "reference", ""]
    assert sentences(answer(tmp_path))[1] == "Not compared: a."
    assert "left out" not in notes(views(make(tmp_path / "whole"))[""])


def test_tables_and_tasks_are_kept_apart_and_runs_without_a_table_have_none(tmp_path):
    make(tmp_path / "canny")
    make(tmp_path / "line", task="line", seeds=(3, 4, 5), key=KEY)
    make(tmp_path / "other", {"x": (0.1, 0.2)}, key=KEY | {"name": "u", "title": "Paper, Table 8", "order": ["x"]})
    found = [t.title for t in build_report(str(tmp_path)).tables if t.title.startswith("Paper") and ": " not in t.title]
    assert sorted(found) == ["Paper, Table 8, task canny", "Paper, Table 9, task canny", "Paper, Table 9, task line"]
    none = {"name": None, "title": None, "order": [], "metrics": {}}
    for i, key in enumerate((none, None, "t", {"name": "t"}, {"name": "t", "order": "a", "metrics": {}})):
        report = build_report(str(make(tmp_path / f"none{i}", key=key)))
        assert not any(t.title.startswith("Paper") for t in report.tables)
        assert any(t.title == "Published (Table 9)" for t in report.tables)


def test_a_table_is_no_setting(tmp_path):
    """Runs of one configuration are one arm, whatever is said of the table beside them."""
    make(tmp_path, {"a": (0.50, 0.55)}, seeds=(0, 1))
    make(tmp_path, {"a": (0.58,)}, seeds=(2,), key=KEY | {"title": "Paper, Table Nine"}, published={"a": 0.91})
    make(tmp_path, {"a": (0.60,)}, seeds=(3,), key=None)
    assert [row[:2] for row in texts(views(tmp_path)[""]) if row[1] != "0"] == [["a", "4"]]
    make(tmp_path / "b", {"a": (0.60,)}, seeds=(4,), key=KEY)
    config = tmp_path / "b" / "a4" / "config.yaml"
    config.write_text(config.read_text().replace("mask: a", "mask: b"))
    assert [row[1] for row in texts(views(tmp_path)[""]) if row[1] != "0"] == ["4", "1"]


def test_every_form_prints_it(tmp_path, capsys):
    evil = KEY | {"title": "Paper <b>|`x`\x1b[31m", "metrics": {"clip_i": "ours_i", "<i>": "ours_i"}}
    report = build_report(str(make(tmp_path, key=evil)))
    markdown, page = to_markdown(report, tmp_path), to_html(report)
    print_report(report)
    printed = capsys.readouterr().out
    for words in ("Of 4 differences to a", "Worse than a", "Of 2 published differences"):
        assert all(words in text for text in (markdown, page, printed))
    assert "<summary>Differences</summary>" in page and "p after Holm" not in printed
    assert "Paper <b>" in printed and "Paper <b>" not in page and "Paper <b>" not in markdown
    assert "\x1b" not in printed + page + markdown and "<i>" not in page


@pytest.mark.parametrize(("unit", "count"), [(0.0134, 3), (0.0042, 4), (0.1, 2), (1.0, 1), (25.0, 0), (1e-30, 9)])
def test_decimals_show_two_digits_of_what_can_be_told(unit, count):
    assert decimals(unit) == count
