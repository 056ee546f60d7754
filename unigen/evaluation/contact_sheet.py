"""Draws a benchmark's first images on one sheet: conditions, output and truth side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from unigen.config.files import write_png
from unigen.evaluation.gallery import OUTPUT, OWN, TRUTH, Gallery

FILE = "samples.png"
SAMPLES, LINE = 12, 2  # samples on a sheet, samples in a line
SIDE, GAP, HEADING = 96, 8, 20  # pixels: the least side of an image, the gap between images, the height of the heading


def write_sheet(gallery: Gallery) -> Path:
    """Write `samples.png` in the gallery's folder, with the first image of its first items; return its path."""
    first = [record for record in gallery.ordered() if record["image"] == 0][:SAMPLES]
    path = gallery.folder / FILE
    write_png(
        path, drawn([{name: gallery.folder / file for name, file in record["files"].items()} for record in first])
    )
    return path


def drawn(samples: Sequence[dict[str, Path]]) -> Image.Image:
    """Return the sheet of the samples, given as {name: file}: LINE in a line, with the names that all of them have."""
    shared = [name for name in samples[0] if all(name in sample for sample in samples)]
    targets = [name for name in shared if name.partition(".")[0] in (OUTPUT, TRUTH)]  # target by target
    names = [*(name for name in shared if name.partition(".")[0] not in OWN), *targets]
    rows = [[_enlarged(sample[name]) for name in names] for sample in samples]
    wide, high = (max(image.size[i] for row in rows for image in row) + GAP for i in (0, 1))
    lines = -(-len(rows) // LINE)
    page = Image.new("RGB", ((wide * len(names) + GAP) * min(LINE, len(rows)), HEADING + lines * high), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for i, row in enumerate(rows):
        left, top = (i % LINE) * (wide * len(names) + GAP) + GAP, HEADING + (i // LINE) * high
        for k, image in enumerate(row):
            page.paste(image, (left + k * wide, top))
            if i < LINE:
                pen.text((left + k * wide, 3), names[k], fill="#555555", font=font)
    return page


def _enlarged(path: Path) -> Image.Image:
    """Read an image and enlarge it by a whole factor, up to a shorter side of SIDE."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    scale = max(1, SIDE // min(image.size))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
