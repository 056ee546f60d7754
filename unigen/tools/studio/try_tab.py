"""The tab Try: cells of a grid or of a task, a model, and the result in its cell while it is denoised."""

import threading
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import gradio as gr

from unigen.config.values import ConfigError, sentence
from unigen.tools.studio import calls, examples
from unigen.tools.studio.calls import FRAMES, ROWS, SIDE
from unigen.tools.studio.cell import Cell, lent
from unigen.tools.studio.drawing import Done, Failed, Sampled, Step, draw
from unigen.tools.studio.models import About, Models
from unigen.tools.studio.places import USUAL, Places, model_names
from unigen.tools.studio.shown import bar, message, messages

KINDS = [("examples in rows, and a query", ROWS), ("a task of the model", FRAMES)]
GRID = list(product(range(SIDE), range(SIDE)))  # (row, column) of each cell
SETTINGS = ("seed", "steps", "guidance", "negative", "subject", "columns", "instruction", "upsample", "strength")
ONLY_ROWS = ("columns", "instruction", "upsample", "strength")
MOST = 24  # results that the page keeps for comparison


class Parts(NamedTuple):
    """The components that the handlers read and write."""

    model: gr.Dropdown
    about: gr.HTML
    kind: gr.Radio
    task: gr.Dropdown
    rows: gr.Slider
    columns: gr.Slider
    fill: gr.CheckboxGroup
    cells: list[Cell]
    lines: list[gr.Row]
    prompt: gr.Textbox
    prepared: gr.Checkbox
    settings: dict[str, gr.Textbox]
    status: gr.HTML
    command: gr.Code
    results: gr.Gallery
    history: gr.State

    @property
    def shape(self) -> list[gr.components.Component]:
        return [self.kind, self.rows, self.columns, self.fill, self.task]


class Trying:
    """The handlers of the tab. What belongs to one user is in the user's own page, or under the page's own hash."""

    def __init__(self, places: Places, models: Models, sampled: Sampled) -> None:
        self.places, self.models, self.sampled = places, models, sampled
        self.stops: dict[str, threading.Event] = {}

    # --- the page follows what is chosen ----------------------------------------------------------------------------

    def choose(self, name: str, kind: str, task: str | None) -> tuple[Any, ...]:
        """Return what the page says of a model: about, kinds, tasks."""
        try:
            about = self.models.about(self.models.word(self.places, name))
        except (ValueError, OSError) as error:
            return message(sentence(error), "bad"), gr.skip(), gr.skip()
        kinds = [each for each in KINDS if (about.rows if each[1] == ROWS else about.tasks)]
        kind = kind if kind in [value for _, value in kinds] else (kinds[0][1] if kinds else ROWS)
        task = task if task in about.tasks else about.usual_task
        chosen = gr.update(choices=[(_plain(each), each) for each in about.tasks], value=task)
        return message(said_of(about)), gr.update(choices=kinds, value=kind), chosen

    def reshape(self, kind: str, rows: int, columns: int, fill: list[int], task: str | None) -> list[Any]:
        """Show the cells of the shape with their labels."""
        shape = calls.shape_of(kind, int(rows), int(columns), fill or [], task)
        cells = [
            gr.update(
                visible=calls.shown(shape, r, c), label=calls.label(shape, r, c) if calls.shown(shape, r, c) else ""
            )
            for r, c in GRID
        ]
        lines = [gr.update(visible=r < shape.rows) for r in range(SIDE)]
        in_rows = kind == ROWS
        choices = gr.update(
            choices=[(f"column {k + 1}", k) for k in range(int(columns))],
            value=[k for k in fill or [] if k < int(columns)] or [int(columns) - 1],
            visible=in_rows,
        )
        sizes = [gr.update(visible=in_rows)] * 2
        return [*cells, *lines, choices, *sizes, gr.update(visible=not in_rows), gr.update(visible=not in_rows)]

    def load(self, number: int) -> list[Any]:
        """Put an example into the page."""
        example = examples.available(self.places.drawings)[number]
        cells = [examples.cell(example, r, c, self.places.drawings) for r, c in GRID]
        cells = [None if path is None else lent(path) for path in cells]
        rows, columns = (len(example.cells), len(example.cells[0])) if example.kind == ROWS else (1, 2)
        fill = gr.update(choices=[(f"column {k + 1}", k) for k in range(columns)], value=list(example.fill))
        task = gr.skip() if example.task is None else example.task
        return [example.kind, rows, columns, fill, task, example.prompt, *cells]

    # --- one call ---------------------------------------------------------------------------------------------------

    def generate(self, request: gr.Request, *inputs: Any) -> Iterator[list[Any]]:
        """Draw, and yield the cells, the status, the command line, the gallery and the history."""
        name, kind, rows, columns, fill, task, prompt, prepared, history, *rest = inputs
        settings, cells = dict(zip(SETTINGS, rest, strict=False)), rest[len(SETTINGS) :]
        shape = calls.shape_of(kind, int(rows), int(columns), fill or [], task)
        grid = [cells[r * SIDE : (r + 1) * SIDE] for r in range(SIDE)]
        try:
            given = words_given(kind, task, prompt, prepared, settings)
            word, script = self.models.word(self.places, name), self.places.root / "experiments" / "sample.py"
            call = calls.make_call(word, shape, grid, given, self.places.out, script)
        except (ValueError, OSError) as error:
            yield self._shown(shape, {}, message(sentence(error), "bad"))
            return
        page, stop = str(request.session_hash), threading.Event()
        self.stops[page] = stop
        wanted = [(shape.rows - 1) * SIDE + k for k in shape.fill]
        yield self._shown(shape, dict.fromkeys(wanted), bar(0, 1, "reading the model"), call.command)
        for event in draw(self.sampled, call.words, self.models, stop):
            match event:
                case Step(number, count, images):
                    found = dict(zip(wanted, images.values(), strict=False))
                    yield self._shown(shape, found, bar(number, count, f"step {number} of {count}"))
                case Failed(reason):
                    short = reason.replace(f"{call.folder}/", "")
                    yield self._shown(shape, {}, message(short, "bad"))
                case Done(files, said, seconds):
                    made = list(map(lent, calls.results_of(files)))
                    found = dict(zip(wanted, made, strict=False))
                    status = message(f"done in {seconds:.1f} s; the files are in {call.folder}", "good")
                    caption = caption_of(name, kind, task, prompt, settings)
                    history = [*[(path, caption) for path in made], *history][:MOST]
                    yield self._shown(shape, found, status + messages(said), call.command, history)
        self.stops.pop(page, None)

    def _shown(
        self,
        shape: calls.Shape,
        images: dict[int, Any],
        status: str,
        command: str | None = None,
        history: list[tuple[str, str]] | None = None,
    ) -> list[Any]:
        """Return the outputs of `generate`; cells that `images` does not name stay as they are."""
        cells = [images.get(k, gr.skip()) for k in range(len(GRID))]
        cells = [gr.update(value=None) if value is None else value for value in cells]
        told = [gr.skip(), gr.skip()] if history is None else [history, history]
        return [*cells, status, gr.skip() if command is None else command, *told]

    def stop(self, request: gr.Request) -> None:
        """End the drawing of this page, after the step that it is at."""
        if event := self.stops.get(str(request.session_hash)):
            event.set()

    # --- results as inputs ------------------------------------------------------------------------------------------

    def compose(self, kind: str, rows: int, columns: int, fill: list[int], task: str | None, *cells: Any) -> list[Any]:
        """Move the result into the first cell of the query that is given, and empty its own cell."""
        shape = calls.shape_of(kind, int(rows), int(columns), fill or [], task)
        last = (shape.rows - 1) * SIDE
        known = [k for k in range(shape.columns) if k not in shape.fill]
        results = [last + k for k in shape.fill if cells[last + k] is not None]
        if not results or not known:
            return [gr.skip()] * len(GRID) + [message("there is no result to move, or no cell to move it to", "bad")]
        moved = {results[0]: gr.update(value=None), last + known[0]: cells[results[0]]}
        return [*[moved.get(k, gr.skip()) for k in range(len(GRID))], message("the result is the next input")]

    def reverse(self, kind: str, columns: int, fill: list[int]) -> tuple[Any, str]:
        """Return the other columns as those to fill: what was given is asked for, and the result is given."""
        if kind != ROWS:
            return gr.skip(), message("a task has one direction; choose examples in rows", "bad")
        others = [k for k in range(int(columns)) if k not in (fill or [])][:1]
        if not others:
            return gr.skip(), message("there is no column that is given", "bad")
        return others, message("the other column is asked for")


def _plain(task: str) -> str:
    return task.replace("+", " + ").replace(">", " > ").strip()


def said_of(about: About) -> str:
    """Return a line on what a model takes."""
    parts = []
    if about.rows:
        low, high = about.trained or (0, 0)
        seen = f" ({low} to {high} examples in its training)" if high else " (its training showed no examples)"
        counts = "" if about.trained is None else seen
        parts.append(f"rows of examples{counts}")
    if about.tasks:
        parts.append(f"{len(about.tasks)} tasks by name" if len(about.tasks) > 1 else f"the task {about.tasks[0]}")
    elif about.refusal:
        parts.append(f"no image as a condition: {about.refusal}")
    size = f", {about.size} pixels" if about.size else ""
    takes = " and ".join(parts) or "nothing"
    usual = f"{about.steps} steps and guidance {about.guidance:g} if nothing else is said"
    return f"It takes {takes}{size}; {usual}."


def words_given(kind: str, task: str | None, prompt: str, prepared: bool, settings: dict[str, str]) -> dict[str, str]:
    """Return the words of sample.py beside the run and the images; empty fields are left out."""
    given = {"prompt": prompt or ""}
    if kind == FRAMES:
        given |= {"task": task or "", "prepared": "true" if prepared else ""}
    for key, value in settings.items():
        if value and value.strip() and (kind == ROWS or key not in ONLY_ROWS):
            given[key] = value.strip()
    for key, value in given.items():
        if "\x00" in value:
            raise ConfigError(f"{key}= holds a null byte")
    return given


def caption_of(name: str, kind: str, task: str | None, prompt: str, settings: dict[str, str]) -> str:
    """Return the caption of a result in the gallery."""
    what = "rows" if kind == ROWS else task or ""
    told = [f"{key} {settings[key]}" for key in ("seed", "steps", "guidance", "upsample") if settings.get(key)]
    return " · ".join(filter(None, [*told, prompt, what, name.removeprefix("shipped:")]))


def build(places: Places, models: Models, sampled: Sampled) -> Trying:
    """Lay out the tab; call it within `gr.Tab`."""
    trying = Trying(places, models, sampled)
    parts, buttons = layout(places)
    connect(trying, parts, buttons)
    return trying


def layout(places: Places) -> tuple[Parts, dict[str, Any]]:
    """Return the components of the tab and its buttons by what they do."""
    names, buttons = model_names(places), {}
    usual = USUAL if USUAL in names else next(iter(names), None)
    with gr.Row():
        with gr.Column(scale=3, min_width=520):
            with gr.Row():
                buttons["examples"] = [
                    gr.Button(each.title, icon=places.drawings / each.icon, size="sm", elem_classes="studio-example")
                    for each in examples.available(places.drawings)
                ]
            lines, cells = cell_grid()
            status = gr.HTML(elem_id="status")
            with gr.Row():
                buttons["generate"] = gr.Button("Generate", variant="primary", elem_id="generate")
                buttons["stop"] = gr.Button("Stop", elem_id="stop")
                buttons["compose"] = gr.Button("Use the result as the next input", elem_id="compose")
                buttons["reverse"] = gr.Button("Reverse", elem_id="reverse")
            command, results = command_and_results()
        with gr.Column(scale=2, min_width=320):
            with gr.Row():
                model = gr.Dropdown(names, value=usual, label="model", scale=4, elem_id="model")
                buttons["models"] = gr.Button("look again", size="sm", scale=1, min_width=90)
            about = gr.HTML(elem_id="about")
            kind = gr.Radio(KINDS, value=ROWS, label="what is given", elem_id="kind")
            task = gr.Dropdown([], label="task", visible=False, elem_id="task")
            prepared = gr.Checkbox(label="the images are the conditions already", visible=False)
            with gr.Row():
                rows = gr.Slider(1, SIDE, 2, step=1, label="rows, with the query")
                columns = gr.Slider(2, SIDE, 2, step=1, label="columns")
            fill = gr.CheckboxGroup([("column 1", 0), ("column 2", 1)], value=[1], label="columns of the query to fill")
            prompt = gr.Textbox(label="prompt", placeholder="what the result shows", elem_id="prompt", max_length=2000)
            settings = settings_fields()
    chosen = (model, about, kind, task, rows, columns, fill)
    return Parts(*chosen, cells, lines, prompt, prepared, settings, status, command, results, gr.State([])), buttons


def cell_grid() -> tuple[list[gr.Row], list[Cell]]:
    """Return the lines of the grid and all of its cells; those of two rows of two columns are shown first."""
    lines, cells = [], []
    for r in range(SIDE):
        with gr.Row(visible=r < 2, elem_classes="studio-cells") as line:
            for c in range(SIDE):
                shape = calls.Shape(ROWS, 2, 2, (1,))
                there = calls.shown(shape, r, c)
                cell = Cell(
                    label=calls.label(shape, r, c) if there else "",
                    visible=there,
                    type="filepath",
                    format="png",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    height=190,
                    min_width=120,
                    buttons=["download"],
                    elem_id=f"cell-{r}-{c}",
                    elem_classes="studio-cell",
                )
                cells.append(cell)
        lines.append(line)
    return lines, cells


def command_and_results() -> tuple[gr.Code, gr.Gallery]:
    """Return the line that makes the same call in a terminal, and the gallery of what this page has drawn."""
    command = gr.Code(
        label="the same call as a command line",
        language="shell",
        interactive=False,
        lines=1,
        max_lines=6,
        elem_id="command",
        wrap_lines=True,
    )
    results = gr.Gallery(
        label="results of this page, to compare",
        columns=4,
        fit_columns=False,
        height=260,
        format="png",
        interactive=False,
        object_fit="contain",
        elem_id="results",
    )
    return command, results


def settings_fields() -> dict[str, gr.Textbox]:
    """Return a field for each setting; an empty field leaves it as the model was measured."""
    hints = {
        "seed": "0",
        "steps": "as the model was measured",
        "guidance": "as the model was measured",
        "negative": "a prompt to be led away from",
        "subject": "the prompt's word for the subject (UCE)",
        "columns": "[canny,target], for models with instructions",
        "instruction": "the whole text that the model reads",
        "upsample": "pixels, such as 128: draw the result again",
        "strength": "0.6",
    }
    fields = {}
    with gr.Row():
        for key in ("seed", "steps", "guidance"):
            fields[key] = gr.Textbox(label=key, placeholder=hints[key], min_width=90, max_length=40, elem_id=key)
    with gr.Accordion("more", open=False):
        for key in SETTINGS[3:]:
            fields[key] = gr.Textbox(label=key, placeholder=hints[key], max_length=2000, elem_id=key)
    return fields


def connect(trying: Trying, p: Parts, buttons: dict[str, Any]) -> None:
    """Connect the components to the handlers."""
    shown = [*p.cells, *p.lines, p.fill, p.rows, p.columns, p.task, p.prepared]
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    for component in (p.kind, p.rows, p.columns, p.fill, p.task):
        component.change(trying.reshape, p.shape, shown, **quiet)
    chosen = [p.about, p.kind, p.task]
    p.model.change(trying.choose, [p.model, p.kind, p.task], chosen, api_visibility="private")
    buttons["models"].click(lambda: gr.update(choices=model_names(trying.places)), None, p.model, **quiet)
    for number, button in enumerate(buttons["examples"]):
        button.click(
            lambda number=number: trying.load(number),
            None,
            [*p.shape[:1], p.rows, p.columns, p.fill, p.task, p.prompt, *p.cells],
            **quiet,
        )
    inputs = [p.model, *p.shape, p.prompt, p.prepared, p.history, *(p.settings[key] for key in SETTINGS), *p.cells]
    outputs = [*p.cells, p.status, p.command, p.results, p.history]
    events = [buttons["generate"].click, p.prompt.submit]
    for event in events:
        event(
            trying.generate,
            inputs,
            outputs,
            concurrency_id="drawing",
            concurrency_limit=1,
            show_progress="minimal",  # a page that waits for another one sees that it does
            show_progress_on=p.status,
            api_visibility="private",
        )
    buttons["stop"].click(trying.stop, None, None, **quiet)
    buttons["compose"].click(trying.compose, [*p.shape, *p.cells], [*p.cells, p.status], **quiet)
    buttons["reverse"].click(trying.reverse, [p.kind, p.columns, p.fill], [p.fill, p.status], **quiet)
    gr.context.Context.root_block.load(trying.choose, [p.model, p.kind, p.task], chosen, api_visibility="private")
