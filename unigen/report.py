"""The ablation report: run folders in, one `Report` of plain tables out; every form of it prints that."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from unigen.report_arms import (
    Arm,
    Grids,
    apart_by_card,
    differing,
    group_arms,
    incomparable,
    metric_directions,
    over_seeds,
    pick_grids,
    reasons,
)
from unigen.report_bootstrap import bootstrap_table, reference_arm
from unigen.report_costs import facts
from unigen.report_evaluations import shown_runs
from unigen.report_published import View, asked, published, views
from unigen.report_runs import (
    PaperTable,
    Run,
    cleaned,
    find_runs,
    last_step,
    number,
    read_run,
    shown,
    table_name,
)
from unigen.report_tables import ARROWS, Cell, Table, footnotes
from unigen.report_verdicts import Family, best, compare, measure


class Report(NamedTuple):
    """Everything that a form prints: tables in order (results first), arms for the curves, and sample grids."""

    title: str
    tables: list[Table]
    arms: list[Arm]
    grids: list[Grids]


# tables --------------------------------------------------------------------------------------------------------------

BOUNDS = {"low": "no-condition bound", "high": "truth through the codec"}


def metric_column(name: str, better: str, arms: list[Arm], reference: int, family: Family) -> list[Cell]:
    """One cell an arm, then the two bounds; marked are those that `report_verdicts.best` names."""
    stats = {
        i: s for i, arm in enumerate(arms) if (s := over_seeds(arm, lambda x: x["metrics"].get(name, {}).get("value")))
    }
    marked = best(family, arms, reference, name, better)
    top = max((abs(stat.mean) for stat in stats.values()), default=0.0)
    show = "{:.2e}" if 0 < top < 0.01 else "{:.3f}" if top < 10 else "{:.2f}" if top < 100 else "{:,.1f}"
    cells = []
    for i, arm in enumerate(arms):
        if (stat := stats.get(i)) is None:
            cells.append(Cell("–"))
            continue
        spread = f" ± {show.format(stat.std)}" if stat.seeds > 1 else ""
        seeds = f" (n={stat.seeds})" if stat.seeds < len(arm.runs) else ""
        cells.append(Cell(show.format(stat.mean) + spread + seeds, stat.mean, i in marked))
    for bound in BOUNDS:
        found = [run.summary["metrics"].get(name, {}).get(bound) for arm in arms for run in arm.runs]
        values = sorted(value for value in map(number, found) if value is not None)
        ends = dict.fromkeys(show.format(value) for value in values[:1] + values[-1:])
        cells.append(Cell(" to ".join(ends) or "–", values[0] if values else None))
    return cells


def result_table(arms: list[Arm], reference: int, family: Family) -> Table:
    """One row an arm, the bounds at the bottom, footnotes for what cannot be compared."""
    flagged = incomparable(arms)
    marks, notes = footnotes(flagged)
    columns = [[*(Cell(arm.label + marks.get(i, "")) for i, arm in enumerate(arms)), *map(Cell, BOUNDS.values())]]
    columns.append([*(Cell(str(len(arm.runs)), len(arm.runs)) for arm in arms), Cell(""), Cell("")])
    header = ["arm", "seeds"]
    for name, better in metric_directions(arms).items():
        header.append(name + ARROWS.get(better, ""))
        columns.append(metric_column(name, better, arms, reference, family))
    for title, get, show in facts(arms):
        stats = [over_seeds(arm, get) for arm in arms]
        if any(stats):
            header.append(title)
            columns.append([*(Cell(show(s.mean), s.mean) if s else Cell("–") for s in stats), Cell(""), Cell("")])
    rows = [list(row) for row in zip(*columns, strict=True)]
    foot = [row for row in rows[len(arms) :] if any(cell.sort is not None for cell in row)]
    marked = any(cell.bold for row in rows for cell in row)
    notes += reading_notes(arms, reference, family, marked) + reasons(arms) + protocols(arms)
    return Table("Results", header, rows[: len(arms)], foot, notes, terminal=True)


def reading_notes(arms: list[Arm], reference: int, family: Family, marked: bool) -> list[str]:
    """How to read the numbers: what ± is, why an arm is or is not marked, and what could have been resolved."""
    notes = []
    if max((len(arm.runs) for arm in arms), default=0) > 1:
        notes.append("± is the sample standard deviation over seeds.")
    if family.verdicts:
        against = arms[reference].label
        bold = f"Bold: better than {against}, the reference, resolved; {against} itself where all others are worse."
        notes.append(bold if marked else f"Nothing is marked as better: no difference to {against} is resolved so.")
    return notes + family.notes()


def protocols(arms: list[Arm]) -> list[str]:
    """The protocols that are in the table, each with its arms if there are several."""
    owners: dict[str, dict[str, None]] = {}
    for arm in arms:
        for run in arm.runs:
            text = (
                ", ".join(f"{key} {shown(value)}" for key, value in run.summary["protocol"].items()) or "not recorded"
            )
            owners.setdefault(text, {})[arm.label] = None
    return [f"Protocol{' of ' + ', '.join(who) if len(owners) > 1 else ''}: {text}." for text, who in owners.items()]


def config_table(arms: list[Arm]) -> Table:
    """Dotted keys in which arms differ; a value that most arms do not have stands out."""
    rows = []
    for key in differing([arm.runs[0].config for arm in arms]):
        values = [arm.runs[0].config.get(key, "–") for arm in arms]
        usual, count = Counter(values).most_common(1)[0]
        rows.append([Cell(key), *(Cell(v, bold=v != usual and 2 * count > len(values)) for v in values)])
    notes = ["Seed, name, logger, paths and what was published are left out. Bold: a value that most arms do not have."]
    return Table("Config differences", ["setting", *(arm.label for arm in arms)], rows, [], notes)


def run_table(arms: list[Arm]) -> Table:
    """One row a run, so that every mean can be traced to its folders."""
    metrics = list(metric_directions(arms))
    rows = []
    for arm in arms:
        for run in arm.runs:
            found = [run.summary["metrics"].get(name, {}).get("value") for name in metrics]
            cells = [Cell(f"{x:.5g}" if (x := number(v)) is not None else shown(v or "–"), number(v)) for v in found]
            rows.append(
                [Cell(arm.label), Cell(str(run.summary["seed"]), run.summary["seed"]), *cells, Cell(run.folder)]
            )
    return Table("Runs", ["arm", "seed", *metrics, "folder"], rows, [], [])


# all of it -----------------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """What lies under the folders of a report: finished runs, rows for those that are not, and names left out."""

    runs: list[Run]
    missing: list[list[Cell]]
    others: Counter[str]


def read_all(paths: list[Path], table: PaperTable | None, benches: Sequence[str] = ()) -> Found:
    """Read every run, on `benches` if there are any; under a `table`, runs that are none of its arms only count."""
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
    """Read every run under `runs` (a folder or a comma-separated list; None for none).

    Under a published `table` the runs are those of its arms, and there may be none. `reference` names the arm that
    differences are taken to (`report_bootstrap.reference_arm`). On `benches` the numbers are those of evaluations
    (`report_evaluations.shown_runs`).

    Raises:
        ValueError: no run and no table, a folder that does not exist, or a reference that is no arm.
    """
    paths = find_runs(runs) if runs is not None else []
    found = read_all(paths, table, benches)
    several, cards = apart_by_card(found.runs)
    arms = group_arms(several)
    compared = reference_arm(arms, table.order if table else own_order(arms), reference)
    measured, left_out = measure(arms)
    seen = views(arms, table, arms[compared].label if arms else None)
    family = compare(measured, differences(arms, compared, seen), asked_by(seen))
    results = result_table(arms, compared, family)
    results.notes[:0] = cards
    if benched := list(dict.fromkeys(p.name for arm in arms for run in arm.runs for p in run.evaluations.values())):
        results.notes.insert(0, f"Metrics are of evaluations ({', '.join(benched)}), all else of the runs themselves.")
    intervals = bootstrap_table(arms, compared, measured, family, left_out)
    if arms and not intervals.rows:
        results.notes.append("No intervals over items: no run here has a usable scores.jsonl.")
    missing = Table("Not in the table", ["run", "reason", "last step"], found.missing, [], [], terminal=True)
    tables = [results, missing, intervals, *published(seen, arms, family)]
    tables += [config_table(arms), run_table(arms)]
    shown_tables = [each for each in tables if each.rows]
    if found.others and shown_tables:
        names = ", ".join(f"{name} ({count})" for name, count in found.others.items())
        shown_tables[0].notes.append(f"Runs here that are no arms of this table: {names}.")
    title = table.title if table else cleaned(Path(os.path.commonpath(paths)).name)
    return Report(title, shown_tables, arms, pick_grids(arms))


def differences(arms: list[Arm], reference: int, seen: list[View]) -> Iterator[tuple[Arm, Arm, str]]:
    """All that a page compares: each arm with the reference of the page, and of each published table that it is in.

    By the metrics that published tables ask about, or by all where none does.
    """
    metrics = asked(seen) or list(metric_directions(arms))
    for among, i in [(arms, reference), *((view.arms, view.reference) for view in seen)]:
        flagged = incomparable(among)
        others = [arm for j, arm in enumerate(among) if i not in flagged and j not in flagged and j != i]
        yield from ((arm, among[i], metric) for arm in others for metric in metrics)


def asked_by(seen: list[View]) -> str:
    """The titles of the published tables that ask about metrics of these runs."""
    return " and ".join(dict.fromkeys(view.table.title for view in seen if asked([view])))


def own_order(arms: list[Arm]) -> list[str]:
    """The rows of the published table that all runs belong to, if there is one."""
    tables = {run.table.name: run.table.order for arm in arms for run in arm.runs if run.table}
    return next(iter(tables.values())) if len(tables) == 1 else []
