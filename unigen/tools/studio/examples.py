"""Examples to click: the drawings of docs/own_images in the cells of a grid, or as the condition of a task."""

from pathlib import Path
from typing import NamedTuple

from unigen.tools.studio.calls import FRAMES, ROWS


class Example(NamedTuple):
    """What an example puts into the page. `cells` are names of files of docs/own_images, None for an empty cell."""

    title: str
    icon: str
    kind: str
    cells: tuple[tuple[str | None, ...], ...]
    fill: tuple[int, ...]
    prompt: str
    task: str | None = None


# As the shipped universal model's captions say it: of a prompt without a place it draws the background alone.
BOAT = "a large sailboat in the middle on a white background"
EXAMPLES = (
    Example(
        "Another background",
        "boat.png",
        FRAMES,
        (("boat.png", None),),
        (1,),
        BOAT.replace("white", "green"),
        "other_background>target",
    ),
    Example(
        "Sharpen",
        "boat_blurred.png",
        ROWS,
        (("house_blurred.png", "house.png"), ("mushroom_blurred.png", "mushroom.png"), ("boat_blurred.png", None)),
        (1,),
        BOAT,
    ),
    Example(
        "Brighten",
        "boat_dark_blurred.png",
        ROWS,
        (("house_dark.png", "house.png"), ("mushroom_dark.png", "mushroom.png"), ("boat_dark_blurred.png", None)),
        (1,),
        BOAT,
    ),
    Example(
        "Darken (reverse)",
        "house_dark.png",
        ROWS,
        (("house_dark.png", "house.png"), ("mushroom_dark.png", "mushroom.png"), (None, "boat.png")),
        (0,),
        BOAT,
    ),
    Example("From edges", "boat.png", FRAMES, (("boat.png", None),), (1,), BOAT, "canny>target"),
)


def available(folder: Path) -> list[Example]:
    """Return the examples whose drawings are there; an installed package has none."""
    return [each for each in EXAMPLES if all((folder / name).is_file() for name in files(each))]


def files(example: Example) -> list[str]:
    return [name for row in example.cells for name in row if name is not None]


def cell(example: Example, row: int, column: int, folder: Path) -> str | None:
    """Return the path of the example's image in a cell, or None."""
    if row >= len(example.cells) or column >= len(example.cells[row]):
        return None
    name = example.cells[row][column]
    return None if name is None else str(folder / name)
