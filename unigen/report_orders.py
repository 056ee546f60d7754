"""Orders and differences of arms beside the published ones: which of them our seeds can tell, and which they cannot."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from unigen.intervals import Comparison, Resolution, compare, resolvable
from unigen.report_arms import Arm
from unigen.report_runs import number
from unigen.report_tables import ARROWS, Cell, Table, decimals, places

SIGNS = (
    "Best first, published numbers at face value. >: better; =: published as equal; ≈: neighbours of ours that these "
    "seeds cannot tell apart"
)
UNPAIRED = (
    "Unpaired: t(0.975, df) · s · √(1/n + 1/m) for arms of n and m seeds, s² = Σ (x − mean of its arm)² / df, "
    "df = Σ (n − 1): the variance within arms, pooled."
)
PAIRED = (
    "Paired, for two arms that share n ≥ 2 seeds, over these: t(0.975, df) · s · √(2/n), s² = Σ (x − fit)² / df. Where "
    "all arms have the same seeds, fit = mean of its arm + mean of its seed − mean of all and df = (arms − 1) · "
    "(seeds − 1); else arm + seed by least squares. What a seed does to all arms alike is taken out. Where it exists "
    "it decides, by the design and whatever the outcome."
)
PARTLY = "Some arms lack seeds that others have: each two are compared over the seeds that both have."
MANY = "Each limit is for one pair named beforehand at 95 %; nothing is corrected for multiple comparisons"
MOST_ARMS = 20  # of which all differences are looked at: 190
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

    @property
    def partly(self) -> bool:
        """Whether some arms lack seeds that others have."""
        return len({frozenset(self.samples[i]) for i in self.compared}) > 1


class Pair(NamedTuple):
    """A difference of two arms, first minus second; `published` None: not published."""

    first: int
    second: int
    published: float | None
    found: Comparison

    @property
    def ours(self) -> float:
        return self.found.difference

    @property
    def agrees(self) -> bool:
        """Resolved here, and with the sign of the published difference."""
        return bool(self.found.resolved and self.published and self.published * self.ours > 0)

    @property
    def verdict(self) -> str:
        if not self.found.resolved:
            return "one seed does not tell" if self.found.resolved is None else "not resolved"
        if not self.published:
            return "resolved" if self.published is None else "resolved, published as equal"
        return "resolved, as published" if self.agrees else "resolved, against the published"


def pair(column: Column, i: int, j: int) -> Pair:
    """Arm i minus arm j."""
    a, b = number(column.published[i]), number(column.published[j])
    found = compare(column.samples[i], column.samples[j], column.resolution)
    return Pair(i, j, None if a is None or b is None else a - b, found)


def pairs(column: Column) -> Iterator[Pair]:
    """Every two arms that compare, in the order of the rows; of more than MOST_ARMS, each with the last one."""
    arms = column.compared
    chosen = itertools.combinations(arms, 2) if len(arms) <= MOST_ARMS else ((i, arms[-1]) for i in arms[:-1])
    return (pair(column, i, j) for i, j in chosen)


def order_table(title: str, arms: list[Arm], columns: list[Column]) -> Table:
    """The paper's order of the arms beside ours, and how many of the published differences we find."""
    rows, unsure = [], False
    for column in columns:
        means = {i: statistics.fmean(column.samples[i].values()) for i in column.compared}
        told = {i: value for i in column.compared if (value := number(column.published[i])) is not None}
        upwards = column.better == "lower"
        theirs, ours = (sorted(values, key=values.get, reverse=not upwards) for values in (told, means))
        text = arms[theirs[0]].label if theirs else "–"
        for i, j in itertools.pairwise(theirs):
            text += f" {'=' if told[i] == told[j] else '>'} {arms[j].label}"
        own = arms[ours[0]].label
        for i, j in itertools.pairwise(ours):
            found = pair(column, i, j).found
            unsure |= found.resolved is None
            against = (found.difference > 0) != (means[i] > means[j])  # over the shared seeds alone
            sign = "?" if found.resolved is None else ">" if found.resolved and not against else "≈"
            own += f" {sign} {arms[j].label}"
        rows.append([Cell(column.ours), Cell(column.paper), Cell(text), Cell(own), Cell(agreement(pairs(column)))])
    header = ["our metric", "published as", "published order", "our order", "published differences, here"]
    notes = [SIGNS + ("; ?: one seed does not tell." if unsure else ".")]
    silent = [column.ours for column in columns if column.better not in ARROWS]
    notes += [f"{name} does not say whether higher is better: sorted from high to low." for name in silent]
    return Table(f"{title}: order of the arms", header, rows, [], notes, terminal=True)


def agreement(found: Iterable[Pair]) -> str:
    """Of the published differences, how many are resolved here and which way."""
    differing = [each for each in found if each.published]
    if not differing or differing[0].found.resolved is None:
        return "one seed does not tell" if differing else "–"
    same = sum(each.agrees for each in differing)
    opposite = sum(bool(each.found.resolved) for each in differing) - same
    rest = len(differing) - same - opposite
    return f"{same} as published, {opposite} opposite, {rest} not resolved"


def resolution_table(title: str, columns: list[Column]) -> Table:
    """What this set-up can tell; no row for a metric without two seeds."""
    rows = []
    for column in columns:
        counts = sorted(len(column.samples[i]) for i in column.compared)
        found = [each.found for each in pairs(column)]
        limits = [max((x for x in given if x is not None), default=None) for given in (
            [each.unpaired for each in found], [each.paired_limit for each in found]
        )]  # fmt: skip
        show, cells = column.show(), []
        for spread, limit in zip(column.resolution, limits, strict=True) if column.resolution.spread else ():
            cells += [Cell("–")] * 3 if spread is None or limit is None else [
                Cell(f"{spread.sd:{show}}", spread.sd), Cell(str(spread.df), spread.df), Cell(f"{limit:{show}}", limit)
            ]  # fmt: skip
        largest = max(abs(each.difference) for each in found)
        seeds = Cell(f"{counts[0]}" + (f" to {counts[-1]}" if counts[0] < counts[-1] else ""), counts[0])
        if cells:
            rows.append([Cell(column.ours), seeds, *cells, Cell(f"{largest:{show}}", largest)])
    header = ["our metric", "seeds", "s", "df", "unpaired limit", "s paired", "df paired", "paired limit"]
    notes = [UNPAIRED, PAIRED, POWER, f"{MANY}."]
    if any(column.partly for column in columns):
        notes += [PARTLY, "With unequal numbers of seeds: for the two arms that have, or share, the fewest."]
    title = f"{title}: smallest resolvable difference"
    return Table(title, [*header, "largest difference found"], rows, [], notes, terminal=True)


def difference_table(title: str, arms: list[Arm], columns: list[Column]) -> Table:
    """Every pair of arms by every metric."""
    rows = []
    for column in columns:
        show, count = column.show(), places(column.published)
        for each in pairs(column):
            told = Cell("–")
            if each.published is not None:
                told = Cell(f"{each.published:+.{count}f}", each.published)
            given = (each.found.unpaired, each.found.paired_limit)
            limits = (Cell("–") if x is None else Cell(f"{x:{show}}", x) for x in given)
            names = f"{arms[each.first].label} − {arms[each.second].label}"
            ours = Cell(f"{each.ours:+{show}}", each.ours, bold=bool(each.found.resolved))
            seeds = Cell(str(each.found.shared), each.found.shared)
            rows.append([Cell(column.ours), Cell(names), told, ours, seeds, *limits, Cell(each.verdict)])
    header = ["our metric", "arms", "published difference", "our difference", "shared seeds"]
    header += ["unpaired limit", "paired limit", "verdict"]
    bold = "Bold: beyond the limit that decides, which is the paired one where two arms share two seeds or more."
    notes = [bold, f"{MANY}: {len(rows)} differences are looked at."]
    if any(len(column.compared) > MOST_ARMS for column in columns):
        notes.append(f"Of more than {MOST_ARMS} arms only the differences to the last one are looked at.")
    if any(column.partly for column in columns):
        notes.append(f"{PARTLY} Where fewer than two are shared, our difference is that of the means over all seeds.")
    return Table(f"{title}: differences between arms", header, rows, [], notes)
