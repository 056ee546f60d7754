"""A sheet of held-out samples of a run's own data: for each task the conditions, what the run makes of them, and the
truth, for sample.py's sheet=.
"""

import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unigen.config.files import write_png
from unigen.config.values import ConfigError
from unigen.core.types import TARGET, Batch, shown_images
from unigen.inference.sampling import number, opened, out_of, output_paths
from unigen.pipeline import export
from unigen.pipeline.build import build
from unigen.weights.own_files import blamed
from unigen.weights.repositories import run_folder

ITEMS, TASKS = 3, 10  # items of a task, and the most tasks of a run that has no test of its own tasks
SIDE, GAP, LINE, HEADING = 112, 6, 15, 20  # pixels: an image's least side, gaps, lines of text, heads of columns
LABEL = 18  # letters: where a task's name is broken into lines, if it has spaces
INK, SOFT, FRAME = "black", "#666666", "#cccccc"


class Band(NamedTuple):
    """One task: what heads its columns, and of each item the images of a row and the prompt."""

    task: str
    heads: list[str]
    items: list[tuple[list[Image.Image], str]]


def sample_sheet(given: dict[str, str]) -> dict[str, Path]:
    """Draw held-out samples, and write them as one image; return its path. `given`: sample.py's words.

    Raises ValueError for an unfinished run, words that its data do not know, a pattern that no task has, a bad number,
    and a path that cannot be written.
    """
    if given["sheet"] != "true":
        raise ConfigError(f"sheet={given['sheet']} is not true; leave it out, or write sheet=true")
    if out_of(given).suffix.lower() != ".png":
        raise ConfigError(f"out={given['out']} is no .png, which is what a sheet is written as")
    pipeline, config = opened(given)
    data = held_out(given, config["data"])
    data.prepare_data()
    data.setup("test")
    seed = number(given, "seed", 0, lowest=0)
    bands = [band(batch, pipeline.sample(batch, seed)) for batch in batches(data)]
    path = output_paths(given, (), "sheet")["sheet"]
    write_png(path, drawn(bands))
    return {"sheet": path}


def held_out(given: Mapping[str, str], said: Mapping[str, Any]) -> Any:
    """Build the run's data with so many test items in a batch, and with the tasks and examples that are asked for."""
    items = number(given, "items", ITEMS, lowest=1)
    own: dict[str, Any] = {"batch_size": items}
    if "test_items" in said:
        own["test_items"] = max(said["test_items"], items * TASKS)
    for word, key in (("tasks", "test_tasks"), ("examples", "test_rows")):
        if word in given and key not in said:
            raise ConfigError(f"run={given['run']} has data without {key}; leave {word}= out")
    if "tasks" in given:
        own["test_tasks"] = [task.strip() for task in given["tasks"].strip("[]").split(",")]
    if "examples" in given:
        own["test_rows"] = [number(given, "examples", 0, lowest=0)] * 2
    about = run_folder(given["run"]) / "export" / export.CONFIG_FILE
    with blamed(about, export.AGAIN, ValueError):  # a ValueError is the user's mistake
        data = build({**said, **own})
        if "test_tasks" in said and data.test_tasks is None:
            some = list(data.tasks)[:TASKS]
            if len(some) < len(data.tasks):
                print(f"the first {TASKS} of {len(data.tasks)} tasks are drawn; tasks= names others", file=sys.stderr)
            data = build({**said, **own, "test_tasks": some})
        return data


def batches(data: Any) -> Iterator[Batch]:
    """Yield a test batch for each task: the first of the first task, the second of the second, so that they show other
    items.
    """
    loader = data.test_dataloader()
    tasks = len(getattr(data, "test_tasks", None) or (None,))
    parts = list(loader.batch_sampler)
    each = len(parts) // tasks
    for k in range(tasks):
        yield loader.collate_fn([loader.dataset[item] for item in parts[k * each + k % each]])


def band(batch: Batch, outputs: Mapping[str, Tensor]) -> Band:
    """Return the batch's samples, which are of one task, with an output before each truth."""
    heads: list[str] = []
    for slot in batch.slots:
        heads += ["output", "truth"] if slot.role == TARGET else [slot.name]
    images = [[_image(x_FCHW) for x_FCHW in shown_images(batch, outputs, row)] for row in range(len(batch))]
    items = list(zip(images, batch.prompts, strict=True))
    return Band(batch.tasks[0], heads, items)


def _image(x_FCHW: Tensor) -> Image.Image:
    """A still, or a clip's frames side by side, enlarged by a whole factor to SIDE pixels at least."""
    image = Image.fromarray(torch.cat(list(x_FCHW), dim=-1).permute(1, 2, 0).cpu().numpy())
    scale = max(1, -(-SIDE // image.height))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def drawn(bands: list[Band]) -> Image.Image:
    """Draw a band for each task, one below the other: its name, and its items side by side with prompts below them."""
    font, large, placed = ImageFont.load_default(12), ImageFont.load_default(14), []
    names = [textwrap.wrap(each.task.replace(">", " > ").replace("+", " + "), LABEL) for each in bands]
    label = round(max(large.getlength(line) for name in names for line in name)) + 3 * GAP
    for each in bands:
        wide = [sum(image.width + GAP for image in images) for images, _ in each.items]
        words = [textwrap.wrap(prompt, max(20, w // 6)) for (_, prompt), w in zip(each.items, wide, strict=True)]
        high = HEADING + max(image.height for images, _ in each.items for image in images)
        placed.append((each, wide, words, high, high + LINE * max(map(len, words)) + 3 * GAP))
    width = label + max(sum(w + 2 * GAP for w in wide) for _, wide, *_ in placed)
    page = Image.new("RGB", (width, sum(whole for *_, whole in placed) + GAP), "white")
    pen, top = ImageDraw.Draw(page), GAP
    for (each, wide, words, high, whole), name in zip(placed, names, strict=True):
        pen.multiline_text((GAP, top + HEADING), "\n".join(name), INK, large)
        left = label
        for (images, _), w, lines in zip(each.items, wide, words, strict=True):
            x = left
            for head, image in zip(each.heads, images, strict=True):
                pen.text((x, top + 3), textwrap.shorten(head, max(4, image.width // 7), placeholder="…"), SOFT, font)
                page.paste(image, (x, top + HEADING))
                pen.rectangle((x - 1, top + HEADING - 1, x + image.width, top + HEADING + image.height), outline=FRAME)
                x += image.width + GAP
            for k, line in enumerate(lines):
                pen.text((left, top + high + 4 + k * LINE), line, INK, font)
            left += w + 2 * GAP
        top += whole
    return page
