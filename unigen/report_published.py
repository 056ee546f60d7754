"""A published table beside ours: what the paper says, what our seeds say, and which differences they can tell.

Published numbers and ours are never in one column: metric, data and scale differ, so orders compare and values do not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from unigen.intervals import mean_interval
from unigen.report_arms import Arm, by_seed, incomparable, metric_directions, variants
from unigen.report_bootstrap import reference_arm
from unigen.report_orders import Column, difference_table, order_table, resolution_table
from unigen.report_runs import PaperTable, shown
from unigen.report_tables import ARROWS, Cell, Table, footnotes, printed
from unigen.report_verdicts import Family

INTERVAL = "In brackets: 95 % interval of the mean over n seeds, mean ± t(0.975, n − 1) · s / √n, with the arm's own s."
ONE_SEED = "n=1: one seed has no interval."
LEFT_OUT = "Marked arms are left out of the comparisons below."
COVERED = "Intervals cover the seeds of training, not the choice of held-out items, which all runs share."
APART = (
    "A published column is the paper's metric on its data and at its scale; the column after it is the metric of ours "
    "that plays its part. Compare orders and signs, not values."
)


class View(NamedTuple):
    """A published table with the arms of one task and scale: rows in the paper's order, then those that it lacks.

    `flagged` arms cannot be compared; `reference` is the arm that the others are compared with.
    """

    table: PaperTable
    title: str
    arms: list[Arm]
    flagged: dict[int, str]
    reference: int


def views(arms: list[Arm], table: PaperTable | None, reference: str | None) -> list[View]:
    """Each published table (and task, and scale) with runs here; `table` whether or not it has runs.

    `reference` is the page's (`report_bootstrap.reference_arm`), where it is among the arms of a view.
    """
    found: dict[tuple[str, str, str], tuple[PaperTable, list[Arm]]] = {}
    for arm in arms:
        for own in {run.table.name: run.table for run in arm.runs if run.table}.values():
            task, scale = (shown(arm.runs[0].summary.get(key) or "") for key in ("task", "scale"))
            found.setdefault((own.name, task, scale), (own, []))[1].append(arm)
    if table is not None and not found:
        found[table.name, "", ""] = (table, [])
    several, made = len({scale for *_, scale in found}) > 1, []
    for (_, task, scale), (own, of) in found.items():
        place = {name: i for i, name in enumerate(own.order)}
        rows = sorted(of, key=lambda arm: place.get(arm.runs[0].summary["name"], len(place)))
        against = reference if reference in {arm.label for arm in rows} else None
        title = own.title + (f", task {task}" if task else "") + (f", scale {scale}" if several and scale else "")
        made.append(View(own, title, rows, incomparable(rows), reference_arm(rows, own.order, against)))
    return made


def columns_of(view: View) -> list[tuple[str, str]]:
    """(published column, metric of ours in its part), the latter once for each protocol card; "" for none."""
    names, scale = list(metric_directions(view.arms)), ""
    if view.arms:
        scale = shown(view.arms[0].runs[0].summary.get("scale") or "")
    roles = [(paper, role) for paper, found in view.table.at(scale).items() for role in found or ("",)]
    return [(paper, ours) for paper, role in roles for ours in variants(role, names)]


def asked(seen: list[View]) -> list[str]:
    """The metrics of runs here that published tables ask about."""
    known = {name for view in seen for name in metric_directions(view.arms)}
    return list(dict.fromkeys(ours for view in seen for _, ours in columns_of(view) if ours in known))


def published(seen: list[View], arms: list[Arm], family: Family) -> list[Table]:
    """For each view: numbers, differences to the reference, what could have been resolved.

    Published numbers that no such table shows come after them, in a table for each source.
    """
    return [table for view in seen for table in tables_of(view, family)] + elsewhere(arms)


def tables_of(view: View, family: Family) -> list[Table]:
    """The tables of one published table."""
    directions, arms, columns = metric_directions(view.arms), view.arms, []
    for paper, ours in columns_of(view):
        samples = [by_seed(arm, ours) for arm in arms]
        found = {i: v for i, arm in enumerate(arms) if (v := family.of(arm, arms[view.reference], ours))}
        numbers = [told(view.table, arm, paper) for arm in arms]
        columns.append(Column(paper, ours, directions.get(ours, ""), numbers, samples, view.reference, found))
    comparing = [column for column in columns if column.verdicts]
    tables = [number_table(view.title, view.table, arms, columns, view.flagged)]
    tables += [order_table(view.title, arms, comparing), resolution_table(view.title, comparing, family)]
    tables += [difference_table(view.title, arms, comparing, family)]
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
