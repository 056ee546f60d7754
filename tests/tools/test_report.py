"""The report on made-up run folders: what it computes, what it refuses to claim, and what it survives."""

import json
import os
import subprocess
import sys
import time

import pytest
from made_runs import PROTOCOL, SCRIPT, bold, column, make_run, notes, table, titles
from small_runs import command

from unigen.config.files import write_text as write_atomically
from unigen.evaluation.answers import sentences
from unigen.tools.forms import tables as report_tables
from unigen.tools.report.figures import Drawn
from unigen.tools.report.html import to_html
from unigen.tools.report.latex import to_latex
from unigen.tools.report.markdown import to_markdown
from unigen.tools.report.report import build_report
from unigen.tools.report.wandb import available


def test_means_over_seeds_are_those_computed_by_hand(tmp_path):
    for seed, f1 in enumerate((0.30, 0.34, 0.38)):
        make_run(tmp_path / f"{seed}", seed=seed, f1=f1)
    report = build_report(str(tmp_path))
    assert column(report, "arm") == ["a"] and column(report, "seeds") == ["3"]
    assert column(report, "canny_f1 ↑") == ["0.340 ± 0.040"]  # the population's deviation would be 0.033
    assert [column(report, h)[0] for h in ("steps", "samples seen", "trained", "minutes", "samples/s")] == [
        *("3,000", "192,000", "2.07 M", "3.0", "400.0")
    ]
    make_run(tmp_path / "3", seed=3, f1=0.70)
    assert column(build_report(str(tmp_path)), "canny_f1 ↑") == ["0.430 ± 0.183"]


def test_bounds_are_rows_at_the_bottom_and_absent_ones_are_not_invented(tmp_path):
    make_run(tmp_path / "0")
    foot = {row[0].text: [cell.text for cell in row[2:4]] for row in table(build_report(str(tmp_path)), "Results").foot}
    assert foot == {"no-condition bound": ["0.150", "–"], "truth through the codec": ["0.810", "–"]}
    make_run(tmp_path / "1", name="b", metrics={"canny_f1": {"value": 0.3, "low": 0.17, "better": "higher"}})
    assert table(build_report(str(tmp_path)), "Results").foot[0][2].text == "0.150 to 0.170"
    make_run(tmp_path / "alone" / "0", metrics={"ssim": {"value": 0.5}})
    assert table(build_report(str(tmp_path / "alone")), "Results").foot == []


def test_best_is_marked_only_where_seeds_separate_the_arms(tmp_path):
    for arm, values in {"a": (0.30, 0.31), "b": (0.40, 0.41)}.items():
        for seed, value in enumerate(values):
            make_run(tmp_path / "clear" / f"{arm}{seed}", arm, seed, f1=value, rmse=value)
            make_run(tmp_path / "close" / f"{arm}{seed}", arm, seed, f1=value + 0.2 * seed * (arm == "a"))
            make_run(tmp_path / "shared" / f"{arm}{seed}", arm, seed, f1=value + 0.2 * seed + 0.001 * (arm == "b"))
            make_run(tmp_path / "others" / f"{arm}{seed}", arm, seed + 9 * (arm == "b"), f1=value + 0.2 * seed)
    make_run(tmp_path / "single" / "a", "a", 0, f1=0.1)
    make_run(tmp_path / "single" / "b", "b", 0, f1=0.9)
    clear, close, single = (build_report(str(tmp_path / name)) for name in ("clear", "close", "single"))
    assert bold(clear) == {("b", "canny_f1 ↑"), ("a", "rmse ↓")} and "Bold" in notes(clear)
    assert bold(close) == set() and "Nothing is marked" in notes(close)
    assert bold(single) == set() and "One seed cannot separate arms" in notes(single)
    assert "One seed" not in notes(clear) and "One seed" not in notes(close)
    shared, others = (build_report(str(tmp_path / name)) for name in ("shared", "others"))
    assert bold(shared) == {("b", "canny_f1 ↑")} and bold(others) == set()  # what seeds do to both arms is taken out


def test_an_arm_that_lacks_a_seed_or_a_number_says_so(tmp_path):
    make_run(tmp_path / "0", seed=0, f1=0.3)
    make_run(tmp_path / "1", seed=1, f1=float("nan"))
    make_run(tmp_path / "2", name="b", metrics={})
    report = build_report(str(tmp_path))
    assert column(report, "canny_f1 ↑") == ["0.300 (n=1)", "–"]
    root = tmp_path.name
    assert f"canny_f1 is absent: the run says NaN and no reason ({root}/1)." in notes(report)
    assert f"no metrics at all ({root}/2)." in notes(report) and f"({root}/0" not in notes(report)
    assert [row[2].text for row in table(report, "Runs").rows] == ["0.3", "NaN", "–"]


def test_arms_come_in_natural_order_of_folders(tmp_path):
    for folder, name in {"10": "late", "9": "early", "2": "first"}.items():
        make_run(tmp_path / folder, name)
    assert column(build_report(str(tmp_path)), "arm") == ["first", "early", "late"]
    assert sorted(("10", "9", "2")) == ["10", "2", "9"]  # what plain sorting would have done
    for folder, name in {"sweep/0": "one", "sweep2/0": "two"}.items():
        make_run(tmp_path / "both" / folder, name)
    assert column(build_report(str(tmp_path / "both")), "arm") == ["one", "two"], "sweep comes before sweep2"


def test_a_metric_that_the_reference_lacks_says_why_nothing_is_compared(tmp_path):
    both = {"f1": {"value": 0.3, "better": "higher"}, "rmse": {"value": 0.2, "better": "lower"}}
    for name, metrics in {"a": {"f1": both["f1"]}, "b": both, "c": both}.items():
        for seed in (0, 1):
            make_run(tmp_path / f"{name}{seed}", name, seed, metrics=metrics)
    said = {each.metric: sentences(each) for each in build_report(str(tmp_path)).answers}
    assert said["rmse"] == ["Not compared: b, c (a, the reference, has no rmse)."]
    assert not any("has no" in text for text in said["f1"])


def test_other_protocols_steps_and_tasks_are_flagged_and_never_best(tmp_path):
    for arm in "abc":
        for seed in (0, 1):
            make_run(tmp_path / f"{arm}{seed}", arm, seed, f1={"a": 0.1, "b": 0.3, "c": 0.5}[arm] + seed / 1000)
    report = build_report(str(tmp_path))
    assert column(report, "arm") == ["a", "b", "c"] and "comparable: " not in notes(report)
    assert ("c", "canny_f1 ↑") in bold(report)
    for seed in (0, 1):
        summary = json.loads((tmp_path / f"c{seed}" / "summary.json").read_text())
        summary |= {"protocol": PROTOCOL | {"steps": 50}, "steps": 100}
        (tmp_path / f"c{seed}" / "summary.json").write_text(json.dumps(summary))
    report = build_report(str(tmp_path))
    assert column(report, "arm") == ["a", "b", "c [1]"]
    assert "not comparable: training steps 100, 3000 in most arms; protocol 'steps' 50, 20 in most arms" in notes(
        report
    )
    protocols = table(report, "Protocols")
    assert protocols.header == ["what", "a, b", "c"]
    assert [[cell.text for cell in row] for row in protocols.rows if row[0].text == "steps"] == [["steps", "20", "50"]]
    assert {arm for arm, name in bold(report) if name == "canny_f1 ↑"} == {"b"}


def test_of_two_arms_that_differ_neither_is_the_reference(tmp_path):
    make_run(tmp_path / "0", "a", task="canny")
    make_run(tmp_path / "1", "b", task="depth")
    assert column(build_report(str(tmp_path)), "arm") == ["a [1]", "b [2]"]


def test_sampling_seeds_that_follow_the_run_are_no_difference(tmp_path):
    make_run(tmp_path / "0", "a", 0, protocol=PROTOCOL | {"seed": 0})
    make_run(tmp_path / "1", "b", 1, protocol=PROTOCOL | {"seed": 1})
    make_run(tmp_path / "other" / "0", "a", 0, protocol=PROTOCOL | {"seed": 0})
    make_run(tmp_path / "other" / "1", "b", 1, protocol=PROTOCOL | {"seed": 7})
    assert column(build_report(f"{tmp_path / '0'},{tmp_path / '1'}"), "arm") == ["a", "b"]
    assert column(build_report(str(tmp_path / "other")), "arm") == ["a [1]", "b [2]"]


def test_a_repeated_seed_is_told_apart_by_folder_and_not_averaged(tmp_path):
    make_run(tmp_path / "x", seed=0, f1=0.3)
    make_run(tmp_path / "y", seed=0, f1=0.5)
    root = tmp_path.name
    report = build_report(str(tmp_path))
    assert column(report, "arm") == [f"a ({root}/x)", f"a ({root}/y)"]
    assert column(report, "canny_f1 ↑") == ["0.300", "0.500"]
    make_run(tmp_path / "z" / "0", "b", seed=0)
    make_run(tmp_path / "z" / "1", "b", seed=1)
    make_run(tmp_path / "zz" / "0", "b", seed=0, f1=0.4)
    report = build_report(str(tmp_path))
    assert column(report, "arm")[2:] == [f"b ({root}/z)", f"b ({root}/zz/0)"]
    assert column(report, "seeds")[2:] == ["2", "1"]


def test_arms_of_one_name_are_told_apart_by_their_settings(tmp_path):
    for i, (lr, seed) in enumerate(((0.1, 0), (0.1, 1), (0.2, 0))):
        make_run(tmp_path / f"{i}", seed=seed, config={"loss": {"weights": {"text": lr}}})
    report = build_report(str(tmp_path))
    assert column(report, "arm") == ["a (weights.text=0.1)", "a (weights.text=0.2)"] and column(report, "seeds") == [
        "2",
        "1",
    ]


def test_config_differences_leave_out_seeds_and_places_and_mark_the_odd_one(tmp_path):
    for i, lr in enumerate((0.1, 0.1, 0.5)):
        config = {"lr": lr, "data": {"seed": i, "cache": f"/tmp/{i}", "batch": [4, 4]}, "logger": {"id": i}}
        make_run(tmp_path / f"{i}", "abc"[i], seed=i, config=config)
    differences = table(build_report(str(tmp_path)), "Config differences")
    assert differences.header == ["setting", "a", "b", "c"]
    assert [[cell.text for cell in row] for row in differences.rows] == [["lr", "0.1", "0.1", "0.5"]]
    assert [cell.bold for cell in differences.rows[0]] == [False, False, False, True]
    make_run(tmp_path / "one" / "0")
    assert "Config differences" not in titles(build_report(str(tmp_path / "one")))


def test_published_numbers_have_a_table_of_their_own(tmp_path):
    make_run(tmp_path / "0", "a", published={"source": "Table 4", "clip_i": 0.849, "canny_f1": 0.65})
    make_run(tmp_path / "1", "b", published={"source": "Table 4", "clip_i": 0.827, "canny_f1": 0.123})
    report = build_report(str(tmp_path))
    published = table(report, "Published (Table 4)")
    assert [[cell.text for cell in row] for row in published.rows] == [["a", "0.849", "0.650"], ["b", "0.827", "0.123"]]
    assert "metric, data and scale differ" in published.notes[0]
    assert "clip_i" not in table(report, "Results").header and column(report, "canny_f1 ↑") == ["0.300", "0.300"]
    cells = report_tables.printed([0.65, None, 0, "see 4.25", 0.1234, float("nan")])
    assert [cell.text for cell in cells] == ["0.6500", "–", "0.0000", "see 4.25", "0.1234", "NaN"]
    assert [cell.text for cell in report_tables.printed([44, 2])] == ["44", "2"]
    assert report_tables.printed([1e-5])[0].text == "0.00001"
    make_run(tmp_path / "none" / "0")
    assert not any("Published" in title for title in titles(build_report(str(tmp_path / "none"))))


BREAKAGES = {
    "no summary.json: the run did not finish": lambda run: (run / "summary.json").unlink(),
    "summary.json cannot be read": lambda run: (run / "summary.json").write_text('{"name": "a", "se'),
    "summary.json holds no keys": lambda run: (run / "summary.json").write_text("[1]"),
    "no usable 'metrics'": lambda run: (run / "summary.json").write_text('{"name": "a", "seed": 0, "steps": 1}'),
    "a metric without 'value'": lambda run: (run / "summary.json").write_text(
        '{"name": "a", "seed": 0, "steps": 1, "metrics": {"f": 1}}'
    ),
    "no config.yaml": lambda run: (run / "config.yaml").unlink(),
    "config.yaml cannot be read": lambda run: (run / "config.yaml").write_text("a: [1"),
    "config.yaml holds no keys": lambda run: (run / "config.yaml").write_bytes(b""),
}


@pytest.mark.parametrize("reason", BREAKAGES)
def test_a_broken_run_is_named_with_its_reason_and_last_step(tmp_path, reason):
    make_run(tmp_path / "0", "whole")
    BREAKAGES[reason](make_run(tmp_path / "1", "broken"))
    report = build_report(str(tmp_path))
    [row] = table(report, "Not in the table").rows
    assert row[0].text == f"{tmp_path.name}/1" and reason in row[1].text and row[2].text == "30"
    assert column(report, "arm") == ["whole"]
    for page in (to_markdown(report, tmp_path), to_html(report)):
        assert "Not in the table" in page and f"{tmp_path.name}/1" in page
    for file in (tmp_path / "1").iterdir():
        if file.is_file():
            file.unlink()
    assert "Not in the table" not in titles(build_report(str(tmp_path)))  # an empty folder is no run


def test_a_truncated_log_tells_the_last_whole_step(tmp_path):
    run = tmp_path / "sweep" / "killed"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 10}\nnonsense\n{"step": 420, "train/loss": 1}\n{"step": 43')
    (tmp_path / "sweep" / "stillborn" / ".hydra").mkdir(parents=True)
    rows = table(build_report(str(tmp_path)), "Not in the table").rows
    assert {row[0].text.split("/")[-1]: row[2].text for row in rows} == {"killed": "420", "stillborn": "none"}


def test_a_failed_write_keeps_the_old_report(tmp_path, monkeypatch):
    path = tmp_path / "new" / "report.md"
    write_atomically(path, "old")
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]
    write_atomically(path, "new")
    assert path.read_text() == "new"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run=x"], "unknown key 'run' (did you mean 'runs'?)"),
        (["ouput=x"], "unknown key 'ouput' (did you mean 'out'?)"),
        (["zzz=x"], "unknown key 'zzz' (known keys: runs, table, bench, reference, out, publish)"),
        (["folder"], "'folder' is not key=value"),
        ([], "give runs=<folder> or table=<name>"),
        (["runs={tmp}/nowhere"], "there is no folder"),
        (["runs={tmp}"], "no run in"),
        (["runs={tmp}/sweep", "out={tmp}/file"], "file"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_1(tmp_path, capsys, words, sentence):
    (tmp_path / "file").write_text("in the way")
    if "sweep" in "".join(words):
        make_run(tmp_path / "sweep" / "0")
    assert command("report.py", *(word.format(tmp=tmp_path) for word in words)) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert sentence in printed.err


FORMS = ["figures", "report.html", "report.md", "report.tex"] + ["wandb_report.json"] * available()


def test_the_command_writes_every_form_and_ends_with_the_path(tmp_path, capsys, monkeypatch):
    run = make_run(tmp_path / "sweep" / "0")
    assert command("report.py", f"runs={tmp_path / 'sweep'}") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"report: {tmp_path / 'sweep' / 'report.html'}" and "canny_f1" in out
    assert "canny" in (tmp_path / "sweep" / "report.md").read_text()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert command("report.py", f"runs={run},{tmp_path / 'sweep'}") == 0
    [made] = (tmp_path / "here" / "runs" / "reports").iterdir()
    assert sorted(path.name for path in made.iterdir()) == FORMS
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["runs"], "nothing lands where one happens to be"
    assert capsys.readouterr().out.splitlines()[-1] == f"report: runs/reports/{made.name}/report.html"
    monkeypatch.setattr("unigen.tools.report.commands.draw", lambda *given: Drawn())
    assert command("report.py", f"runs={run}", f"out={tmp_path / 'made' / 'on demand'}") == 0
    assert (tmp_path / "made" / "on demand" / "report.html").exists() and not (run / "report.html").exists()


def test_a_published_table_is_shown_again_where_nothing_but_its_report_lies(tmp_path, capsys, monkeypatch):
    """The first report makes the folder runs, in which the second looks for runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "reports").mkdir(parents=True)
    assert command("report.py", "table=realgeneral_masks") == 0
    assert command("report.py", "table=realgeneral_masks") == 0
    assert "0.849" in capsys.readouterr().out
    make_run(tmp_path / "runs" / "a", "fcd_mask_a", metrics={"mini_clip_i": {"value": 0.5}})
    assert command("report.py", "table=realgeneral_masks") == 0 and "mini_clip_i (ours)" in capsys.readouterr().out


def test_help_is_quick_and_reading_needs_no_torch():
    start = time.perf_counter()
    result = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, check=True)
    assert "runs=<folder>" in result.stdout and time.perf_counter() - start < 1.0
    code = "import sys, unigen.tools.report.commands; print([m for m in ('torch', 'json') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "['json']"


def test_a_thousand_runs_are_one_report(tmp_path):
    source = make_run(tmp_path / "source", config={f"group{i}": {f"key{j}": j for j in range(10)} for i in range(20)})
    log = "".join(f'{{"step": {s}, "time": 0, "train/loss": 0.5, "val/loss": 0.4}}\n' for s in range(200))
    config, summary = (source / "config.yaml").read_text(), json.loads((source / "summary.json").read_text())
    for i in range(1000):
        folder = tmp_path / "sweep" / f"{i}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(f"{config}\nwidth: {i // 2}\n")
        (folder / "summary.json").write_text(json.dumps(summary | {"seed": i % 2}))
        (folder / "metrics.jsonl").write_text(log)
    start = time.process_time()
    report = build_report(str(tmp_path / "sweep"))
    assert time.process_time() - start < 10
    pages = to_markdown(report, tmp_path), to_html(report), to_latex(report)
    assert len(report.arms) == 500 and all("a (width=499)" in page.replace("\\", "") for page in pages)


@pytest.mark.parametrize(("losses", "kept"), [("0.5 NaN 0.4", True), ("0.5 NaN Infinity", False), ("NaN NaN", False)])
def test_a_run_whose_loss_ended_in_nan_is_no_result(losses, kept, tmp_path):
    """As runs from before a training stopped there: its numbers are of images that were black."""
    make_run(tmp_path / "good"), make_run(tmp_path / "bad", name="b", f1=0.0)
    lines = [f'{{"step": {10 * i}, "train/loss": {x}}}' for i, x in enumerate(losses.split(), 1)]
    (tmp_path / "bad" / "metrics.jsonl").write_text("\n".join(lines))
    report = build_report(str(tmp_path))
    assert ("b" in {arm.label for arm in report.arms}) == kept
    if not kept:
        step = 10 if losses.startswith("NaN") else 20
        said = table(report, "Not in the table").rows[0][1].text
        assert f"train/loss is not finite from step {step} on: its training broke there" == said


@pytest.mark.parametrize(("log", "kept"), [(b"\x00\xff\n", False), (b"", True), (b'torn\n{"step": 1}\n', True)])
def test_a_run_whose_log_is_garbage_is_no_result(log, kept, tmp_path):
    run = make_run(tmp_path / "a")
    (run / "metrics.jsonl").write_bytes(log)
    report = build_report(str(tmp_path))
    assert bool(report.arms) == kept
    if not kept:
        said = table(report, "Not in the table").rows[0][1].text
        assert said == "metrics.jsonl cannot be read: no line of it is JSON"
