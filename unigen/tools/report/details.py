"""The tables behind the answers of a report: all means with their intervals, all differences with their verdicts."""

from __future__ import annotations

from collections.abc import Sequence

from unigen.evaluation.agreement import counted
from unigen.evaluation.answers import Answer, Line, against_published, one_line
from unigen.evaluation.compared import Family
from unigen.tools.forms.tables import ARROWS, Cell, Table, p_cell, places, span, told

INTERVALS = (
    "The interval of a mean has 95 %: the wider of Student's t over seeds and t times the error of a bootstrap over "
    "seeds and clusters of items. The interval of a difference belongs to its verdict and is corrected with it."
)
FOUND = "A true difference of the size 'resolved from' is found in about half of such sweeps; 'seeds' is for 80 %."


def detail_tables(found: Sequence[Answer], family: Family, notes: list[str]) -> list[Table]:
    """Return the table of all means with their intervals, and the table of all differences with their verdicts."""
    means, gaps = [], []
    for answer in found:
        title = answer.view.title.partition(", ")[2] if len({a.view.title for a in found}) > 1 else ""
        name = answer.metric + ARROWS.get(answer.better, "") + (f" ({title})" if title else "")
        for line in answer.lines:
            if line.mean is not None:
                value, half, over = line.mean
                cells = (told(value, half), span(value, half), Cell(over or "–"))
                means.append([Cell(name), Cell(line.arm), *cells, Cell(line.state or "not compared")])
            if line.verdict is not None:
                gaps.append(difference_row(name, answer, line))
    header = ["metric", "arm", "mean", "95 % interval", "covers", "verdict"]
    tables = [Table("Means", header, means, [], [INTERVALS, *notes])]
    header = ["metric", "arms", "published", "ours", "interval", "shared seeds", "items", "p, seeds", "p, items"]
    header += ["p after Holm", "p of equality", "margin", "resolved from", "seeds", "verdict"]
    corrected = f"Corrected for {counted(len(family.tested), 'difference')}, all that this page tests (Holm)."
    return [*tables, Table("Differences", header, gaps, [], ["Bold: resolved.", corrected, FOUND])]


def difference_row(name: str, answer: Answer, line: Line) -> list[Cell]:
    """Return the row of an arm minus the reference."""
    found, paper = line.verdict, Cell("–")
    if line.published is not None:
        column = [answer.view.published(arm, answer.paper) for arm in answer.view.arms]
        paper = Cell(f"{line.published:+.{places(column)}f}", line.published)
    ours = told(found.difference, found.half, "+")._replace(bold=found.resolved)
    ps = (found.seeds and found.seeds.p, found.items and found.items.p, found.p, found.p_equal)
    needed = Cell("–") if found.seeds_needed is None else Cell(str(found.seeds_needed), found.seeds_needed)
    items = Cell("–") if found.items is None else Cell(str(found.items.df + 1), found.items.df + 1)
    agreed = against_published(line) if found.resolved else ""
    word = one_line(line) + (f", {agreed}" if agreed else "")
    return [
        *(Cell(name), Cell(f"{line.arm} − {answer.against}"), paper, ours, span(found.difference, found.half, "+")),
        *(Cell(str(found.shared), found.shared), items, *map(p_cell, ps), told(found.margin, found.margin)),
        *(told(found.limit, found.limit), needed, Cell(word, bold=found.resolved)),
    ]
