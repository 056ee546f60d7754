"""A published table beside ours: what the paper says, what our seeds say, and which differences they can tell.

Published numbers and ours are never in one column: metric, data and scale differ, so orders compare and values do not.
"""

from __future__ import annotations

from typing import Any

from unigen.intervals import mean_interval, resolution
from unigen.report_arms import Arm, by_seed, incomparable, metric_directions, variants
from unigen.report_orders import Column, difference_table, order_table, resolution_table
from unigen.report_runs import PaperTable, shown
from unigen.report_tables import ARROWS, Cell, Table, footnotes, printed

INTERVAL = "In brackets: 95 % interval of the mean over n seeds, mean ± t(0.975, n − 1) · s / √n, with the arm's own s."
ONE_SEED = "n=1: one seed has no interval."
LEFT_OUT = "Marked arms are left out of the comparisons below."
COVERED = "Intervals cover the seeds of training, not the choice of held-out items, which all runs share."
APART = (
    "A published column is the paper's metric on its data and at its scale; the column after it is the metric of ours "
    "that plays its part. Compare orders and signs, not values."
)


def published(arms: list[Arm], table: PaperTable | None = None) -> list[Table]:
    """For each published table (and task, and scale) with runs here: numbers, orders, resolution, differences.

    `table` is shown whether or not it has runs. Published numbers that no such table shows come after them, in a table
    for each source.
    """
    views: dict[tuple[str, str, str], tuple[PaperTable, list[Arm]]] = {}
    for arm in arms:
        for own in {run.table.name: run.table for run in arm.runs if run.table}.values():
            task, scale = (shown(arm.runs[0].summary.get(key) or "") for key in ("task", "scale"))
            views.setdefault((own.name, task, scale), (own, []))[1].append(arm)
    if table is not None and not views:
        views[table.name, "", ""] = (table, [])
    several, found = len({scale for *_, scale in views}) > 1, []
    for (_, task, scale), (own, of) in views.items():
        where = (f", task {task}" if task else "") + (f", scale {scale}" if several and scale else "")
        found += view(own, of, where)
    return found + elsewhere(arms)


def view(table: PaperTable, arms: list[Arm], task: str) -> list[Table]:
    """The tables of one published table for arms of one scale: rows in the paper's order, then those that it lacks."""
    listed = {name: i for i, name in enumerate(table.order)}
    arms = sorted(arms, key=lambda arm: listed.get(arm.runs[0].summary["name"], len(listed)))
    flagged, directions, columns = incomparable(arms), metric_directions(arms), []
    scale = str(arms[0].runs[0].summary.get("scale")) if arms else ""
    for paper, roles in table.at(scale).items():
        for ours in [name for role in roles or ("",) for name in variants(role, list(directions))]:
            samples = [by_seed(arm, ours) for arm in arms]
            compared = [i for i, sample in enumerate(samples) if sample and i not in flagged]
            numbers, spreads = [told(table, arm, paper) for arm in arms], resolution([samples[i] for i in compared])
            columns.append(Column(paper, ours, directions.get(ours, ""), numbers, samples, compared, spreads))
    title, comparing = f"{table.title}{task}", [column for column in columns if len(column.compared) > 1]
    tables = [number_table(title, table, arms, columns, flagged), order_table(title, arms, comparing)]
    tables += [resolution_table(title, comparing), difference_table(title, arms, comparing)]
    return [tables[0], *(each for each in tables[1:] if each.rows)]


def told(table: PaperTable, arm: Arm, column: str) -> Any:
    """The published number of an arm: the table's, or else the one that its runs brought along; None if none."""
    rows = [table.published.get(arm.runs[0].summary["name"], {}), *(run.summary["published"] for run in arm.runs)]
    return next((row[column] for row in rows if column in row), None)


def number_table(
    title: str, table: PaperTable, arms: list[Arm], columns: list[Column], flagged: dict[int, str]
) -> Table:
    """Means with their intervals, each after the published number; rows without a run here too."""
    marks, notes = footnotes(flagged)
    names = {arm.runs[0].summary["name"]: None for arm in arms}
    absent, header, papers = [name for name in table.order if name not in names], ["arm", "seeds"], set()
    cells = [[Cell(arm.label + marks.get(i, "")) for i, arm in enumerate(arms)] + [*map(Cell, absent)]]
    cells.append([Cell(str(len(arm.runs)), len(arm.runs)) for arm in arms] + [Cell("0", 0)] * len(absent))
    for column in columns:
        if column.paper not in papers:
            papers.add(column.paper)
            header.append(f"{column.paper} (published)")
            others = [table.published.get(name, {}).get(column.paper) for name in absent]
            cells.append(printed([*column.published, *others]))
        if column.ours and arms:
            header.append(f"{column.ours} (ours){ARROWS.get(column.better, '')}")
            cells.append([mean_cell(column, i, len(arm.runs)) for i, arm in enumerate(arms)])
            cells[-1] += [Cell("–")] * len(absent)
    rows = [list(row) for row in zip(*cells, strict=True)]
    keys = [arm.runs[0].summary["name"] for arm in arms] + absent
    place = {name: i for i, name in enumerate(table.order)}
    rows = [rows[i] for i in sorted(range(len(rows)), key=lambda i: place.get(keys[i], len(place)))]
    notes += reading_notes(columns, bool(flagged)) + missing_notes(arms, columns)
    if absent:
        notes.append(f"No finished run here: {', '.join(absent) if arms else 'all rows'}.")
    if extra := [name for name in names if name not in table.order]:
        notes.append(f"Not in the published table: {', '.join(extra)}.")
    if table.source:
        notes.append(f"Published numbers: {table.source}")
    return Table(title, header, rows, [], notes, terminal=True)


def reading_notes(columns: list[Column], flagged: bool) -> list[str]:
    counts = [len(sample) for column in columns for sample in column.samples]
    said = {LEFT_OUT: flagged, INTERVAL: max(counts, default=0) > 1, ONE_SEED: 1 in counts}
    said |= {COVERED: bool(counts), APART: bool(counts)}
    return [note for note, holds in said.items() if holds]


def mean_cell(column: Column, arm: int, runs: int) -> Cell:
    """Mean and interval; `(n=2)` where there is no interval, or where not all runs have the number."""
    values, show = list(column.samples[arm].values()), column.show()
    if not values:
        return Cell("–")
    mean, half, n = mean_interval(values)
    interval = "" if half is None else f" [{mean - half:{show}}, {mean + half:{show}}]"
    return Cell(f"{mean:{show}}{interval}" + (f" (n={n})" if n < max(runs, 2) else ""), mean)


def missing_notes(arms: list[Arm], columns: list[Column]) -> list[str]:
    silent = [column.paper for column in columns if not column.ours]
    notes = [f"No metric of ours plays the part of {', '.join(silent)}."] if silent else []
    for column in columns if arms else ():
        without = [arm.label for arm, sample in zip(arms, column.samples, strict=True) if not sample]
        if not column.ours:
            continue
        if len(without) == len(arms):
            notes.append(f"No run here has {column.ours}, which plays the part of {column.paper}.")
        elif without:
            notes.append(f"Without {column.ours}: {', '.join(without)}.")
    return notes


def elsewhere(arms: list[Arm]) -> list[Table]:
    """One table for each source of published numbers that stand in no published table above."""
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
        note = "Published numbers: metric, data and scale differ from ours, so the two tables are not to be compared."
        tables.append(Table(f"Published ({source})", ["arm", *keys], cells, [], [note]))
    return tables
