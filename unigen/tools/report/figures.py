"""Draws the report's figures with matplotlib: a forest plot for each answer, and the curves of training.

A figure is drawn once and saved as SVG for the page, and as PDF and PNG for papers (`forms.figures`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from unigen.evaluation.answers import Answer, Line, identical, one_line
from unigen.evaluation.arms import Arm
from unigen.evaluation.curves import TRAINING, WINDOW, Points, read_curves, smoothed
from unigen.tools.forms.figures import INK, SOFT, STYLE, Figure, in_full, labels, saved, shortened, unique

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from unigen.tools.report.report import Report

BLUE, ORANGE, GREY = "#2b6fc2", "#d5642a", "#8b93a0"
COLOURS = {"better": BLUE, "worse": ORANGE, "higher": BLUE, "lower": ORANGE, "equal": GREY, "reference": INK}
CYCLE = ("#3f7fd9", "#dd6b3d", "#2f9d6f", "#a765c8", "#bf9420", "#29a3b5", "#d4568f", "#7b8794")
DASHES = ("solid", "dashed", "dotted")
MOST = 40  # arms of a forest plot
LEGEND = 12  # arms up to which a figure of curves has a legend


class Drawn(NamedTuple):
    """All figures of a report: one for each of its answers, or none, and one for each curve."""

    forests: list[Figure] = []
    curves: list[Figure] = []


def draw(report: Report, out: Path) -> Drawn:
    """Draw all figures, write them below `out`, and return them. Raises OSError."""
    forests: list[Figure] = []
    for answer in report.answers:
        forests.append(forest(answer, unique(answer.metric, (each.name for each in forests)), out))
    return Drawn(forests, curves(report.arms, out))


def forest(answer: Answer, name: str, folder: Path) -> Figure:
    """Draw the arms' means, their differences to the reference, and the published differences, each with its axis."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Drawing

    lines = [line for line in answer.lines if line.mean]
    if len(lines) > MOST:
        lines.sort(key=lambda line: -abs(line.verdict.difference) if line.verdict else float("-inf"))
    shown, told = lines[:MOST], any(line.verdict and line.published is not None for line in lines)
    names = labels([line.arm for line in shown])
    high = 0.32 + 0.15 * max((name.count("\n") for name in names), default=0)
    with rc_context(STYLE):
        drawing = Drawing(figsize=(10, 0.9 + high * len(shown)), layout="constrained")
        widths = [3, 4, 1.6] if told else [3, 4]
        axes = drawing.subplots(1, len(widths), sharey=True, width_ratios=widths)
        axes[0].set_yticks(range(len(shown)), names, color=INK)
        axes[0].set_ylim(len(shown) - 0.5, -0.5)
        titles = ("mean, 95 % interval", f"minus {shortened(answer.against, 28)}, interval of the verdict", "published")
        for ax, title in zip(axes, titles, strict=False):
            ax.set_title(title, color=SOFT, loc="left")
            ax.tick_params(left=False)
            ax.spines["left"].set_visible(False)
            ax.locator_params(axis="x", nbins=3 if title == "published" else 5)
            ax.grid(axis="x", color=GREY, alpha=0.2, linewidth=0.6)
        _means(axes[0], shown)
        _differences(axes[1], shown)
        if told:
            _published(axes[2], shown)
        few = f" The {MOST} of {len(lines)} arms that differ most are drawn." if len(lines) > MOST else ""
        return saved(drawing, name, folder, f"{answer.title}.{few}{in_full(names, [line.arm for line in shown])}")


def _means(ax: Axes, lines: Sequence[Line]) -> None:
    for row, line in enumerate(lines):
        ax.errorbar(line.mean.value, row, xerr=line.mean.half or None, fmt="o", color=INK, ms=4, lw=1.1)


def _differences(ax: Axes, lines: Sequence[Line]) -> None:
    """Draw differences: coloured where resolved, grey where equal within the margin, hollow where it cannot be told."""
    ax.axvline(0, color=INK, linewidth=0.9)
    margins = [line.verdict.margin for line in lines if line.verdict and line.verdict.margin]
    if margins:
        ax.axvspan(-max(margins), max(margins), color=GREY, alpha=0.16, linewidth=0)
    told = [line for line in lines if line.verdict]
    if told and all(identical(line.verdict) for line in told):  # an axis of rounding errors says nothing
        ax.set_xlim(*(sign * max(abs(line.mean.half or line.mean.value) for line in told) for sign in (-1, 1)))
    for row, line in enumerate(lines):
        colour, open_ = COLOURS.get(line.state, SOFT), line.state in ("open", "")
        if line.verdict is not None:
            bars = {"fmt": "o", "ms": 6, "lw": 1.4, "mfc": "none" if open_ else colour}
            ax.errorbar(line.verdict.difference, row, xerr=line.verdict.half, color=colour, **bars)
        words = one_line(line) or "not compared"
        ax.text(1.01, row, words, transform=ax.get_yaxis_transform(), va="center", fontsize=8.5, color=colour)


def _published(ax: Axes, lines: Sequence[Line]) -> None:
    ax.axvline(0, color=INK, linewidth=0.9)
    for row, line in enumerate(lines):
        if line.published is not None and line.verdict is not None:
            ax.plot(line.published, row, marker="D", color=SOFT, ms=5, linestyle="none")
    ax.margins(x=0.2)


# curves ---------------------------------------------------------------------------------------------------------------


def curves(arms: Sequence[Arm], folder: Path) -> list[Figure]:
    """Draw a figure for each metric that any run logged: a line for each run, in its arm's colour."""
    lines: dict[str, list[tuple[int, Points]]] = {}
    for index, arm in enumerate(arms):
        for run in arm.runs:
            for name, points in read_curves(run).items():
                share = WINDOW if name == TRAINING else 0.0
                lines.setdefault(name, []).append((index, smoothed(points, share)))
    drawn: list[list] = []
    made: list[Figure] = []
    for name in sorted(lines, key=lambda name: (name == TRAINING, name)):
        if lines[name] not in drawn:  # the loss of the only segment is the loss
            drawn.append(lines[name])
            made.append(chart(name, lines[name], arms, unique(f"curve_{name}", (each.name for each in made)), folder))
    return made


def chart(metric: str, lines: Sequence[tuple[int, Points]], arms: Sequence[Arm], name: str, folder: Path) -> Figure:
    """Draw one metric by step. The axis is logarithmic if the values span more than 20 to 1."""
    from matplotlib import rc_context
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure as Drawing

    values = [value for _, points in lines for _, value in points]
    log, last = min(values) > 0 and max(values) / min(values) > 20, max(x for _, points in lines for x, _ in points)
    with rc_context(STYLE):
        drawing = Drawing(figsize=(6.2, 3.2), layout="constrained")
        ax, handles = drawing.subplots(), {}
        for index in dict.fromkeys(index for index, _ in lines):
            own = [points for i, points in lines if i == index]
            look = {"color": CYCLE[index % len(CYCLE)], "gid": f"arm{index}"}
            dash = DASHES[index // len(CYCLE) % len(DASHES)]
            handles[index] = ax.add_collection(LineCollection([p for p in own if len(p) > 1], ls=dash, lw=1.2, **look))
            if dots := [points[0] for points in own if len(points) == 1]:  # one point has no line to draw
                ax.scatter(*zip(*dots, strict=True), s=12, **look)
        ax.set(xlabel="step", ylabel=metric + (" (log)" if log else ""), yscale="log" if log else "linear")
        ax.set_xlim(0, last or 1)
        ax.autoscale_view(scalex=False)
        if len(handles) <= LEGEND:
            names = labels([arms[index].label for index in handles], letters=40, width=40)
            ax.legend(handles.values(), names, fontsize=7, frameon=False, loc="upper right").set_gid("legend")
        share = f", mean over a window of {WINDOW:.0%} of the points" if metric == TRAINING else ""
        return saved(drawing, name, folder, metric + share)
