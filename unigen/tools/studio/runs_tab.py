"""The tab Runs: what runs below a folder are doing, their curves and sample grids, and start, stop and resume."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from unigen.config.values import sentence
from unigen.tools.studio import follow, processes
from unigen.tools.studio.cell import lent
from unigen.tools.studio.composing import choices
from unigen.tools.studio.places import Places, inside, run_names, run_path
from unigen.tools.studio.plots import curve_svg
from unigen.tools.studio.shown import bar, message, preformatted, table

SECONDS, MOST = 3, 24  # between two looks; runs that are looked at together
NEWEST = "newest"


class Following:
    """The handlers of the tab."""

    def __init__(self, places: Places) -> None:
        self.places = places

    def chosen(self, names: list[str] | None) -> dict[str, Path]:
        """Return the chosen runs that are there, by name."""
        there = set(run_names(self.places))
        return {name: inside(self.places.runs / name, self.places.runs) for name in names or [] if name in there}

    def listed(self, names: list[str] | None) -> tuple[Any, str]:
        """Return the list of runs, and a table of all of them."""
        processes.reap()
        found = run_names(self.places)
        chosen = [name for name in names or [] if name in found] or found[-1:]
        runs = {name: inside(self.places.runs / name, self.places.runs) for name in found[-MOST:]}
        said = table(["run", "state", "training loss", "wrote"], follow.table_rows(runs))
        if not found:
            said = message(f"there is no run below {self.places.runs} yet")
        return gr.update(choices=found, value=chosen), said

    def refreshed(self, names: list[str] | None) -> tuple[Any, str]:
        """Return the same without a new choice, which the user may be making."""
        _, said = self.listed(names)
        return gr.update(choices=run_names(self.places)), said

    def look(self, names: list[str] | None, curve: str | None, grid: str | None) -> tuple[Any, ...]:
        """Return progress, the curve's choices, the curve, the grids' choices, the grids and the log."""
        runs = self.chosen((names or [])[:MOST])
        states = {name: follow.state_of(path) for name, path in runs.items()}
        progress = "".join(bar(s.step, s.most or 0, f"{name}: {s.words}") for name, s in states.items())
        curves = follow.curve_names(runs)
        curve = curve if curve in curves else next(iter(curves), None)
        rows = follow.curve_rows(runs, curve) if curve else []
        steps = list(dict.fromkeys(stem for path in runs.values() for stem in follow.grids_of(path)))
        grid = grid if grid in steps else NEWEST
        grids = [(lent(path), said) for path, said in follow.shown_grids(runs, None if grid == NEWEST else grid)]
        last = list(runs)[-1] if runs else None
        log = follow.log_of(runs[last], self.places.runs) if last else ""
        return (
            progress or message("choose a run"),
            gr.update(choices=curves, value=curve),
            curve_svg(tuple(rows), curve or ""),
            gr.update(choices=[NEWEST, *steps], value=grid),
            gr.update(value=grids, columns=min(2, len(grids)) or 1),
            message(f"log of {last}") + preformatted(log) if log else message("there is no log beside this run"),
        )

    def start(self, experiment: str | None, text: str, name: str, names: list[str] | None) -> tuple[Any, ...]:
        """Start a run and look at it."""
        said = self.told(lambda: processes.start(self.places, name.strip(), processes.words_of(experiment, text)))
        choices, overview = self.listed(names)
        if "studio-good" in said:  # the process claims its folder in some seconds
            choices = gr.update(value=[name.strip()])
        return said, choices, overview

    def resume(self, experiment: str | None, text: str, names: list[str] | None) -> str:
        """Resume the one run that is chosen."""
        return self.told(
            lambda: processes.resume(
                self.places, self.only(names), processes.words_of(experiment, text) if text else []
            )
        )

    def stop(self, names: list[str] | None) -> str:
        """Stop the one run that is chosen."""
        return self.told(lambda: processes.stop(self.places, self.only(names)))

    def only(self, names: list[str] | None) -> str:
        """Return the one run that is chosen. Raises ValueError for none and for several."""
        if not names or len(names) != 1:
            raise ValueError("choose exactly one run for this")
        run_path(self.places, names[0])
        return names[0]

    def told(self, act: Callable[[], str]) -> str:
        """Return what an act says, or the reason why it is refused."""
        try:
            return message(act(), "good")
        except (ValueError, OSError) as error:
            return message(sentence(error), "bad")


def build(places: Places) -> gr.Timer:
    """Lay out the tab, within `gr.Tab`; return the timer of its looks, which rests while another tab is shown."""
    following, quiet = Following(places), {"show_progress": "hidden", "api_visibility": "private"}
    with gr.Row():
        with gr.Column(scale=3, min_width=520):
            names = gr.Dropdown(
                [],
                value=[],
                multiselect=True,
                allow_custom_value=True,
                label=f"runs below {places.runs}",
                elem_id="runs",
            )
            progress = gr.HTML(elem_id="progress")
            curve = gr.Dropdown([], label="curve", elem_id="curve")
            plot = gr.HTML(elem_id="plot")
            grid = gr.Dropdown([NEWEST], value=NEWEST, label="sample grids at", elem_id="grid")
            grids = gr.Gallery(
                label="sample grids, side by side",
                columns=2,
                height=420,
                object_fit="contain",
                format="png",
                interactive=False,
                elem_id="grids",
                elem_classes="studio-grid",
            )
        with gr.Column(scale=2, min_width=360):
            overview = gr.HTML(elem_id="overview")
            with gr.Accordion("start, stop and resume", open=True):
                experiment = gr.Dropdown(
                    ["", *choices(places, "exp")], value="fcd_mask_a", label="experiment", elem_id="start-exp"
                )
                text = gr.Textbox(
                    label="overrides",
                    placeholder="trainer.max_steps=200 task=line",
                    max_length=4000,
                    elem_id="start-words",
                )
                name = gr.Textbox(label="name of the new run", placeholder="mine", max_length=80, elem_id="start-name")
                with gr.Row():
                    start = gr.Button("Start", variant="primary", elem_id="start-run")
                    stop = gr.Button("Stop the chosen run", elem_id="stop-run")
                    resume = gr.Button("Resume the chosen run", elem_id="resume-run")
                said = gr.HTML(elem_id="said")
            log = gr.HTML(elem_id="log")
    shown = [progress, curve, plot, grid, grids, log]
    asked = [names, curve, grid]
    timer = gr.Timer(SECONDS, active=False)
    timer.tick(following.look, asked, shown, **quiet)
    timer.tick(following.refreshed, names, [names, overview], **quiet)
    for component in asked:
        component.input(following.look, asked, shown, **quiet)
    start.click(following.start, [experiment, text, name, names], [said, names, overview], **quiet)
    resume.click(following.resume, [experiment, text, names], said, **quiet)
    stop.click(following.stop, names, said, **quiet)
    root = gr.context.Context.root_block
    root.load(following.listed, names, [names, overview], **quiet).then(following.look, asked, shown, **quiet)
    return timer
