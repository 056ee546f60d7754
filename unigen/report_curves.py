"""Curves of training in the report's page: one SVG a metric, drawn from metrics.jsonl, one line a run."""

import functools
import json
import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from unigen.files import json_lines
from unigen.report_arms import Arm
from unigen.report_runs import UNREADABLE, Run, number

Points = list[tuple[int, float]]
TRAINING = "train/loss"  # shown as a mean over a window; everything below val/ as it is
WINDOW = 0.05  # as a share of the points
COLOURS = ("#3f7fd9", "#dd6b3d", "#2f9d6f", "#a765c8", "#bf9420", "#29a3b5", "#d4568f", "#7b8794")
DASHES = ("", "6 3", "2 3")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 620, 300, 58, 26, 12, 44


def read_curves(run: Run) -> dict[str, Points]:
    """The points of the training loss and of every val/ metric by step, from metrics.jsonl: a step's last line wins.

    Lines that cannot be read (the last one of a killed run is often cut off) are skipped; no file means no points.
    """
    path = run.path / "metrics.jsonl"
    try:
        found = path.stat()
        return _read(path, found.st_mtime_ns, found.st_size)
    except OSError:
        return {}


@functools.lru_cache(maxsize=4096)
def _read(path: Path, *version: int) -> dict[str, Points]:
    """The curves in a file, once for all forms of a report. Raises OSError."""
    points: dict[str, dict[int, float]] = {}
    for row in _rows(path.read_bytes().splitlines()):
        try:
            step = int(row["step"])
        except UNREADABLE:
            continue
        for name, value in row.items():
            if (name == TRAINING or name.startswith("val/")) and (value := number(value)) is not None:
                points.setdefault(name, {})[step] = value
    return {name: sorted(values.items()) for name, values in points.items()}


def _rows(lines: Sequence[bytes]) -> Iterator[Any]:
    if (found := json_lines(lines)) is not None:
        yield from found
        return
    for line in lines:
        try:
            yield json.loads(line)
        except UNREADABLE:
            continue


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
    """A chart for each metric that any run logged, one line a run in the colour of its arm, under one legend."""
    lines: dict[str, list[tuple[int, str, Points]]] = {}
    for index, arm in enumerate(arms):
        for run in arm.runs:
            for name, points in read_curves(run).items():
                label = f"{arm.label}, seed {run.summary['seed']}"
                share = WINDOW if name == TRAINING else 0.0
                lines.setdefault(name, []).append((index, label, smoothed(points, share)))
    charts, drawn = "", []
    for name in sorted(lines, key=lambda name: (name == TRAINING, name)):
        if lines[name] not in drawn:  # the loss of the only segment is the loss
            drawn.append(lines[name])
            charts += chart(name, lines[name], WINDOW if name == TRAINING else 0.0)
    legend = "".join(
        f'<button type="button" aria-pressed="true" data-arm="{index}"><svg viewBox="0 0 26 10">'
        f'<path {stroke(index)} d="M1,5 25,5"/></svg> {escape(arm.label)}</button>'
        for index, arm in enumerate(arms)
    )
    heading = '<h2>Curves</h2><p class="lead">One line a run; click an arm to hide it.</p>'
    body = f'<div class="legend">{legend}</div><div class="charts">{charts}</div>'
    return f"<section>{heading}{body}</section>" if charts else ""
