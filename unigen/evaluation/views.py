"""Divides the arms of a report into views, one for each published table, task and scale: what is asked, and compared.

Published numbers and ours are never in one column: metric, data and scale differ, so signs can be compared and values
cannot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from unigen.config.margins import Margin
from unigen.evaluation.arms import Arm, incomparable, metric_directions, variants
from unigen.evaluation.compared import Family, reference_arm, reference_rows
from unigen.evaluation.runs import PaperTable, number, shown
from unigen.evaluation.verdicts import Verdict


class View(NamedTuple):
    """Arms that answer one question: those of a published table first, in its order. `table` is None without one.

    `flagged` arms cannot be compared; `reference` is the index of the arm that the others are compared with.
    """

    table: PaperTable | None
    title: str
    arms: list[Arm]
    flagged: dict[int, str]
    reference: int

    @property
    def against(self) -> Arm:
        return self.arms[self.reference]

    def columns(self) -> list[tuple[str, str]]:
        """Return (published column, metric of ours beside it), a metric once for each protocol card; "" for none."""
        names = list(metric_directions(self.arms))
        if self.table is None:
            return [("", name) for name in names]
        scale = shown(self.arms[0].runs[0].summary.get("scale") or "") if self.arms else ""
        roles = [(paper, role) for paper, found in self.table.at(scale).items() for role in found or ("",)]
        return [(paper, ours) for paper, role in roles for ours in variants(role, names)]

    def asked(self) -> list[tuple[str, str]]:
        """Return the columns on which verdicts are given: those that these runs have, or all metrics if none is."""
        names = metric_directions(self.arms)
        return [column for column in self.columns() if column[1] in names] or [("", name) for name in names]

    def published(self, arm: Arm, column: str) -> Any:
        """Return the published number of an arm, of the table or else of its runs' summaries; None without one."""
        rows = [self.table.published.get(arm.runs[0].summary["name"], {})] if self.table else []
        rows += [run.summary["published"] for run in arm.runs]
        return next((row[column] for row in rows if column in row), None)

    @property
    def has_published(self) -> bool:
        """True if the table or a run holds any published number; a table of one's own need not."""
        return bool(self.table and self.table.published) or any(
            r.summary["published"] for a in self.arms for r in a.runs
        )

    def published_difference(self, arm: Arm, column: str) -> float | None:
        """Return the published difference, the arm minus the reference; None if either is not published."""
        first, second = (number(self.published(each, column)) for each in (arm, self.against))
        return None if first is None or second is None else first - second

    def pairs(self) -> Iterator[tuple[Arm, Arm, str]]:
        """Yield all comparisons of this view: every arm that can be compared, by every metric that is asked about."""
        if self.arms and self.reference not in self.flagged:
            metrics = [metric for _, metric in self.asked()]
            for i, arm in enumerate(self.arms):
                if i != self.reference and i not in self.flagged:
                    yield from ((arm, self.against, metric) for metric in metrics)


def views(arms: Sequence[Arm], table: PaperTable | None, named: str | None) -> list[View]:
    """Return a view of each published table, task and scale with runs here, and of `table` even without runs.

    Arms of no table join the tables of their task and scale, or else have a view by themselves. `named` is the label of
    the reference, which holds where it is among the arms of a view.
    """
    found: dict[tuple[str, str, str], tuple[PaperTable, list[Arm]]] = {}
    places = {arm.label: tuple(shown(arm.runs[0].summary.get(k) or "") for k in ("task", "scale")) for arm in arms}
    for arm in arms:
        for own in {run.table.name: run.table for run in arm.runs if run.table}.values():
            found.setdefault((own.name, *places[arm.label]), (own, []))[1].append(arm)
    alone = []
    for arm in (arm for arm in arms if not any(run.table for run in arm.runs)):
        joined = [of for (_, *place), (_, of) in found.items() if tuple(place) == places[arm.label]]
        for of in joined or [alone]:
            of.append(arm)
    if table is not None and not found:
        found[table.name, "", ""] = (table, [])
    several, made = len({scale for *_, scale in found}) > 1, []
    for (_, task, scale), (own, of) in found.items():
        order = {name: i for i, name in enumerate(own.order)}
        rows = sorted(of, key=lambda arm: order.get(arm.runs[0].summary["name"], len(order)))
        title = own.title + (f", task {task}" if task else "") + (f", scale {scale}" if several and scale else "")
        made.append(view(own, title, rows, reference_rows(own), named))
    return made + ([view(None, "", alone, [], named)] if alone else [])


def view(table: PaperTable | None, title: str, arms: list[Arm], order: Sequence[str], named: str | None) -> View:
    against = named if named in {arm.label for arm in arms} else None
    return View(table, title, arms, incomparable(arms), reference_arm(arms, order, against))


def agrees(verdict: Verdict, published: float | None) -> bool | None:
    """Return True if a resolved difference has the published sign; None if unresolved, or published as none."""
    return published * verdict.difference > 0 if published and verdict.resolved else None


def asked_by(found: Sequence[View]) -> str:
    """Return the titles of the published tables that name metrics of these runs."""
    titles = [each.table.title for each in found if each.table and any(paper for paper, _ in each.asked())]
    return " and ".join(dict.fromkeys(titles))


def margins(found: Sequence[View]) -> dict[str, Margin]:
    """Return the margins of the metrics for which published tables state one; the first table decides."""
    stated: dict[str, Margin] = {}
    for each in (each for each in found if each.table):
        for paper, ours in each.columns():
            if ours and paper in each.table.margins:
                stated.setdefault(ours, each.table.margins[paper])
    return stated


def state(verdict: Verdict | None, better: str) -> str:
    """Return better, worse (or higher, lower), equal, open, or "" without a verdict."""
    if verdict is None or verdict.state != "resolved":
        return "" if verdict is None else verdict.state
    words = {"higher": ("better", "worse"), "lower": ("worse", "better")}.get(better, ("higher", "lower"))
    return words[verdict.difference < 0]


def best(view: View, family: Family, metric: str, better: str) -> set[str]:
    """Return the labels to mark: arms resolved to be better than the reference, or it if all others are worse."""
    found = {arm.label: state(v, better) for arm in view.arms if (v := family.of(arm, view.against, metric))}
    winners = {label for label, said in found.items() if said == "better"}
    return winners or ({view.against.label} if found and set(found.values()) == {"worse"} else set())
