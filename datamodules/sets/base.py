"""The protocol of a reader of a data set: records of named images, decoded only when they are read, and captions.

Shapes: 3 channels, H and W pixels; sizes are (width, height). The names of images are those of an annotation graph
(conf/graph/graph200k), so a task is legal for a record if all its images are among `SetRecord.images`.
Nothing here imports torch, and a reader may be built before its data is there: files are looked at on first use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from datamodules.graph.graph import CENTRE
from datamodules.reading.captions import clean_caption
from datamodules.reading.images import NPY, BadImage, decode_image, read_map, stated_size
from datamodules.reading.records import fitted, present

Source = Path | Callable[[], bytes]
Size = tuple[int, int]


class LazyImage(NamedTuple):
    """An image that is decoded when it is read.

    read: uint8 (3, H, W) of its own size. size: (width, height), from its header where it has one. Both raise
    BadImage, naming the image, if it cannot be used.
    """

    read: Callable[[], np.ndarray]
    size: Callable[[], Size]


class SetRecord(NamedTuple):
    """One record of a data set: a row of images by name, what is said of them, and what it is called in reports.

    captions: by the name of the image that they describe, cleaned and not empty; in order, the first being the usual
    one. subjects: words for what the target shows, which UCE looks up in the prompt (RealGeneral, section 3.2).
    origin: records of the same one show the same thing, so no sample has two of them; by default the key.
    clusters: see `unigen.core.types.Sample`; by default one of records of the same origin, if they have one.
    """

    key: str
    images: Mapping[str, LazyImage]
    captions: Mapping[str, tuple[str, ...]]
    subjects: tuple[str, ...] = ()
    origin: str = ""
    clusters: Mapping[str, str] = {}

    def read(self, name: str) -> np.ndarray:
        """An image by name, uint8 (3, H, W). Raises BadImage, naming the record, if there is none or it is bad."""
        return present(self.images, name, self.key).read()

    def size(self, name: str = CENTRE) -> Size:
        """(width, height) of an image, by default of the target; no pixel is decoded. Raises BadImage as `read`."""
        return present(self.images, name, self.key).size()

    def caption(self, name: str = CENTRE) -> str:
        """The usual caption of an image, '' if it has none."""
        return next(iter(self.captions.get(name, ())), "")


class ImageSet(Protocol):
    """A data set as records. Which record an index means depends on the files alone, so a stopped run goes on exactly.

    names: all images that a record may have. `record` decodes nothing; where a record has variants of an image,
    `seed` chooses among them. It raises BadImage if the record lacks what every record must have, ValueError if the
    data set is not there or not of its schema, naming what is missing and what is there.

    A reader may also have an `account` of what it left out (`datamodules.reading.accounts`), `own` = True if its
    records are the user's own, which may be few, and `looked_for(name)`, words on which files would be the image
    `name`. A reader whose annotations models compute has them as `computed`, {name: annotator}, so that a user's own
    image can be annotated alike.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def record(self, index: int, seed: int = 0) -> SetRecord: ...


def stored(source: Source, name: str) -> LazyImage:
    """The image in a file, or in the bytes that a function gives; `name` is what refusals call it."""
    return LazyImage(lambda: decode_image(content_of(source), name), lambda: stated_size(content_of(source), name))


def stored_map(source: Source, name: str) -> LazyImage:
    """A map of one channel, repeated over three: a grey image, or an .npy of (H, W) numbers (see `read_map`)."""

    def read() -> np.ndarray:
        return np.repeat(read_map(content_of(source), name)[None], 3, axis=0)

    def size() -> Size:
        content = content_of(source)
        npy = content.startswith(NPY) if isinstance(content, bytes) else content.suffix.lower() == ".npy"
        return read().shape[:0:-1] if npy else stated_size(content, name)

    return LazyImage(read, size)


def aligned(annotation: LazyImage, image: LazyImage, name: str) -> LazyImage:
    """An annotation in the size of its image; reading it raises BadImage if the aspect ratios differ."""

    def read() -> np.ndarray:
        width, height = image.size()
        return fitted(annotation.read(), height, width, name)

    return LazyImage(read, image.size)


def captions_of(texts: Mapping[str, Iterable[object]]) -> dict[str, tuple[str, ...]]:
    """{image: texts} cleaned: what is no string, or empty once cleaned, is left out, and so is who has none left."""
    cleaned = {name: (clean_caption(text) for text in found if isinstance(text, str)) for name, found in texts.items()}
    kept = {name: tuple(text for text in found if text) for name, found in cleaned.items()}
    return {name: found for name, found in kept.items() if found}


def required(image: LazyImage | None, name: str) -> LazyImage:
    """The image that every record must have. Raises BadImage, naming it, if it is None."""
    if image is None:
        raise BadImage.of(name, "there is none", "every record must have one")
    return image


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
    """The names, if images can be called after them. Raises ValueError for none, and for what is no word."""
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
