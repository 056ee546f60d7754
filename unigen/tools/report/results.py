"""The tables of a report that show runs as they are: results, published numbers beside ours, settings, protocols."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from unigen.core.intervals import LEVEL
from unigen.evaluation.agreement import protocols
from unigen.evaluation.arms import Arm, differing, incomparable, metric_directions, over_seeds, reasons, treatment
from unigen.evaluation.compared import Family, Measured, interval
from unigen.evaluation.costs import facts
from unigen.evaluation.runs import number, shown
from unigen.evaluation.views import View, best
from unigen.tools.forms.tables import ARROWS, Cell, Table, footnotes, printed, span, told

BOUNDS = {"low": "no-condition bound", "high": "truth through the codec"}
APART = (
    f"Published: the paper's metric on its data and at its scale; beside it ours that corresponds to it, mean and "
    f"{LEVEL:.0%} interval. Compare orders and signs, not values."
)
ALONE = f"Mean and {LEVEL:.0%} interval; nothing is published of these arms."
CONFIG = (
    "Seed, name, logger, paths, what was published and what was measured (metric.*, which may differ within an arm) "
    "are left out. Bold: a value that most arms do not have."
)
LEFT_OUT = "Marked arms are left out of the comparisons."
ONE = "n=1: the interval is over items only and does not cover other seeds of training."
ELSEWHERE = "Published numbers: metric, data and scale differ from ours, so the two tables are not to be compared."


def result_table(arms: list[Arm], seen: Sequence[View], family: Family) -> Table:
    """Return the table of results: a row for each arm, bounds at the bottom, footnotes for arms that do not compare."""
    marks, notes = footnotes(incomparable(arms))
    columns = [[*(Cell(arm.label + marks.get(i, "")) for i, arm in enumerate(arms)), *map(Cell, BOUNDS.values())]]
    columns.append([*(Cell(str(len(arm.runs)), len(arm.runs)) for arm in arms), Cell(""), Cell("")])
    header = ["arm", "seeds"]
    for name, better in metric_directions(arms).items():
        header.append(name + ARROWS.get(better, ""))
        columns.append(metric_column(name, arms, set().union(*(best(view, family, name, better) for view in seen))))
    for title, get, show in facts(arms):
        stats = [over_seeds(arm, get) for arm in arms]
        if any(stats):
            header.append(title)
            columns.append([*(Cell(show(s.mean), s.mean) if s else Cell("–") for s in stats), Cell(""), Cell("")])
    rows = [list(row) for row in zip(*columns, strict=True)]
    foot = [row for row in rows[len(arms) :] if any(cell.sort is not None for cell in row)]
    notes += reading_notes(arms, seen, family, any(cell.bold for row in rows for cell in row)) + reasons(arms)
    return Table("Results", header, rows[: len(arms)], foot, notes, terminal=True)


def metric_column(name: str, arms: list[Arm], marked: set[str]) -> list[Cell]:
    """Return the cells of a metric, one for each arm and then the two bounds; those of `marked` arms are bold."""
    stats = [over_seeds(arm, lambda summary: summary["metrics"].get(name, {}).get("value")) for arm in arms]
    top = max((abs(stat.mean) for stat in stats if stat), default=0.0)
    show = "{:.2e}" if 0 < top < 0.01 else "{:.3f}" if top < 10 else "{:.2f}" if top < 100 else "{:,.1f}"
    cells = []
    for arm, stat in zip(arms, stats, strict=True):
        if stat is None:
            cells.append(Cell("–"))
            continue
        spread = f" ± {show.format(stat.std)}" if stat.seeds > 1 else ""
        seeds = f" (n={stat.seeds})" if stat.seeds < len(arm.runs) else ""
        cells.append(Cell(show.format(stat.mean) + spread + seeds, stat.mean, arm.label in marked))
    for bound in BOUNDS:
        found = [run.summary["metrics"].get(name, {}).get(bound) for arm in arms for run in arm.runs]
        values = sorted(value for value in map(number, found) if value is not None)
        ends = dict.fromkeys(show.format(value) for value in values[:1] + values[-1:])
        cells.append(Cell(" to ".join(ends) or "–", values[0] if values else None))
    return cells


def reading_notes(arms: list[Arm], seen: Sequence[View], family: Family, marked: bool) -> list[str]:
    """Return notes that explain ±, the marks, and the verdicts."""
    notes = []
    if max((len(arm.runs) for arm in arms), default=0) > 1:
        notes.append("± is the sample standard deviation over seeds.")
    if family.verdicts:
        against = " or ".join(dict.fromkeys(view.against.label for view in seen if view.arms))
        bold = f"Bold: better than {against}, the reference, resolved; or {against} itself if all others are worse."
        notes.append(bold if marked else f"Nothing is marked: no arm is resolved to be better than {against}.")
    return notes + family.notes()


# published numbers beside ours ----------------------------------------------------------------------------------------


def number_table(view: View, measured: Measured) -> Table:
    """Return the table of published numbers, each before our mean with its interval, with rows that have no runs."""
    table, arms, columns = view.table, view.arms, view.columns()
    marks, notes = footnotes(view.flagged)
    names = dict.fromkeys(arm.runs[0].summary["name"] for arm in arms)
    absent = [name for name in table.order if name not in names]
    cells = [[Cell(arm.label + marks.get(i, "")) for i, arm in enumerate(arms)] + [*map(Cell, absent)]]
    cells.append([Cell(str(len(arm.runs)), len(arm.runs)) for arm in arms] + [Cell("0", 0)] * len(absent))
    header, directions = ["arm", "seeds"], metric_directions(arms)
    for i, (paper, ours) in enumerate(columns):
        if view.has_published and paper not in (earlier for earlier, _ in columns[:i]):
            header.append(f"{paper} (published)")
            others = [table.published.get(name, {}).get(paper) for name in absent]
            cells.append(printed([*(view.published(arm, paper) for arm in arms), *others]))
        if ours and arms:
            header.append(f"{ours} (ours){ARROWS.get(directions.get(ours, ''), '')}")
            cells.append([mean_cell(measured, arm, ours) for arm in arms] + [Cell("–")] * len(absent))
    order = {name: i for i, name in enumerate(table.order)}
    keys = [arm.runs[0].summary["name"] for arm in arms] + absent
    rows = [list(row) for row in zip(*cells, strict=True)]
    rows = [rows[i] for i in sorted(range(len(rows)), key=lambda i: order.get(keys[i], len(order)))]
    notes += [LEFT_OUT] if view.flagged else []
    notes += [APART if view.has_published else ALONE] if arms else []
    own = [scored for arm in arms for _, ours in columns if (scored := measured.get((arm.label, ours)))]
    notes += [ONE] if any(len(scored.values) == 1 and interval(scored).half is not None for scored in own) else []
    notes += missing_notes(view, measured, absent)
    return Table(view.title, header, rows, [], notes, terminal=True)


def mean_cell(measured: Measured, arm: Arm, metric: str) -> Cell:
    """Return a cell with mean and interval, and `(n=...)` if n is 1, or if not all runs have the metric."""
    if (scored := measured.get((arm.label, metric))) is None:
        return Cell("–")
    value, half, _ = interval(scored)
    cell, n = told(value, half), len(scored.values)
    around = "" if half is None else f" {span(value, half).text}"
    return cell._replace(text=cell.text + around + (f" (n={n})" if n < max(len(arm.runs), 2) else ""))


def missing_notes(view: View, measured: Measured, absent: list[str]) -> list[str]:
    """Return notes on columns, arms and rows that have no numbers, and on the source of the published ones."""
    silent, notes = [paper for paper, ours in view.columns() if not ours], []
    if silent:
        notes.append(f"No metric of ours corresponds to {', '.join(silent)}.")
    for paper, ours in view.columns() if view.arms else ():
        without = [arm.label for arm in view.arms if ours and (arm.label, ours) not in measured]
        if len(without) == len(view.arms):
            notes.append(f"No run here has {ours}, which corresponds to {paper}.")
        elif without:
            notes.append(f"Without {ours}: {', '.join(without)}.")
    if absent:
        notes.append(f"No finished run here: {', '.join(absent) if view.arms else 'all rows'}.")
    names = dict.fromkeys(arm.runs[0].summary["name"] for arm in view.arms)
    if extra := [name for name in names if name not in view.table.order]:
        notes.append(f"Not in the published table: {', '.join(extra)}.")
    return notes + ([f"Published numbers: {view.table.source}"] if view.table.source else [])


def elsewhere(arms: list[Arm]) -> list[Table]:
    """Return a table for each source of published numbers that are in no published table above."""
    sources: dict[str, dict[str, dict[str, Any]]] = {}
    for arm in arms:
        for run in arm.runs:
            shown_above = {"source", *(run.table.metrics if run.table else ())}
            if not set(run.summary["published"]) <= shown_above:
                source = shown(run.summary["published"].get("source", "source not recorded"))
                sources.setdefault(source, {})[arm.label] = run.summary["published"]
    tables = []
    for source, rows in sources.items():
        keys = [key for key in dict.fromkeys(key for row in rows.values() for key in row) if key != "source"]
        columns = [printed([row.get(key) for row in rows.values()]) for key in keys]
        cells = [list(row) for row in zip(map(Cell, rows), *columns, strict=True)]
        tables.append(Table(f"Published ({source})", ["arm", *keys], cells, [], [ELSEWHERE]))
    return tables


# settings, protocols and runs -----------------------------------------------------------------------------------------


def config_table(arms: list[Arm]) -> Table:
    """Return the table of settings in which arms differ; a value that most arms do not have is bold."""
    keys = differing([dict(treatment(arm.runs[0])) for arm in arms])  # the treatment of one run is that of its arm
    rows = odd_ones({arm.label: arm.runs[0].config for arm in arms}, keys)
    return Table("Config differences", ["setting", *(arm.label for arm in arms)], rows, [], [CONFIG])


def protocol_table(arms: list[Arm]) -> Table:
    """Return the protocols as lists of keys and values, a column for each protocol, headed by the arms it is of."""
    cards = protocols(arms)
    rows = odd_ones(cards, list(dict.fromkeys(key for card in cards.values() for key in card)))
    return Table("Protocols", ["what", *cards], rows, [], ["How the images were sampled and scored."] if rows else [])


def odd_ones(columns: dict[str, dict[str, str]], keys: Sequence[str]) -> list[list[Cell]]:
    """Return a row for each key with its value in each column; a value that most columns do not have is bold."""
    rows = []
    for key in keys:
        values = [column.get(key, "–") for column in columns.values()]
        usual, count = Counter(values).most_common(1)[0]
        rows.append([Cell(key), *(Cell(v, bold=v != usual and 2 * count > len(values)) for v in values)])
    return rows


def run_table(arms: list[Arm]) -> Table:
    """Return the table of runs, so that every mean can be traced to its folders."""
    metrics, rows = list(metric_directions(arms)), []
    for arm in arms:
        for run in arm.runs:
            found = [run.summary["metrics"].get(name, {}).get("value") for name in metrics]
            cells = [Cell(f"{x:.5g}" if (x := number(v)) is not None else shown(v or "–"), number(v)) for v in found]
            seed = Cell(str(run.summary["seed"]), run.summary["seed"])
            rows.append([Cell(arm.label), seed, *cells, Cell(run.folder)])
    return Table("Runs", ["arm", "seed", *metrics, "folder"], rows, [], [])
