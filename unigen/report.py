"""The ablation report: run folders in, one `Report` of plain tables out; Markdown, HTML and terminal all print that."""

import os
import re
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import rich.box
import rich.table
from rich.console import Console
from rich.text import Text

from unigen.intervals import resolution, resolvable
from unigen.report_published import published
from unigen.report_runs import (
    Arm,
    Get,
    by_seed,
    cleaned,
    differing,
    find_runs,
    group_arms,
    incomparable,
    last_step,
    metric_directions,
    number,
    over_seeds,
    pick_grids,
    read_run,
    shown,
)
from unigen.report_tables import ARROWS, Cell, Table, footnotes


class Report(NamedTuple):
    """Everything that a form prints: tables in order (results first), arms for the curves, (caption, PNG) grids."""

    title: str
    tables: list[Table]
    arms: list[Arm]
    grids: list[tuple[str, Path]]


# tables --------------------------------------------------------------------------------------------------------------

Show = Callable[[float], str]
BOUNDS = {"low": "no-condition bound", "high": "truth through the codec"}
FACTS: tuple[tuple[str, Get, Show], ...] = (
    ("steps", lambda s: s["steps"], "{:,.0f}".format),
    ("samples seen", lambda s: s.get("samples_seen"), "{:,.0f}".format),
    ("trained", lambda s: s["parameters"].get("trained"), lambda value: f"{value / 1e6:,.2f} M"),
    ("minutes", lambda s: s.get("seconds"), lambda value: f"{value / 60:,.1f}"),
    ("samples/s", lambda s: s["throughput"].get("samples_per_s"), "{:,.1f}".format),
)


def clear_best(samples: dict[int, dict[int, float]], better: str) -> int | None:
    """Of arms as {seed: number}, the one that leads every other by more than can be chance (`intervals.resolvable`).

    None if there is none, or if any arm has only one seed.
    """
    if better not in ARROWS or len(samples) < 2 or min(map(len, samples.values())) < 2:
        return None
    means = {i: statistics.fmean(sample.values()) for i, sample in samples.items()}
    best, *others = sorted(means, key=means.get, reverse=better == "higher")
    spread = resolution(list(samples.values())).spread
    limits = {i: resolvable(spread, len(samples[best]), len(samples[i])) for i in others}
    return best if all(abs(means[best] - means[i]) > limits[i] for i in others) else None


def metric_column(name: str, better: str, arms: list[Arm], flagged: dict[int, str]) -> list[Cell]:
    """One cell an arm, then the two bounds. Arms in `flagged` are never marked as best."""
    stats = {
        i: s for i, arm in enumerate(arms) if (s := over_seeds(arm, lambda x: x["metrics"].get(name, {}).get("value")))
    }
    best = clear_best({i: by_seed(arms[i], name) for i in stats if i not in flagged}, better)
    top = max((abs(stat.mean) for stat in stats.values()), default=0.0)
    show = "{:.2e}" if 0 < top < 0.01 else "{:.3f}" if top < 10 else "{:.2f}" if top < 100 else "{:,.1f}"
    cells = []
    for i, arm in enumerate(arms):
        if (stat := stats.get(i)) is None:
            cells.append(Cell("–"))
            continue
        spread = f" ± {show.format(stat.std)}" if stat.seeds > 1 else ""
        seeds = f" (n={stat.seeds})" if stat.seeds < len(arm.runs) else ""
        cells.append(Cell(show.format(stat.mean) + spread + seeds, stat.mean, i == best))
    for bound in BOUNDS:
        found = [run.summary["metrics"].get(name, {}).get(bound) for arm in arms for run in arm.runs]
        values = sorted(value for value in map(number, found) if value is not None)
        ends = dict.fromkeys(show.format(value) for value in values[:1] + values[-1:])
        cells.append(Cell(" to ".join(ends) or "–", values[0] if values else None))
    return cells


def result_table(arms: list[Arm]) -> Table:
    """One row an arm, the bounds at the bottom, footnotes for what cannot be compared."""
    flagged = incomparable(arms)
    marks, notes = footnotes(flagged)
    columns = [[*(Cell(arm.label + marks.get(i, "")) for i, arm in enumerate(arms)), *map(Cell, BOUNDS.values())]]
    columns.append([*(Cell(str(len(arm.runs)), len(arm.runs)) for arm in arms), Cell(""), Cell("")])
    header = ["arm", "seeds"]
    for name, better in metric_directions(arms).items():
        header.append(name + ARROWS.get(better, ""))
        columns.append(metric_column(name, better, arms, flagged))
    for title, get, show in FACTS:
        stats = [over_seeds(arm, get) for arm in arms]
        header.append(title)
        columns.append([*(Cell(show(s.mean), s.mean) if s else Cell("–") for s in stats), Cell(""), Cell("")])
    rows = [list(row) for row in zip(*columns, strict=True)]
    foot = [row for row in rows[len(arms) :] if any(cell.sort is not None for cell in row)]
    marked = any(cell.bold for row in rows for cell in row)
    notes += reading_notes(arms, marked) + protocols(arms)
    return Table("Results", header, rows[: len(arms)], foot, notes, terminal=True)


def reading_notes(arms: list[Arm], marked: bool) -> list[str]:
    """How to read the numbers: what ± is, and why an arm is or is not marked as best."""
    seeds = [len(arm.runs) for arm in arms]
    notes = ["± is the sample standard deviation over seeds."] if max(seeds, default=0) > 1 else []
    if len(arms) > 1 and min(seeds) < 2:
        notes.append("One seed cannot separate arms: nothing is marked as best unless every arm has two or more.")
    elif marked:
        notes.append(
            "Bold: the best of the comparable arms, where it leads each other by more than t(0.975, df) · s · √(1/n + "
            "1/m); s pooled within arms, or the residual of arm + seed where all arms have the same seeds. 95 % each, "
            "not corrected for their number."
        )
    elif len(arms) > 1:
        notes.append("Nothing is marked as best: no lead is larger than the spread over seeds explains (95 %).")
    return notes


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


def build_report(runs: str) -> Report:
    """Read every run under `runs` (a folder or a comma-separated list). Raises ValueError if there is none."""
    paths = find_runs(runs)
    root = Path(os.path.commonpath(paths))
    finished, skipped = [], []
    for path in paths:
        folder = cleaned(os.path.relpath(path, root.parent))
        try:
            finished.append(read_run(path, folder))
        except ValueError as error:
            skipped.append([Cell(folder), Cell(str(error)), Cell(last_step(path / "metrics.jsonl"))])
    arms = group_arms(finished)
    missing = Table("Not in the table", ["run", "reason", "last step"], skipped, [], [], terminal=True)
    tables = [result_table(arms), missing, *published(arms), config_table(arms), run_table(arms)]
    return Report(cleaned(root.name), [table for table in tables if table.rows], arms, pick_grids(arms))


# printing ------------------------------------------------------------------------------------------------------------


def markdown_text(text: str) -> str:
    """`text` with everything escaped that Markdown or its HTML would interpret."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~]|\b_|_\b)", r"\\\1", text)


def to_markdown(report: Report, out: Path) -> str:
    """The tables, and the grids as links relative to the folder `out`."""
    lines = [f"# Ablation report: {markdown_text(report.title)}", ""]

    def add(cells: list[str]) -> None:
        lines.append(f"| {' | '.join(cells)} |")

    for table in report.tables:
        lines += [f"## {markdown_text(table.title)}", ""]
        add([markdown_text(text) for text in table.header])
        add(["---", *["---" if table.words else "---:"] * (len(table.header) - 1)])
        for row in table.rows + table.foot:
            add([f"**{markdown_text(cell.text)}**" if cell.bold else markdown_text(cell.text) for cell in row])
        lines += ["", *(f"- {markdown_text(note)}" for note in table.notes), ""]
    if report.grids:
        lines += ["## Samples", ""]
    for start in range(0, len(report.grids), 4):
        four = [(markdown_text(caption), path) for caption, path in report.grids[start : start + 4]]
        add([caption for caption, _ in four])
        add(["---"] * len(four))
        add([f"![{text}]({quote(os.fsencode(os.path.relpath(path, out.resolve())))})" for text, path in four])
        lines.append("")
    return "\n".join(lines)


def print_tables(report: Report) -> None:
    """What matters most, in the terminal. A narrow one loses columns from the right, and says so; a pipe gets lines as
    long as the table needs."""
    console = Console() if Console().is_terminal else Console(width=10_000)
    endless = console.options.update(max_width=10_000)
    for table in report.tables:
        if table.terminal:
            counts = [len(table.header)] if table.words else range(1, len(table.header) + 1)
            widths = {n: console.measure(terminal_table(table, n), options=endless).maximum for n in counts}
            columns = max((n for n, width in widths.items() if width <= console.width), default=min(widths))
            console.print(terminal_table(table, columns))
            hidden = table.header[columns:]
            for note in table.notes + ([f"Too narrow for {', '.join(hidden)}: see the report."] if hidden else []):
                console.print(Text(note))
            console.print()


def terminal_table(table: Table, columns: int) -> rich.table.Table:
    """The first `columns` columns; those of a table of numbers are never folded."""
    grid = rich.table.Table(title=table.title, title_justify="left", box=rich.box.SIMPLE_HEAD)
    for i, text in enumerate(table.header[:columns]):
        grid.add_column(Text(text), justify="right" if i and not table.words else "left", no_wrap=not table.words)
    for row in table.rows + table.foot:
        grid.add_row(*(Text(cell.text, style="bold" if cell.bold else "") for cell in row[:columns]))
    return grid
