"""The report as one of Weights & Biases: the tables, a run set for each arm, a panel for each metric, the grids.

wandb-workspaces is an optional extra (`pip install 'unigen[report]'`); only here is it imported.
"""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING

from unigen.report import Report
from unigen.report_arms import HASH, Arm, metric_directions
from unigen.report_curves import TRAINING, read_curves
from unigen.report_print import table_markdown

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr

PROJECT = "unigen"  # as in conf/logger/wandb.yaml
STEP = "trainer/global_step"  # what Lightning's logger sends as a step
TITLE_LENGTH = 128  # W&B takes no longer ones
ABSENT = "wandb-workspaces is not installed (pip install 'unigen[report]')"
LOGGED_OUT = "you are not logged in to W&B (wandb login, or WANDB_API_KEY)"


def available() -> bool:
    """Whether wandb-workspaces can be imported."""
    return importlib.util.find_spec("wandb_workspaces") is not None


def build(report: Report, entity: str = "", project: str = PROJECT) -> wr.Report:
    """The report as an object of wandb-workspaces; without an `entity` nothing is asked of a server."""
    import wandb_workspaces.reports.v2 as wr

    blocks = [wr.TableOfContents()]
    for table in report.tables:
        blocks += [wr.H2(text=table.title), wr.MarkdownBlock(text="\n".join(table_markdown(table)))]
    if report.arms:
        sets = [run_set(arm, entity, project) for arm in report.arms]
        blocks += [wr.H2(text="Curves, metrics and samples"), wr.PanelGrid(runsets=sets, panels=panels(report.arms))]
    title = f"Ablation report: {report.title}"[:TITLE_LENGTH]
    return wr.Report(project=project, entity=entity, title=title, blocks=blocks, width="fluid")


def run_set(arm: Arm, entity: str, project: str) -> wr.Runset:
    """The runs of an arm's experiment and task, by the configuration that every run logs; namesakes share theirs."""
    import wandb_workspaces.reports.v2 as wr

    summary = arm.runs[0].summary
    name = summary.get("experiment", summary["name"])  # a row may be an experiment on a benchmark
    filters = f"Config('name') == {literal(name)}"  # parsed as Python; its own expressions do not quote
    if isinstance(summary.get("task"), str):
        filters += f" and Config('task.name') == {literal(summary['task'])}"
    return wr.Runset(entity=entity, project=project if entity else "", name=arm.label, filters=filters)


def literal(text: str) -> str:
    """`text` as a Python string without < and >, which wandb-workspaces turns into <= and >= wherever they stand."""
    return repr(text).replace("<", "\\x3c").replace(">", "\\x3e")


def panels(arms: list[Arm]) -> list[wr.LinePlot | wr.BarPlot | wr.MediaBrowser]:
    """A curve for each logged loss, bars for each metric, the sample grids."""
    import wandb_workspaces.reports.v2 as wr

    curves = dict.fromkeys(name for arm in arms for run in arm.runs for name in read_curves(run))
    tested = [Arm(arm.label, [run for run in arm.runs if not run.evaluations]) for arm in arms]  # by the run itself
    metrics = dict.fromkeys(name.partition(HASH)[0] for name in metric_directions(tested))
    found = [
        wr.LinePlot(title=name, x=STEP, y=[name], smoothing_factor=0.6 if name == TRAINING else 0.0) for name in curves
    ]
    found += [wr.BarPlot(title=name, metrics=[f"test/{name}"], orientation="h") for name in metrics]
    return [*found, wr.MediaBrowser(title="samples", media_keys=["samples"], num_columns=2)]


def to_wandb(report: Report) -> str:
    """What `publish` would send, as JSON: displayName, projectName and the spec. Asks no server."""
    model = build(report)._to_model()  # its only door to the spec
    spec = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    said = {"displayName": model.display_name, "projectName": PROJECT, "type": "runs", "spec": spec}
    return json.dumps(said, indent=1, ensure_ascii=False) + "\n"


def entity() -> str | None:
    """Who is logged in to W&B, None for nobody. Raises ValueError if the server does not answer."""
    import wandb

    try:
        return wandb.Api().default_entity if wandb.login(prompt=False) else None
    except (wandb.errors.Error, OSError, ValueError) as error:
        raise ValueError(f"W&B did not answer: {error}") from error


def publish(report: Report, owner: str, project: str = PROJECT) -> str:
    """Saves the report with W&B and returns its address. Raises ValueError, one sentence, if that fails."""
    import wandb

    try:
        return build(report, owner, project).save().url
    except (wandb.errors.Error, OSError, ValueError) as error:
        raise ValueError(f"W&B did not take the report: {' '.join(str(error).split())}") from error
