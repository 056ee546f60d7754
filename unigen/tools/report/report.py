"""Builds the ablation report from run folders: one `Report` of answers and plain tables, which every format prints."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from unigen.evaluation.agreement import one_direction, partly_measured, without_copies
from unigen.evaluation.answers import Answer, answers, summary
from unigen.evaluation.arms import Arm, apart_by_card, group_arms
from unigen.evaluation.compared import Family, compare, derived, measure, reference_arm
from unigen.evaluation.evaluations import check_benches, shown_runs
from unigen.evaluation.plans import planned
from unigen.evaluation.runs import PaperTable, Run, cleaned, find_runs, last_step, read_run, table_name
from unigen.evaluation.shots import Grids, Item, grids, items
from unigen.evaluation.views import asked_by, margins, views
from unigen.tools.forms.tables import Cell, Table
from unigen.tools.report.details import detail_tables
from unigen.tools.report.results import (
    config_table,
    elsewhere,
    number_table,
    protocol_table,
    result_table,
    run_table,
)


class Report(NamedTuple):
    """The contents of a report: tables in order, arms, images, the answers by metric, and all of it in a sentence.

    `plan` says how the sweep was planned: its looks, and what was tuned.
    """

    title: str
    tables: list[Table]
    arms: list[Arm] = []
    grids: list[Grids] = []
    items: list[Item] = []
    answers: list[Answer] = []
    summary: str = ""
    plan: Sequence[str] = ()
    family: Family = Family({})


class Found(NamedTuple):
    """The runs under the folders of a report: finished ones, rows for unfinished ones, and names that are left out."""

    runs: list[Run]
    missing: list[list[Cell]]
    others: Counter[str]


def read_all(paths: list[Path], table: PaperTable | None, benches: Sequence[str] = ()) -> Found:
    """Read every run, with its evaluations on `benches` if there are any.

    With a `table`, runs that are none of its arms are only counted.
    """
    found = Found([], [], Counter())
    names = {*table.order, *(said["exp"] for said in table.benches.values())} if table else set()
    root = Path(os.path.commonpath(paths)) if paths else Path()
    for path in paths:
        folder = cleaned(os.path.relpath(path, root.parent))
        try:
            run = read_run(path, folder)
            name, own = run.summary["name"], run.table.name if run.table else ""
        except ValueError as error:
            run, reason = None, str(error)
            name, own = table_name(path)
        if table is not None and name and own != table.name and name not in names:
            found.others[name] += 1
        elif run is None:
            found.missing.append([Cell(folder), Cell(reason), Cell(last_step(path / "metrics.jsonl"))])
        else:
            runs, reasons = shown_runs(run._replace(table=table or run.table), benches)
            found.runs.extend(runs)
            found.missing.extend([Cell(folder), Cell(why), Cell(last_step(path / "metrics.jsonl"))] for why in reasons)
    return found


def build_report(
    runs: str | None, table: PaperTable | None = None, reference: str | None = None, benches: Sequence[str] = ()
) -> Report:
    """Build the report of all runs under `runs` (a folder or a comma-separated list; None for none).

    With a published `table` only runs of its arms are shown, and there may be none. `reference` names the arm with
    which the others are compared (`compared.reference_arm`). With `benches` the scores are those of evaluations
    (`evaluations.shown_runs`).

    Raises:
        ValueError: no run and no table, a folder that does not exist, a benchmark on which no run was evaluated, or a
            reference that is no arm.
    """
    paths = find_runs(runs) if runs is not None else []
    check_benches(paths, benches)
    found = read_all(paths, table, benches)
    single, copies = without_copies(found.runs)
    agreed, directions = one_direction(single)
    several, cards = apart_by_card(agreed)
    arms = group_arms(several)
    named = None if reference is None else arms[reference_arm(arms, [], reference)].label
    measured, unscored = measure(arms)
    seen = views(arms, table, named)
    plan = planned(arms)
    pairs = (pair for view in seen for pair in view.pairs())
    family = compare(measured, pairs, asked_by(seen), margins(seen), plan.alpha)
    told = answers(seen, family, measured)
    results = result_table(arms, seen, family)
    results.notes[:0] = [*copies, *directions, *unscored, *cards, *partly_measured(arms), *plan.notes]
    if benched := list(dict.fromkeys(p.name for arm in arms for run in arm.runs for p in run.evaluations.values())):
        results.notes.insert(
            0, f"Metrics come from evaluations ({', '.join(benched)}), everything else from the runs themselves."
        )
    missing = Table("Not in the table", ["run", "reason", "last step"], found.missing, [], [], terminal=True)
    tables = [results, *(number_table(view, measured) for view in seen if view.table), missing]
    tables += [*detail_tables(told, family, derived(measured)), *elsewhere(arms)]
    tables += [config_table(arms), protocol_table(arms), run_table(arms)]
    shown = [each for each in tables if each.rows]
    if found.others and shown:
        names = ", ".join(f"{name} ({count})" for name, count in found.others.items())
        shown[0].notes.append(f"Runs here that are not arms of this table: {names}.")
    title = table.title if table else cleaned(Path(os.path.commonpath(paths)).name)
    said = summary(told) if arms else ""
    return Report(title, shown, arms, grids(arms), items(arms), told, said, plan.notes, family)
