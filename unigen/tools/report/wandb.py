"""Writes the report for Weights & Biases: the answers, the tables, a run set for each arm, panels, the samples.

`publish` saves it, and a view of the project that shows these runs alone, grouped by arm.

wandb-workspaces is an optional extra (`pip install 'unigen[report]'`), which only this file imports.
"""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING

from unigen.evaluation.answers import sentences
from unigen.evaluation.arms import HASH, Arm, metric_directions
from unigen.evaluation.curves import TRAINING, read_curves
from unigen.tools.forms.text import markdown_text, table_markdown
from unigen.tools.report.report import Report

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

PROJECT = "unigen"  # as in conf/logger/wandb.yaml
STEP = "trainer/global_step"  # the step in Lightning's logger
TITLE_LENGTH = 128  # the limit of W&B
ABSENT = "wandb-workspaces is not installed (pip install 'unigen[report]')"
LOGGED_OUT = "you are not logged in to W&B (wandb login, or WANDB_API_KEY)"


def available() -> bool:
    """Return True if wandb-workspaces is installed."""
    return importlib.util.find_spec("wandb_workspaces") is not None


def build(report: Report, entity: str = "", project: str = PROJECT) -> wr.Report:
    """Return the report as an object of wandb-workspaces; without an `entity` no server is contacted."""
    import wandb_workspaces.reports.v2 as wr

    blocks = [wr.P(text=report.summary)] if report.summary else []
    for answer in report.answers:
        said = "\n".join(f"- {markdown_text(sentence)}" for sentence in sentences(answer))
        blocks += [wr.H3(text=answer.title), wr.MarkdownBlock(text=said)]
    blocks.append(wr.TableOfContents())
    for table in report.tables:
        blocks += [wr.H2(text=table.title), wr.MarkdownBlock(text="\n".join(table_markdown(table)))]
    if report.arms:
        sets = [run_set(arm, entity, project) for arm in report.arms]
        blocks += [wr.H2(text="Curves, metrics and samples"), wr.PanelGrid(runsets=sets, panels=panels(report.arms))]
    title = f"Ablation report: {report.title}"[:TITLE_LENGTH]
    return wr.Report(project=project, entity=entity, title=title, blocks=blocks, width="fluid")


def run_set(arm: Arm, entity: str, project: str) -> wr.Runset:
    """Return the set of runs of an arm's experiment and task, by their logged configuration.

    Arms of one name have the same set.
    """
    import wandb_workspaces.reports.v2 as wr

    summary = arm.runs[0].summary
    name = summary.get("experiment", summary["name"])  # a row may be an experiment on a benchmark
    filters = f"Config('name') == {literal(name)}"  # W&B parses it as Python; its own expressions do not quote
    if isinstance(summary.get("task"), str):
        filters += f" and Config('task.name') == {literal(summary['task'])}"
    return wr.Runset(entity=entity, project=project if entity else "", name=arm.label, filters=filters)


def view(report: Report, entity: str, project: str = PROJECT) -> ws.Workspace:
    """Return a view of the project on the report's runs: their experiments, grouped by W&B's group (the arm)."""
    import wandb_workspaces.workspaces as ws

    names = sorted({literal(arm.runs[0].summary.get("experiment", arm.runs[0].summary["name"])) for arm in report.arms})
    runs = ws.RunsetSettings(filters=f"Config('name') in [{', '.join(names)}]", groupby=[ws.Metric("Group")])
    section = ws.Section(name="Curves, metrics and samples", panels=panels(report.arms), is_open=True)
    title = f"Ablation: {report.title}"[:TITLE_LENGTH]
    return ws.Workspace(entity=entity, project=project, name=title, sections=[section], runset_settings=runs)


def literal(text: str) -> str:
    """Return `text` as a Python literal without < and >, which wandb-workspaces turns into <= and >= everywhere."""
    return repr(text).replace("<", "\\x3c").replace(">", "\\x3e")


def panels(arms: list[Arm]) -> list[wr.LinePlot | wr.BarPlot | wr.MediaBrowser]:
    """Return a curve for each logged loss, bars for each metric, and the sample grids."""
    import wandb_workspaces.reports.v2 as wr

    curves = dict.fromkeys(name for arm in arms for run in arm.runs for name in read_curves(run))
    tested = [Arm(arm.label, [run for run in arm.runs if not run.evaluations]) for arm in arms]  # by the run itself
    metrics = dict.fromkeys(name.partition(HASH)[0] for name in metric_directions(tested))
    found = [
        wr.LinePlot(title=name, x=STEP, y=[name], smoothing_factor=0.6 if name == TRAINING else 0.0) for name in curves
    ]
    found += [wr.BarPlot(title=name, metrics=[f"test/{name}"], orientation="h") for name in metrics]
    browsers = [wr.MediaBrowser(title=key, media_keys=[key], num_columns=2) for key in ("samples", "items/table")]
    return [*found, *browsers]


def to_wandb(report: Report) -> str:
    """Return the JSON that `publish` would send (displayName, projectName and the spec), without a server."""
    model = build(report)._to_model()  # the only access to the spec
    spec = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    said = {"displayName": model.display_name, "projectName": PROJECT, "type": "runs", "spec": spec}
    return json.dumps(said, indent=1, ensure_ascii=False) + "\n"


def entity() -> str | None:
    """Return the entity that is logged in to W&B, or None. Raises ValueError if the server does not answer."""
    import wandb

    try:
        return wandb.Api().default_entity if wandb.login(prompt=False) else None
    except (wandb.errors.Error, OSError, ValueError) as error:
        raise ValueError(f"W&B did not answer: {error}") from error


def publish(report: Report, owner: str, project: str = PROJECT) -> str:
    """Save the report and its view with W&B, and return their addresses. Raises ValueError, in one sentence."""
    import wandb

    try:
        address = build(report, owner, project).save().url
        return f"{address}, with a view of its runs at {view(report, owner, project).save().url}"
    except (wandb.errors.Error, OSError, ValueError) as error:
        raise ValueError(f"W&B did not take the report: {' '.join(str(error).split())}") from error
