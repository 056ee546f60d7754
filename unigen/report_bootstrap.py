"""The table of every metric and arm: means over seeds and items, differences to the reference, and their verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from unigen.clusters import RESAMPLES, Clusters, error, resampled
from unigen.intervals import critical
from unigen.report_arms import Arm, incomparable, metric_directions
from unigen.report_tables import ARROWS, Cell, Table, decimals
from unigen.report_verdicts import Family, Measured
from unigen.verdicts import Arm as Scored
from unigen.verdicts import Verdict

HOW = (
    f"Intervals: ± t(0.975, clusters − 1) times the standard deviation of {RESAMPLES:,} resamples, each with seeds and "
    "clusters of items drawn with replacement and independently; the same draws for all arms, and the same items and "
    "seeds on both sides of a difference. They are not corrected for the number of differences; verdicts are."
)
FEW = (
    "Where seeds of training matter more than items, these intervals are too narrow: the spread of a few seeds is "
    "taken for known. The t test over seeds does not have this fault, and a verdict needs both."
)
ONE = "One seed: the interval is over items only and says nothing of other seeds of training."


class Bounds(NamedTuple):
    """A number and its 95 % interval; half-width None where there is none."""

    value: float
    half: float | None

    def cells(self, sign: str = "") -> list[Cell]:
        show = f"{sign}.{decimals(2 * self.half) if self.half else 3}f"
        if self.half is None:
            return [Cell(f"{self.value:{show}}", self.value), Cell("–")]
        low, high = self.value - self.half, self.value + self.half
        return [Cell(f"{self.value:{show}}", self.value), Cell(f"[{low:{show}}, {high:{show}}]", low)]


def mean(scored: Scored) -> Bounds:
    """The mean over seeds and items of an arm that has scores."""
    value = float(sum(x.mean() for x in scored.scores.values()) / len(scored.scores))
    if not (degrees := scored.clusters.degrees):
        return Bounds(value, None)
    return Bounds(value, critical(degrees) * error(resampled(scored.scores, scored.clusters)))


def bootstrap_table(arms: list[Arm], reference: int, measured: Measured, family: Family, notes: list[str]) -> Table:
    """Every metric of every arm with scores, and its difference to the arm `reference`; no row without any scores."""
    notes = notes + left_out(arms, reference)
    rows, counts = [], set()
    for name, better in metric_directions(arms).items():
        for i, arm in enumerate(arms):
            scored = measured.get((arm.label, name))
            if scored is not None and scored.clusters:
                counts.add(len(scored.scores))
                verdict = family.of(arm, arms[reference], name)
                told = Cell("reference") if i == reference else verdict_cell(verdict, better)
                rows.append([Cell(name + ARROWS.get(better, "")), Cell(arm.label), *row(scored, verdict), told])
    header = ["metric", "arm", "mean", "95 % interval", f"minus {arms[reference].label}" if arms else "difference"]
    header += ["95 % interval", "seeds", "in both", "items", "p, seeds", "p, items", "p after Holm", "verdict"]
    said = {HOW: True, FEW: any(1 < count <= 10 for count in counts), ONE: 1 in counts}
    notes = [*(note for note, holds in said.items() if holds and rows), *(family.notes() if rows else ()), *notes]
    return Table("Bootstrap over items and seeds", header, rows, [], notes)


def left_out(arms: list[Arm], reference: int) -> list[str]:
    """Sentences on the arms that are not compared with the reference."""
    flagged = incomparable(arms)
    if reference in flagged:
        return [f"{arms[reference].label} has no protocol that other arms share: nothing is compared with it."]
    if not flagged:
        return []
    names = ", ".join(arms[i].label for i in sorted(flagged))
    return [f"Under another protocol than {arms[reference].label} or among themselves, not compared: {names}."]


def row(scored: Scored, verdict: Verdict | None) -> list[Cell]:
    """Mean, difference, counts and p values; of an arm that is not compared, or a metric not asked about, no latter."""
    seeds, items = Cell(str(len(scored.scores)), len(scored.scores)), counted(scored.clusters)
    if verdict is None:
        return [*mean(scored).cells(), Cell("–"), Cell("–"), seeds, Cell("–"), items, *[Cell("–")] * 3]
    half = verdict.items.limit(0.05) if verdict.items else None
    gap = Bounds(verdict.difference, half).cells("+")
    ps = [verdict.seeds and verdict.seeds.p, verdict.items and verdict.items.p, verdict.p]
    shared = Cell(str(verdict.shared), verdict.shared)
    return [*mean(scored).cells(), *gap, seeds, shared, items, *map(p_cell, ps)]


def counted(clusters: Clusters) -> Cell:
    return Cell(clusters.text, clusters.items)


def p_cell(p: float | None) -> Cell:
    return (
        Cell("–")
        if p is None
        else Cell("< 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}", p)
    )


def verdict_cell(verdict: Verdict | None, better: str) -> Cell:
    """'better' or 'worse' where a difference is resolved, else that it is not, and why it cannot be."""
    if verdict is None or not verdict.resolved:
        return Cell("–" if verdict is None else verdict.word)
    words = {"higher": ("better", "worse"), "lower": ("worse", "better")}.get(better, ("higher", "lower"))
    return Cell(words[verdict.difference < 0], bold=True)


def reference_arm(arms: Sequence[Arm], order: Sequence[str], named: str | None) -> int:
    """The arm that others are compared with: the one `named`, else the table's last row that has runs, else the first.

    If it is not named, it is one that can be compared with others, where there is any.
    Raises ValueError if no arm has that name.
    """
    names, flagged = [arm.runs[0].summary["name"] for arm in arms], incomparable(list(arms))
    if named is not None:
        labels = [arm.label for arm in arms]
        if named not in names + labels:
            raise ValueError(f"reference={named} is no arm of this report; its arms are {', '.join(labels) or 'none'}")
        return labels.index(named) if named in labels else names.index(named)
    legal = [i for i in range(len(arms)) if i not in flagged] or range(len(arms))
    rows = [i for name in reversed(order) for i in legal if names[i] == name]
    return next(iter((*rows, *legal)), 0)
