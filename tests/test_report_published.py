"""A published table beside ours, on made-up run folders: what it computes, what it does not claim, what is missing."""

import json
import statistics
from pathlib import Path

import pytest
import scipy.stats
from made_runs import make_run, write_item_scores

from unigen.intervals import mean_interval
from unigen.report import build_report
from unigen.report_html import to_html
from unigen.report_print import print_tables, to_markdown
from unigen.report_tables import Table, decimals

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


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def notes(table: Table) -> str:
    return "\n".join(table.notes)


def test_published_and_ours_stand_side_by_side_in_the_papers_order(tmp_path):
    table = views(make(tmp_path))[""]
    assert table.title == "Paper, Table 9, task canny" and table.terminal
    assert table.header == ["arm", "seeds", "clip_i (published)", "ours_i (ours) ↑"]
    mean, half, _ = mean_interval(VALUES["c"])
    assert texts(table)[0] == ["c", "3", "0.8", f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"]
    assert [row[0] for row in texts(table)] == ORDER != list(VALUES)  # the folders are in another order
    assert "t(0.975, n − 1) · s / √n" in notes(table) and "Compare orders and signs, not values" in notes(table)
    assert "n=1" not in notes(table)
    assert not any(t.title.startswith("Published (") for t in build_report(str(tmp_path)).tables)  # it is all above


def test_one_seed_has_no_interval_and_tells_no_order(tmp_path):
    found = views(make(tmp_path, seeds=(5,)))
    assert [row[3] for row in texts(found[""])] == ["0.450 (n=1)", "0.450 (n=1)", "0.500 (n=1)"]
    assert "one seed has no interval" in notes(found[""]) and "In brackets" not in notes(found[""])
    order = found["order of the arms"]
    said = "0 as published, 0 opposite, 2 not resolved"
    assert texts(order) == [["ours_i", "clip_i", "a > c = b", "not distinguishable from a: c, b", said]]
    assert "smallest resolvable difference" not in found
    assert {row[-1] for row in texts(found["differences"])} == {"not resolved: one seed"}
    assert not any(cell.bold for each in found.values() for row in each.rows for cell in row)


def test_the_smallest_resolvable_difference_is_the_one_computed_by_hand(tmp_path):
    """Two differences are tested, so each has 5 % / 2: t(0.9875, 2) = 6.2053 by printed tables."""
    table = views(make(tmp_path))["smallest resolvable difference"]
    [row] = table.rows
    cells = dict(zip(table.header, row, strict=True))
    gaps = {name: [x - y for x, y in zip(VALUES[name], VALUES["a"], strict=True)] for name in "bc"}
    limits = sorted(6.205347 * statistics.stdev(each) / 3**0.5 for each in gaps.values())
    assert cells["over seeds"].sort == pytest.approx(limits[1]) and cells["shared seeds"].text == "3"
    assert cells["over seeds"].text == f"{limits[0]:.3f} to {limits[1]:.3f}" == cells["resolved from"].text
    assert 0 < cells["over items"].sort < limits[1], "of 8 clusters, and the seeds' own spread"
    assert cells["largest difference found"].sort == pytest.approx(1.63 / 3 - 1.47 / 3)
    assert all(word in notes(table) for word in ("t · s / √n", "Corrected for 2 differences", "about half"))


def test_shared_seeds_resolve_what_other_seeds_do_not(tmp_path):
    shared = views(make(tmp_path / "shared"))
    for i, (name, numbers) in enumerate(VALUES.items()):
        make(tmp_path / "own", {name: numbers}, seeds=range(3 * i, 3 * i + 3))
    own = views(tmp_path / "own")
    assert texts(shared["order of the arms"])[0][2:] == [
        "a > c = b",
        "worse than a: c, b",
        "2 as published, 0 opposite, 0 not resolved",
    ]
    assert texts(own["order of the arms"])[0][2:] == [
        "a > c = b",
        "not distinguishable from a: c, b",
        "0 as published, 0 opposite, 2 not resolved",
    ]
    rows = texts(shared["differences"])
    assert [row[1] for row in rows] == ["c − a", "b − a"] and [row[2] for row in rows] == ["-0.1", "-0.1"]
    assert [row[-1] for row in rows] == ["resolved, as published"] * 2
    expected = scipy.stats.ttest_rel(VALUES["b"], VALUES["a"]).pvalue
    assert shared["differences"].rows[1][5].sort == pytest.approx(expected)
    assert shared["differences"].rows[1][7].sort == pytest.approx(2 * expected), "the smaller of two, by Holm"
    assert all(row[3].bold for row in shared["differences"].rows)
    assert not any(row[3].bold for row in own["differences"].rows)
    assert {(row[4], row[-1]) for row in texts(own["differences"])} == {("0", "not resolved")}


def test_a_difference_against_the_published_one_is_called_so(tmp_path):
    found = views(make(tmp_path, published={"a": 0.7, "b": 0.8, "c": 0.7}))
    assert texts(found["order of the arms"])[0][2:] == [
        "b > c = a",
        "worse than a: c, b",
        "0 as published, 1 opposite, 0 not resolved",
    ]
    said = [row[-1] for row in texts(found["differences"])]
    assert said == ["resolved, published as equal", "resolved, against the published"]
    lower = views(make(tmp_path / "lower", better="lower"))
    assert texts(lower["order of the arms"])[0][2:4] == ["c = b > a", "better than a: c, b"]


def test_equal_arms_are_never_resolved(tmp_path):
    same = {"a": VALUES["a"], "b": VALUES["a"]}
    found = views(make(tmp_path, same, key=KEY | {"order": ["a", "b"]}))
    assert texts(found["order of the arms"])[0][3] == "not distinguishable from b: a"
    assert texts(found["differences"])[0][3:] == ["+0.000", "3", *["1.00"] * 3, "0.000", "not resolved"]
    moved = {"a": VALUES["a"], "b": tuple(x + 0.001 for x in VALUES["a"])}
    found = views(make(tmp_path / "moved", moved, key=KEY | {"order": ["a", "b"]}))
    assert texts(found["order of the arms"])[0][3] == "worse than b: a"


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
    results, intervals = report.tables[:2]
    assert "for the 2 differences to the reference that this page tests" in notes(results)
    assert "Verdicts are on the metrics that Paper, Table 9 asks about" in notes(results)
    said = {(row[0].text, row[1].text): row[-1].text for row in intervals.rows}
    assert said["ours_i ↑", "c"] == "worse" and said["other ↑", "c"] == "–" and said["ours_i ↑", "a"] == "reference"
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
    assert "No run here has ours_dino, which plays the part of dino." in said and "Without ours_i: b." in said
    assert "No finished run here: d." in said and "Not in the published table: extra." in said
    assert [row[:2] for row in texts(found["order of the arms"])] == [["ours_i", "clip_i"]]
    assert "Some arms lack seeds" in notes(found["smallest resolvable difference"])
    whole = notes(views(make(tmp_path / "whole"))[""])
    assert not any(text in whole for text in ("No run here", "Without", "No finished run", "Not in the published"))


def test_runs_without_any_of_the_metrics_show_the_published_numbers_only(tmp_path):
    found = views(make(tmp_path, metrics={"rmse": {"value": 0.1, "better": "lower"}}))
    intervals = build_report(str(tmp_path)).tables[1]
    assert {row[-1].text for row in intervals.rows} == {"reference", "not resolved"}, "then all metrics have verdicts"
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
    assert texts(found["order of the arms"])[0][2:4] == ["c = b", "not distinguishable from b: c"]
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
    print_tables(report)
    printed = capsys.readouterr().out
    for words in ("order of the arms", "smallest resolvable difference"):
        assert all(words in text for text in (markdown, page, printed))
    assert ": differences</h2>" in page and ": differences" not in printed
    assert "Paper <b>" in printed and "Paper <b>" not in page and "Paper <b>" not in markdown
    assert "\x1b" not in printed + page + markdown and "<i>" not in page


@pytest.mark.parametrize(("unit", "count"), [(0.0134, 3), (0.0042, 4), (0.1, 2), (1.0, 1), (25.0, 0), (1e-30, 9)])
def test_decimals_show_two_digits_of_what_can_be_told(unit, count):
    assert decimals(unit) == count
