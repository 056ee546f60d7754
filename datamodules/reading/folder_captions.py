"""Finds the captions in a folder of the user's own images, and decides which one counts where two disagree.

A caption is the text of a file beside the image, `photo.txt` or `photo.caption` (also `photo.png.txt`), the text,
caption or prompt of an object in `photo.json`, or a row of any .jsonl, .csv or .tsv file, as in Hugging Face's
imagefolder: {"file_name": "photo.png", "text": "..."}, where file names are relative to the folder of the table.
Where several give an image different captions, the first one in the order of ORDER counts, of tables the nearest one.
"""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.reading.accounts import LeftOut, listed_out, visible
from datamodules.reading.captions import (
    CAPTION,
    CLUSTER,
    UTF_8,
    caption_in,
    clean_caption,
    content_of,
    decoded,
    table_rows,
)

SIDECARS, TABLES = (".txt", ".caption", ".json"), (".jsonl", ".csv", ".tsv")
ORDER = (*SIDECARS, *TABLES)
LOOKED_AT = CAPTION + 2 * CLUSTER  # characters of a caption, so that a longer one is told from one that just fits
LONGEST = 80  # characters of a file name that a note shows
NO_IMAGE = (
    "no image beside it has its name; captions are a.txt beside a.png, or metadata.csv or metadata.jsonl with "
    "file_name and text"
)
EXAMPLES = 3  # files that a note names


class Captions(NamedTuple):
    """Cleaned captions by the image's path, the files that hold them, why others hold none, and sentences on both."""

    texts: dict[str, str]
    used: set[str]
    faults: dict[str, str]
    notes: tuple[str, ...]


class _Found(NamedTuple):
    """A caption of an image, and where it was found: the file, and words for the place in it."""

    path: str
    place: str
    text: str


def find_captions(files: Mapping[str, Path], images: Sequence[str], others: Collection[str]) -> Captions:
    """The captions of images among files, both by their NFC path relative to the root.

    others: images that no record uses; a caption of one of them is told as such.
    """
    search = _Search(files, images, others)
    for path in sorted(files, key=_precedence):
        suffix = posixpath.splitext(path)[1].lower()
        if suffix in ORDER:
            try:
                search.beside(path, suffix) if suffix in SIDECARS else search.table(path, suffix)
            except ValueError as error:
                search.faults[path] = str(error)
    return search.result()


def _precedence(path: str) -> tuple[int, int, str]:
    """A key that sorts the files of captions as they count: by suffix, then the deepest, then by name."""
    suffix = posixpath.splitext(path)[1].lower()
    return (ORDER.index(suffix) if suffix in ORDER else len(ORDER), -path.count("/"), path)


class _Search:
    """The captions found in some files, in the order in which they count."""

    def __init__(self, files: Mapping[str, Path], images: Sequence[str], others: Collection[str]) -> None:
        self.files, self.images, self.others = files, frozenset(images), others
        self.stems: dict[str, list[str]] = {}
        for path in images:
            self.stems.setdefault(posixpath.splitext(path)[0], []).append(path)
        self.left_stems = {posixpath.splitext(path)[0] for path in others} | {*others}
        self.found: dict[str, list[_Found]] = {}
        self.faults: dict[str, str] = {}
        self.guessed: list[str] = []
        self.rows: list[LeftOut] = []

    def beside(self, path: str, suffix: str) -> None:
        """Take the caption in a file beside its image. Raises ValueError if there is none."""
        base = posixpath.splitext(path)[0]
        images = [base] if base in self.images else self.stems.get(base, [])
        if not images:
            left = base in self.left_stems
            raise ValueError("a caption of an image that is left out" if left else NO_IMAGE)
        text, encoding = decoded(content_of(self.files[path]))
        text = clean_caption(caption_in(text) if suffix == ".json" else text, LOOKED_AT)
        if not text:
            raise ValueError("an empty caption")
        self._guess(path, encoding)
        for image in images:
            self.found.setdefault(image, []).append(_Found(path, path, text))

    def table(self, path: str, suffix: str) -> None:
        """Take the captions in a table. Raises ValueError if it has none of an image that is used."""
        try:
            data = self.files[path].read_bytes()
        except OSError as error:
            raise ValueError(f"it cannot be read: {error.strerror}") from error
        text, encoding = decoded(data)
        folder, rows, used = posixpath.dirname(path), table_rows(text, suffix), False
        for row in rows:
            place, image = f"{path}, line {row.line}", _joined(folder, row.name)
            cleaned = clean_caption(row.text, LOOKED_AT)
            if row.fault or image not in self.images:
                name = f"{visible(row.name[:LONGEST])} in {place}" if row.name else place
                self.rows.append(LeftOut(name, row.fault or self._missing(image)))
            elif cleaned:
                self.found.setdefault(image, []).append(_Found(path, place, cleaned))
                used = True
        if not used:
            raise ValueError("no row of it is the caption of an image that is used")
        self._guess(path, encoding)

    def _missing(self, image: str) -> str:
        if image.startswith(("../", "/")):
            return "its file name leads out of the folder"
        return "its image is left out" if image in self.others else "there is no such image"

    def _guess(self, path: str, encoding: str) -> None:
        if encoding != UTF_8:
            self.guessed.append(f"{path} as {encoding}")

    def result(self) -> Captions:
        """The first caption of each image, and sentences on the others."""
        texts, used, differ, cut = {}, set(), [], []
        for image, (first, *others) in sorted(self.found.items()):
            texts[image] = clean_caption(first.text)
            used |= {first.path, *(other.path for other in others if other.text == first.text)}
            differ += [f"{first.place} and not {o.place} for {image}" for o in others if o.text != first.text][:1]
            cut += [image] if len(first.text) > CAPTION else []
        overruled = {other.path for others in self.found.values() for other in others[1:]} - used
        faults = self.faults | dict.fromkeys(overruled, "another caption of its image counts")
        return Captions(texts, used, faults, tuple(self._notes(differ, cut)))

    def _notes(self, differ: list[str], cut: list[str]) -> Iterator[str]:
        if self.rows:
            yield f"rows of tables left out: {listed_out(self.rows)}"
        if differ:
            order = ", ".join(ORDER)
            yield f"{_images(differ)} captions that differ, of which the first of {order} counts: {_some(differ)}"
        if self.guessed:
            yield f"captions that are not UTF-8 were read so: {_some(self.guessed)}"
        if cut:
            yield f"{_images(cut)} a caption of more than {CAPTION} characters, of which the rest was cut: {_some(cut)}"


def _images(things: Sequence[str]) -> str:
    return f"{len(things)} image{'s have' if len(things) > 1 else ' has'}"


def _some(things: Sequence[str]) -> str:
    more = len(things) - EXAMPLES
    return f"{', '.join(things[:EXAMPLES])}{f' and {more} more' if more > 0 else ''}"


def _joined(folder: str, name: str) -> str:
    """The NFC path of a file name in a table that lies in `folder`; it may come from Windows."""
    return visible(unicodedata.normalize("NFC", posixpath.normpath(posixpath.join(folder, name.replace("\\", "/")))))
