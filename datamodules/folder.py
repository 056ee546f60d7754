"""Finding records in a folder of the user's own pictures, by file name; no picture is opened.

A record is a picture with the annotations (canny, depth, ...) that lie beside it, as `photo.canny.png` or
`photo_canny.png`, or in a folder of their own, as `canny/photo.png` for the picture `target/photo.png`,
`images/photo.png` or `photo.png`. A folder with a meaning may lie anywhere in the path; the rest of the path is kept:
`day1/canny/photo.png` goes with `day1/target/photo.png`. Annotations may also be `.npy`.

Captions: `photo.txt` beside the picture, or lines {"file_name": "photo.png", "text": "..."} of a metadata.jsonl
(Hugging Face's imagefolder: file names are relative to the folder of that file) or a captions.jsonl. Text is UTF-8.
"""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from datamodules.captions import clean_caption, rows_of, text_of
from datamodules.reading import inside

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")  # of datamodules.reading.FORMATS
ARRAY = ".npy"
TARGETS = ("target", "images")
TABLES = ("captions.jsonl", "metadata.jsonl")
EXAMPLES = 5  # files that a note names


class Record(NamedTuple):
    """A picture, its annotations by name, and its cleaned caption.

    `key` is the picture's path in the root, without suffix and without a folder 'target' or 'images'.
    """

    key: str
    target: Path
    annotations: dict[str, Path]
    caption: str | None


class Scan(NamedTuple):
    """The records by key, how many hidden files or folders and files of no use were skipped, and sentences to print."""

    records: tuple[Record, ...]
    hidden: int
    others: int
    notes: tuple[str, ...]


class _Found(NamedTuple):
    """All files by their NFC path relative to the root ('/' between folders), and how many were skipped."""

    files: dict[str, Path]
    hidden: int
    others: int


class _Place(NamedTuple):
    """What a path says: the folder with a meaning or '', what lies above it, the key, and what it may annotate."""

    folder: str
    above: str
    key: str
    readings: tuple[tuple[str, str], ...]


def scan(root: str | Path, annotations: Sequence[str]) -> Scan:
    """The records in a folder and its sub-folders; `annotations` are the legal names. Sorted, the same on any machine.

    Notes tell what is left out: files named like an annotation that is not legal (without that word the name is that
    of another picture), and annotations and captions without a picture. Raises ValueError, naming the files, if two
    of them could be the same thing, one could be two things, a caption cannot be read, or there is no record; and
    BadPicture, naming it, for a symbolic link that leads out of the folder.
    """
    names = _checked(annotations)
    found = _listed(Path(root))
    places = {path: _place(path, names) for path in found.files if _suffix(path) in (*PICTURES, ARRAY)}
    targets = _targets(places, names)
    unknown = _unknown(targets, places, names)
    targets = {key: path for key, path in targets.items() if path not in unknown}
    annotated, orphans = _annotated(places, targets, unknown)
    captions, used, strays = _captions(found.files, targets)
    records = []
    for key in sorted(targets):
        paths = {name: found.files[annotated[name, key]] for name in names if (name, key) in annotated}
        records.append(Record(key, found.files[targets[key]], paths, captions.get(key)))
    notes = (*_on_unknown(unknown, names), *_on_orphans(orphans, "annotation"), *_on_orphans(strays, "caption"))
    told = len(targets) + len(annotated) + len(unknown) + len(orphans) + len(used)  # no file is two of these
    others = found.others + len(found.files) - told
    if not records:
        skipped = "; ".join((f"{found.hidden} hidden and {others} other files were skipped", *notes))
        raise ValueError(f"no picture in folder '{root}': {skipped}; legal are {', '.join(PICTURES)}")
    return Scan(tuple(records), found.hidden, others, notes)


def _checked(annotations: Sequence[str]) -> tuple[str, ...]:
    """The names of annotations. Raises ValueError for one that cannot be part of a file name, or has a meaning."""
    if isinstance(annotations, str):
        raise ValueError(f"annotations={annotations!r} must be a list of names")
    for name in annotations:
        if not name or "/" in name or name in TARGETS or list(annotations).count(name) > 1:
            raise ValueError(f"annotation {name!r} must be a name of its own, without '/', and not {TARGETS}")
    return tuple(unicodedata.normalize("NFC", name) for name in annotations)


def _listed(root: Path) -> _Found:
    """All files below the root but hidden ones, sorted. Raises ValueError if a folder cannot be listed."""
    files: dict[str, Path] = {}
    hidden, others, folders = 0, 0, [""]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            raise ValueError(f"cannot list folder '{root / folder}': {error.strerror}; it must be readable") from error
        for entry in entries:
            path = posixpath.join(folder, entry.name)
            if entry.name.startswith("."):
                hidden += 1
                continue
            if entry.is_symlink():
                inside(root, path)
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif not entry.is_file():  # a link to a folder, which would be read twice, a broken one, a pipe
                others += 1
            elif files.setdefault(_written(path), root / path) != root / path:
                raise ValueError(f"file '{_written(path)}' of '{root}' is there in two spellings: remove one")
    return _Found(dict(sorted(files.items())), hidden, others)


def _written(path: str) -> str:
    """A path in NFC, so that it is the same on any machine; bytes that are not UTF-8 become \\x and two digits."""
    return unicodedata.normalize("NFC", os.fsencode(path).decode("utf-8", "backslashreplace"))


def _suffix(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def _place(path: str, names: Sequence[str]) -> _Place:
    """Where a file belongs. Raises ValueError if two of its folders have a meaning."""
    *folders, stem = posixpath.splitext(path)[0].split("/")
    meant = [i for i, folder in enumerate(folders) if folder in names or folder in TARGETS]
    if len(meant) > 1:
        both = " and ".join(repr(folders[i]) for i in meant)
        raise ValueError(f"file '{path}' lies in the folders {both}: only one folder may say what it is")
    above = "/".join(folders[: meant[0]]) if meant else ""
    folder = folders.pop(meant[0]) if meant else ""
    key = "/".join((*folders, stem))
    readings = [(name, key[: -len(name) - 1]) for name in names if stem[1:].endswith((f".{name}", f"_{name}"))]
    if folder in names:  # canny/photo.png, and canny/photo_canny.png
        readings = [(folder, key), *(reading for reading in readings if reading[0] == folder)]
    return _Place(folder, above, key, tuple(readings))


def _targets(places: Mapping[str, _Place], names: Sequence[str]) -> dict[str, str]:
    """The paths of records' pictures by key. Raises ValueError, naming both, if two have one key.

    They are all pictures that read as nothing else, and those in a folder 'target' or 'images' that read as an
    annotation of no picture.
    """
    targets: dict[str, str] = {}
    own = [(path, place) for path, place in places.items() if place.folder not in names and _suffix(path) != ARRAY]
    for certain in (True, False):
        pictures = dict(targets)
        for path, (folder, _, key, readings) in own:
            if certain is bool(readings):
                continue
            if readings and (folder not in TARGETS or any(other in pictures for _, other in readings)):
                continue
            if targets.setdefault(key, path) != path:
                raise ValueError(f"files '{targets[key]}' and '{path}' are both the picture of '{key}': remove one")
    return targets


def _annotated(
    places: Mapping[str, _Place], targets: Mapping[str, str], unknown: Mapping[str, str]
) -> tuple[dict[tuple[str, str], str], list[str]]:
    """The annotations' paths by (name, key), and those whose picture is not there.

    Raises ValueError, naming them, if a file fits two pictures or two files are the same annotation.
    """
    annotated: dict[tuple[str, str], str] = {}
    orphans = []
    pictures = set(targets.values())
    for path, place in places.items():
        if not place.readings or path in pictures or path in unknown:
            continue
        fits = [(name, key) for name, key in place.readings if key in targets]
        if len(fits) > 1:
            both = " or ".join(f"the {name} of '{targets[key]}'" for name, key in fits)
            raise ValueError(f"file '{path}' could be {both}: rename it")
        if not fits:
            orphans.append(f"'{path}'")
        elif annotated.setdefault(fits[0], path) != path:
            name, key = fits[0]
            raise ValueError(f"files '{annotated[name, key]}' and '{path}' are both the {name} of '{key}': remove one")
    return annotated, orphans


def _unknown(targets: Mapping[str, str], places: Mapping[str, _Place], names: Sequence[str]) -> dict[str, str]:
    """A word by picture, where without this word the path is that of another picture: an annotation's, misspelt.

    So `photo_cany.png` and `cany/photo.png` are found beside `photo.png`, and with the latter all of its folder.
    The last word of a name counts unless it is a number (photo_2), earlier ones only if they are like a legal one.
    A folder counts if it is like a legal one, or has a meaningful folder beside it and none in it.
    """
    unknown: dict[str, str] = {}
    folders: dict[str, str] = {}
    above = {place.above for place in places.values() if place.folder}
    for key, path in targets.items():
        *parts, stem = key.split("/")
        for i, folder in enumerate(parts):
            beside = "/".join(parts[:i]) in above and "/".join(parts[: i + 1]) not in above and not folder.isdigit()
            if "/".join((*parts[:i], *parts[i + 1 :], stem)) in targets and not places[path].folder:
                folders |= {"/".join(parts[: i + 1]): folder} if beside or _near(folder, names, 0.8) else {}
        for i in (i for i in range(1, len(stem) - 1) if stem[i] in "._" and "/".join((*parts, stem[:i])) in targets):
            word = stem[i + 1 :]
            last = not {".", "_"} & set(word)
            if not word.isdigit() and (last or _near(word, names, 0.8)):
                unknown[path] = word
    for key, path in targets.items():
        parts = key.split("/")[:-1]
        outer = [folders.get("/".join(parts[: i + 1])) for i in range(len(parts))] if not places[path].folder else []
        if words := [word for word in outer if word]:
            unknown[path] = words[0]
    return unknown


def _near(word: str, names: Sequence[str], cutoff: float) -> list[str]:
    """The legal name that is most like a word, if one is."""
    return get_close_matches(word.lower(), names, 1, cutoff)


def _captions(files: Mapping[str, Path], targets: Mapping[str, str]) -> tuple[dict[str, str], list[str], list[str]]:
    """The captions by key, the files that they come from, and where captions without a picture are.

    Raises ValueError, naming both, for a second caption of a picture.
    """
    keys = {path: key for key, path in targets.items()}
    stems = {posixpath.splitext(path)[0]: key for path, key in keys.items()}
    captions: dict[str, str] = {}
    sources: dict[str, str] = {}
    used, strays = [], []
    for path, file in files.items():
        folder, name = posixpath.split(path)
        texts: list[tuple[str | None, str, str]] = []
        if name in TABLES:
            rows = ((_joined(folder, name), text, line) for line, name, text in rows_of(file))
            texts = [(keys.get(picture), text, f"'{path}', line {line}") for picture, text, line in rows]
        elif _suffix(path) == ".txt" and posixpath.splitext(path)[0] in stems:
            texts = [(stems[posixpath.splitext(path)[0]], text_of(file), f"'{path}'")]
        used += [path] if texts else []
        for key, text, source in texts:
            if key is None:
                strays.append(source)
            elif key in captions:
                both = f"{sources[key]} and {source}"
                raise ValueError(f"picture '{targets[key]}' has two captions, in {both}: remove one")
            elif cleaned := clean_caption(text):
                captions[key], sources[key] = cleaned, source
    return captions, used, strays


def _joined(folder: str, name: str) -> str:
    """The NFC path of a file name in a table that lies in `folder`; it may come from Windows."""
    return unicodedata.normalize("NFC", posixpath.normpath(posixpath.join(folder, name.replace("\\", "/"))))


def _on_unknown(unknown: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """A sentence on the words that are like annotations, with what they may have meant."""
    if not unknown:
        return []
    words: dict[str, list[str]] = {}
    for path, word in unknown.items():
        words.setdefault(word, []).append(path)
    told = []
    for word, paths in sorted(words.items(), key=lambda item: -len(item[1]))[:EXAMPLES]:
        near = _near(word, names, 0.6)
        meant = f" (did you mean '{near[0]}'?)" if near else ""
        told.append(f"'{word}' in {len(paths)}, such as '{paths[0]}'{meant}")
    why = "each named as another picture and a word that is no annotation"
    return [f"pictures left out, {why}: {'; '.join(told)}; annotations are {', '.join(names) or 'none'}"]


def _on_orphans(places: Sequence[str], what: str) -> list[str]:
    """A sentence on annotations or captions without a picture."""
    if not places:
        return []
    noun = f"{what} of no picture was" if len(places) == 1 else f"{what}s of no picture were"
    return [f"{len(places)} {noun} left out, such as {', '.join(places[:EXAMPLES])}"]
