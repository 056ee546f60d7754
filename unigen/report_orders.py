"""Orders and differences of arms beside the published ones: which of them our runs can tell, and which they cannot.

Every difference is that of an arm to the reference, and every verdict is one of the page's (`report_verdicts`).
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from unigen.report_arms import Arm
from unigen.report_bootstrap import p_cell
from unigen.report_runs import number
from unigen.report_tables import ARROWS, Cell, Table, decimals, places
from unigen.report_verdicts import Family, span
from unigen.verdicts import ALPHA, Verdict

SIGNS = "Published order: best first, published numbers at face value; >: better, =: published as equal."
OURS = "Ours: which arms are resolved to be better or worse than the reference; the order of the others is not told."
SPREADS = (
    "Over seeds: t · s / √n of the differences between the two arms, n seeds that both have (Welch's test where they "
    "share fewer than two); over items: t times the bootstrap's standard deviation. Both at 5 % divided by the number "
    "of differences; a difference beyond both is resolved whatever the others are."
)
POWER = "A true difference as large as its limit is found in about half of such sweeps only."
PARTLY = "Some arms lack seeds that others have: each two are compared over the seeds that both have."


class Column(NamedTuple):
    """One published column and the metric of ours beside it; lists are by arm, and so are the verdicts against the arm
    `reference`, of those that compare."""

    paper: str
    ours: str
    better: str
    published: list[Any]
    samples: list[dict[int, float]]
    reference: int
    verdicts: dict[int, Verdict]

    def show(self) -> str:
        """A format with two digits of what seeds leave open."""
        spreads = [v.seeds.limit(ALPHA) for v in self.verdicts.values() if v.seeds and v.seeds.error > 0]
        return f".{decimals(min(spreads)) if spreads else 3}f"

    @property
    def partly(self) -> bool:
        """Whether some arms lack seeds that others have."""
        return len({frozenset(self.samples[i]) for i in (*self.verdicts, self.reference)}) > 1

    def published_difference(self, arm: int) -> float | None:
        """The arm minus the reference as published; None if it is not."""
        a, b = number(self.published[arm]), number(self.published[self.reference])
        return None if a is None or b is None else a - b

    def agrees(self, arm: int) -> bool | None:
        """Whether a resolved difference has the published sign; None where either does not tell."""
        told, found = self.published_difference(arm), self.verdicts[arm]
        return told * found.difference > 0 if told and found.resolved else None

    def word(self, arm: int) -> str:
        """The verdict, with what it says of the published difference."""
        found = self.verdicts[arm]
        if not found.resolved or self.published_difference(arm) is None:
            return found.word
        if self.agrees(arm) is None:
            return "resolved, published as equal"
        return "resolved, as published" if self.agrees(arm) else "resolved, against the published"


def order_table(title: str, arms: list[Arm], columns: list[Column]) -> Table:
    """The paper's order of the arms beside ours, and how many of the published differences we find."""
    rows = []
    for column in columns:
        compared = sorted((*column.verdicts, column.reference))
        told = {i: value for i in compared if (value := number(column.published[i])) is not None}
        theirs = sorted(told, key=told.get, reverse=column.better != "lower")
        text = arms[theirs[0]].label if theirs else "–"
        for i, j in itertools.pairwise(theirs):
            text += f" {'=' if told[i] == told[j] else '>'} {arms[j].label}"
        cells = (column.ours, column.paper, text, own_order(arms, column), agreement(column))
        rows.append([*map(Cell, cells)])
    header = ["our metric", "published as", "published order", "ours", "published differences, here"]
    notes = [SIGNS, OURS]
    silent = [column.ours for column in columns if column.better not in ARROWS]
    notes += [f"{name} does not say whether higher is better: higher is called so." for name in silent]
    return Table(f"{title}: order of the arms", header, rows, [], notes, terminal=True)


def own_order(arms: list[Arm], column: Column) -> str:
    """The arms that are better than the reference, not distinguishable from it, worse."""
    sign = -1 if column.better == "lower" else 1
    groups: dict[str, list[str]] = {"better than": [], "not distinguishable from": [], "worse than": []}
    for i, found in column.verdicts.items():
        ahead = sign * found.difference > 0
        kind = "not distinguishable from" if not found.resolved else "better than" if ahead else "worse than"
        groups[kind].append(_named(arms[i].label))
    against = _named(arms[column.reference].label)
    return "; ".join(f"{kind} {against}: {', '.join(labels)}" for kind, labels in groups.items() if labels)


def _named(label: str) -> str:
    """A label in a list; in quotes where it has a comma itself."""
    return f"'{label}'" if "," in label else label


def agreement(column: Column) -> str:
    """Of the published differences to the reference, how many are resolved here and which way."""
    differing = [i for i in column.verdicts if column.published_difference(i)]
    if not differing:
        return "–"
    found = [column.agrees(i) for i in differing]
    return f"{found.count(True)} as published, {found.count(False)} opposite, {found.count(None)} not resolved"


def resolution_table(title: str, columns: list[Column], family: Family) -> Table:
    """What these runs could have told; no row for a metric of which nothing can be tested."""
    rows = []
    for column in columns:
        tested = [found for found in column.verdicts.values() if found.limit is not None]
        if not tested:
            continue
        alpha, counts = ALPHA / len(family.tested), sorted({found.shared for found in tested})
        limits = [[v.seeds.limit(alpha) for v in tested], [v.items.limit(alpha) for v in tested]]
        limits.append([v.limit for v in tested])
        cells = [Cell(span(each), max(each)) for each in limits]
        largest = max(abs(v.difference) for v in column.verdicts.values())
        seeds = Cell(" to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))), counts[0])
        rows.append([Cell(column.ours), seeds, *cells, Cell(f"{largest:{column.show()}}", largest)])
    header = ["our metric", "shared seeds", "over seeds", "over items", "resolved from", "largest difference found"]
    notes = [SPREADS, POWER, corrected(family)] + ([PARTLY] if any(column.partly for column in columns) else [])
    return Table(f"{title}: smallest resolvable difference", header, rows, [], notes, terminal=True)


def difference_table(title: str, arms: list[Arm], columns: list[Column], family: Family) -> Table:
    """Every arm minus the reference by every metric."""
    rows = [difference_row(arms, column, i) for column in columns for i in column.verdicts]
    header = ["our metric", "arms", "published difference", "our difference", "shared seeds", "p, seeds", "p, items"]
    notes = ["Bold: resolved.", corrected(family)]
    if any(column.partly for column in columns):
        notes.append(f"{PARTLY} Where fewer than two are shared, our difference is that of the means over all seeds.")
    return Table(f"{title}: differences", [*header, "p after Holm", "resolved from", "verdict"], rows, [], notes)


def difference_row(arms: list[Arm], column: Column, arm: int) -> list[Cell]:
    found, told, show = column.verdicts[arm], column.published_difference(arm), column.show()
    names = f"{arms[arm].label} − {arms[column.reference].label}"
    paper = Cell("–") if told is None else Cell(f"{told:+.{places(column.published)}f}", told)
    ours = Cell(f"{found.difference:+{show}}", found.difference, bold=found.resolved)
    ps = (found.seeds and found.seeds.p, found.items and found.items.p, found.p)
    limit = Cell("–") if found.limit is None else Cell(f"{found.limit:{show}}", found.limit)
    head = [Cell(column.ours), Cell(names), paper, ours, Cell(str(found.shared), found.shared)]
    return [*head, *map(p_cell, ps), limit, Cell(column.word(arm))]


def corrected(family: Family) -> str:
    return f"Corrected for {len(family.tested)} differences, which are all that this page tests (Holm)."
