"""Intervals over items and seeds, protocol cards, missing seeds, a table's runs: all on made-up run folders."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_runs import bold, column, make_run, notes, table
from small_runs import command
from test_report_published import KEY, VALUES, differences, make, texts, views
from test_report_published import notes as said
from tiny import CONF

from unigen.evaluation.answers import sentences
from unigen.evaluation.compared import reference_arm
from unigen.evaluation.costs import hours
from unigen.evaluation.runs import PaperTable, read_table
from unigen.evaluation.scores import write_scores
from unigen.tools.forms.tables import p_cell
from unigen.tools.report.html import to_html
from unigen.tools.report.latex import to_latex
from unigen.tools.report.markdown import to_markdown
from unigen.tools.report.report import build_report

ITEMS = 64
CLUSTERS = [{"key": f"{i}/canny", "clusters": {"base glyph": str(i // 2)}} for i in range(ITEMS)]


def scores(seed: int, shift: float = 0.0, spread: float = 0.01) -> np.ndarray:
    """(N,) of one run: items differ far more than arms do."""
    hard = np.random.default_rng(0).normal(0.5, 0.2, ITEMS)
    return hard + shift + np.random.default_rng([seed, round(10_000 * (shift + 1))]).normal(0, spread, ITEMS)


def measured_run(folder: Path, name: str, seed: int, each: np.ndarray, **changes) -> Path:
    metric = {"value": float(each.mean()), "low": 0.1, "high": 0.9, "better": "higher", "items": len(each)}
    run = make_run(folder, name, seed, metrics={"f1": metric | changes.pop("metric", {})}, config={"mask": name})
    write_scores(run, {"f1": each.tolist()}, CLUSTERS[: len(each)])
    return run


def measured_sweep(root: Path, shifts: dict[str, float], seeds=(0, 1, 2)) -> Path:
    for name, shift in shifts.items():
        for seed in seeds:
            measured_run(root / f"{name}{seed}", name, seed, scores(seed, shift))
    return root


def intervals(root: Path, **given) -> tuple[str, dict[str, dict[str, str]], str]:
    """The reference, the cells of means and differences by arm and by column, and the notes of both tables."""
    report, rows, said = build_report(str(root), **given), {}, []
    for title in ("Differences", "Means"):
        for found in (each for each in report.tables if each.title == title):
            said += found.notes
            for row in found.rows:
                cells = dict(zip(found.header, (cell.text for cell in row), strict=True))
                rows.setdefault(row[1].text.partition(" − ")[0], {}).update(cells)
    return report.answers[0].against, rows, "\n".join(said)


# the bootstrap --------------------------------------------------------------------------------------------------------


def test_the_table_tells_arms_apart_only_where_both_tests_do(tmp_path):
    root = measured_sweep(tmp_path, {"a": 0.0, "b": 0.2, "c": 0.0005, "d": -0.2})
    against, rows, notes_ = intervals(root, reference="a")
    assert against == "a" and {name: row["verdict"] for name, row in rows.items()} == {
        "a": "reference",
        "b": "better",
        "c": "open",
        "d": "worse",
    }
    assert rows["b"]["shared seeds"] == "3" and rows["b"]["items"] == "32", "the clusters of 64 items"
    assert float(rows["b"]["ours"]) == pytest.approx(0.2, abs=0.005)
    low, high = json.loads(rows["c"]["interval"].replace("+", ""))
    assert low < 0 < high and "Corrected for 3 differences" in notes_
    assert "for the 3 differences to the reference" in notes(build_report(str(root), reference="a"))
    assert intervals(root)[0] == "a", "the first arm, where no table says another"
    assert bold(build_report(str(root), reference="a")) == {("b", "f1 ↑")}


def test_one_seed_prints_no_verdict_in_any_form(tmp_path):
    root = measured_sweep(tmp_path, {"a": 0.0, "b": 0.2}, seeds=(3,))
    _, rows, _ = intervals(root)
    assert rows["b"]["verdict"] == "open" and rows["b"]["p, seeds"] == rows["b"]["p after Holm"] == "–"
    assert float(rows["b"]["p, items"].removeprefix("< ")) < 0.01, "although the items alone are clear"
    report = build_report(str(root))
    assert not any(
        cell.bold for each in report.tables if each.title != "Config differences" for row in each.rows for cell in row
    )
    assert "One seed cannot separate arms" in notes(report)
    for form in (to_markdown(report, tmp_path), to_html(report), to_latex(report)):
        assert "cannot tell: one seed" in form and not re.search(r"Better than|better( \||\*\*|<|\})|textbf", form)
    whole = build_report(str(measured_sweep(tmp_path / "whole", {"a": 0.0, "b": 0.2})))
    for form in (to_markdown(whole, tmp_path), to_html(whole), to_latex(whole)):
        assert "Better than" in form and re.search(r"better( +\||\*\*|<|\})", form), "negative control"


@pytest.mark.parametrize(
    ("p", "text"),
    [(None, "–"), (0.0, "< 0.0001"), (0.00412, "0.0041"), (0.0496, "0.050"), (0.04949, "0.049"), (0.314, "0.31")],
)
def test_p_values_are_shown_as_closely_as_a_verdict_needs(p, text):
    assert p_cell(p) == (text, p, False)


def test_scores_that_do_not_say_which_items_are_alike_are_named_once(tmp_path):
    root = measured_sweep(tmp_path, {"a": 0.0, "b": 0.2})
    assert "which items are alike" not in intervals(root)[2]
    for path in root.glob("*/scores.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({"item": x["item"], "f1": x["f1"]}) + "\n" for x in lines))
    _, rows, notes_ = intervals(root)
    assert (
        notes_.count("scores.jsonl have no clusters") == 1
        and rows["b"]["items"] == "64"
        and rows["b"]["verdict"] == "better"
    )


def test_lower_is_better_where_the_metric_says_so(tmp_path):
    for name, shift in {"a": 0.0, "b": 0.2}.items():
        for seed in range(3):
            folder = tmp_path / f"{name}{seed}"
            measured_run(folder, name, seed, scores(seed, shift), metric={"better": "lower"})
    assert intervals(tmp_path)[1]["b"]["verdict"] == "worse"


def test_scores_that_do_not_fit_are_left_out_and_named(tmp_path):
    root = measured_sweep(tmp_path, {"a": 0.0, "b": 0.05, "c": 0.1, "d": 0.2, "e": 0.3})
    for name in "bcd":
        for seed in (1, 2):
            shutil.rmtree(root / f"{name}{seed}")
    (root / "b0" / "scores.jsonl").unlink()
    (root / "c0" / "scores.jsonl").write_text('{"item": 0, "f1"')
    write_scores(root / "d0", {"f1": [0.5, 0.5]})
    _, rows, _ = intervals(root)
    both, none = "seeds and items", "–"
    assert [rows[name]["covers"] for name in "abcde"] == [both, none, none, none, both]
    assert rows["e"]["verdict"] == "better" and rows["b"]["verdict"] == "open"
    where = tmp_path.name
    damaged = "scores.jsonl, line 1, does not hold an item's scores (is the file damaged?)"
    told, disagree = notes(build_report(str(root))), "scores.jsonl and summary.json disagree on f1"
    for run, why in {"b0": "no scores.jsonl", "c0": damaged, "d0": disagree}.items():
        assert told.count(f"No scores of single items in {where}/{run}: {why}.") == 1


def test_another_protocol_is_not_compared(tmp_path):
    root = measured_sweep(tmp_path, {"a": 0.0, "b": 0.2, "c": 0.3})
    for seed in range(3):
        path = root / f"c{seed}" / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": 7}))
    _, rows, _ = intervals(root)
    assert rows["c"]["verdict"] == "not compared" and "ours" not in rows["c"] and rows["b"]["verdict"] == "better"
    assert "Not compared: c." in sentences(build_report(str(root)).answers[0])


def test_the_reference_is_the_one_named_or_the_tables_last_row_with_runs(tmp_path):
    arms = build_report(str(measured_sweep(tmp_path, {"a": 0.0, "b": 0.05}))).arms
    assert [reference_arm(arms, order, None) for order in ([], ["b", "a"], ["a", "b", "z"])] == [0, 0, 1]
    assert reference_arm(arms, ["b", "a"], "b") == 1
    with pytest.raises(ValueError, match=r"reference=c is no arm of this report; its arms are a, b"):
        reference_arm(arms, [], "c")


# seeds and cards ------------------------------------------------------------------------------------------------------


def test_an_arm_that_lacks_a_seed_takes_no_pairing_from_the_others(tmp_path):
    make(tmp_path, VALUES | {"c": VALUES["c"][:2]})
    rows = differences(tmp_path)
    assert {name: row["shared seeds"] for name, row in rows.items()} == {"c − a": "2", "b − a": "3"}
    assert rows["b − a"]["verdict"] == "worse, as published" and rows["c − a"]["verdict"].startswith("cannot tell")
    assert float(rows["c − a"]["ours"]) == pytest.approx(((0.45 - 0.50) + (0.48 - 0.55)) / 2, abs=1e-2)
    whole = differences(make(tmp_path / "whole"))
    assert whole["b − a"]["p, seeds"] == rows["b − a"]["p, seeds"], "its p over seeds is its own"


def test_an_arm_that_cannot_be_compared_is_no_reference_unless_it_is_named(tmp_path):
    root = measured_sweep(tmp_path, {"a": 0.0, "b": 0.2, "c": 0.3})
    for seed in range(3):
        path = root / f"a{seed}" / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": 7}))
    assert intervals(root)[0] == "b"
    against, rows, _ = intervals(root, reference="a")
    assert against == "a" and rows["b"]["verdict"] == "not compared"
    assert "Nothing is compared here" in build_report(str(root), reference="a").summary


def test_numbers_of_two_cards_are_not_put_in_one_column(tmp_path):
    def hashed(value: float, card: str | None) -> dict:
        return {"f1": {"value": value, "better": "higher"} | ({"protocol_hash": card} if card else {})}

    for name, card in {"a": "1234567890ab", "b": "1234567890ab", "c": "fedcba098765", "d": None}.items():
        make_run(tmp_path / name, name, metrics=hashed(0.5, card))
    report, root = build_report(str(tmp_path)), tmp_path.name
    assert column(report, "f1 @12345678 ↑") == ["0.500", "0.500", "–", "–"]
    assert column(report, "f1 @fedcba09 ↑") == ["–", "–", "0.500", "–"]
    assert column(report, "f1 @no card ↑") == ["–", "–", "–", "0.500"]
    assert (
        f"f1 was taken under 3 protocol cards, which are not put in one column (12345678: {root}/a, {root}/b; "
        f"fedcba09: {root}/c; no card: {root}/d)."
    ) in notes(report)
    one = build_report(f"{tmp_path / 'a'},{tmp_path / 'b'}")
    assert column(one, "f1 ↑") == ["0.500", "0.500"] and "protocol cards" not in notes(one)


def test_cards_are_apart_beside_published_numbers_too(tmp_path):
    make(tmp_path)
    path = tmp_path / "a0" / "summary.json"
    summary = json.loads(path.read_text())
    summary["metrics"]["ours_i"]["protocol_hash"] = "abcdefabcdef"
    path.write_text(json.dumps(summary))
    found = views(tmp_path)[""]
    assert found.header[2:] == ["clip_i (published)", "ours_i @no card (ours) ↑", "ours_i @abcdefab (ours) ↑"]
    assert [row[4].split(" [")[0] for row in texts(found)] == ["–", "–", "0.500"]


def test_an_absent_metric_gives_its_reason_and_does_not_make_its_arm_incomparable(tmp_path):
    protocol = {"split": "test", "metric.f1": {"library": "x"}}
    told = {"f1": {"value": 0.5, "better": "higher", "protocol_hash": "1"}}
    lost = {"f1": {"value": None, "better": "higher", "reason": "weights of <clip> are not here"}}
    make_run(tmp_path / "a", "a", metrics=told | {"g": {"value": 1.0, "protocol_hash": "2"}}, protocol=protocol)
    lost["g"] = {"value": 1.0, "protocol_hash": "2"}
    make_run(tmp_path / "b", "b", metrics=lost, protocol={"split": "test"})
    report = build_report(str(tmp_path))
    assert column(report, "arm") == ["a", "b"] and column(report, "f1 ↑") == ["0.500", "–"]
    assert f"f1 is absent: weights of <clip> are not here ({tmp_path.name}/b)." in notes(report)


@pytest.mark.parametrize(
    ("summary", "gpu", "cpu"),
    [
        ({"device": "CPU, 4 threads", "seconds": 1800.0}, None, 2.0),
        ({"device": "NVIDIA H100, 16 threads", "seconds": 1800.0, "ranks": 8}, 4.0, None),
        ({"device": "CPU, 4 threads"}, None, None),
        ({"seconds": 1800.0}, None, None),
    ],
)
def test_hours_are_times_what_computes(summary, gpu, cpu):
    assert (hours(summary, "GPU"), hours(summary, "CPU")) == (gpu, cpu)


def test_costs_are_columns_where_runs_tell_them(tmp_path):
    throughput = {"samples_per_s": 4.0, "model_tflops": 0.5, "seconds": 20.0}
    make_run(tmp_path / "a", device="CPU, 2 threads", tokens=42, peak_memory_gib=1.5, throughput=throughput)
    report = build_report(str(tmp_path))
    cells = {name: column(report, name)[0] for name in ("tokens a sample", "CPU-hours", "TFLOP", "host GiB")}
    assert cells == {"tokens a sample": "42", "CPU-hours": "0.1", "TFLOP": "10", "host GiB": "1.50"}
    assert not {"GPU-hours", "GPU GiB", "s an image"} & set(table(report, "Results").header)


# a table's runs -------------------------------------------------------------------------------------------------------

PAPER = PaperTable("t", "Paper, Table 9", ["x", "b", "a"], {"clip_i": ("ours_i",), "fid": ()}, "Someone, Table 9")
PAPER = PAPER._replace(published={"x": {"clip_i": 0.7, "fid": 9.5}, "b": {"clip_i": 0.8}, "a": {"clip_i": 0.95}})


def test_a_table_without_runs_shows_what_is_published(tmp_path):
    report = build_report(None, PAPER)
    [found] = report.tables
    assert report.summary == "" and report.answers == []
    assert report.title == found.title == "Paper, Table 9" and found.header[2:] == [
        *("clip_i (published)", "fid (published)")
    ]
    assert texts(found) == [["x", "0", "0.70", "9.5"], ["b", "0", "0.80", "–"], ["a", "0", "0.95", "–"]]
    assert "Published numbers: Someone, Table 9" in said(found) and "No finished run here: all rows." in said(found)


def test_a_table_takes_its_own_runs_and_names_the_others(tmp_path):
    make(tmp_path, {"a": VALUES["a"], "b": VALUES["b"]}, key=None, published={})
    make_run(tmp_path / "other", "else")
    (make_run(tmp_path / "b9", "b", 9) / "summary.json").unlink()
    (make_run(tmp_path / "else9", "else", 9) / "summary.json").unlink()
    report = build_report(str(tmp_path), PAPER)
    [found] = [each for each in report.tables if each.title == "Paper, Table 9, task canny"]
    assert [row[:3] for row in texts(found)] == [["x", "0", "0.70"], ["b", "3", "0.80"], ["a", "3", "0.95"]]
    assert [row[0].text for row in table(report, "Not in the table").rows] == [f"{tmp_path.name}/b9"]
    assert "Runs here that are not arms of this table: else (2)." in notes(report)
    assert column(report, "arm") == ["a", "b"] and "else" in column(build_report(str(tmp_path)), "arm")


def test_the_command_takes_a_tables_runs_from_the_folder_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    key = KEY | {"name": "realgeneral_masks", "metrics": {"clip_i": "ours_i"}}
    make(Path("runs"), {"fcd_mask_a": (0.5, 0.6)}, key=key, published={})
    make_run(Path("runs") / "other", "else")
    assert command("report.py", "table=realgeneral_masks") == 0
    folder = Path("runs") / "reports" / "realgeneral_masks"
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {folder / 'report.html'}"
    markdown = (folder / "report.md").read_text()
    assert re.search(r"\| fcd_mask_a +\| +2 \| +0.849 \|", markdown) and "else (1)" in markdown
    assert command("report.py", "table=realgeneral_masks", "reference=nobody") == 1
    assert "reference=nobody is no arm of this report" in capsys.readouterr().err
    assert command("report.py", "table=realgeneral_mask") == 1
    assert "unknown table 'realgeneral_mask' (did you mean 'realgeneral_masks'?)" in capsys.readouterr().err
    assert command("report.py", "table=realgeneral_masks", "publish=yes") == 1
    assert "publish=yes is neither true nor false" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path / "runs" / "other")
    assert command("report.py", "table=visualcloze_style", "out=here") == 0 and Path("here/report.tex").exists()


def test_a_table_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "t.yaml").write_text("table: {name: t}")
    with pytest.raises(ValueError, match=r"t.yaml: 'table' has no usable name, order or metrics"):
        read_table(tmp_path, "t")
    (tmp_path / "t.yaml").write_text("table: {name: t, order: [a], metrics: {f: null}}")
    assert read_table(tmp_path, "t").metrics == {"f": ()}


def test_a_table_of_ones_own_is_named_by_its_path(tmp_path):
    (tmp_path / "mine.yaml").write_text("table: {name: mine, title: Mine, order: [a], metrics: {f: ssim}}")
    assert read_table(CONF / "table", str(tmp_path / "mine.yaml")).title == "Mine"
    with pytest.raises(ValueError, match=r"nobody.yaml: there is no such file"):
        read_table(CONF / "table", str(tmp_path / "nobody.yaml"))
    with pytest.raises(ValueError, match=r"unknown table 'mine' .*; a table of your own is named by its path"):
        read_table(CONF / "table", "mine")
