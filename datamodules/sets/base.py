"""What a reader of a data set gives: records of named pictures, decoded only when they are read, and their captions.

Shapes: 3 channels, H and W pixels; sizes are (width, height). The names of pictures are those of an annotation graph
(conf/graph/graph200k), so a task is legal for a record if all its pictures are among `SetRecord.pictures`.
Nothing here imports torch, and a reader may be built before its data is there: files are looked at on first use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from datamodules.captions import clean_caption
from datamodules.graph import CENTRE
from datamodules.reading import NPY, BadPicture, read_map, read_picture, stated_size
from datamodules.records import fitted, present

Source = Path | Callable[[], bytes]
Size = tuple[int, int]


class Picture(NamedTuple):
    """A picture that is decoded when it is read.

    read: uint8 (3, H, W) of its own size. size: (width, height), from its header where it has one. Both raise
    BadPicture, naming the picture, if it cannot be used.
    """

    read: Callable[[], np.ndarray]
    size: Callable[[], Size]


class SetRecord(NamedTuple):
    """One record of a data set: a row of pictures by name, what is said of them, and what it is called in reports.

    captions: by the name of the picture that they describe, cleaned and not empty; in order, the first being the usual
    one. subjects: words for what the target shows, which UCE looks up in the prompt (RealGeneral, section 3.2).
    origin: records of the same one show the same thing, so no sample has two of them; by default the key.
    clusters: see `unigen.types.Sample`; by default one of records of the same origin, if they have one.
    """

    key: str
    pictures: Mapping[str, Picture]
    captions: Mapping[str, tuple[str, ...]]
    subjects: tuple[str, ...] = ()
    origin: str = ""
    clusters: Mapping[str, str] = {}

    def read(self, name: str) -> np.ndarray:
        """A picture by name, uint8 (3, H, W). Raises BadPicture, naming the record, if there is none or it is bad."""
        return present(self.pictures, name, self.key).read()

    def size(self, name: str = CENTRE) -> Size:
        """(width, height) of a picture, by default of the target; no pixel is decoded. Raises BadPicture as `read`."""
        return present(self.pictures, name, self.key).size()

    def caption(self, name: str = CENTRE) -> str:
        """The usual caption of a picture, '' if it has none."""
        return next(iter(self.captions.get(name, ())), "")


class PictureSet(Protocol):
    """A data set as records. Which record an index means depends on the files alone, so a stopped run goes on exactly.

    names: all pictures that a record may have. `record` decodes nothing; where a record has variants of a picture,
    `seed` chooses among them. It raises BadPicture if the record lacks what every record must have, ValueError if the
    data set is not there or not of its schema, naming what is missing and what is there.

    A reader may also have an `account` of what it left out (`datamodules.accounts`), `own` = True if its records are
    the user's own, which may be few, and `looked_for(name)`, words on which files would be the picture `name`. A reader
    whose annotations models compute has them as `computed`, {name: annotator}, so that a user's own image can be
    annotated alike.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def record(self, index: int, seed: int = 0) -> SetRecord: ...


def stored(source: Source, name: str) -> Picture:
    """The picture in a file, or in the bytes that a function gives; `name` is what refusals call it."""
    return Picture(lambda: read_picture(content_of(source), name), lambda: stated_size(content_of(source), name))


def stored_map(source: Source, name: str) -> Picture:
    """A map of one channel, repeated over three: a grey picture, or an .npy of (H, W) numbers (see `read_map`)."""

    def read() -> np.ndarray:
        return np.repeat(read_map(content_of(source), name)[None], 3, axis=0)

    def size() -> Size:
        content = content_of(source)
        npy = content.startswith(NPY) if isinstance(content, bytes) else content.suffix.lower() == ".npy"
        return read().shape[:0:-1] if npy else stated_size(content, name)

    return Picture(read, size)


def aligned(annotation: Picture, picture: Picture, name: str) -> Picture:
    """An annotation in the size of its picture; reading it raises BadPicture if the aspect ratios differ."""

    def read() -> np.ndarray:
        width, height = picture.size()
        return fitted(annotation.read(), height, width, name)

    return Picture(read, picture.size)


def captions_of(texts: Mapping[str, Iterable[object]]) -> dict[str, tuple[str, ...]]:
    """{picture: texts} cleaned: what is no string, or empty once cleaned, is left out, and so is who has none left."""
    cleaned = {name: (clean_caption(text) for text in found if isinstance(text, str)) for name, found in texts.items()}
    kept = {name: tuple(text for text in found if text) for name, found in cleaned.items()}
    return {name: found for name, found in kept.items() if found}


def required(picture: Picture | None, name: str) -> Picture:
    """The picture that every record must have. Raises BadPicture, naming it, if it is None."""
    if picture is None:
        raise BadPicture.of(name, "there is none", "every record must have one")
    return picture


def check_index(index: int, n: int) -> int:
    """The index, if it is of a record. Raises IndexError, as a list does, so that a reader can be iterated."""
    if not 0 <= index < n:
        raise IndexError(f"record {index} is outside range({n})")
    return index


def check_limit(limit: int | None) -> int | None:
    """The limit on records. Raises ValueError for what is no positive integer or None."""
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ValueError(f"limit={limit!r} must be a number of records, at least 1, or null for all")
    return limit


def check_words(where: str, names: Iterable[str]) -> tuple[str, ...]:
    """The names, if pictures can be called after them. Raises ValueError for none, and for what is no word."""
    found = () if isinstance(names, str) else tuple(names)
    if not found or not all(isinstance(name, str) and re.fullmatch(r"\w+", name) for name in found):
        raise ValueError(f"{where}={names!r} must be a list of names, of letters, digits and underscores")
    return found


def check_folder(path: Path, what: str, how: str) -> Path:
    """The folder `path`. Raises ValueError, saying what it should hold and how to get it, if it is none."""
    if path.is_file():
        raise ValueError(f"'{path}' is a file, not a folder with {what}; {how}")
    if not path.is_dir():
        raise ValueError(f"there is no folder '{path}' with {what}; {how}")
    return path


def content_of(source: Source) -> Path | bytes:
    """The file itself, or the bytes that a function gives."""
    return source if isinstance(source, Path) else source()
