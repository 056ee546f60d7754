"""Evaluations in the place of a run's own test: what a report reads under `bench=`, and for a table with `benches`.

An evaluation is what `experiments/evaluate.py` leaves in <run>/evaluation/<bench>: numbers under their protocol cards,
scores of single pictures, a sheet of pictures, the time that drawing them took. Configuration, costs of training and
curves stay the run's.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unigen.clusters import Clusters
from unigen.report_runs import PaperTable, Run, check_metrics, cleaned, read_tree
from unigen.scores import read_scores

FOLDER = "evaluation"  # of a run, one folder in it for each benchmark


def shown_runs(run: Run, benches: Sequence[str]) -> tuple[list[Run], list[str]]:
    """What a report shows of a run, and a sentence for each evaluation that it lacks or that cannot be read.

    On `benches` it is one arm, with the metrics of several named after theirs: `ssim (emoji_deblur)`. Without, it is
    one arm for each row of its table that is its experiment on benchmarks, or else itself on the benchmarks that the
    table measures its scale by, or with its own test.
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
    """{row: {scale: {part: benchmark}}} of the table's rows that are this experiment on benchmarks."""
    rows = table.benches if table else {}
    return {
        row: {scale: benches for scale, benches in said.items() if isinstance(benches, dict)}
        for row, said in rows.items()
        if said["exp"] == experiment
    }


def own_benches(table: PaperTable | None, experiment: str, scale: str) -> list[str]:
    """The benchmarks that a table measures a scale by, if the experiment is one of its rows."""
    return table.parts(scale) if table and experiment in table.order else []


def evaluated(run: Run, benches: Mapping[str, str], row: str | None = None) -> tuple[list[Run], list[str]]:
    """The run with the numbers of {part: benchmark}, a metric as `name (part)`; none of them: no run. And reasons.

    `row` is what the arm is called; then the numbers that were published for the experiment are none of the row's.
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
    """A metric's name where there are several benchmarks."""
    return f"{name} ({part})" if part else name


def read_evaluation(run: Run, bench: str) -> dict[str, Any]:
    """evaluation.json. Raises ValueError, one sentence, if there is none, or if it is not this run's or not usable."""
    path = run.path / FOLDER / bench / "evaluation.json"
    if not path.exists():
        raise ValueError(f"not evaluated on {bench}: python experiments/evaluate.py run=<run folder> bench={bench}")
    said, name = read_tree(path, json.loads), f"{FOLDER}/{bench}/evaluation.json"
    check_metrics(said, name)
    if (said.get("name"), said.get("seed")) != (run.summary["name"], run.summary["seed"]):
        raise ValueError(f"{name} is of another run: '{said.get('name')}', seed {said.get('seed')}")
    said["protocol"] = said["protocol"] if isinstance(said.get("protocol"), dict) else {}
    said["sampling"] = said["sampling"] if isinstance(said.get("sampling"), dict) else {}
    return said


def scores_of(run: Run) -> dict[str, tuple[list[float | None], Clusters]]:
    """The scores of single items by metric, of the evaluations or of the run's own test, each with the items' clusters.

    {} if none were kept. Raises ValueError, one sentence, if a file is not whole.
    """
    found = {}
    for part, folder in (run.evaluations or {"": run.path}).items():
        each, clusters = read_scores(folder)
        if clusters:
            clusters = clusters._replace(ways=tuple(map(cleaned, clusters.ways)))
        found |= {of(part, cleaned(name)): (scores, clusters) for name, scores in each.items()}
    return found


def benches_of(table: PaperTable, experiment: str, scale: str) -> list[str]:
    """All benchmarks that the table asks for of an experiment at a scale."""
    rows = rows_of(table, experiment).values()
    if not rows:
        return own_benches(table, experiment, scale)
    return list(dict.fromkeys(bench for said in rows for bench in said.get(scale, {}).values()))


def sheets(run: Run) -> list[tuple[str, Path]]:
    """(part, sheet of pictures) of each evaluation that has one."""
    found = [(part, folder / "samples.png") for part, folder in run.evaluations.items()]
    return [(part, path) for part, path in found if path.is_file()]
