"""Sampling with an exported run from a visual prompt of a user's own images: rows of examples and a query."""

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from unigen.config.values import ConfigError, sentence
from unigen.core.types import EXAMPLE, ImageSlot, Sample, collate
from unigen.formatters.grid import rows_of
from unigen.inference.sampling import (
    Load,
    Say,
    number,
    on_stderr,
    opened,
    output_paths,
    refuse_overwriting,
    say_a_miss,
    task_of,
    write_images,
)
from unigen.pipeline import export
from unigen.pipeline.build import build
from unigen.pipeline.pipeline import Pipeline
from unigen.pipeline.upsampling import STRENGTH, check_strength, upsample
from unigen.weights.own_files import blamed
from unigen.weights.repositories import run_folder

Rows = list[list[str | None]]
GRID = "grid"
EXPECTED = "write rows=[[a.png,b.png],[c.png,null]], the query last, with null for an image to be generated"


def sample_visual_prompt(
    given: dict[str, str],
    read: Callable[..., Sample],
    instructed: Callable[..., str],
    load: Load | None = None,
    say: Say = on_stderr,
) -> dict[str, Path]:
    """Write every target and the whole grid as image files; return their paths by name. `given`: sample.py's words.

    `read(rows, resolution, text, subjects, task)` makes the sample, and `instructed` writes its instruction from named
    columns (both are in `datamodules.graph.visual_prompt`). `load` and `say` are as for `sample_user_image`. A single
    target goes to `out`, several go to files of their own beside it. The grid shows the known images as the model sees
    them, and the targets before they are upsampled.
    Raises ValueError for an unfinished run, a run without in-context rows, and bad rows, images and numbers.
    """
    rows, prompt = parsed_rows(given["rows"]), given.get("prompt", "")
    pipeline, config = opened(given, load)
    with blamed(run_folder(given["run"]) / "export" / export.CONFIG_FILE, export.AGAIN):
        if not isinstance(config["data"], dict):
            raise ConfigError("it has no usable 'data'")
    resolution, seed = resolution_of(pipeline, config, given["run"]), number(given, "seed", 0, lowest=0)
    finer = number(given, "upsample", resolution, lowest=resolution)
    strength = strength_of(given)
    known = getattr(pipeline.embedding, "tasks", ("",))  # without UCE the task is not read
    if "task" in given and known == ("",):
        say(f"task={given['task']} is not read: this run has no UCE, and the rows say the task")
    task = task_of(given, known)
    text = text_of(given, rows, prompt, config, instructed)
    sample = read(rows, resolution, text, (given.get("subject", prompt),), task)
    paths = output_paths(given, sample.slots, None, [GRID])
    refuse_overwriting(given, paths.values(), [path for row in rows for path in row if path is not None])
    made = {name: x[0].cpu() for name, x in pipeline.sample(collate([sample]), seed).items()}
    say_a_miss(given, pipeline, sample.prompt, say)
    say_more_than_trained(len(rows) - 1, config["data"], say)
    shown = {GRID: whole_grid(sample.slots, sample.images | made)} | made
    if "upsample" in given:
        for name, x in made.items():
            shown[name] = upsample(pipeline, x, prompt, finer, strength, seed, task=task, key=f"{sample.key}/{name}")
    write_images(paths, shown)
    return paths


def text_of(
    given: Mapping[str, str], rows: Rows, prompt: str, config: Mapping[str, Any], instructed: Callable[..., str]
) -> str:
    """Return the text for the model: `instruction=`, else the run's instruction for `columns=`, else the prompt.

    Raises ValueError for columns= if the run had no instructions, for columns= beside instruction=, and for names that
    the run's graph does not have.
    """
    if "columns" not in given:
        return given.get("instruction", prompt)
    if "instruction" in given:
        raise ConfigError("columns= and instruction= both say what the model reads; give one of them")
    node = config["data"].get("instruction")
    if node is None:
        raise ConfigError(
            f"columns={given['columns']} names images for an instruction, but this run had none: leave columns= out"
        )
    columns = yaml.safe_load(given["columns"])
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise ConfigError(f"columns={given['columns']} must be a list of names, such as columns=[canny,target]")
    with blamed(run_folder(given["run"]) / "export" / export.CONFIG_FILE, export.AGAIN):
        writer, legal = build(node), list(build(config["data"]["graph"]).node_of)
    for name in columns:
        if name not in legal:
            near = difflib.get_close_matches(name, legal, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"legal are {', '.join(legal)}"
            raise ConfigError(f"columns: the run's graph has no image '{name}'; {hint}")
    return instructed(rows, columns, prompt, given.get("subject", ""), writer)


def parsed_rows(words: str) -> Rows:
    """Parse rows of file names and null, written as lists in brackets; a name with a comma or bracket needs quotes.

    Raises ValueError for anything else.
    """
    try:
        rows = yaml.safe_load(words)
    except yaml.YAMLError as error:
        raise ConfigError(f"rows={words} cannot be read ({sentence(error)}); {EXPECTED}") from error
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ConfigError(f"rows={words} are no rows; {EXPECTED}")
    for row in rows:
        for path in row:
            if not isinstance(path, str | None):
                raise ConfigError(f"rows={words}: {path} is neither a file name nor null; put names in quotes")
    return rows


def resolution_of(pipeline: Pipeline, config: Mapping[str, Any], run: str) -> int:
    """Return the run's `data.size` in pixels. Raises ValueError for a run that was not trained on rows."""
    if EXAMPLE not in pipeline.formatter.roles:
        raise ConfigError(
            f"run={run} has formatter {pipeline.formatter.name}, which has no place for in-context rows "
            f"(role '{EXAMPLE}' in formatter.caps); rows= needs a run with this role; give condition= instead"
        )
    if not isinstance(config["data"].get("size"), int):
        raise ConfigError(f"run={run} has no data.size, which says how large the images of rows= are to be")
    return config["data"]["size"]


def say_more_than_trained(examples: int, data: Mapping[str, Any], say: Say = on_stderr) -> None:
    """Say a line if no sample of the run's training had this number of examples."""
    trained = data.get("rows")
    if isinstance(trained, list) and len(trained) == 2 and not trained[0] <= examples <= trained[1]:
        say(
            f"rows= shows {examples} examples, and in the run's training a sample had {trained[0]} to {trained[1]} "
            "(data.rows): the outputs may be meaningless"
        )


def strength_of(given: Mapping[str, str]) -> float:
    """Return the noise level at which upsampling starts. Raises ValueError for a bad one, and without `upsample`."""
    if "strength" in given and "upsample" not in given:
        raise ConfigError("strength= goes with upsample=, which says at how many pixels the targets are drawn again")
    return check_strength(number(given, "strength", STRENGTH, lowest=0.0))


def whole_grid(slots: tuple[ImageSlot, ...], images: Mapping[str, Tensor]) -> Tensor:
    """Return the images (1, 3, h, w) of all slots in one image, uint8 (1, 3, H, W): a row each, padded with white."""
    rows = [torch.cat([images[slot.name] for slot in row], dim=-1) for row in rows_of(slots)]
    page = torch.full((1, 3, sum(row.shape[-2] for row in rows), max(row.shape[-1] for row in rows)), 255).byte()
    down = 0
    for row in rows:
        page[..., down : down + row.shape[-2], : row.shape[-1]] = row
        down += row.shape[-2]
    return page
