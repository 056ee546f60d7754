"""The report as Markdown, and what matters most of it on the terminal."""

import os
import re
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import rich.box
import rich.table
from rich.console import Console
from rich.text import Text

from unigen.report import Report
from unigen.report_arms import Grids
from unigen.report_tables import Table


def markdown_text(text: str) -> str:
    """`text` with everything escaped that Markdown or its HTML would interpret."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~]|\b_|_\b)", r"\\\1", text)


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table_markdown(table: Table) -> list[str]:
    """The lines of a table and of its notes."""
    lines = [line([markdown_text(text) for text in table.header])]
    lines.append(line(["---", *["---" if table.words else "---:"] * (len(table.header) - 1)]))
    for row in table.rows + table.foot:
        lines.append(line([f"**{markdown_text(c.text)}**" if c.bold else markdown_text(c.text) for c in row]))
    return [*lines, "", *(f"- {markdown_text(note)}" for note in table.notes), ""]


def grids_markdown(grids: Grids, out: Path) -> list[str]:
    """The pictures of a seed, four a line, as links relative to the folder `out`."""
    lines = []
    for start in range(0, len(grids.pictures), 4):
        four = [(markdown_text(caption), path) for caption, path in grids.pictures[start : start + 4]]
        links = [quote(os.fsencode(os.path.relpath(path, out.resolve()))) for _, path in four]
        pictures = [f"![{text}]({link})" for (text, _), link in zip(four, links, strict=True)]
        lines += [line([text for text, _ in four]), line(["---"] * len(four)), line(pictures), ""]
    if grids.without:
        lines += [f"- No picture of seed {grids.seed}: {', '.join(map(markdown_text, grids.without))}.", ""]
    return lines


def to_markdown(report: Report, out: Path) -> str:
    """The tables, and the grids as links relative to the folder `out`."""
    lines = [f"# Ablation report: {markdown_text(report.title)}", ""]
    for table in report.tables:
        lines += [f"## {markdown_text(table.title)}", "", *table_markdown(table)]
    lines += ["## Samples", ""] if report.grids else []
    for grids in report.grids:
        lines += grids_markdown(grids, out)
    return "\n".join(lines)


def print_tables(report: Report) -> None:
    """What matters most, in the terminal. A narrow one loses columns from the right, and says so; a pipe gets lines as
    long as the table needs."""
    console = Console() if Console().is_terminal else Console(width=10_000)
    for table in report.tables:
        if table.terminal:
            columns = len(table.header) if table.words else fitting(table, console)
            console.print(terminal_table(table, columns))
            hidden = table.header[columns:]
            for note in table.notes + ([f"Too narrow for {', '.join(hidden)}: see the report."] if hidden else []):
                console.print(Text(note))
            console.print()


def fitting(table: Table, console: Console) -> int:
    """How many columns the console is wide enough for, at least 1. To measure takes long, and most often all fit."""
    endless = console.options.update(max_width=10_000)

    def width(columns: int) -> int:
        return console.measure(terminal_table(table, columns), options=endless).maximum

    count = len(table.header)
    return count if width(count) <= console.width else max(1, bisect_right(range(1, count), console.width, key=width))


def terminal_table(table: Table, columns: int) -> rich.table.Table:
    """The first `columns` columns; those of a table of numbers are never folded."""
    grid = rich.table.Table(title=table.title, title_justify="left", box=rich.box.SIMPLE_HEAD)
    for i, text in enumerate(table.header[:columns]):
        grid.add_column(Text(text), justify="right" if i and not table.words else "left", no_wrap=not table.words)
    for row in table.rows + table.foot:
        grid.add_row(*(Text(cell.text, style="bold" if cell.bold else "") for cell in row[:columns]))
    return grid
