"""Writes the model card of a shipped model from the facts of its run, with nothing typed by hand."""

import json
import shlex
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unigen.config.files import write_text

LICENCE = """Trained on [Twemoji](https://github.com/jdecked/twemoji) graphics (CC BY 4.0, copyright Twitter, Inc and
other contributors) and [OpenMoji](https://openmoji.org) graphics (CC BY-SA 4.0). These weights may be used under
CC BY-SA 4.0, naming both."""


def write_card(folder: Path, summary: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Write `folder`/README.md: recipe, data, licence, and figures with their protocol."""
    models = [json.loads(path.read_text()) for path in sorted(folder.rglob("config.json"))]
    kind = ", ".join(model.get("_class_name") or model["architectures"][0] for model in models)
    if not models:  # a whole run
        kind = f"{config['backbone']['_target_'].rpartition('.')[2]} (`sample.py run=shipped:{folder.name}` reads it)"
    stem = config["name"].removeprefix("mini_")
    count = summary["parameters"]
    lines = [
        "---",
        "license: cc-by-sa-4.0",
        "---",
        f"# unigen mini family: {folder.name}",
        "",
        f"Class: {kind}. The run trained {count['trained']:,} parameters. Made by",
        "",
        f"    python experiments/run.py +exp=mini/{shlex.quote(stem)}",
        "",
        f"in {summary['steps']:,} steps, {summary['samples_seen']:,} samples, {summary['seconds'] / 60:.0f} minutes, "
        f"seed {summary['seed']}, {config['data']['size']}×{config['data']['size']} pixels, on {summary['device']}; "
        f"torch {version('torch').split('+')[0]}, diffusers {version('diffusers')}, "
        f"transformers {version('transformers')}.",
        *began_with(summary),
        "",
        "## Data and licence",
        "",
        LICENCE,
        "",
        "Base glyphs of the validation and test splits (`datamodules.emoji.splits.split_of`) "
        "were never seen in training.",
        "",
        "## Figures",
        "",
        *figures(summary),
    ]
    write_text(folder / "README.md", "\n".join(lines) + "\n")


def began_with(summary: Mapping[str, Any]) -> list[str]:
    """Name the source of the weights of a later stage, whose steps and samples are not all that the weights
    have seen.
    """
    source = summary.get("began_with")
    return ["", f"It began with the weights in `{source}`; what these had seen is not counted above."] if source else []


def figures(summary: Mapping[str, Any]) -> list[str]:
    """The table of metrics on held-out images, and their protocol."""
    rows = [
        f"| {name} | {_shown(s['low'])} | {_shown(s['value'])} | {_shown(s['high'])} | {s['items']} |"
        for name, s in summary["metrics"].items()
    ]
    said = "; ".join(f"{key}: {value}" for key, value in summary["protocol"].items() if not isinstance(value, dict))
    measures = [
        f"- {key.removeprefix('metric.')}: {', '.join(map(str, value.values()))}"
        for key, value in summary["protocol"].items()
        if isinstance(value, dict)
    ]
    low, high = summary["bounds"]["low"], summary["bounds"]["high"]
    head = [f"| metric | {low} | this model | {high} | items |", "|---|--:|--:|--:|--:|"]
    return [*head, *rows, "", f"Protocol: {said}.", "", *measures]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
