"""Images in one folder of a data set, and why its other entries are none. Links are followed wherever they lead."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from datamodules.accounts import LeftOut
from datamodules.reading import image_suffixes, undecodable


def images_in(folder: Path) -> list[str]:
    """The names of the images in a folder, sorted; hidden files and links to nothing are none."""
    return sorted(path.name for path in folder.iterdir() if not why_no_image(path))


def left_out_of(root: Path, folder: Path, used: Collection[str]) -> list[LeftOut]:
    """The entries of a folder that are not used, by their path below the root, and why; hidden ones last."""
    left = [
        LeftOut(path.relative_to(root).as_posix(), why_no_image(path) or "it is not used")
        for path in sorted(folder.iterdir())
        if path.name not in used
    ]
    return sorted(left, key=lambda thing: thing.reason == "hidden")


def why_no_image(path: Path) -> str:
    """Why an entry of a folder is no image, '' if it is one by its name; it is not opened."""
    if path.name.startswith("."):
        return "hidden"
    if path.suffix.lower() not in image_suffixes():
        return undecodable(path.suffix.lower()) or ("a folder" if path.is_dir() else "no image")
    if not path.exists():
        return "a link to nothing"
    return "" if path.is_file() else "not a regular file"
