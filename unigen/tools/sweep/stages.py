"""Carries a sweep in stages from one batch of runs to the next: chooses what is tuned, looks, and adds seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unigen.config.files import write_text
from unigen.config.manifest import MANIFEST, manifest_text, read_manifest, run_folder
from unigen.config.stages import Plan, arm_names, batch, read_plan, write_plan
from unigen.config.values import ConfigError
from unigen.evaluation.looks import Decision, Looks, decide
from unigen.tools.report.report import Report, build_report
from unigen.tools.sweep.tuning import choose, spelt

DONE = "done"  # the sweep had fixed seeds, which have run


def advance(conf: Path, folder: Path) -> list[str]:
    """Take the next step of a sweep whose batch has run: decide, and write the next batch into its manifest.

    It is safe to call it again: a step that was taken is not taken twice, and a step that was cut off is completed.
    Whether there is more to run is `unfinished`'s to say.

    Args:
        conf: the project's config folder.

    Returns:
        Sentences on what was decided; none if the plan has ended already.

    Raises:
        ConfigError: `folder` has no plan, runs of the batch are not finished, or the question cannot be answered.
    """
    plan = read_plan(folder)
    if plan is None:
        raise ConfigError(f"{folder} is not the folder of a sweep in stages: it has no plan.json")
    if plan.stop:
        return []
    own = batch(conf, plan, folder).lines
    if added(folder, own):
        return [f"{len(own)} runs are added"]
    if waiting := unfinished(folder):
        raise ConfigError(f"{len(waiting)} runs of this stage are not finished: {run_names(folder, waiting)}")
    if plan.tuning:
        plan = plan._replace(tuned=choose(own, plan))
        chosen = [spelt(arm["chosen"]) for arm in plan.tuned.values()]
        said = [f"tuned: {arm}: {values}" for arm, values in zip(arm_names([*plan.tuned]), chosen, strict=True)]
    elif not plan.looks:
        plan, said = plan._replace(stop=DONE), []
    else:
        found = look(folder, plan)
        plan = plan._replace(seen=[*plan.seen, found._asdict()], stop=found.stop)
        said = [sentence(found, plan)]
    write_plan(folder, plan)
    if not plan.stop:
        added(folder, batch(conf, plan, folder).lines)
    return said


def added(folder: Path, lines: Sequence[list[str]]) -> bool:
    """Append the lines that the manifest does not hold yet; return True if there were any."""
    there = read_manifest(folder) if (folder / MANIFEST).is_file() else []
    new = [line for line in lines if line not in there]
    if new:
        write_text(folder / MANIFEST, manifest_text([*there, *new]))
    return bool(new)


def unfinished(folder: Path) -> list[int]:
    """Return the numbers of the manifest's lines whose runs have no summary yet."""
    return [i for i, line in enumerate(read_manifest(folder)) if not (run_folder(line) / "summary.json").is_file()]


def run_names(folder: Path, numbers: Sequence[int], most: int = 3) -> str:
    """Return the folders of the first few of these lines, for an error."""
    lines = read_manifest(folder)
    names = [run_folder(lines[number]).name for number in numbers[:most]]
    return ", ".join([*names, *(["..."] if len(numbers) > most else [])])


def look(folder: Path, plan: Plan) -> Decision:
    """Judge the runs of a sweep as its report does, and decide whether it stops.

    Raises:
        ConfigError: an arm lacks a seed, or no number of seeds answers the question.
    """
    _, seeds = plan.seeds
    report = build_report(str(folder))
    family = report.family
    try:
        found = decide(Looks(tuple(plan.looks)), seeds, [*family.verdicts.values()])
    except ValueError as error:
        raise ConfigError(f"{error}{unevaluated(report, folder)}") from error
    if short := [names for names, verdict in family.verdicts.items() if verdict.shared != seeds]:
        arm, reference, metric = short[0]
        raise ConfigError(f"{arm} and {reference} do not share {seeds} seeds of {metric}, after which the sweep looks")
    return found


def unevaluated(report: Report, folder: Path) -> str:
    """Return what to do if the table's metrics are those of benchmarks, as the end of a sentence."""
    runs = [run for arm in report.arms for run in arm.runs if run.table]
    parts = next((run.table.parts(str(run.summary.get("scale") or "")) for run in runs), [])
    if not parts:
        return ""
    return (
        f"; its metrics are measured on {', '.join(parts)}: run experiments/evaluate.py run={folder} "
        f"table={runs[0].table.name}, and then the same line again"
    )


def sentence(found: Decision, plan: Plan) -> str:
    """Return the result of a look as a sentence for the terminal."""
    number, many = [each["seeds"] for each in plan.seen].index(found.seeds) + 1, len(plan.looks)
    counts = f"of the differences {found.resolved} are resolved, {found.equal} equal, {found.open} open"
    then = {
        "answered": "the question is answered, the sweep stops",
        "limit": "the limit is reached, the sweep stops",
        "": f"the sweep goes on to {plan.seeds[1]} seeds",
    }[found.stop]
    return f"look {number} of {many}, after {found.seeds} seeds, at level {found.level:.2g}: {counts}; {then}"
