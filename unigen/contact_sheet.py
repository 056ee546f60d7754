"""A benchmark's first pictures on one sheet: conditions, output and truth side by side, for the eye and the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from unigen.files import write_png
from unigen.gallery import OUTPUT, OWN, TRUTH, Gallery

FILE = "samples.png"
SAMPLES, LINE = 12, 2  # on a sheet, and beside each other
SIDE, GAP, HEADING = 96, 8, 20  # pixels: at least of a picture's side, between pictures, above them


def write_sheet(gallery: Gallery) -> Path:
    """Write `samples.png` beside the gallery's pictures, of the first picture of its first items; returns the path."""
    first = [record for record in gallery.ordered() if record["image"] == 0][:SAMPLES]
    path = gallery.folder / FILE
    write_png(
        path, drawn([{name: gallery.folder / file for name, file in record["files"].items()} for record in first])
    )
    return path


def drawn(samples: Sequence[dict[str, Path]]) -> Image.Image:
    """The sheet of samples as {name: file}, LINE of them beside each other, with the names that all of them have."""
    shared = [name for name in samples[0] if all(name in sample for sample in samples)]
    targets = [name for name in shared if name.partition(".")[0] in (OUTPUT, TRUTH)]  # of several in turn
    names = [*(name for name in shared if name.partition(".")[0] not in OWN), *targets]
    rows = [[_enlarged(sample[name]) for name in names] for sample in samples]
    wide, high = (max(picture.size[i] for row in rows for picture in row) + GAP for i in (0, 1))
    lines = -(-len(rows) // LINE)
    page = Image.new("RGB", ((wide * len(names) + GAP) * min(LINE, len(rows)), HEADING + lines * high), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for i, row in enumerate(rows):
        left, top = (i % LINE) * (wide * len(names) + GAP) + GAP, HEADING + (i // LINE) * high
        for k, picture in enumerate(row):
            page.paste(picture, (left + k * wide, top))
            if i < LINE:
                pen.text((left + k * wide, 3), names[k], fill="#555555", font=font)
    return page


def _enlarged(path: Path) -> Image.Image:
    """A picture in whole multiples of its pixels."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    scale = max(1, SIDE // min(picture.size))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
