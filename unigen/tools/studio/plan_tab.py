"""The tab Preview and plan: what a model would see, who attends to whom, and what it would cost."""

from html import escape
from itertools import product
from typing import Any

import gradio as gr

from unigen.config.values import sentence
from unigen.tools.studio import planning
from unigen.tools.studio.composing import choices
from unigen.tools.studio.places import Places
from unigen.tools.studio.shown import facts, framed, message, messages

MOST = 5  # roles: text, condition, target, example, buffer
CELLS = list(product(range(MOST), range(MOST)))
AS_SAID = ("its own", "")
GROUPS = planning.GROUPS
VARIANTS = {"all": "primary", "same": "stop", "earlier": "stop", "none": "secondary"}
STATE = {"words": [], "rows": {}, "first": {}, "roles": []}


class Planning:
    """The handlers of the tab. A page's own state holds its words and its mask; models are kept by their words."""

    def __init__(self, places: Places) -> None:
        self.places = places

    def show(self, experiment: str, text: str, profile: str, *groups: str) -> list[Any]:
        """Compose, and return status, state, command line, mask, preview and estimate."""
        try:
            chosen = planning.choice(experiment, dict(zip(GROUPS, groups, strict=True)), text)
            made = planning.gathered(self.places, chosen)
            preview = framed(planning.preview_page(self.places, chosen))
            state = self._state(chosen, made)
            said = message("; ".join(made.refusals), "bad") or message("this is what run.py would train", "good")
            estimated = self.estimated(state, profile)
        except (ValueError, OSError) as error:
            return [message(sentence(error), "bad"), *[gr.skip()] * (3 + 2 * MOST + len(CELLS) + 3)]
        command = f"python experiments/run.py {chosen.line}"
        return [said, state, command, preview, *self.drawn(state), estimated]

    def _state(self, chosen: planning.Choice, made: Any) -> dict[str, Any]:
        words = list(chosen.words)
        if made.pipeline is None or all(bucket.plan is None for bucket in made.buckets):
            return STATE | {"words": words}
        rows = planning.rows_of(made.pipeline.mask)
        return {"words": words, "rows": rows, "first": rows, "roles": planning.roles_of(made)}

    def click(self, number: int, state: dict[str, Any]) -> list[Any]:
        """Return the state and the mask after a click on one cell."""
        r, c = CELLS[number]
        roles = state["roles"]
        if r < len(roles) and c < len(roles):
            state = state | {"rows": planning.clicked(state["rows"], roles[r], roles[c])}
        return [state, *self.drawn(state)]

    def back(self, state: dict[str, Any]) -> list[Any]:
        """Return the mask as it was chosen."""
        state = state | {"rows": state["first"]}
        return [state, *self.drawn(state)]

    def drawn(self, state: dict[str, Any]) -> list[Any]:
        """Return the lines of the table, its cells, and what follows from it."""
        roles, rows = state["roles"], state["rows"]
        lines = [gr.update(visible=r < len(roles)) for r in range(MOST)]
        heads = [message(roles[r]) if r < len(roles) else "" for r in range(MOST)]
        cells = [gr.update(visible=False)] * len(CELLS)
        for r, c in product(range(len(roles)), repeat=2):
            word = rows[roles[r]][roles[c]]
            cells[r * MOST + c] = gr.update(visible=True, value=f"{roles[c]}: {word}", variant=VARIANTS[word])
        if not roles:
            return [*lines, *heads, *cells, "", message("there is no mask to show")]
        axis = message("Each row says what a role attends to. A click takes the next word: all, same, earlier, none.")
        try:
            made = planning.gathered(self.places, planning.Choice(tuple(state["words"])))
            name = made.pipeline.mask.name if rows == state["first"] else "edited"
            closure, cost, lines_said = planning.mask_tables(made, rows, name)
        except (ValueError, OSError) as error:
            return [*lines, *heads, *cells, axis, message(sentence(error), "bad")]
        return [*lines, *heads, *cells, axis, facts(cost) + facts(closure) + messages(lines_said)]

    def estimated(self, state: dict[str, Any], profile: str) -> str:
        """Return tokens, memory and hours, with the mask as it is now."""
        if not state["words"]:
            return ""
        try:
            rows = state["rows"] if state["rows"] != state["first"] else None
            _, text = planning.estimate(self.places, planning.Choice(tuple(state["words"])), rows, profile)
        except (ValueError, OSError) as error:
            return message(sentence(error), "bad")
        return f"<pre>{escape(text)}</pre>"

    def save(self, state: dict[str, Any], name: str) -> tuple[str, Any, Any]:
        """Write the mask as YAML; return a line, the file's text and the command line that uses it."""
        if not state["roles"]:
            return message("there is no mask to save", "bad"), gr.skip(), gr.skip()
        chosen = planning.Choice(tuple(state["words"]))
        try:
            old = planning.gathered(self.places, chosen).pipeline.mask
            text = planning.mask_yaml(state["rows"], name.strip(), old.name, {q: dict(row) for q, row in old.bias})
            said, command = planning.save_mask(self.places, name.strip(), text, chosen)
        except (ValueError, OSError) as error:
            return message(sentence(error), "bad"), gr.skip(), gr.skip()
        return message(said, "good"), text, command


def build(places: Places) -> Planning:
    """Lay out the tab; call it within `gr.Tab`."""
    planner = Planning(places)
    with gr.Row():
        experiment = gr.Dropdown(choices(places, "exp"), value="fcd_mask_a", label="experiment", elem_id="exp")
        fields = [
            gr.Dropdown([AS_SAID, *choices(places, group)], value="", label=group, elem_id=f"group-{group}")
            for group in GROUPS
        ]
        profile = gr.Dropdown(choices(places, "profile"), value="h100", label="device", elem_id="profile")
    with gr.Row():
        text = gr.Textbox(
            label="more overrides",
            placeholder="trainer.devices=8 data.size=64",
            scale=4,
            max_length=4000,
            elem_id="words",
        )
        show = gr.Button("Show", variant="primary", scale=1, elem_id="show")
    said = gr.HTML(elem_id="plan-said")
    command = gr.Code(
        label="command line",
        language="shell",
        interactive=False,
        wrap_lines=True,
        lines=1,
        max_lines=4,
        elem_id="plan-command",
    )
    state = gr.State(STATE)
    with gr.Row():
        with gr.Column(scale=2, min_width=420):
            axis = gr.HTML(elem_id="axis")
            lines, heads, cells = [], [], []
            for r in range(MOST):
                with gr.Row(visible=False, elem_classes="studio-words") as line:
                    heads.append(gr.HTML(min_height=0))
                    for c in range(MOST):
                        cells.append(gr.Button("", visible=False, size="sm", elem_id=f"word-{r}-{c}"))
                lines.append(line)
            with gr.Row():
                name = gr.Textbox(label="name of the mask", placeholder="mine", max_length=40, elem_id="mask-name")
                save = gr.Button("Save as YAML", elem_id="save-mask")
                back = gr.Button("As chosen", elem_id="back")
                again = gr.Button("Estimate again", elem_id="estimate")
            saved = gr.Code(
                label="the mask's file", language="yaml", interactive=False, lines=1, max_lines=12, elem_id="mask-yaml"
            )
        with gr.Column(scale=2, min_width=420):
            follows = gr.HTML(elem_id="facts")
    estimated = gr.HTML(elem_id="estimated")
    preview = gr.HTML(elem_id="preview")
    quiet = {"api_visibility": "private"}
    table = [*lines, *heads, *cells, axis, follows]
    asked = [experiment, text, profile, *fields]
    for event in (show.click, text.submit):
        event(planner.show, asked, [said, state, command, preview, *table, estimated], **quiet)
    for number, cell in enumerate(cells):
        cell.click(
            lambda now, number=number: planner.click(number, now),
            state,
            [state, *table],
            trigger_mode="multiple",  # quick clicks count, each after the one before
            concurrency_id="mask",
            concurrency_limit=1,
            show_progress="hidden",
            **quiet,
        )
    back.click(planner.back, state, [state, *table], show_progress="hidden", **quiet)
    again.click(planner.estimated, [state, profile], estimated, **quiet)
    save.click(planner.save, [state, name], [said, saved, command], **quiet)
    return planner
