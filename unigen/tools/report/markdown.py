"""Writes the report as Markdown, and prints its answers and main tables on the terminal."""

import os
from pathlib import Path
from urllib.parse import quote

from rich.console import Console

from unigen.evaluation.answers import sentences
from unigen.tools.forms.text import print_tables
from unigen.tools.report.figures import Drawn
from unigen.tools.report.html import rendered
from unigen.tools.report.report import Report


def to_markdown(report: Report, out: Path, drawn: Drawn = Drawn()) -> str:
    """Return the report as Markdown: answers, figures, tables, and the grids as links relative to the folder `out`."""

    def link(path: Path) -> str:
        return quote(os.fsencode(os.path.relpath(path, out.resolve())))

    figures = drawn.forests or [None] * len(report.answers)
    return rendered(
        "report.md", report=report, answers=zip(report.answers, figures, strict=True), link=link, drawn=drawn
    )


def print_report(report: Report) -> None:
    """Print the answer of the page, that of each metric, and the tables that are meant for the terminal."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for answer in report.answers[:0] if not report.summary else [None, *report.answers]:
        said = report.summary if answer is None else f"{answer.title}: {' '.join(sentences(answer))}"
        console.print(said)
    print_tables(report.tables)
