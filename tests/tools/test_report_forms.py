"""The four forms of one report: the page in a browser, LaTeX that closes what it opens, W&B's JSON and what is sent."""

import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from browser import in_browser
from made_runs import EVIL, SCRIPT, make_run

from unigen.tools.forms.latex import PAGE_ROWS, breakable, latex_text
from unigen.tools.forms.tables import Cell, Table
from unigen.tools.report.figures import Drawn, draw
from unigen.tools.report.html import to_html
from unigen.tools.report.latex import to_latex
from unigen.tools.report.markdown import to_markdown
from unigen.tools.report.report import Report, build_report
from unigen.tools.report.wandb import to_wandb

VALUES = {"a": (0.5, 0.3), "b": (0.1, 0.2), "c": (0.9, 0.4)}  # canny_f1 and rmse


def sweep(root: Path) -> Path:
    """Three arms; of c the seed 1 alone, whose images all have."""
    for name, (f1, rmse) in VALUES.items():
        for seed in (0, 1) if name != "c" else (1,):
            make_run(root / f"{name}{seed}", name, seed, f1=f1, rmse=rmse, config={"lr": 0.5 if name == "c" else 0.1})
    return root


# the page -------------------------------------------------------------------------------------------------------------

LOOK = """
const table = document.querySelector('table');
const column = name => [...table.tHead.rows[0].cells].find(cell => cell.textContent.startsWith(name));
const order = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent);
const found = {start: order()};
column('canny_f1').querySelector('button').click(); found.up = order();
column('canny_f1').querySelector('button').click(); found.down = order();
column('rmse').querySelector('button').click(); found.rmse = order();
column('arm').querySelector('button').click(); found.arm = order();
found.foot = table.tFoot.rows[0].cells[0].textContent;
const pictures = [...document.querySelectorAll('.grids img')];
await Promise.all(pictures.map(picture => { picture.loading = 'eager'; return picture.decode().catch(() => 0); }));
found.grids = [...document.querySelectorAll('.grids')].map(grid => ({seed: grid.dataset.seed,
  pictures: [...grid.querySelectorAll('figure')].map(f => [f.querySelector('figcaption').textContent,
    (f.querySelector('img') || {}).naturalWidth || 0])}));
document.querySelectorAll('details').forEach(each => { each.open = true; });
const differences = [...document.querySelectorAll('details')].find(
  s => s.textContent.trimStart().startsWith('Config differences')).querySelector('tbody tr');
found.settings = [...differences.cells].map(cell => cell.textContent);
const shades = [...differences.cells].map(cell => getComputedStyle(cell).backgroundColor);
found.marked = shades.slice(1).map(shade => shade !== shades[1]);
const charts = document.querySelector('.charts');
[...charts.children].slice(1).forEach(figure => figure.remove());
charts.style.width = '1300px';
found.one_of = charts.clientWidth / charts.children[0].clientWidth;
document.querySelector('.legend button').click();
found.hidden = [...document.querySelectorAll('.charts .arm0')].every(line => getComputedStyle(line).display === 'none');
found.others = [...document.querySelectorAll('.charts .arm1')].some(line => getComputedStyle(line).display === 'none');
return found;
"""


def test_the_page_sorts_and_shows_its_images_in_a_browser(tmp_path):
    root = sweep(tmp_path / "sweep")
    (root / "b1" / "samples" / "final.png").write_bytes(b"\x89PNG, and then nothing of one")
    report = build_report(str(root))
    found = in_browser(to_html(report, draw(report, tmp_path)), tmp_path, LOOK)
    assert found["start"] == ["a", "b", "c"] == found["arm"] and found["foot"] == "no-condition bound"
    assert (found["up"], found["down"], found["rmse"]) == (["b", "a", "c"], ["c", "a", "b"], ["b", "a", "c"])
    [grids] = found["grids"]
    assert grids["seed"] == "1" and [caption for caption, _ in grids["pictures"]] == [
        f"{name} · seed 1 · step 3,000" for name in VALUES
    ]
    assert [width for _, width in grids["pictures"]] == [1, 0, 1], "the image that is none is not drawn"
    assert found["settings"] == ["lr", "0.1", "0.1", "0.5"] and found["marked"] == [False, False, True]
    assert found["hidden"] and not found["others"]
    assert found["one_of"] > 2, "a chart alone is as large as one of many"


# bad input, in every form ---------------------------------------------------------------------------------------------


def test_every_bad_run_is_named_in_every_form(tmp_path):
    """Without metrics, crashed, half-written, two of one name, captions in HTML and LaTeX, of another version."""
    make_run(tmp_path / "whole", "whole")
    make_run(tmp_path / "empty", "empty", metrics={})
    (make_run(tmp_path / "crashed", "crashed") / "summary.json").unlink()
    (make_run(tmp_path / "half", "half") / "summary.json").write_text('{"name": "ha')
    for folder in ("twin1", "twin2"):
        make_run(tmp_path / folder, "twin")
    caption = "<b>bold</b> \\textbf{x} & 100% 'it' \"is\""
    make_run(tmp_path / "odd", caption)
    (make_run(tmp_path / "later", "later") / "summary.json").write_text('{"schema": 9, "run": {"name": "later"}}')
    report, where = build_report(str(tmp_path)), tmp_path.name
    forms = {"md": to_markdown(report, tmp_path), "html": to_html(report), "tex": to_latex(report)}
    if importlib.util.find_spec("wandb_workspaces"):
        blocks = json.loads(to_wandb(report))["spec"]["blocks"]
        forms["wandb"] = "\n".join(block.get("content", "") for block in blocks)
    for kind, text in forms.items():
        plain = text.replace("\\_", "_").replace("{-}", "-").replace("\\cut{}", "")
        for folder in ("crashed", "half", "later", "empty", "twin1", "twin2"):
            assert f"{where}/{folder}" in plain, (kind, folder)
        for reason in ("the run did not finish", "cannot be read", "written by another version", "no metrics at all"):
            assert reason in plain, (kind, reason)
        assert "<b>bold" not in text and "bold" in text and ("\\textbf{x}" not in text or kind != "tex")
    assert faults(forms["tex"]) == []


# LaTeX ----------------------------------------------------------------------------------------------------------------


def faults(document: str) -> list[str]:
    """What would stop LaTeX, or print something else than it says."""
    found = [] if document.isascii() else ["not ASCII"]
    bare = re.sub(r"\\[\\{}&%$#_]", "", document)
    if bare.count("{") != bare.count("}"):
        found.append("braces")
    environments: list[str] = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", document):
        if what == "begin":
            environments.append(name)
        elif not environments or environments.pop() != name:
            found.append(f"end of {name}")
    if environments:
        found.append(f"open: {environments}")
    spec = r"\\begin\{(?:tabular|longtable)\}\{((?:[lr]|[LR]\{[\d.]+\})+)\}(.*?)\\end\{(?:tabular|longtable)"
    for said, body in re.findall(spec, document, re.S):
        columns = re.findall("[lrLR]", said)
        for line in body.split("\\\\\n"):
            cells = len(re.findall(r"(?<!\\)&", line)) + 1
            if "\\multicolumn" not in line and line.strip().replace("\\bottomrule", "") and cells != len(columns):
                found.append(f"{cells} cells of {len(columns)}: {line.strip()}")
    outside = re.sub(r"\\begin\{(?:tabular|longtable)\}.*?\\end\{(?:tabular|longtable)\}", "", bare, flags=re.S)
    text = outside[outside.index("\\begin{document}") :]
    found += [f"bare {x}" for x in "%#_~^" if re.search(rf"(?<!\\){re.escape(x)}", re.sub(r"\$[^$]*\$", "", text))]
    return found


def test_latex_closes_what_it_opens_whatever_the_runs_are_called(tmp_path):
    for i, name in enumerate(("plain", EVIL, "100% & $x_1$ #2 ~^ {a}[b]\\begin{x}", "語 ↑ ≈ \\input{/etc/passwd}")):
        for seed in (0, 1):
            published = {"source": name, "f": 0.5}
            make_run(tmp_path / f"{i}{seed}", name, seed, config={"prompt": name}, published=published)
    document = to_latex(build_report(str(tmp_path)))
    assert faults(document) == []
    assert "\\input{" not in document and "\\textbackslash{}input\\{/etc/passwd\\}" in document
    assert "\\toprule" in document and "\\usepackage{booktabs" in document and "\\texttt{U+8A9E}" in document
    assert "canny\\_f1 $\\uparrow$" in document and "0.300 $\\pm$ 0.000" in document


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (lambda text: text.replace("minutes &", "minutes & x &", 1), "cells of"),
        (lambda text: text.replace("\\end{itemize}", "", 1), "end of"),
        (lambda text: text.replace("\\item", "\\item {", 1), "braces"),
        (lambda text: text.replace("\\item", "\\item 100% and", 1), "bare %"),
        (lambda text: text.replace("\\item", "\\item ±", 1), "not ASCII"),
    ],
)
def test_broken_latex_is_found(tmp_path, broken, fault):
    """Negative control."""
    document = to_latex(build_report(str(sweep(tmp_path))))
    assert faults(document) == [] and any(fault in found for found in faults(broken(document)))


def test_a_long_table_goes_over_pages_and_keeps_every_row():
    def document(rows: int) -> str:
        table = Table("T", ["arm", "x"], [[Cell(f"row{i}"), Cell("1", 1.0)] for i in range(rows)], [], [])
        return to_latex(Report("r", [table], [], []))

    short, long = document(PAGE_ROWS), document(PAGE_ROWS + 1)
    assert "{tabular}" in short and "{longtable}" not in short.partition("\\begin{document}")[2]
    assert "\\begin{longtable}" in long and f"row{PAGE_ROWS} &" in long and faults(short) == faults(long) == []
    [spec] = re.findall(r"\\begin\{longtable\}\{(.*)\}\n", long)
    assert re.fullmatch(r"L\{[\d.]+\}R\{[\d.]+\}", spec), "fixed widths, so that LaTeX need not run twice"


def test_a_letter_that_latex_lacks_is_named():
    assert latex_text("-- [x] 'y' é") == "{-}{-} {[}x{]} {'}y{'} \\texttt{U+00E9}"


needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex")


def compiled(folder: Path) -> tuple[int, str]:
    """The exit code of pdflatex on report.tex, and its log."""
    line = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
    return done.returncode, done.stdout


@needs_latex
def test_latex_compiles_beside_its_figures(tmp_path):
    for i, name in enumerate(("plain", EVIL, "100% & $x_1$ #2 ~^ {a}[b]\\begin{x}", "語 ↑ ≈ \\input{/etc/passwd}")):
        for seed in (0, 1, 2):
            make_run(tmp_path / f"{i}{seed}", name, seed, f1=0.3 + 0.02 * i + 0.001 * seed, config={"prompt": name})
    done = command(f"runs={tmp_path}")
    assert done.returncode == 0, done.stderr
    code, said = compiled(tmp_path)
    assert code == 0, said[-2000:]
    assert "Overfull" not in said and (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert "figures/" in (tmp_path / "report.tex").read_text()
    (tmp_path / "report.tex").write_text((tmp_path / "report.tex").read_text().replace("\\end{itemize}", "", 1))
    assert compiled(tmp_path)[0] != 0, "negative control"


LONG = "visualcloze_fill_with_condition_tokens_first_and_a_very_long_name_of_experiment_number_"


def wide_sweep(root: Path, arms: int, name: str) -> Path:
    """Arms of one protocol each, with long values: hashes, addresses, sentences, more settings than fit on a page."""
    weights = f"unigen.metrics.Canny(low=100, weights=/models/{'0123456789abcdef' * 4})"
    for i, letter in enumerate("abcdefghijkl"[:arms]):
        note = f"the {i}th arm was sampled with a mask of its own, which takes a sentence to say"
        protocol = {"note": note} | {f"metric.m{k}": weights for k in range(45)}
        for seed in (0, 1):
            config = {"prompt": 9 * f"word{i} "}
            make_run(root / f"{i}{seed}", f"{name}{letter}", seed, protocol=protocol, config=config)
    return root


def headers(document: str, title: str) -> list[list[str]]:
    """The columns of each table under a title."""
    part = document.partition(f"subsection*{{{title}}}")[2].partition("\\subsection*")[0]
    found = re.findall(r"\\begin\{(?:tabular|longtable)\}.*?\\toprule\n(.*?) \\\\\n", part, re.S)
    return [line.replace("\\cut{}", "").split(" & ") for line in found]


@pytest.mark.parametrize(("arms", "halves"), [(4, [5]), (8, [9]), (12, [7, 7])])
def test_columns_of_long_words_wrap_or_the_table_is_cut(tmp_path, arms, halves):
    """Of each half the columns fill the page, and the first column, what it is about, is there again."""
    document = to_latex(build_report(str(wide_sweep(tmp_path, arms, LONG))))
    assert faults(document) == []
    found = headers(document, "Protocols")
    assert [len(columns) for columns in found] == halves and {columns[0] for columns in found} == {"what"}
    names = [name for columns in found for name in columns[1:]]
    assert names == [latex_text(f"{LONG}{x}") for x in "abcdefghijkl"[:arms]]
    for spec in re.findall(r"\\begin\{longtable\}\{(.*)\}\n", document):
        assert 0.5 < sum(map(float, re.findall(r"\{([\d.]+)\}", spec))) <= 1


def test_a_word_that_may_be_cut_is_the_same_word():
    for text in (LONG, "short", "", "a " + "f" * 40 + " [x]/y", EVIL, "語" * 30):
        assert breakable(text, 12).replace("\\cut{}", "") == latex_text(text)
    assert breakable("fcd_mask_a of b") == latex_text("fcd_mask_a of b"), "short words stay whole"
    assert breakable("condition_tokens_first", 12) == "condition\\_\\cut{}tokens\\_\\cut{}first"
    assert breakable("0" * 20, 12) == "00000000\\cut{}00000000\\cut{}0000"


@needs_latex
@pytest.mark.parametrize("arms", [4, 8])
@pytest.mark.parametrize("name", ["mask_", LONG])
def test_no_table_runs_off_the_page(tmp_path, arms, name):
    (tmp_path / "report.tex").write_text(to_latex(build_report(str(wide_sweep(tmp_path / "runs", arms, name)))))
    code, said = compiled(tmp_path)
    assert code == 0, said[-2000:]
    assert [box for box in re.findall(r"Overfull \\[hv]box \(([\d.]+)pt", said) if float(box) > 3] == []


@needs_latex
def test_a_figure_of_many_arms_fits_on_a_page(tmp_path):
    for i in range(20):
        make_run(tmp_path / "runs" / f"{i}", f"{LONG}{i}", metrics={"f1": {"value": 0.3 + i / 100}})
    report = build_report(str(tmp_path / "runs"))
    (tmp_path / "report.tex").write_text(to_latex(report, draw(report, tmp_path)))
    code, said = compiled(tmp_path)
    assert code == 0 and "Overfull \\vbox" not in said, said[-2000:]


# W&B ------------------------------------------------------------------------------------------------------------------

needs_workspaces = pytest.mark.skipif(
    importlib.util.find_spec("wandb_workspaces") is None, reason="wandb-workspaces is an optional extra"
)


def command(*words: str, **environment: str) -> subprocess.CompletedProcess:
    """`python experiments/report.py words` with nothing of the user's account."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return subprocess.run(
        [sys.executable, SCRIPT, *words], capture_output=True, text=True, env=kept | environment, timeout=120
    )


def test_without_the_extra_the_report_says_what_is_missing(tmp_path, monkeypatch):
    from unigen.tools.report import wandb as report_wandb
    from unigen.tools.report.commands import make_report

    make_run(tmp_path / "0")
    monkeypatch.setattr("unigen.tools.report.commands.draw", lambda *given: Drawn())
    monkeypatch.setattr(report_wandb, "available", lambda: False)
    _, lines = make_report({"runs": str(tmp_path), "publish": "true"}, tmp_path)
    assert lines[0] == "wandb: not written, wandb-workspaces is not installed (pip install 'unigen[report]')"
    assert not (tmp_path / "wandb_report.json").exists() and (tmp_path / "report.tex").exists()


@needs_workspaces
@pytest.mark.parametrize("part", ["entity", "publish", "to_wandb"])
def test_what_fails_of_wandb_costs_no_other_form(part, tmp_path, monkeypatch):
    from unigen.tools.report import wandb as report_wandb
    from unigen.tools.report.commands import make_report

    def fails(*given):
        raise ValueError("W&B did not answer: no route to host")

    make_run(tmp_path / "0")
    monkeypatch.setattr("unigen.tools.report.commands.draw", lambda *given: Drawn())
    monkeypatch.setattr(report_wandb, "entity", lambda: "me")
    monkeypatch.setattr(report_wandb, part, fails)
    _, lines = make_report({"runs": str(tmp_path), "publish": "true"}, tmp_path)
    assert "no route to host" in lines[0] and ("not written" if part == "to_wandb" else "not published") in lines[0]
    assert all((tmp_path / f"report.{form}").exists() for form in ("md", "tex", "html"))


@needs_workspaces
def test_the_spec_has_the_tables_a_run_set_for_each_arm_and_a_panel_for_each_metric(tmp_path):
    said = json.loads(to_wandb(build_report(str(sweep(tmp_path)))))
    blocks = said["spec"]["blocks"]
    markdown = [block["content"] for block in blocks if block["type"] == "markdown-block"]
    assert said["projectName"] == "unigen" and any("| canny_f1 ↑ |" in text for text in markdown)
    [grid] = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    assert [runs["name"] for runs in grid["runSets"]] == ["a", "b", "c"]
    assert all(f'"{name}"' in json.dumps(runs["filters"]) for name, runs in zip("abc", grid["runSets"], strict=True))
    panels = json.dumps(grid["panelBankSectionConfig"])
    words = " ".join(block.get("children", [{}])[0].get("text", "") for block in blocks if block["type"] == "paragraph")
    assert "differences to a" in words and any("Cannot yet be told" in text for text in markdown)
    assert all(word in panels for word in ("val/loss", "train/loss", "test/canny_f1", "test/rmse", "samples"))
    assert "test/ssim" not in panels


@needs_workspaces
def test_a_run_set_finds_its_arm_whatever_it_is_called(tmp_path):
    for i, name in enumerate(("it's", 'a "b" <c> \\\\x3c', "plain")):
        make_run(tmp_path / f"{i}", name)
    blocks = json.loads(to_wandb(build_report(str(tmp_path))))["spec"]["blocks"]
    [grid] = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    values = [[each["value"] for each in runs["filters"]["filters"]] for runs in grid["runSets"]]
    assert values == [["it's", "canny"], ['a "b" <c> \\\\x3c', "canny"], ["plain", "canny"]]


class Recorder(http.server.BaseHTTPRequestHandler):
    """As much of W&B's server as a report needs; what it is asked for is kept."""

    asked: list[dict] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        viewer = {"id": "u", "name": "me", "username": "me", "entity": "lab", "email": "", "admin": False}
        viewer |= {"flags": "{}", "teams": {"edges": []}, "apiKeys": {"edges": []}, "photoUrl": None, "deletedAt": None}
        project = {"id": "p", "internalId": "1", "name": "unigen", "entityName": "lab", "isBenchmark": False}
        project |= {"createdAt": "2026-01-01T00:00:00", "user": viewer}
        page = {"pageInfo": {"hasNextPage": False, "endCursor": None}, "edges": [{"node": project, "cursor": "c"}]}
        view = {"id": "123", "type": "runs", "name": "n", "displayName": "d", "description": "", "updatedAt": None}
        view |= {"spec": body.get("variables", {}).get("spec", "{}"), "project": {"id": "p", "name": "unigen"}}
        view["project"]["entityName"] = "lab"
        answer = {"viewer": viewer, "models": page, "project": project, "serverInfo": {"features": []}}
        answer["upsertView"] = {"view": view, "inserted": True}
        said = json.dumps({"data": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@needs_workspaces
def test_publishing_sends_the_spec_that_is_written_and_needs_a_login(tmp_path):
    root, home = sweep(tmp_path / "sweep"), {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    Recorder.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home["WANDB_BASE_URL"] = f"http://127.0.0.1:{server.server_port}"
        home["WANDB_ERROR_REPORTING"] = "false"
        alone = command(f"runs={root}", "publish=true", **home)
        assert alone.returncode == 0 and "not published, you are not logged in" in alone.stdout
        assert not any("upsertView" in asked["query"] for asked in Recorder.asked)
        done = command(f"runs={root}", "publish=true", WANDB_API_KEY="local-" + 40 * "a", **home)
        server.shutdown()
    assert "published at http://127.0.0.1" in done.stdout, done.stdout + done.stderr
    [sent] = [asked["variables"] for asked in Recorder.asked if "mutation upsertView" in asked["query"]]
    [seen] = [asked["variables"] for asked in Recorder.asked if "mutation UpsertView2" in asked["query"]]
    view = json.loads(seen["spec"])["section"]["runSets"][0]
    assert view["filters"]["filters"][0]["value"] == ["a", "b", "c"] and view["grouping"][0]["name"] == "group"
    assert "Ablation: sweep" in json.dumps(seen) and "with a view of its runs" in done.stdout
    written = json.loads((root / "wandb_report.json").read_text())
    assert (sent["entityName"], sent["projectName"]) == ("lab", "unigen")
    assert sent["displayName"] == written["displayName"]
    kinds = [block["type"] for block in json.loads(sent["spec"])["blocks"]]
    assert kinds == [block["type"] for block in written["spec"]["blocks"]] and "panel-grid" in kinds
