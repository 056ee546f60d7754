"""The short cuts by which a report reads a thousand runs give what the long ways give."""

import json

import pytest
import yaml
from made_runs import make_run
from rich.console import Console

from unigen.config.files import json_lines
from unigen.evaluation import runs as report_runs
from unigen.evaluation.curves import read_curves
from unigen.evaluation.runs import cleaned, read_run, read_settings, settings_of
from unigen.tools.forms.tables import Cell, Table
from unigen.tools.forms.text import fitting, terminal_table

CONFIGS = {
    "cut": (
        "name: a\ndata:\n  size: 64\n  rows:\n  - 0\n  - 2\nmask: {a: [1, {b: 2}]}\nnote: |\n  x: 1\n\n  y\n",
        True,
    ),
    "twice": ("a: 1\nb: 2\na: 3\n", True),
    "nothing in it": ("a:\nb: {}\n", True),
    "control": ('a: "x\\u001by"\n"b\\u0007": 1\n', True),
    "comment": ("# said\na: 1\n", False),
    "quoted over lines": ('a: "x\nb: y"\n', False),
    "anchors": ("a: &x {c: 1}\nb: *x\n", False),
    "one line": ("{a: 1, b: {c: 2}}\n", True),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_read_by_entries_is_the_config(name, tmp_path, monkeypatch):
    text, cut = CONFIGS[name]
    (tmp_path / "config.yaml").write_text(text)
    tree = cleaned(yaml.safe_load(text))
    whole = []
    monkeypatch.setattr(report_runs, "read_tree", lambda path, parse: (whole.append(path), tree)[1])
    assert read_settings(tmp_path / "config.yaml") == (tree, settings_of(tree)) and bool(whole) != cut


def test_runs_share_entries_and_not_values(tmp_path):
    runs = [make_run(tmp_path / f"{i}", config={"data": {"size": 64, "seed": i}, "lr": i}) for i in range(2)]
    settings = [read_run(run, "").config for run in runs]
    assert [found["lr"] for found in settings] == ["0", "1"] and {found["data.size"] for found in settings} == {"64"}
    assert not any(key.endswith("seed") or key == "run_dir" for key in settings[0])


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (['{"a": 1}', "[2]"], [{"a": 1}, [2]]),
        ([], []),
        (['{"a": 1}', '{"a": '], None),
        (["1, 2"], None),
        (['{"a": NaN}', ""], None),
    ],
)
def test_lines_of_json_at_once_or_not_at_all(lines, found):
    assert json_lines([line.encode() for line in lines]) == found


def test_a_curve_is_read_again_when_its_file_has_changed(tmp_path):
    run = read_run(make_run(tmp_path / "0"), "0")
    assert read_curves(run)["val/loss"][-1] == (30, 2 / 30)
    with open(run.path / "metrics.jsonl", "a") as log:
        log.write(json.dumps({"step": 40, "val/loss": 0.5}) + "\n")
    assert read_curves(run)["val/loss"][-1] == (40, 0.5)


@pytest.mark.parametrize("width", [5, 20, 31, 32, 45, 1000])
def test_as_many_columns_as_fit(width):
    found = Table("t", ["arm", "x" * 9, "y" * 9, "z" * 9], [[Cell("a")] * 4], [], [])
    console = Console(width=width)
    endless = console.options.update(max_width=10_000)
    widths = [console.measure(terminal_table(found, n), options=endless).maximum for n in range(1, 5)]
    assert widths == sorted(widths)
    assert fitting(found, console) == max(1, sum(each <= width for each in widths))
