"""A call of sample.py: from the cells of the page to its words, and to a command line to copy.

A cell is a place of the grid; `None` in it is an image to generate. Rows before the last are examples.
"""

import itertools
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from unigen.config.files import IMAGES
from unigen.config.values import ConfigError

ROWS, FRAMES = "rows", "frames"  # in-context rows, or the conditions of a task one after another
SIDE = 4  # the most rows and columns of the page
EMPTY = ("prompt", "subject", "instruction", "negative")  # words that sample.py takes without a value
OUT, COMMAND = "result.png", "command.txt"
Cells = Sequence[Sequence[str | None]]


class Shape(NamedTuple):
    """The cells that are shown: `rows` × `columns`, of which those of the last row in `fill` are generated."""

    kind: str
    rows: int
    columns: int
    fill: tuple[int, ...]
    names: tuple[str, ...] = ()


class Call(NamedTuple):
    """Words of sample.py, the folder that its files are in, and a command line that does the same in a terminal."""

    words: list[str]
    folder: Path
    command: str


def shape_of(kind: str, rows: int, columns: int, fill: Sequence[int], task: str | None) -> Shape:
    """Return the shape of a grid, or for FRAMES that of a task: its conditions, then its targets."""
    if kind == FRAMES:
        conditions, targets = sides(task or "")
        names = (*conditions, *targets)
        return Shape(FRAMES, 1, min(len(names), SIDE), tuple(range(len(conditions), min(len(names), SIDE))), names)
    return Shape(ROWS, rows, columns, tuple(sorted({k for k in fill if k < columns})))


def sides(task: str) -> tuple[list[str], list[str]]:
    """Return the conditions and the targets of a task such as 'canny+reference>target'."""
    first, _, rest = task.partition(">")
    return [name for name in first.split("+") if name], [name for name in re.split(r"[+>]", rest) if name]


def label(shape: Shape, row: int, column: int) -> str:
    """Return what a cell is called on the page."""
    if shape.kind == FRAMES:
        name = shape.names[column] if column < len(shape.names) else ""
        return f"{name}: the result" if column in shape.fill else f"condition: {name}"
    if row < shape.rows - 1:
        return f"example {row + 1}, column {column + 1}"
    return f"query, column {column + 1}{': the result' if column in shape.fill else ''}"


def shown(shape: Shape, row: int, column: int) -> bool:
    return row < shape.rows and column < shape.columns


def taken(shape: Shape, cells: Cells) -> list[list[str | None]]:
    """Return the shown cells, those to be generated empty. Raises ConfigError if another cell is empty.

    Of a task with several conditions only the first need be there: the others are then computed from its image.
    """
    if not shape.fill:
        raise ConfigError("choose at least one column to fill")
    found: list[list[str | None]] = []
    for row in range(shape.rows):
        wanted = shape.fill if row == shape.rows - 1 else ()
        found.append([None if k in wanted else cells[row][k] for k in range(shape.columns)])
        for k, path in enumerate(found[row]):
            if path is None and k not in wanted and not (shape.kind == FRAMES and k > 0):
                fewer = ", or show fewer rows" if shape.kind == ROWS and shape.rows > 1 else ""
                raise ConfigError(f"the cell '{label(shape, row, k)}' is empty: drop an image there{fewer}")
    return found


def new_folder(out: Path) -> Path:
    """Make a folder for one result, which no other call has, also one of the same second."""
    out.mkdir(parents=True, exist_ok=True)
    name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    for number in itertools.count(1):
        folder = out / (name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


def kept(path: str, folder: Path, place: str) -> str:
    """Copy an image into the folder under a plain name; return the name. `place` tells files of one name apart."""
    source = Path(path)
    stem, ending = re.sub(r"[^\w-]+", "_", source.stem, flags=re.ASCII)[:40].strip("_"), source.suffix.lower()
    name = f"{stem or 'image'}{ending if ending in IMAGES else ''}"
    if (folder / name).exists() or name in (OUT, "null"):
        name = f"{place}_{name}"
    try:
        shutil.copyfile(source, folder / name)
    except OSError as error:
        raise ConfigError(f"the image {source.name} cannot be read ({error.strerror or error})") from error
    return name


def make_call(run: str, shape: Shape, cells: Cells, given: Mapping[str, str], out: Path, script: Path) -> Call:
    """Copy the images into a new folder below `out`, and return the words that sample.py takes for them.

    `given` are further words; those without a value are left out. `script` is sample.py itself. The command line is
    also written to command.txt in the folder. Raises ConfigError for an empty cell and an unreadable file.
    """
    rows = taken(shape, cells)
    folder = new_folder(out)
    names = [
        [None if path is None else kept(path, folder, f"{i + 1}{k + 1}") for k, path in enumerate(row)]
        for i, row in enumerate(rows)
    ]
    words = {"run": run, **{key: value for key, value in given.items() if value}}
    written = [f"{key}={value}" for key, value in words.items()]
    # The folder is changed to in the command line, so that names are short; here they are whole paths.
    short = f"cd {shlex.quote(str(folder))} && {shlex.quote(sys.executable)} {shlex.quote(str(script))} "
    command = short + shlex.join([*written, *image_words(shape, names, None)])
    (folder / COMMAND).write_text(command + "\n", encoding="utf-8")
    return Call([*written, *image_words(shape, names, folder), f"out={folder / OUT}"], folder, command)


def results_of(files: Mapping[str, Path]) -> list[Path]:
    """Return those of sample.py's files that were generated, in the order of their cells."""
    if "output" in files:
        return [files["output"]]
    return [path for name, path in files.items() if name != "grid" and not name.startswith("condition")]


def image_words(shape: Shape, names: Cells, folder: Path | None) -> list[str]:
    """Return rows= or condition= for names in a folder; [] for a task from text alone."""

    def spelt(name: str | None) -> str:
        if name is None:
            return "null"
        return name if folder is None else '"' + str(folder / name).replace("\\", "\\\\").replace('"', '\\"') + '"'

    if shape.kind == ROWS:
        return ["rows=[" + ",".join("[" + ",".join(map(spelt, row)) + "]" for row in names) + "]"]
    files = [name for name in names[0] if name is not None]
    if not files:
        return []
    if len(files) == 1:
        return [f"condition={files[0] if folder is None else folder / files[0]}"]
    return ["condition=[" + ",".join(map(spelt, files)) + "]"]
