"""Fills the templates of the report; its page is one self-contained file: inline style and script, images as data.

The page needs no network. Jinja2 escapes all text; nothing from a run reaches the script, which only sorts, hides and
compares parts of the page.
"""

import functools
from pathlib import Path
from typing import Any

from unigen.evaluation.agreement import counted
from unigen.evaluation.answers import sentences
from unigen.evaluation.shots import Item
from unigen.tools.forms.images import Embedder
from unigen.tools.forms.tables import Table
from unigen.tools.forms.text import markdown_text, table_markdown
from unigen.tools.report.figures import CYCLE, Drawn
from unigen.tools.report.report import Report

TEMPLATES = Path(__file__).resolve().parent / "templates"
STYLE, SCRIPT = ((TEMPLATES / name).read_text() for name in ("page.css", "page.js"))
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def to_html(report: Report, drawn: Drawn = Drawn()) -> str:
    """Return the whole page."""
    figures = drawn.forests or [None] * len(report.answers)
    embed = Embedder()
    return rendered(
        "page.html",
        report=report,
        answers=list(zip(report.answers, figures, strict=True)),
        curves=drawn.curves,
        rows=item_rows(report, embed),
        grids=[(each, [(said, *embed(path, whole=True)) for said, path in each.images]) for each in report.grids],
        embed=embed,
        cycle=CYCLE,
        runs=sum(len(arm.runs) for arm in report.arms),
        missing=sum(len(table.rows) for table in report.tables if table.title == "Not in the table"),
        style=STYLE,
        script=SCRIPT,
        policy=POLICY,
    )


def rendered(template: str, **given: Any) -> str:
    """Fill a template. In one that ends in .html every expression is escaped; others escape by filters."""
    return environment().get_template(template).render(given)


@functools.cache
def environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    made = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=select_autoescape(), undefined=StrictUndefined, trim_blocks=True
    )
    made.globals |= {"counted": counted, "sentences": sentences}
    made.filters |= {"md": markdown_text, "table_md": lambda table: "\n".join(table_markdown(table))}
    return made


def table_html(table: Table) -> str:
    """Return heading, sortable table and notes."""
    return str(environment().get_template("parts.html").module.section(table))


def item_rows(report: Report, embed: Embedder) -> list[dict[str, Any]]:
    """Return the items for the gallery with their images as data, as far as there is room for these.

    What most helps to compare goes first: conditions and truths, the newest outputs of each arm's first seed, those at
    step 0, the newest of other seeds, and then the rest.
    """
    first = {index: arm.runs[0].summary["seed"] for index, arm in enumerate(report.arms)}
    fixed = {(i, name): embed(path) for i, item in enumerate(report.items) for name, path in item.fixed}
    order = [
        (s.seed != first[s.arm], not s.last, s.step, i, s) for i, item in enumerate(report.items) for s in item.shots
    ]
    data = {(i, s): embed(s.path) for *_, i, s in sorted(order, key=lambda each: each[:4])}
    rows = []
    for i, item in enumerate(report.items):
        blocks = [block(report, item, i, index, data) for index in range(len(report.arms))]
        shown = [(name, *fixed[i, name]) for name, _ in item.fixed]
        rows.append({"item": item, "fixed": shown, "blocks": [each for each in blocks if each["lines"]]})
    return rows


def block(report: Report, item: Item, i: int, index: int, data: dict) -> dict[str, Any]:
    """Return one arm's outputs for an item: a line for each seed, an image for each step."""
    own = sorted(s for s in item.shots if s.arm == index)
    lines = {seed: [(s, *data[i, s]) for s in own if s.seed == seed] for seed in dict.fromkeys(s.seed for s in own)}
    return {"arm": index, "label": report.arms[index].label, "lines": lines}
