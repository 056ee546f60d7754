"""The report as one HTML page that needs nothing else: inline style and script, pictures as data, no network.

All text goes through `escape`; nothing from a run reaches the script, which only moves what is already on the page.
"""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from unigen.report import Report
from unigen.report_arms import Grids
from unigen.report_curves import curves_html
from unigen.report_tables import Cell, Table

EMBEDDED_BYTES = 48 * 2**20  # pictures beyond this are named but not embedded, so that a browser can open the page

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --soft: #646a73; --line: #dcdfe4; --shade: #f5f6f8;
  --mark: #e4f2e8; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e4e6ea; --soft: #9aa1ab; --line: #343941;
  --shade: #1f2228; --mark: #1f3a2b; } }
body { margin: 0 auto; max-width: 1320px; padding: 28px 32px 60px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0; } h2 { font-size: 18px; margin: 36px 0 10px; }
h3 { font-size: 14px; margin: 14px 0 8px; }
p.lead, ul.notes, figcaption, footer { color: var(--soft); } p.lead { margin: 4px 0 0; }
ul.notes { margin: 10px 0 0; padding-left: 18px; font-size: 13.5px; max-width: 110ch; }
.scroll { overflow-x: auto; width: fit-content; max-width: 100%; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
table.words :is(th, td) { text-align: left; } table.words td + td { white-space: normal; overflow-wrap: anywhere; }
thead th, thead th:first-child { background: var(--shade); }
thead button { all: unset; cursor: pointer; font-weight: 600; } thead button:focus-visible { outline: 2px solid; }
thead th[aria-sort]::after { color: var(--soft); padding-left: 5px; font-size: 10px; }
thead th:hover { text-decoration: underline; }
thead th[aria-sort=ascending]::after { content: "\\25B2"; }
thead th[aria-sort=descending]::after { content: "\\25BC"; }
tbody tr:hover td { background: var(--shade); } td.bold { font-weight: 700; background: var(--mark) !important; }
tfoot td { color: var(--soft); font-style: italic; } tr:last-child td { border-bottom: 0; }
tbody + tfoot tr:first-child td { border-top: 2px solid var(--line); }
.grids { display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 18px; }
.grids figure { margin: 0; } .grids .wide { grid-column: 1 / -1; } figcaption { font-size: 13px; margin-bottom: 5px; }
.grids img { width: 100%; height: auto; max-width: 960px; cursor: zoom-in; border: 1px solid var(--line);
  border-radius: 6px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(430px, 1fr)); gap: 18px; }
.charts figure { margin: 0; } svg { width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 12px; }
svg .axis { stroke: var(--line); } svg path { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; max-height: 130px; overflow: auto; margin-bottom: 8px; }
.legend button { all: unset; cursor: pointer; font-size: 13.5px; } .legend svg { width: 26px; height: 10px; }
.legend button[aria-pressed=false] { opacity: .35; } .off { display: none; }
"""

SCRIPT = """
document.querySelectorAll('thead button').forEach(button => button.onclick = () => {
  const head = button.parentElement, table = head.closest('table'), column = head.cellIndex;
  const down = head.getAttribute('aria-sort') === 'ascending', body = table.tBodies[0];
  table.querySelectorAll('th').forEach(other => other.removeAttribute('aria-sort'));
  head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  const rows = [...body.rows], numeric = rows.some(row => row.cells[column].dataset.sort);
  rows.sort((left, right) => {
    const a = left.cells[column], b = right.cells[column];
    if (numeric && (!a.dataset.sort || !b.dataset.sort)) return (b.dataset.sort ? 1 : 0) - (a.dataset.sort ? 1 : 0);
    const order = numeric ? a.dataset.sort - b.dataset.sort
                          : a.textContent.localeCompare(b.textContent, undefined, {numeric: true});
    return down ? -order : order;
  });
  body.append(...rows);
});
document.querySelectorAll('.grids img').forEach(image => image.onclick = () =>
  image.closest('figure').classList.toggle('wide'));
document.querySelectorAll('.legend button').forEach(button => button.onclick = () => {
  const shown = button.getAttribute('aria-pressed') === 'false';
  button.setAttribute('aria-pressed', shown);
  document.querySelectorAll('.charts .arm' + button.dataset.arm).forEach(line => line.classList.toggle('off', !shown));
});
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def to_html(report: Report) -> str:
    """The whole page."""
    last = ("Config differences", "Runs")  # below the pictures
    runs = sum(len(arm.runs) for arm in report.arms)
    missing = sum(len(table.rows) for table in report.tables if table.title == "Not in the table")
    lead = f"{counted(runs, 'finished run')} in {counted(len(report.arms), 'arm')}"
    lead += f", {missing} not in the table" if missing else ""
    title = f"Ablation report: {escape(report.title)}"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>",
        f'<p class="lead">{lead}. Click a column to sort by it.</p>',
        *(f"<section>{table_html(table)}</section>" for table in report.tables if table.title not in last),
        grids_html(report.grids),
        curves_html(report.arms),
        *(f"<section>{table_html(table)}</section>" for table in report.tables if table.title in last),
        f"<script>{SCRIPT}</script></body></html>",
    ]
    return "\n".join(parts)


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def table_html(table: Table) -> str:
    """Heading, sortable table and notes."""
    heads = "".join(f'<th scope="col"><button type="button">{escape(text)}</button></th>' for text in table.header)
    foot = f"<tfoot>{''.join(map(row_html, table.foot))}</tfoot>" if table.foot else ""
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    return (
        f'<h2>{escape(table.title)}</h2><div class="scroll"><table{" class=words" if table.words else ""}>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(map(row_html, table.rows))}</tbody>{foot}</table></div>"
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
    )


def row_html(row: Sequence[Cell]) -> str:
    cells = []
    for cell in row:
        sort = "" if cell.sort is None else f' data-sort="{cell.sort}"'
        cells.append(f"<td{sort}{' class=bold' if cell.bold else ''}>{escape(cell.text)}</td>")
    return f"<tr>{''.join(cells)}</tr>"


# pictures ------------------------------------------------------------------------------------------------------------


def grids_html(groups: Sequence[Grids]) -> str:
    """The sample grids of a seed side by side, a row for each seed, and who has none of it."""
    parts, room = [], EMBEDDED_BYTES
    for grids in groups:
        figures = []
        for caption, path in grids.pictures:
            figure, size = figure_html(caption, path, room)
            figures.append(figure)
            room -= size
        without = f"; no picture of {', '.join(grids.without)}" if grids.without else ""
        parts.append(f"<h3>Seed {grids.seed}{escape(without)}</h3>")
        parts.append(f'<div class="grids" data-seed="{grids.seed}">{"".join(figures)}</div>')
    return f"<section><h2>Samples</h2>{''.join(parts)}</section>" if parts else ""


def figure_html(caption: str, path: Path, room: int) -> tuple[str, int]:
    """A picture and its size in bytes. One that cannot be read, or is larger than `room`, is named in its place."""
    try:
        data = path.read_bytes()
    except OSError:
        data = b""
    if not data.startswith(b"\x89PNG"):
        body = f"<p>{escape(path.name)} is not a readable PNG.</p>"
    elif len(data) > room:
        body = f"<p>{escape(path.name)} is not embedded: the page would be too large.</p>"
    else:
        picture = base64.b64encode(data).decode()
        body = f'<img loading="lazy" alt="{escape(caption)}" src="data:image/png;base64,{picture}">'
    return f"<figure><figcaption>{escape(caption)}</figcaption>{body}</figure>", len(data)
