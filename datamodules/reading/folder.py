"""Finding records in a folder of the user's own images, by file name.

A record is an image with the annotations (canny, depth, ...) that lie beside it, as `photo.canny.png` or
`photo_canny.png`, or in a folder of their own, as `canny/photo.png` for the image `target/photo.png`,
`images/photo.png` or `photo.png`. A folder with a meaning may lie anywhere in the path; the rest of the path is kept:
`day1/canny/photo.png` goes with `day1/target/photo.png`. Annotations may also be `.npy`.

Links to files and folders are followed. Captions are found as `datamodules.reading.folder_captions` says. Every file is
either used by a record or named, with the reason, among those left out.
"""

from __future__ import annotations

import os
import posixpath
import stat
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from datamodules.reading.accounts import LeftOut, listed_out, visible
from datamodules.reading.folder_captions import ORDER, find_captions
from datamodules.reading.images import image_suffixes, undecodable

ARRAY = ".npy"
TARGETS = ("target", "images")
KEY = "data.train.annotations"  # the config key with the names of annotations
# What people call annotations: a folder or an ending of this name is one even where it is not among the legal ones.
_WORDS = """
    canny depth normal normals hed mlsd openpose pose densepose lineart scribble sketch edge edges seg segmentation mask
    masks sam2_mask uniformer bbox foreground background control controls conditioning conditioning_images condition
    conditions
"""
KNOWN = frozenset(_WORDS.split())
VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
RUN = ({"config.yaml"}, {"checkpoints", "metrics.jsonl", "summary.json", "export"})  # files of a run's folder
CHECKED = 10_000  # images whose headers are read: about 3 seconds
EMPTY, HIDDEN = "the file is empty", "hidden"


class Record(NamedTuple):
    """An image, its annotations by name, and its cleaned caption.

    `key` is the image's path in the root, without suffix and without a folder 'target' or 'images'.
    """

    key: str
    target: Path
    annotations: dict[str, Path]
    caption: str | None


class Scan(NamedTuple):
    """The records by key, the paths that they use, what was left out, and sentences on what was guessed.

    Paths are relative to the root, in NFC. Every file that was found is either used or left out; a hidden folder, one
    that a run wrote and one that cannot be read count as one file.
    """

    records: tuple[Record, ...]
    used: frozenset[str]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]


class _Place(NamedTuple):
    """The meaning of a path: the folder with a meaning or '', the path above it, the key, and what it may annotate."""

    folder: str
    above: str
    key: str
    readings: tuple[tuple[str, str], ...]


def scan(root: str | Path, annotations: Sequence[str], fault: Callable[[Path], str] | None = None) -> Scan:
    """The records in a folder and its sub-folders; `annotations` are the legal names. Sorted, the same on any machine.

    An image that is named like an annotation that is not legal (without that word the name is that of another image)
    is left out. fault: why an image cannot be used, '' if it can; it is asked of images if they are at most CHECKED, so
    that a large folder is not opened file by file. Without it no image is opened.
    Raises ValueError, naming the files, if two of them could be the same annotation or, in different folders, the same
    image, one could be two things, or there is no record.
    """
    names, known = _checked(annotations), image_suffixes()
    files, skipped = _listed(Path(root))
    faults = _faults(files, known, fault)
    usable = [path for path in files if path not in faults and _suffix(path) in (*known, ARRAY)]
    places = {path: _place(path, names) for path in usable}
    targets, twins = _targets(places, names)
    unknown = _unknown(targets, places, names)
    unknown |= {twin: unknown[path] for twin, path in twins.items() if path in unknown}
    targets = {key: path for key, path in targets.items() if path not in unknown}
    annotated = _annotated(places, targets, {*unknown, *twins})
    images = targets | {path: path for path in twins if path not in unknown}  # the key of a twin is its path
    shown = {path: annotated.get(twins.get(path, path), {}) for path in images.values()}
    used = {*images.values(), *(path for found in shown.values() for path in found.values())}
    reasons = _reasons(files, places, unknown, names) | faults
    lost = {path for path in reasons if path not in used and _looks_like_image(path)}
    captions = find_captions({path: file.path for path, file in files.items()}, list(images.values()), lost)
    used |= captions.used
    left = [LeftOut(path, reason) for path, reason in (reasons | captions.faults).items() if path not in used]
    left = (*sorted(left, key=_surprise), *skipped)
    if not images:
        told = f"left out: {listed_out(left)}" if left else "it is empty"
        raise ValueError(f"no image in folder '{root}': {told}; images are {', '.join(known)}")
    records = []
    for key, path in sorted(images.items()):
        found = {name: files[shown[path][name]].path for name in names if name in shown[path]}
        records.append(Record(key, files[path].path, found, captions.texts.get(path)))
    same = [f"{twins[path]} and {path}" for path in twins if path not in unknown]
    notes = (f"images of one name share their caption and annotations: {', '.join(same[:3])}",) if same else ()
    return Scan(tuple(records), frozenset(used), left, (*notes, *captions.notes))


def _faults(files: Mapping[str, _File], known: Sequence[str], fault: Callable[[Path], str] | None) -> dict[str, str]:
    """{file: why it is left out whatever its name says}: empty files, and images that have a fault."""
    found = {path: EMPTY for path, file in files.items() if not file.size}
    images = [path for path in files if path not in found and _suffix(path) in known]
    if fault is not None and len(images) <= CHECKED:
        found |= {path: why for path in images if (why := fault(files[path].path))}
    return found


def _reasons(
    files: Iterable[str], places: Mapping[str, _Place], unknown: Mapping[str, str], names: Sequence[str]
) -> dict[str, str]:
    """{file: why it is left out if no record uses it}; captions have reasons of their own."""
    reasons = {}
    for path in files:
        suffix = _suffix(path)
        if path in unknown:
            near = _near(unknown[path], names, 0.6)
            told = f"did you mean {near[0]}?" if near else f"rename it, or name {unknown[path]} in {KEY}"
            reasons[path] = f"'{unknown[path]}' reads as an annotation of another image: {told}"
        elif path in places:
            reasons[path] = "an annotation of no image" if places[path].readings else "an array that annotates no image"
        else:
            reasons[path] = undecodable(suffix) or ("a video" if suffix in VIDEOS else "neither image nor caption")
    return reasons


def _surprise(left: LeftOut) -> tuple[int, str]:
    """A key that sorts what is left out: what looks like an image first, then captions, then other files."""
    return (0 if _looks_like_image(left.name) else 1 if _suffix(left.name) in ORDER else 2, left.name)


def _looks_like_image(path: str) -> bool:
    suffix = _suffix(path)
    return suffix in (*image_suffixes(), ARRAY) or bool(undecodable(suffix))


def _checked(annotations: Sequence[str]) -> tuple[str, ...]:
    """The names of annotations. Raises ValueError for one that cannot be part of a file name, or has a meaning."""
    if isinstance(annotations, str):
        raise ValueError(f"annotations={annotations!r} must be a list of names")
    for name in annotations:
        if not name or "/" in name or name in TARGETS or list(annotations).count(name) > 1:
            raise ValueError(f"annotation {name!r} must be a name of its own, without '/', and not {TARGETS}")
    return tuple(unicodedata.normalize("NFC", name) for name in annotations)


class _File(NamedTuple):
    path: Path
    size: int


def _listed(root: Path) -> tuple[dict[str, _File], list[LeftOut]]:
    """All files below the root by their NFC path, sorted, and what is skipped, hidden files last.

    Links are followed; a folder that several links lead to is read once, where it lies if that is below the root.
    Raises ValueError if the root cannot be listed.
    """
    files: dict[str, _File] = {}
    skipped: list[LeftOut] = []
    hidden: list[LeftOut] = []
    seen = {_identity(above) for above in Path(os.path.realpath(root)).parents}
    folders, links = [""], []
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
            identity = _identity(root / folder)
        except OSError as error:
            if not folder:
                raise ValueError(f"cannot list folder '{root}': {error.strerror}; it must be readable") from error
            skipped.append(LeftOut(f"{_written(folder)}/", f"it cannot be listed: {error.strerror}"))
            continue
        if identity in seen or (folder and _of_a_run({entry.name for entry in entries})):
            reason = "a link to a folder that is read already" if identity in seen else "the folder of a run"
            skipped.append(LeftOut(f"{_written(folder)}/", reason))
            continue
        seen.add(identity)
        for entry in entries:
            path = posixpath.join(folder, entry.name)
            if entry.name.startswith("."):
                hidden.append(LeftOut(_written(path), HIDDEN))
                continue
            try:
                status = entry.stat()
            except OSError as error:
                gone = "a link to nothing" if entry.is_symlink() else f"it cannot be read: {error.strerror}"
                skipped.append(LeftOut(_written(path), gone))
                continue
            if stat.S_ISDIR(status.st_mode):
                (links if entry.is_symlink() else folders).append(path)
            elif not stat.S_ISREG(status.st_mode):
                skipped.append(LeftOut(_written(path), "not a regular file"))
            elif (written := _written(path)) in files:
                skipped.append(LeftOut(written, "another file has this name in another spelling of Unicode"))
            else:
                files[written] = _File(root / path, status.st_size)
        links.sort()
    return dict(sorted(files.items())), [*skipped, *hidden]


def _identity(folder: Path) -> tuple[int, int]:
    """A value that identifies a folder, whatever links lead to it."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _of_a_run(names: set[str]) -> bool:
    """True if a folder with these entries was written by a run, whose sample images are no data."""
    return RUN[0] <= names and bool(RUN[1] & names)


def _written(path: str) -> str:
    """A path in NFC, so that it is the same on any machine, in one visible line.

    Bytes that are not UTF-8, and control characters, become \\x and two digits or the like.
    """
    return visible(unicodedata.normalize("NFC", os.fsencode(path).decode("utf-8", "backslashreplace")))


def _suffix(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def _place(path: str, names: Sequence[str]) -> _Place:
    """Find the place of a file. Raises ValueError if two of its folders have a meaning."""
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


def _targets(places: Mapping[str, _Place], names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The paths of records' images by key, and {path: path of that image} of those that differ in the suffix alone.

    They are all images that read as nothing else, and those in a folder 'target' or 'images' that read as an
    annotation of no image. Raises ValueError, naming both, if two in different folders have one key.
    """
    targets: dict[str, str] = {}
    twins: dict[str, str] = {}
    own = [(path, place) for path, place in places.items() if place.folder not in names and _suffix(path) != ARRAY]
    for certain in (True, False):
        images = dict(targets)
        for path, (folder, _, key, readings) in own:
            if certain is bool(readings):
                continue
            if readings and (folder not in TARGETS or any(other in images for _, other in readings)):
                continue
            first = targets.setdefault(key, path)
            if posixpath.splitext(first)[0] != posixpath.splitext(path)[0]:
                raise ValueError(f"files '{first}' and '{path}' are both the image of '{key}': remove one")
            if first != path:
                twins[path] = first
    return targets, twins


def _annotated(places: Mapping[str, _Place], targets: Mapping[str, str], others: set[str]) -> dict[str, dict[str, str]]:
    """The annotations' paths, {name: path} by the path of their image; `others` are images that are no targets.

    Raises ValueError, naming them, if a file fits two images or two files are the same annotation.
    """
    annotated: dict[str, dict[str, str]] = {}
    images = {*targets.values(), *others}
    for path, place in places.items():
        fits = [(name, targets[key]) for name, key in place.readings if key in targets and path not in images]
        if len(fits) > 1:
            both = " or ".join(f"the {name} of '{image}'" for name, image in fits)
            raise ValueError(f"file '{path}' could be {both}: rename it")
        for name, image in fits:
            first = annotated.setdefault(image, {}).setdefault(name, path)
            if first != path:
                raise ValueError(f"files '{first}' and '{path}' are both the {name} of '{image}': remove one")
    return annotated


def _unknown(targets: Mapping[str, str], places: Mapping[str, _Place], names: Sequence[str]) -> dict[str, str]:
    """A word by image, where without this word the path is that of another image: an annotation's, misspelt.

    So `photo_cany.png` and `cany/photo.png` are found beside `photo.png`, and with the latter all of its folder.
    The last word of a name counts unless it is a number (photo_2), earlier ones only if they are KNOWN or like a legal
    one. A folder counts if it is KNOWN or like a legal one, or has a meaningful folder beside it and none in it.
    """
    unknown: dict[str, str] = {}
    folders: dict[str, str] = {}
    above = {place.above for place in places.values() if place.folder}
    for key, path in targets.items():
        *parts, stem = key.split("/")
        for i, folder in enumerate(parts):
            beside = "/".join(parts[:i]) in above and "/".join(parts[: i + 1]) not in above and not folder.isdigit()
            outer = "/".join(parts[: i + 1])
            if "/".join((*parts[:i], *parts[i + 1 :], stem)) in targets and _may_say(places[path], outer):
                folders |= {outer: folder} if beside or _like(folder, names) else {}
        for i in (i for i in range(1, len(stem) - 1) if stem[i] in "._" and "/".join((*parts, stem[:i])) in targets):
            word = stem[i + 1 :]
            last = not {".", "_"} & set(word)
            if not word.isdigit() and (last or _like(word, names)):
                unknown[path] = word
    for key, path in targets.items():
        parts = key.split("/")[:-1]
        outer = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        if words := [folders[folder] for folder in outer if folder in folders and _may_say(places[path], folder)]:
            unknown[path] = words[0]
    return unknown


def _may_say(place: _Place, folder: str) -> bool:
    """True if a folder on a file's path may give its meaning: no folder does so yet, or it is one of KNOWN below the
    one that does.
    """
    known = posixpath.basename(folder).lower() in KNOWN
    return not place.folder or (known and not f"{place.above}/".startswith(f"{folder}/"))


def _like(word: str, names: Sequence[str]) -> bool:
    """True if a word names annotations, or is close to a legal name."""
    return word.lower() in KNOWN or bool(_near(word, names, 0.8))


def _near(word: str, names: Sequence[str], cutoff: float) -> list[str]:
    """The legal name that is most like a word, or None."""
    return get_close_matches(word.lower(), names, 1, cutoff)
