"""Pieces of HTML for the page. All text goes through `escape`."""

from collections.abc import Sequence
from html import escape

from unigen.tools.forms.tables import Table


def message(text: str, kind: str = "said") -> str:
    """Return a line; `kind` is said, good or bad."""
    return f'<p class="studio-{kind}">{escape(text)}</p>' if text else ""


def messages(lines: Sequence[str], kind: str = "said") -> str:
    return "".join(message(line, kind) for line in lines)


def bar(done: int, count: int, words: str) -> str:
    """Return a progress bar with words beside it."""
    share = min(1.0, done / count) if count else 0.0
    inner = f'<div class="studio-done" style="width:{100 * share:.1f}%"></div>'
    return f'<div class="studio-progress"><div class="studio-bar">{inner}</div><span>{escape(words)}</span></div>'


def preformatted(text: str) -> str:
    """Return text as it is, in a box that shows its end at first."""
    return f'<div class="studio-log"><pre>{escape(text)}</pre></div>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of plain text."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="studio-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def facts(made: Table) -> str:
    """Return one of the tools' tables under its title, with its notes."""
    rows = [[cell.text for cell in row] for row in [*made.rows, *made.foot]]
    return f"<h4>{escape(made.title)}</h4>{table(made.header, rows)}{messages(made.notes)}"


def framed(page: str, height: int = 900) -> str:
    """Return a whole HTML page in a frame of its own, whose scripts cannot reach this page."""
    return (
        f'<iframe class="studio-frame" sandbox="allow-scripts" style="height:{height}px" '
        f'srcdoc="{escape(page, quote=True)}"></iframe>'
    )
