"""A published table beside ours: what the paper says, what our seeds say, and which differences they can tell.

Published numbers and ours are never in one column: metric, data and scale differ, so orders compare and values do not.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from unigen.intervals import Resolution, mean_interval, resolution, resolvable
from unigen.report_runs import Arm, PaperTable, by_seed, incomparable, metric_directions, number, shown
from unigen.report_tables import ARROWS, Cell, Table, decimals, footnotes, places, printed

INTERVAL = "In brackets: 95 % interval of the mean over n seeds, mean ± t(0.975, n − 1) · s / √n, with the arm's own s."
ONE_SEED = "n=1: one seed has no interval."
LEFT_OUT = "Marked arms are left out of the comparisons below."
COVERED = "Intervals cover the seeds of training, not the choice of held-out items, which all runs share."
APART = (
    "A published column is the paper's metric on its data and at its scale; the column after it is the metric of ours "
    "that plays its part. Compare orders and signs, not values."
)
SIGNS = (
    "Best first, published numbers at face value. >: better; =: published as equal; ≈: neighbours of ours that these "
    "seeds cannot tell apart"
)
UNPAIRED = (
    "Unpaired: t(0.975, df) · s · √(1/n + 1/m) for arms of n and m seeds, s² = Σ (x − mean of its arm)² / df, "
    "df = Σ (n − 1): the variance within arms, pooled."
)
PAIRED = (
    "Paired, where all arms have the same seeds: t(0.975, df) · s · √(2/n), s² = Σ (x − mean of its arm − mean of its "
    "seed + mean of all)² / df, df = (arms − 1) · (seeds − 1): what a seed does to all arms alike is taken out. Where "
    "it exists it decides, by the design and whatever the outcome."
)
MANY = "Each limit is for one pair named beforehand at 95 %; nothing is corrected for multiple comparisons"
POWER = "A true difference as large as its limit is found in about half of such sweeps only."


class Column(NamedTuple):
    """One published column and the metric of ours beside it; lists are by arm, and only `compared` arms compare."""

    paper: str
    ours: str
    better: str
    published: list[Any]
    samples: list[dict[int, float]]
    compared: list[int]
    resolution: Resolution

    def show(self) -> str:
        """A format with two digits of what can be resolved."""
        spread, seeds = self.resolution.spread, [len(self.samples[i]) for i in self.compared]
        limit = resolvable(spread, min(seeds), min(seeds)) if spread else 0.0
        return f".{decimals(limit) if limit > 0 else 3}f"


class Pair(NamedTuple):
    """A difference of two arms, first minus second; None: not published, or one seed does not tell."""

    first: int
    second: int
    published: float | None
    ours: float
    unpaired: float | None
    paired: float | None

    @property
    def resolved(self) -> bool | None:
        limit = self.unpaired if self.paired is None else self.paired
        return None if limit is None else abs(self.ours) > limit

    @property
    def verdict(self) -> str:
        if not self.resolved:
            return "one seed does not tell" if self.resolved is None else "not resolved"
        if not self.published:
            return "resolved" if self.published is None else "resolved, published as equal"
        return "resolved, as published" if self.published * self.ours > 0 else "resolved, against the published"


def published(arms: list[Arm]) -> list[Table]:
    """For each published table (and task) with runs here: numbers, orders, resolution, differences.

    Published numbers that no such table shows come after them, in a table for each source.
    """
    views: dict[tuple[str, str], tuple[PaperTable, list[Arm]]] = {}
    for arm in arms:
        for table in {run.table.name: run.table for run in arm.runs if run.table}.values():
            task = shown(arm.runs[0].summary.get("task") or "")
            views.setdefault((table.name, task), (table, []))[1].append(arm)
    found = [t for (_, task), (table, own) in views.items() for t in view(table, own, f", task {task}" if task else "")]
    return found + elsewhere(arms)


def view(table: PaperTable, arms: list[Arm], task: str) -> list[Table]:
    """The tables of one published table, arms in the paper's order and then those that it does not have."""
    listed = {name: i for i, name in enumerate(table.order)}
    arms = sorted(arms, key=lambda arm: listed.get(arm.runs[0].summary["name"], len(listed)))
    flagged = incomparable(arms)
    directions, columns = metric_directions(arms), []
    for paper, ours in table.metrics.items():
        samples = [by_seed(arm, ours) for arm in arms]
        compared = [i for i, sample in enumerate(samples) if sample and i not in flagged]
        told = [next((p[paper] for r in arm.runs if paper in (p := r.summary["published"])), None) for arm in arms]
        better = directions.get(ours, "")
        columns.append(Column(paper, ours, better, told, samples, compared, resolution([samples[i] for i in compared])))
    title, comparing = f"{table.title}{task}", [column for column in columns if len(column.compared) > 1]
    tables = [number_table(title, table, arms, columns, flagged), order_table(title, arms, comparing)]
    tables += [resolution_table(title, comparing), difference_table(title, arms, comparing)]
    return [tables[0], *(table for table in tables[1:] if table.rows)]


def number_table(
    title: str, table: PaperTable, arms: list[Arm], columns: list[Column], flagged: dict[int, str]
) -> Table:
    """Means with their intervals, each after the published number."""
    marks, notes = footnotes(flagged)
    header = ["arm", "seeds"]
    cells = [[Cell(arm.label + marks.get(i, "")) for i, arm in enumerate(arms)]]
    cells.append([Cell(str(len(arm.runs)), len(arm.runs)) for arm in arms])
    for column in columns:
        header += [f"{column.paper} (published)", f"{column.ours} (ours){ARROWS.get(column.better, '')}"]
        cells += [printed(column.published), [mean_cell(column, i, len(arm.runs)) for i, arm in enumerate(arms)]]
    rows = [list(row) for row in zip(*cells, strict=True)]
    names = {arm.runs[0].summary["name"]: None for arm in arms}
    absent = [name for name in table.order if name not in names]
    rows += [[Cell(name), Cell("0", 0), *(Cell("–") for _ in header[2:])] for name in absent]
    notes += reading_notes(columns, bool(flagged)) + missing_notes(arms, columns)
    if absent:
        notes.append(f"No finished run here: {', '.join(absent)}.")
    if extra := [name for name in names if name not in table.order]:
        notes.append(f"Not in the published table: {', '.join(extra)}.")
    return Table(title, header, rows, [], notes, terminal=True)


def reading_notes(columns: list[Column], flagged: bool) -> list[str]:
    counts = [len(sample) for column in columns for sample in column.samples]
    said = {LEFT_OUT: flagged, INTERVAL: max(counts, default=0) > 1, ONE_SEED: 1 in counts, COVERED: True, APART: True}
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
    notes = []
    for column in columns:
        without = [arm.label for arm, sample in zip(arms, column.samples, strict=True) if not sample]
        if len(without) == len(arms):
            notes.append(f"No run here has {column.ours}, which plays the part of {column.paper}.")
        elif without:
            notes.append(f"Without {column.ours}: {', '.join(without)}.")
    return notes


def pairs(column: Column) -> Iterator[Pair]:
    """Every two arms that compare, in the order of the rows."""
    means = {i: statistics.fmean(column.samples[i].values()) for i in column.compared}
    for i, j in itertools.combinations(column.compared, 2):
        n, m = len(column.samples[i]), len(column.samples[j])
        limits = [resolvable(spread, n, m) if spread else None for spread in column.resolution]
        a, b = number(column.published[i]), number(column.published[j])
        yield Pair(i, j, None if a is None or b is None else a - b, means[i] - means[j], *limits)


def order_table(title: str, arms: list[Arm], columns: list[Column]) -> Table:
    """The paper's order of the arms beside ours, and how many of the published differences we find."""
    rows, unsure = [], False
    for column in columns:
        found = {frozenset((pair.first, pair.second)): pair for pair in pairs(column)}
        means = {i: statistics.fmean(column.samples[i].values()) for i in column.compared}
        told = {i: value for i in column.compared if (value := number(column.published[i])) is not None}
        upwards = column.better == "lower"
        theirs, ours = (sorted(values, key=values.get, reverse=not upwards) for values in (told, means))
        text = arms[theirs[0]].label if theirs else "–"
        for i, j in itertools.pairwise(theirs):
            text += f" {'=' if told[i] == told[j] else '>'} {arms[j].label}"
        own = arms[ours[0]].label
        for i, j in itertools.pairwise(ours):
            resolved = found[frozenset((i, j))].resolved
            unsure |= resolved is None
            own += f" {'?' if resolved is None else '>' if resolved else '≈'} {arms[j].label}"
        rows.append([Cell(column.ours), Cell(column.paper), Cell(text), Cell(own), Cell(agreement(found.values()))])
    header = ["our metric", "published as", "published order", "our order", "published differences, here"]
    notes = [SIGNS + ("; ?: one seed does not tell." if unsure else ".")]
    silent = [column.ours for column in columns if column.better not in ARROWS]
    notes += [f"{name} does not say whether higher is better: sorted from high to low." for name in silent]
    return Table(f"{title}: order of the arms", header, rows, [], notes, terminal=True)


def agreement(found: Iterable[Pair]) -> str:
    """Of the published differences, how many are resolved here and which way."""
    differing = [pair for pair in found if pair.published]
    if not differing or differing[0].resolved is None:
        return "one seed does not tell" if differing else "–"
    same = sum(bool(pair.resolved) and pair.published * pair.ours > 0 for pair in differing)
    opposite = sum(bool(pair.resolved) for pair in differing) - same
    rest = len(differing) - same - opposite
    return f"{same} as published, {opposite} opposite, {rest} not resolved"


def resolution_table(title: str, columns: list[Column]) -> Table:
    """What this set-up can tell; no row for a metric without two seeds."""
    rows = []
    for column in columns:
        counts = sorted(len(column.samples[i]) for i in column.compared)
        show, cells = column.show(), []
        for spread in column.resolution if column.resolution.spread else ():
            limit = resolvable(spread, *counts[:2]) if spread else None
            cells += [Cell("–")] * 3 if spread is None else [
                Cell(f"{spread.sd:{show}}", spread.sd), Cell(str(spread.df), spread.df), Cell(f"{limit:{show}}", limit)
            ]  # fmt: skip
        largest = max(abs(pair.ours) for pair in pairs(column))
        seeds = Cell(f"{counts[0]}" + (f" to {counts[-1]}" if counts[0] < counts[-1] else ""), counts[0])
        if cells:
            rows.append([Cell(column.ours), seeds, *cells, Cell(f"{largest:{show}}", largest)])
    header = ["our metric", "seeds", "s", "df", "unpaired limit", "s paired", "df paired", "paired limit"]
    notes = [UNPAIRED, PAIRED, POWER, f"{MANY}."]
    if any(row[1].text != str(row[1].sort) for row in rows):
        notes.append("With unequal numbers of seeds: for the two arms that have the fewest.")
    title = f"{title}: smallest resolvable difference"
    return Table(title, [*header, "largest difference found"], rows, [], notes, terminal=True)


def difference_table(title: str, arms: list[Arm], columns: list[Column]) -> Table:
    """Every pair of arms by every metric."""
    rows = []
    for column in columns:
        show = column.show()
        for pair in pairs(column):
            told = Cell("–")
            if pair.published is not None:
                told = Cell(f"{pair.published:+.{places(column.published)}f}", pair.published)
            limits = (Cell("–") if x is None else Cell(f"{x:{show}}", x) for x in (pair.unpaired, pair.paired))
            names = f"{arms[pair.first].label} − {arms[pair.second].label}"
            ours = Cell(f"{pair.ours:+{show}}", pair.ours, bold=bool(pair.resolved))
            rows.append([Cell(column.ours), Cell(names), told, ours, *limits, Cell(pair.verdict)])
    header = [
        "our metric",
        "arms",
        "published difference",
        "our difference",
        "unpaired limit",
        "paired limit",
        "verdict",
    ]
    bold = "Bold: beyond the limit that decides, which is the paired one where all arms have the same seeds."
    notes = [bold, f"{MANY}: {len(rows)} differences are looked at."]
    return Table(f"{title}: differences between arms", header, rows, [], notes)


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
