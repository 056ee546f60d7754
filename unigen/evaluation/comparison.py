"""Draws a qualitative comparison of runs and other methods on the same items of a benchmark, as papers print it.

A line shows an item: its conditions, the output of each run, the output of each other method, the truth, and the prompt
below. The user gives a folder of images for each other method, with the file names of the runs' outputs (`output` in
manifest.jsonl).
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from unigen.config.commands import command
from unigen.config.files import IMAGES, write_image
from unigen.config.values import ConfigError
from unigen.evaluation.evaluations import FOLDER
from unigen.evaluation.gallery import CEILING, OUTPUT, TRUTH, Gallery, file_of
from unigen.evaluation.runs import find_runs, table_name

SIDE, GAP, HEADING, LINE = 160, 8, 20, 14  # pixels: an image, the gap between two, a column's heading, a line of prompt
GREY, INK = "#dddddd", "#333333"
LINES = 6  # the number of items, if none are named


class Line(NamedTuple):
    """An item's number and prompt, and the file of each column, None if it is missing."""

    item: int
    prompt: str
    files: dict[str, Path | None]


def write_comparison(given: Mapping[str, str]) -> tuple[Path, list[str]]:
    """Write the sheet; return its path, and a sentence for each missing image. `given` are the words of compare.py.

    Raises ValueError, in one sentence, if no run was evaluated on the benchmark, the runs' items differ, an item does
    not exist, a folder does not exist or holds no method, an image cannot be read, or `out` is no name of an image.
    """
    out = Path(given.get("out", "comparison.png"))
    if out.suffix.lower() not in IMAGES:
        raise ConfigError(f"out={out} is no name of an image; legal endings are {', '.join(IMAGES)}")
    galleries = evaluated(given["runs"], given["bench"])
    items = chosen(given.get("items"), next(iter(galleries.values())))
    lines = lines_of(galleries, methods(given.get("others")), items)
    write_image(out, [sheet(lines)])
    missing = [
        f"missing: {name}, item {line.item} ({file_of(line.item, 0, OUTPUT).rpartition('/')[2]})"
        for line in lines
        for name, file in line.files.items()
        if file is None
    ]
    return out, missing


def evaluated(runs: str, bench: str) -> dict[str, Gallery]:
    """Return {column: gallery} for the evaluated runs: the first one of each experiment, other seeds are left out."""
    found: dict[str, Gallery] = {}
    for run in find_runs(runs):
        gallery = Gallery(run / FOLDER / bench)
        if gallery.records:
            found.setdefault(table_name(run)[0] or run.name, gallery)
    if not found:
        raise ConfigError(f"no run in {runs} was evaluated on {bench}: {command('evaluate')} run={runs} bench={bench}")
    return found


def methods(others: str | None) -> dict[str, Path]:
    """Return {method: folder} for every folder in `others`."""
    if others is None:
        return {}
    if not Path(others).is_dir():
        raise ConfigError(f"others={others} is no folder; give a folder that holds a folder of images for each method")
    found = {path.name: path for path in sorted(Path(others).iterdir()) if path.is_dir() and path.name[0] != "."}
    if not found:
        raise ConfigError(f"others={others} holds no folder; it must hold a folder of images for each method")
    return found


def chosen(items: str | None, gallery: Gallery) -> list[int]:
    """Return the named items, or the first ones. Raises ConfigError for an item that the benchmark does not have."""
    there = sorted({item for item, _ in gallery.records})
    if items is None:
        return there[:LINES]
    named = [word.strip() for word in items.split(",") if word.strip()]
    if odd := [word for word in named if not word.isdigit() or int(word) not in there]:
        raise ConfigError(f"items={items}: '{odd[0]}' is no item of the benchmark, which has {there[0]} to {there[-1]}")
    return [int(word) for word in named]


def lines_of(galleries: Mapping[str, Gallery], others: Mapping[str, Path], items: Sequence[int]) -> list[Line]:
    """Return the lines of the sheet, all with the same columns. Raises ConfigError if the runs' items differ."""
    first, lines = next(iter(galleries.values())), []
    conditions = [name for name in next(iter(first.records.values()))["files"] if name not in (OUTPUT, TRUTH, CEILING)]
    for item in items:
        record = first.records[item, 0]
        files = {name: _there(first.folder, record["files"].get(name)) for name in conditions}
        for name, gallery in galleries.items():
            own = gallery.records.get((item, 0))
            if own and own.get("key") != record.get("key"):
                raise ConfigError(
                    f"item {item} is {own.get('key')} in {gallery.folder} and {record.get('key')} in {first.folder}"
                )
            files[name] = _there(gallery.folder, own["files"][OUTPUT]) if own else None
        for name, folder in others.items():
            files[name] = of_method(folder, Path(record["files"][OUTPUT]).stem)
        files[TRUTH] = _there(first.folder, record["files"].get(TRUTH))
        lines.append(Line(item, said(record), files))
    return lines


def said(record: Mapping[str, Any]) -> str:
    return record.get("caption") or record.get("prompt") or ""


def of_method(folder: Path, stem: str) -> Path | None:
    """Return a method's image of this name in any common format, or None."""
    return next((path for end in IMAGES if (path := folder / f"{stem}{end}").is_file()), None)


def _there(folder: Path, file: str | None) -> Path | None:
    return folder / file if file is not None and (folder / file).is_file() else None


def sheet(lines: Sequence[Line]) -> Image.Image:
    """Draw the lines below one another, with a grey square for a missing image."""
    names, font = list(lines[0].files), ImageFont.load_default(12)
    wide, letters = SIDE + GAP, max(20, len(names) * (SIDE + GAP) // 7)
    prompts = [textwrap.wrap(line.prompt, letters)[:2] for line in lines]
    heights = [SIDE + GAP + LINE * len(prompt) for prompt in prompts]
    page = Image.new("RGB", (wide * len(names) + GAP, HEADING + sum(heights) + GAP), "white")
    pen, top = ImageDraw.Draw(page), HEADING
    for k, name in enumerate(names):
        pen.text((GAP + k * wide, 4), textwrap.shorten(name, 26, placeholder="…"), fill=INK, font=font)
    for line, prompt, height in zip(lines, prompts, heights, strict=True):
        for k, file in enumerate(line.files.values()):
            page.paste(_fitted(file) if file else Image.new("RGB", (SIDE, SIDE), GREY), (GAP + k * wide, top))
        for i, text in enumerate(prompt):
            pen.text((GAP, top + SIDE + 1 + i * LINE), text, fill=INK, font=font)
        top += height
    return page


def _fitted(path: Path) -> Image.Image:
    """Read an image and fit it into a white square of SIDE; a small image is enlarged by a whole factor."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, zlib.error and more
        raise ConfigError(f"{path} cannot be read as an image ({error})") from error
    scale = SIDE / max(image.size)
    whole = max(1, int(scale)) if scale >= 1 else scale
    kind = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    image = image.resize(tuple(max(1, round(side * whole)) for side in image.size), kind)
    square = Image.new("RGB", (SIDE, SIDE), "white")
    square.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return square
