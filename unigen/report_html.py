"""The report as one HTML page that needs nothing else: inline style and script, pictures as data, no network.

All text goes through `escape`; nothing from a run reaches the script, which only moves what is already on the page.
"""

import base64
import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from unigen.report import Report
from unigen.report_runs import UNREADABLE, Arm, Run, number
from unigen.report_tables import Cell, Table

Points = list[tuple[int, float]]
CURVES = {"val/loss": 0.0, "train/loss": 0.05}  # metric -> smoothing window as a share of the points
EMBEDDED_BYTES = 48 * 2**20  # pictures beyond this are named but not embedded, so that a browser can open the page
COLOURS = ("#3f7fd9", "#dd6b3d", "#2f9d6f", "#a765c8", "#bf9420", "#29a3b5", "#d4568f", "#7b8794")
DASHES = ("", "6 3", "2 3")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 620, 300, 58, 26, 12, 44

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --soft: #646a73; --line: #dcdfe4; --shade: #f5f6f8;
  --mark: #e4f2e8; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e4e6ea; --soft: #9aa1ab; --line: #343941;
  --shade: #1f2228; --mark: #1f3a2b; } }
body { margin: 0 auto; max-width: 1320px; padding: 28px 32px 60px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0; } h2 { font-size: 18px; margin: 36px 0 10px; }
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


def grids_html(grids: Sequence[tuple[str, Path]]) -> str:
    """The sample grids side by side. A picture that cannot be read, or is one too many, is named in its place."""
    figures, room = [], EMBEDDED_BYTES
    for caption, path in grids:
        try:
            data = path.read_bytes()
        except OSError:
            data = b""
        room -= len(data)
        if not data.startswith(b"\x89PNG"):
            body = f"<p>{escape(path.name)} is not a readable PNG.</p>"
        elif room < 0:
            body = f"<p>{escape(path.name)} is not embedded: the page would be too large.</p>"
        else:
            picture = base64.b64encode(data).decode()
            body = f'<img loading="lazy" alt="{escape(caption)}" src="data:image/png;base64,{picture}">'
        figures.append(f"<figure><figcaption>{escape(caption)}</figcaption>{body}</figure>")
    return f'<section><h2>Samples</h2><div class="grids">{"".join(figures)}</div></section>' if figures else ""


# curves --------------------------------------------------------------------------------------------------------------


def read_curves(run: Run) -> dict[str, Points]:
    """The points of CURVES in the order of steps, from metrics.jsonl: the last line of a step wins.

    Lines that cannot be read (the last one of a killed run is often cut off) are skipped; no file means no points.
    """
    points: dict[str, dict[int, float]] = {name: {} for name in CURVES}
    try:
        lines = (run.path / "metrics.jsonl").read_bytes().splitlines()
    except OSError:
        lines = []
    for line in lines:
        try:
            row = json.loads(line)
            step = int(row["step"])
            values = [(name, number(row.get(name))) for name in CURVES]
        except UNREADABLE:
            continue
        for name, value in values:
            if value is not None:
                points[name][step] = value
    return {name: sorted(values.items()) for name, values in points.items()}


def smoothed(points: Points, share: float, most: int = 240) -> Points:
    """Mean over a window of `share` of the points, behind and ahead alike, thinned to about `most` points.

    At both ends the window is what there is of it.
    """
    total = [0.0]
    for _, value in points:
        total.append(total[-1] + value)
    half, last, result = int(len(points) * share / 2), len(points) - 1, []
    for i in sorted({*range(0, len(points), math.ceil(len(points) / most) or 1), max(last, 0)} if points else ()):
        start, stop = max(i - half, 0), min(i + half, last) + 1
        result.append((points[i][0], (total[stop] - total[start]) / (stop - start)))
    return result


def ticks(low: float, high: float, log: bool) -> list[float]:
    """About five round numbers in [low, high]."""
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        round_numbers = [m * 10.0**e for e in decades for m in ((1, 2, 5) if high / low < 1000 else (1,))]
        return [value for value in round_numbers if low <= value <= high]
    rough = (high - low) / 5 or 1.0
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough * 0.999)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def chart(name: str, lines: list[tuple[int, str, Points]], share: float) -> str:
    """One SVG with labelled axes; `lines` are (arm index, run, points). The loss axis is logarithmic beyond 20 to 1."""
    values = [value for _, _, points in lines for _, value in points]
    end = max(step for _, _, points in lines for step, _ in points) or 1
    low, high = min(values), max(values)
    log = low > 0 and high / low > 20

    def across(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / end

    def down(value: float) -> float:
        ends = [math.log10(v) if log else v for v in (low, high, value)]
        share_of_height = (ends[2] - ends[0]) / (ends[1] - ends[0] or 1.0)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share_of_height

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)} by step">']
    for tick in ticks(low, high, log):
        y = down(tick)
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for tick in ticks(0, end, False):
        parts.append(f'<text x="{across(tick):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:,.0f}</text>')
    for arm, run, points in lines:
        path = [f"{across(step):.1f},{down(value):.1f}" for step, value in points]
        x, y = path[0].split(",")
        tag, shape = ("circle", f'cx="{x}" cy="{y}" r="3"') if len(path) == 1 else ("path", f'd="M{" ".join(path)}"')
        parts.append(f'<{tag} class="arm{arm}" {stroke(arm)} {shape}><title>{escape(run)}</title></{tag}>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    title = escape(name) + (" (log)" if log else "")
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">step</text>')
    parts.append(f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{title}</text></svg>')
    caption = escape(name) + (f", mean over a window of {share:.0%} of the points" if share else "")
    return f"<figure><figcaption>{caption}</figcaption>{''.join(parts)}</figure>"


def stroke(arm: int) -> str:
    """One look an arm: 8 colours, then the same dashed and dotted."""
    dash = DASHES[arm // len(COLOURS) % len(DASHES)]
    return f'stroke="{COLOURS[arm % len(COLOURS)]}"' + (f' stroke-dasharray="{dash}"' if dash else "")


def curves_html(arms: Sequence[Arm]) -> str:
    """A chart for each of CURVES that any run has, one line a run in the colour of its arm, under one legend."""
    lines: dict[str, list[tuple[int, str, Points]]] = {name: [] for name in CURVES}
    for index, arm in enumerate(arms):
        for run in arm.runs:
            for name, points in read_curves(run).items():
                if points:
                    label = f"{arm.label}, seed {run.summary['seed']}"
                    lines[name].append((index, label, smoothed(points, CURVES[name])))
    charts = "".join(chart(name, series, CURVES[name]) for name, series in lines.items() if series)
    legend = "".join(
        f'<button type="button" aria-pressed="true" data-arm="{index}"><svg viewBox="0 0 26 10">'
        f'<path {stroke(index)} d="M1,5 25,5"/></svg> {escape(arm.label)}</button>'
        for index, arm in enumerate(arms)
    )
    heading = '<h2>Loss curves</h2><p class="lead">One line a run; click an arm to hide it.</p>'
    body = f'<div class="legend">{legend}</div><div class="charts">{charts}</div>'
    return f"<section>{heading}{body}</section>" if charts else ""
