"""Reads evaluations on benchmarks, which replace a run's own test in a report with `bench=` or a table with `benches`.

An evaluation is the result of `experiments/evaluate.py` in <run>/evaluation/<bench>: scores with their protocol cards,
scores of single images, a sheet of images, and the latency of sampling. Configuration, costs of training and curves
remain those of the run.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unigen.config.commands import command
from unigen.evaluation.clusters import Clusters
from unigen.evaluation.runs import PaperTable, Run, check_metrics, cleaned, read_tree
from unigen.evaluation.scores import read_scores

FOLDER = "evaluation"  # in a run's folder; it has a folder for each benchmark


def shown_runs(run: Run, benches: Sequence[str]) -> tuple[list[Run], list[str]]:
    """Return the runs that a report shows in the place of `run`, and a sentence for each evaluation that is missing.

    With `benches` the result is one run; if there are several benchmarks, metrics are named after theirs:
    `ssim (emoji_deblur)`. Without `benches` it is one run for each row of the run's table that is its experiment on
    benchmarks; without such rows it is the run on the benchmarks that the table names for its scale, or with its own
    test.
    """
    if benches:
        one = len(benches) == 1
        return evaluated(run, {"" if one else bench: bench for bench in benches})
    rows, scale = rows_of(run.table, run.summary["name"]), str(run.summary.get("scale"))
    if not rows:
        own = own_benches(run.table, run.summary["name"], scale)
        return evaluated(run, {bench: bench for bench in own}) if own else ([run], [])
    found, reasons = [], []
    for row, by_scale in rows.items():
        benches_of_row = by_scale.get(scale, {})
        shown, why = evaluated(run, benches_of_row, row)
        found += shown
        reasons += why if benches_of_row else [f"row '{row}' of the table names no benchmark for the run's scale"]
    return found, list(dict.fromkeys(reasons))


def rows_of(table: PaperTable | None, experiment: str) -> dict[str, dict[str, dict[str, str]]]:
    """Return {row: {scale: {part: benchmark}}} for the table's rows that are this experiment on benchmarks."""
    rows = table.benches if table else {}
    return {
        row: {scale: benches for scale, benches in said.items() if isinstance(benches, dict)}
        for row, said in rows.items()
        if said["exp"] == experiment
    }


def own_benches(table: PaperTable | None, experiment: str, scale: str) -> list[str]:
    """Return the benchmarks that the table's metrics name for a scale, if the experiment is one of its rows."""
    return table.parts(scale) if table and experiment in table.order else []


def evaluated(run: Run, benches: Mapping[str, str], row: str | None = None) -> tuple[list[Run], list[str]]:
    """Return the run with the scores of {part: benchmark}, a metric named `name (part)`, and reasons for missing ones.

    There is no run if all evaluations are missing. `row` renames the arm; the numbers published for the experiment are
    then dropped, since they are not the row's.
    """
    found, reasons = {}, []
    for part, bench in benches.items():
        try:
            found[part] = read_evaluation(run, bench)
        except ValueError as error:
            reasons.append(str(error))
    if not found:
        return [], reasons
    own = {
        "experiment": run.summary["name"],
        "sampling": {part: said.get("sampling", {}) for part, said in found.items()},
    }
    for key in ("metrics", "protocol"):
        own[key] = {of(part, name): value for part, said in found.items() for name, value in said[key].items()}
    if row is not None:
        own |= {"name": row, "published": {}}
    folders = {part: run.path / FOLDER / benches[part] for part in found}
    names = "+".join(dict.fromkeys(benches[part] for part in found))
    folder = f"{run.folder}/{FOLDER}/{names}"
    return [run._replace(summary=run.summary | own, folder=folder, evaluations=folders)], reasons


def of(part: str, name: str) -> str:
    """Return a metric's name with its part, if there is one: `name (part)`."""
    return f"{name} ({part})" if part else name


def read_evaluation(run: Run, bench: str) -> dict[str, Any]:
    """Read evaluation.json. Raises ValueError, in one sentence, if it is absent, of another run, or not usable."""
    path = run.path / FOLDER / bench / "evaluation.json"
    if not path.exists():
        raise ValueError(f"not evaluated on {bench}: {command('evaluate')} run=<run folder> bench={bench}")
    said, name = read_tree(path, json.loads), f"{FOLDER}/{bench}/evaluation.json"
    check_metrics(said, name)
    if (said.get("name"), said.get("seed")) != (run.summary["name"], run.summary["seed"]):
        raise ValueError(f"{name} is of another run: '{said.get('name')}', seed {said.get('seed')}")
    said["protocol"] = said["protocol"] if isinstance(said.get("protocol"), dict) else {}
    said["sampling"] = said["sampling"] if isinstance(said.get("sampling"), dict) else {}
    return said


def check_benches(paths: Sequence[Path], benches: Sequence[str]) -> None:
    """Raise ValueError, with the legal names, for a benchmark on which none of these runs was evaluated."""
    legal = sorted({file.parent.name for path in paths for file in path.glob(f"{FOLDER}/*/evaluation.json") if benches})
    for bench in (bench for bench in benches if bench not in legal):
        how = f"{command('evaluate')} run=<run folder> bench={bench}"
        there = f"they were on {', '.join(legal)}" if legal else "they were on none"
        raise ValueError(f"bench={bench}: none of these runs was evaluated on it, {there}; {how} evaluates one")


def scores_of(run: Run) -> dict[str, tuple[list[float | None], Clusters]]:
    """Return the scores of single items by metric, with the items' clusters, of the evaluations or the run's own test.

    The result is {} if no scores were kept. Raises ValueError, in one sentence, if a file is damaged.
    """
    found = {}
    for part, folder in (run.evaluations or {"": run.path}).items():
        each, clusters = read_scores(folder)
        if clusters:
            clusters = clusters._replace(ways=tuple(map(cleaned, clusters.ways)))
        found |= {of(part, cleaned(name)): (scores, clusters) for name, scores in each.items()}
    return found


def benches_of(table: PaperTable, experiment: str, scale: str) -> list[str]:
    """Return all benchmarks that the table names for an experiment at a scale."""
    rows = rows_of(table, experiment).values()
    if not rows:
        return own_benches(table, experiment, scale)
    return list(dict.fromkeys(bench for said in rows for bench in said.get(scale, {}).values()))


def sheets(run: Run) -> list[tuple[str, Path]]:
    """Return (part, path of its sheet of images) for each evaluation that has one."""
    found = [(part, folder / "samples.png") for part, folder in run.evaluations.items()]
    return [(part, path) for part, path in found if path.is_file()]
