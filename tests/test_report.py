"""The report on made-up run folders: what it computes, what it refuses to claim, and what it survives."""

import base64
import json
import os
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from small_runs import command

from unigen import report_tables
from unigen.files import write_text as write_atomically
from unigen.report import Report, build_report
from unigen.report_curves import read_curves, smoothed, ticks
from unigen.report_html import to_html
from unigen.report_latex import to_latex
from unigen.report_print import print_tables, to_markdown
from unigen.report_runs import find_runs
from unigen.report_tables import Table
from unigen.report_wandb import available

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SCRIPT = Path(__file__).parents[1] / "experiments" / "report.py"
PROTOCOL = {"split": "test", "items": 128, "solver": "ddim", "steps": 20, "seed": 0}


def make_run(folder: Path, name="a", seed=0, f1=0.3, rmse=0.2, config=None, grids=("final",), **changes) -> Path:
    """A finished run in `folder`; `changes` replace keys of summary.json."""
    (folder / "samples").mkdir(parents=True)
    settings = {"name": name, "seed": seed, "run_dir": str(folder), "paths": {"out": f"x{folder.name}"}, "lr": 0.1}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings | (config or {})))
    lines = [{"step": s, "time": 0.0, "train/loss": 1 / s, "val/loss": 2 / s} for s in (10, 20, 30)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = {
        "canny_f1": {"value": f1, "low": 0.15, "high": 0.81, "better": "higher", "items": 128},
        "rmse": {"value": rmse, "low": None, "better": "lower"},
    }
    summary = {"name": name, "task": "canny", "seed": seed, "steps": 3000, "samples_seen": 192000, "seconds": 180.0}
    summary |= {"parameters": {"trained": 2070000}, "metrics": metrics, "protocol": PROTOCOL}
    summary |= {"throughput": {"samples_per_s": 400.0}}
    (folder / "summary.json").write_text(json.dumps(summary | changes))
    for grid in grids:
        (folder / "samples" / f"{grid}.png").write_bytes(PNG + grid.encode())
    return folder


def table(report: Report, title: str) -> Table:
    return next(table for table in report.tables if table.title.startswith(title))


def titles(report: Report) -> list[str]:
    return [table.title for table in report.tables]


def column(report: Report, header: str) -> list[str]:
    results = table(report, "Results")
    return [row[results.header.index(header)].text for row in results.rows]


def bold(report: Report) -> set[tuple[str, str]]:
    """(arm, column) of every marked cell of the results."""
    results = table(report, "Results")
    return {(r[0].text, h) for r in results.rows for h, c in zip(results.header, r, strict=True) if c.bold}


def notes(report: Report) -> str:
    return "\n".join(table(report, "Results").notes)


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
    assert "Protocol of c: split test, items 128, solver ddim, steps 50" in notes(report)
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
    make_run(tmp_path / "zz" / "0", "b", seed=0)
    report = build_report(str(tmp_path))
    assert column(report, "arm")[2:] == [f"b ({root}/z)", f"b ({root}/zz/0)"]
    assert column(report, "seeds")[2:] == ["2", "1"]


def test_arms_of_one_name_are_told_apart_by_their_settings(tmp_path):
    for i, (lr, seed) in enumerate(((0.1, 0), (0.1, 1), (0.2, 0))):
        make_run(tmp_path / f"{i}", seed=seed, config={"optimizer": {"lr": lr}})
    report = build_report(str(tmp_path))
    assert column(report, "arm") == ["a (lr=0.1)", "a (lr=0.2)"] and column(report, "seeds") == ["2", "1"]


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


def test_folders_inside_a_run_are_not_runs_and_lists_do_not_count_twice(tmp_path):
    run = make_run(tmp_path / "deep" / "er" / "0")
    (run / "other").mkdir()
    (run / "other" / "config.yaml").write_text("a: 1")
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "config.yaml").write_text("a: 1")
    assert len(find_runs(f"{tmp_path}, {run}")) == 1
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "config.yaml").write_text("a: 1")
    assert len(find_runs(str(tmp_path))) == 2
    comma = make_run(tmp_path / "exp=a,seed=0")  # as Hydra names the folders of a sweep
    assert find_runs(str(comma)) == [comma.resolve()]


EVIL = '<script>alert("1")</script>|`x`\n\x1b[31m & *b* [l](http://e)'


class Tags(HTMLParser):
    """Collects start tags, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.text, self.links = [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href", "onclick", "onerror")]

    def handle_data(self, data):
        self.text += data


def test_nothing_from_a_run_is_interpreted(tmp_path, capsys):
    for folder, evil in (("good", "a"), ("bad", EVIL)):
        config = {"prompt": evil, evil: 1}
        published = {"source": evil, evil: 0.1}
        make_run(tmp_path / folder / "0", evil, config=config, protocol={evil: evil}, published=published)
        make_run(tmp_path / folder / "1", evil, config={"prompt": "b"}, metrics={evil: {"value": 0.1, "better": evil}})
        (tmp_path / folder / "2").mkdir()
        (tmp_path / folder / "2" / "summary.json").write_text(json.dumps({"name": evil}))
    good, bad = (build_report(str(tmp_path / folder)) for folder in ("good", "bad"))
    page = Tags(to_html(bad))
    assert sorted(page.tags) == sorted(Tags(to_html(good)).tags) and page.tags.count("script") == 1
    assert '<script>alert("1")</script>' in page.text  # shown, as text
    markdown = to_markdown(bad, tmp_path)
    assert "<script" not in markdown and "&lt;script&gt;" in markdown and "\x1b" not in markdown
    assert [line.replace("\\|", "").count("|") for line in markdown.splitlines()] == [
        line.count("|") for line in to_markdown(good, tmp_path).splitlines()
    ]
    assert "](http" not in markdown.replace("\\]", "")
    print_tables(bad)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "<script>" in printed


def test_the_page_needs_no_network(tmp_path):
    make_run(tmp_path / "0")
    html = to_html(build_report(str(tmp_path)))
    assert "default-src 'none'" in html
    assert all(link.startswith("data:image/png;base64,") for link in Tags(html).links) and Tags(html).links
    assert "http" not in html.replace("http-equiv", "") and "@import" not in html and "url(" not in html
    assert Tags('<img src="https://e/x.png">').links == ["https://e/x.png"]


def test_grids_show_one_seed_and_the_newest_picture(tmp_path):
    make_run(tmp_path / "a1", "a", 1, grids=("step_000500", "step_001000"))
    make_run(tmp_path / "a0", "a", 0, grids=("step_000500", "final"))
    make_run(tmp_path / "b1", "b", 1, grids=("step_9", "step_10"))
    make_run(tmp_path / "c2", "c", 2)
    make_run(tmp_path / "d1", "d", 1, grids=())
    report = build_report(str(tmp_path))
    assert [(grids.seed, grids.without) for grids in report.grids] == [(1, ["c", "d"]), (2, ["a", "b", "d"])]
    pictures = [picture for grids in report.grids for picture in grids.pictures]
    assert [caption for caption, _ in pictures] == [
        *("a · seed 1 · step 1,000", "b · seed 1 · step 10", "c · seed 2 · step 3,000")
    ]
    html, markdown = to_html(report), to_markdown(report, tmp_path / "elsewhere")
    for _, path in pictures:
        assert base64.b64encode(path.read_bytes()).decode() in html
        assert f"(../{path.relative_to(tmp_path)})" in markdown
    assert base64.b64encode(PNG + b"step_000500").decode() not in html
    pictures[0][1].write_bytes(b"half a pict")
    html = to_html(report)
    assert "step_001000.png is not a readable PNG" in html and html.count("<img") == 2


def test_pictures_beyond_the_limit_are_named_not_dropped(tmp_path, monkeypatch):
    make_run(tmp_path / "0", "a")
    make_run(tmp_path / "1", "b")
    report = build_report(str(tmp_path))
    assert to_html(report).count("<img") == 2
    monkeypatch.setattr("unigen.report_html.EMBEDDED_BYTES", len(PNG) + 10)
    assert to_html(report).count("<img") == 1 and "not embedded" in to_html(report)


def test_curves_take_the_last_line_of_a_step_and_survive_half_lines(tmp_path):
    run = make_run(tmp_path / "0")
    lines = ['{"step": 20, "train/loss": 5}', '{"step": 10, "train/loss": 9}', "{{", '{"step": "x"}', "[1]"]
    lines += ['{"step": 20, "train/loss": 4, "val/loss": NaN}', '{"step": 30, "train/loss": 3']
    (run / "metrics.jsonl").write_text("\n".join(lines))
    report = build_report(str(tmp_path))
    assert read_curves(report.arms[0].runs[0]) == {"train/loss": [(10, 9.0), (20, 4.0)]}
    page = to_html(report)
    assert page.count('<path class="arm0"') == 1 and page.count('<circle class="arm0"') == 0
    (run / "metrics.jsonl").write_text('{"step": 20, "val/loss": 4}')
    assert to_html(build_report(str(tmp_path))).count('<circle class="arm0"') == 1, "one point has no line to draw"
    (run / "metrics.jsonl").unlink()
    assert "<h2>Curves" not in to_html(build_report(str(tmp_path)))


def test_smoothing_is_a_centred_mean_and_a_share_of_nought_is_none():
    points = list(enumerate((0.0, 3.0, 6.0, 30.0)))
    assert smoothed(points, 0.5) == [(0, 1.5), (1, 3.0), (2, 13.0), (3, 18.0)]
    assert smoothed(points, 0.0) == points and smoothed([], 0.5) == []
    thinned = smoothed([(i, float(i)) for i in range(5001)], 0.0, most=100)
    assert len(thinned) <= 101 and thinned[0] == (0, 0.0) and thinned[-1] == (5000, 5000.0)


def test_axis_ticks_are_round_and_within_the_axis():
    assert ticks(0, 3000, False) == [0, 1000, 2000, 3000]
    assert ticks(0.03, 4.0, True) == pytest.approx([0.05, 0.1, 0.2, 0.5, 1, 2])
    assert ticks(0.7, 0.7, False) == [] and len(ticks(-1.0, 1.0, False)) == 5


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
        (["zzz=x"], "unknown key 'zzz' (known keys: runs, table, reference, out, publish)"),
        (["folder"], "'folder' is not key=value"),
        ([], "say runs=<folder> or table=<name>"),
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


FORMS = ["report.html", "report.md", "report.tex"] + ["wandb_report.json"] * available()


def test_the_command_writes_every_form_and_ends_with_the_path(tmp_path, capsys, monkeypatch):
    run = make_run(tmp_path / "sweep" / "0")
    assert command("report.py", f"runs={tmp_path / 'sweep'}") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"report: {tmp_path / 'sweep' / 'report.html'}" and "canny_f1" in out
    assert "canny" in (tmp_path / "sweep" / "report.md").read_text()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert command("report.py", f"runs={run},{tmp_path / 'sweep'}") == 0
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == FORMS
    assert command("report.py", f"runs={run}", f"out={tmp_path / 'made' / 'on demand'}") == 0
    assert (tmp_path / "made" / "on demand" / "report.html").exists() and not (run / "report.html").exists()


def test_help_is_quick_and_reading_needs_no_torch():
    start = time.perf_counter()
    result = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, check=True)
    assert "runs=<folder>" in result.stdout and time.perf_counter() - start < 1.0
    code = "import sys, unigen.report_commands; print([m for m in ('torch', 'json') if m in sys.modules])"
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
    report = build_report(str(tmp_path / "sweep"))
    pages = to_markdown(report, tmp_path), to_html(report), to_latex(report)
    assert len(report.arms) == 500 and all("a (width=499)" in page.replace("\\", "") for page in pages)
