"""Writes tables as Markdown, and prints them on the terminal."""

import re
from bisect import bisect_right
from collections.abc import Sequence

import rich.box
import rich.table
from rich.console import Console
from rich.text import Text

from unigen.tools.forms.tables import Table


def markdown_text(text: str) -> str:
    """Escape everything in `text` that Markdown or its HTML would interpret."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~]|\b_|_\b)", r"\\\1", text)


def table_markdown(table: Table) -> list[str]:
    """Return the lines of a table and of its notes."""
    text = table.frame(markdown_text, "**{}**".format).to_markdown(
        index=False, disable_numparse=True, colalign=table.alignment
    )
    return [text, "", *(f"- {markdown_text(note)}" for note in table.notes), ""]


def print_tables(tables: Sequence[Table]) -> None:
    """Print the tables that are meant for the terminal.

    In a narrow terminal columns on the right are left out, and a note names them; a pipe gets lines of any length.
    """
    console = Console() if Console().is_terminal else Console(width=10_000)
    for table in tables:
        if table.terminal:
            columns = len(table.header) if table.words else fitting(table, console)
            console.print(terminal_table(table, columns))
            hidden = table.header[columns:]
            for note in table.notes + ([f"Too narrow for {', '.join(hidden)}: see the report."] if hidden else []):
                console.print(Text(note))
            console.print()


def fitting(table: Table, console: Console) -> int:
    """Return the number of columns that fit into the console, at least 1.

    Measuring a table is slow and most often all columns fit, so that is tried first.
    """
    endless = console.options.update(max_width=10_000)

    def width(columns: int) -> int:
        return console.measure(terminal_table(table, columns), options=endless).maximum

    count = len(table.header)
    return count if width(count) <= console.width else max(1, bisect_right(range(1, count), console.width, key=width))


def terminal_table(table: Table, columns: int) -> rich.table.Table:
    """Return a table with the first `columns` columns; columns of a table with numbers are never folded."""
    grid = rich.table.Table(title=table.title, title_justify="left", box=rich.box.SIMPLE_HEAD)
    for i, text in enumerate(table.header[:columns]):
        grid.add_column(Text(text), justify="right" if i and not table.words else "left", no_wrap=not table.words)
    for row in table.rows + table.foot:
        grid.add_row(*(Text(cell.text, style="bold" if cell.bold else "") for cell in row[:columns]))
    return grid
