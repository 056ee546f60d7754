"""Draws a benchmark's first images on one sheet: conditions, output and truth side by side, of every task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from unigen.config.files import write_png
from unigen.evaluation.gallery import OUTPUT, OWN, TRUTH, Gallery

FILE = "samples.png"
SAMPLES, LINE = 12, 2  # samples on a sheet, samples in a line
SIDE, GAP = 96, 8  # pixels: the least side of an image, the gap between images
HEADING, TITLE = 20, 18  # pixels: the heights of the names of images, and of the title of a sample


def write_sheet(gallery: Gallery) -> Path:
    """Write `samples.png` in the gallery's folder, with the first image of its first items; return its path.

    Where the items are of several tasks, the sheet shows all tasks in turn, each on another item than the one before,
    and every sample says its task.
    """
    first = [record for record in gallery.ordered() if record["image"] == 0]
    tasks = list(dict.fromkeys(record.get("task", "") for record in first))
    of_task = [[record for record in first if record.get("task", "") == task] for task in tasks]
    most = max(map(len, of_task))
    turns = [records[(turn + k) % len(records)] for turn in range(most) for k, records in enumerate(of_task)]
    shown = turns[: max(SAMPLES, len(tasks))]
    files = [{name: gallery.folder / file for name, file in record["files"].items()} for record in shown]
    titles = [record["task"] for record in shown] if len(tasks) > 1 else ()
    path = gallery.folder / FILE
    write_png(path, drawn(files, titles))
    return path


def drawn(samples: Sequence[dict[str, Path]], titles: Sequence[str] = ()) -> Image.Image:
    """Return the sheet of the samples, given as {name: file}: LINE in a line, with the names that all of them have.

    With `titles`, one for each, every sample shows all that it has, below its title and the names of its images.
    """
    shared = [name for name in samples[0] if all(name in sample for sample in samples)]
    names = [_in_order(sample if titles else shared) for sample in samples]
    rows = [[_enlarged(sample[name]) for name in own] for sample, own in zip(samples, names, strict=True)]
    wide, high = (max(image.size[i] for row in rows for image in row) + GAP for i in (0, 1))
    block, above = wide * max(map(len, names)) + GAP, TITLE + HEADING if titles else 0
    lines = -(-len(rows) // LINE)
    start = 0 if titles else HEADING
    page = Image.new("RGB", (block * min(LINE, len(rows)), start + lines * (above + high)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for i, row in enumerate(rows):
        left, top = (i % LINE) * block + GAP, start + (i // LINE) * (above + high)
        if titles:
            pen.text((left, top + 3), titles[i].replace(">", " to "), fill="black", font=font)
        for k, image in enumerate(row):
            page.paste(image, (left + k * wide, top + above))
            if titles or i < LINE:
                pen.text((left + k * wide, top + above - HEADING + 3), names[i][k], fill="#555555", font=font)
    return page


def _in_order(names: Iterable[str]) -> list[str]:
    """Return the conditions, then the outputs and truths, target by target."""
    targets = [name for name in names if name.partition(".")[0] in (OUTPUT, TRUTH)]
    return [*(name for name in names if name.partition(".")[0] not in OWN), *targets]


def _enlarged(path: Path) -> Image.Image:
    """Read an image and enlarge it by a whole factor, to a shorter side of at least SIDE."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    scale = -(-SIDE // min(image.size))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
