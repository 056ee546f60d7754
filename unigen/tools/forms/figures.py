"""Saves matplotlib's figures: as SVG for a page in the page's own ink, and as PDF and PNG for papers."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from unigen.config.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

FOLDER = "figures"  # beside the page
INK, SOFT = "#1c1e22", "#656b74"  # the page's colours take their place in SVG
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": SOFT}
STYLE |= {
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.labelcolor": SOFT,
    "text.color": INK,
    "svg.hashsalt": "unigen",
}
STYLE |= {"text.parse_math": False, "svg.fonttype": "none", "pdf.fonttype": 42, "axes.titlesize": 9}


class Figure(NamedTuple):
    """A figure as SVG for the page, the name of its files in FOLDER (without an ending), and its caption."""

    name: str
    svg: str
    caption: str


def unique(name: str, taken: Iterable[str]) -> str:
    """Return a name for files and for LaTeX, of letters, digits, _ and -, that is not taken yet."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "figure"
    taken, count = set(taken), 1
    while (found := plain if count == 1 else f"{plain}_{count}") in taken:
        count += 1
    return found


def labels(names: Sequence[str], letters: int = 80, width: int = 28) -> list[str]:
    """Return names for a figure: of at most so many letters, and wrapped, so that they leave room for what is drawn.

    Longer names are cut in the middle, since arms of a sweep differ at their ends, and numbered if two look alike then.
    """
    cut = [shortened(name, letters) for name in names]
    alike = {text for text in cut if cut.count(text) > 1}
    numbered = [shortened(f"{i}: {name}", letters) for i, name in enumerate(names, 1)]
    return [wrapped(other if text in alike else text, width) for text, other in zip(cut, numbered, strict=True)]


def shortened(name: str, letters: int) -> str:
    half = (letters - 1) // 2
    return name if len(name) <= letters else f"{name[:half]}…{name[-half:]}"


def in_full(found: Sequence[str], names: Sequence[str]) -> str:
    """Return a sentence with the names that `labels` has cut, none if all of them are whole."""
    cut = [name for label, name in zip(found, names, strict=True) if "…" in label and "…" not in name]
    return f" Names in full: {'; '.join(cut)}." if cut else ""


def wrapped(text: str, width: int) -> str:
    """Return the text in lines of at most `width` letters, which end after a blank or a mark where there is one."""
    lines = [""]
    for part in re.findall(rf"[^\s_/.,;=(+-]{{0,{width - 1}}}[\s_/.,;=(+-]?", text):
        if lines[-1] and len(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.strip() for line in lines)


def saved(drawing: Drawing, name: str, folder: Path, caption: str) -> Figure:
    """Write FOLDER/name.pdf and .png below `folder`, and return the figure with its SVG. Raises OSError.

    A letter that the font lacks is a box in PDF and PNG, which is not worth a warning for each file.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        return _saved(drawing, name, folder, caption)


def _saved(drawing: Drawing, name: str, folder: Path, caption: str) -> Figure:
    drawing.draw_without_rendering()
    drawing.set_layout_engine("none")  # the layout is found once and holds for all three files
    for ending, how in {"pdf": {"metadata": {"CreationDate": None}}, "png": {"dpi": 200}}.items():
        with whole_file(folder / FOLDER / f"{name}.{ending}") as part:
            drawing.savefig(part, format=ending, **how)
    file = io.StringIO()
    drawing.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return Figure(name, inline(file.getvalue()), caption)


def inline(svg: str) -> str:
    """Return matplotlib's SVG for a place in HTML: without addresses of namespaces, in the page's own ink.

    Groups named armN and legend become classes, which several figures of a page may share.
    """
    svg = re.sub(
        r"\s*<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", svg[svg.index("<svg") :], flags=re.S
    )
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"|\s(width|height)="[\d.]+pt"(?=[^>]*viewBox)', "", svg)
    svg = re.sub(
        r'(<svg[^>]*?)\s(?:width|height)="[\d.]+pt"',
        r"\1",
        re.sub(r'(<svg[^>]*?)\s(?:width|height)="[\d.]+pt"', r"\1", svg),
    )
    svg = re.sub(r'id="(arm\d+|legend)"', r'class="\1"', svg)
    colours = {INK: "var(--ink)", SOFT: "var(--soft)"}
    return re.sub("|".join(colours), lambda found: colours[found[0]], svg)
