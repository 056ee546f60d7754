"""Draws a curve of several runs as SVG for the page."""

import io
import threading
import warnings
from collections.abc import Sequence
from functools import lru_cache

from unigen.tools.forms.figures import STYLE, inline, labels

Row = tuple[int, float, str]  # step, value, run
_one = threading.Lock()  # matplotlib's settings are global


@lru_cache(maxsize=32)
def curve_svg(rows: Sequence[Row], name: str) -> str:
    """Return a line by step for each run; the axis is logarithmic if the values span more than 20 to 1. "" for no rows.

    Names of runs are text in the SVG, with its special characters escaped.
    """
    if not rows:
        return ""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    values, runs = [value for _, value, _ in rows], list(dict.fromkeys(run for *_, run in rows))
    log = min(values) > 0 and max(values) / min(values) > 20
    with _one, rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")  # the browser has others
        drawing = Figure(figsize=(7.2, 2.9), layout="constrained")
        ax = drawing.subplots()
        for run, label in zip(runs, labels(runs, letters=40, width=40), strict=True):
            own = [(step, value) for step, value, name in rows if name == run]
            ax.plot(*zip(*own, strict=True), lw=1.3, label=label, marker="o" if len(own) == 1 else None)
        ax.set(xlabel="step", ylabel=name + (" (log)" if log else ""), yscale="log" if log else "linear")
        ax.legend(fontsize=8, frameon=False)
        file = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawing.savefig(file, format="svg", transparent=True, metadata=metadata)
    return f'<div class="studio-plot">{inline(file.getvalue())}</div>'
