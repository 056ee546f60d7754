"""Writes the report in four formats, for `experiments/report.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from unigen.config.files import write_text
from unigen.evaluation.runs import has_runs, read_table
from unigen.tools.forms.figures import FOLDER
from unigen.tools.report import wandb as report_wandb
from unigen.tools.report.figures import draw
from unigen.tools.report.html import to_html
from unigen.tools.report.latex import to_latex
from unigen.tools.report.markdown import to_markdown
from unigen.tools.report.report import Report, build_report

RUNS = Path("runs")  # where run.py writes


def make_report(given: Mapping[str, str], tables: Path) -> tuple[Report, list[str]]:
    """Write every format; return the report and a line for each format. `given` are the words of report.py.

    Args:
        tables: the folder of published tables.

    Raises:
        ValueError: bad input, one sentence.
        OSError: a form cannot be written.
    """
    if given.get("publish", "false") not in ("true", "false"):
        raise ValueError(f"publish={given['publish']} is neither true nor false")
    if "runs" not in given and "table" not in given:
        raise ValueError("give runs=<folder> or table=<name>; --help explains them")
    table = read_table(tables, given["table"]) if "table" in given else None
    runs = given.get("runs") or (str(RUNS) if has_runs(RUNS) else None)
    benches = [name.strip() for name in given.get("bench", "").split(",") if name.strip()]
    if benches and table and table.benches:
        raise ValueError(f"table={table.name} names the benchmarks of its rows itself; leave bench= out")
    report = build_report(runs, table, given.get("reference"), benches)
    out = output_folder(given)
    drawn = draw(report, out)
    forms: dict[str, tuple[str, Callable[[], str]]] = {
        "markdown": ("report.md", lambda: to_markdown(report, out, drawn)),
        "latex": ("report.tex", lambda: to_latex(report, drawn)),
        "report": ("report.html", lambda: to_html(report, drawn)),
    }
    lines = [f"figures: {out / FOLDER}/*.pdf and *.png"] if any(drawn) else []
    lines += [w_and_b(report, out, given.get("publish") == "true")]
    for name, (file, form) in forms.items():
        write_text(out / file, form())
        lines.append(f"{name}: {out / file}")
    return report, lines


def output_folder(given: Mapping[str, str]) -> Path:
    """Return `out`, else the folder `runs`, for a list a new folder named after the time, else the table's own."""
    if "out" in given:
        return Path(given["out"])
    if "runs" in given and Path(given["runs"]).is_dir():
        return Path(given["runs"])
    name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}" if "runs" in given else Path(given["table"]).stem
    return RUNS / "reports" / name


def w_and_b(report: Report, out: Path, publish: bool) -> str:
    """Write wandb_report.json, and publish it if `publish` is true and it is possible; return a line on the result."""
    if not report_wandb.available():
        return f"wandb: not written, {report_wandb.ABSENT}"
    path = out / "wandb_report.json"
    try:
        written = report_wandb.to_wandb(report)
    except Exception as error:  # the other formats do not need this library
        return f"wandb: not written, wandb-workspaces failed ({type(error).__name__}: {' '.join(str(error).split())})"
    write_text(path, written)
    if not publish:
        return f"wandb: {path}"
    try:
        owner = report_wandb.entity()
        where = report_wandb.publish(report, owner) if owner is not None else None
    except ValueError as error:
        return f"wandb: {path}; not published, {error}"
    return f"wandb: {path}; " + (f"published at {where}" if where else f"not published, {report_wandb.LOGGED_OUT}")
