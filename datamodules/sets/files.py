"""Single image files as pictures and as records: those of a folder, and a user's own that sampling is given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from datamodules.annotators import Annotator
from datamodules.folder import ARRAY
from datamodules.graph import CENTRE
from datamodules.sets.base import Picture, PictureSet, SetRecord, stored, stored_map


def picture_file(path: str | Path, name: str = "") -> Picture:
    """The image in a file, or the map in an .npy; `name` is what refusals call it, by default the path."""
    kind = stored_map if Path(path).suffix.lower() == ARRAY else stored
    return kind(Path(path), name or str(path))


def annotated(file: Path, target: Picture, annotator: Annotator) -> Picture:
    """What a model says of the target, whose file this is; computed when it is read, once for all."""
    return Picture(lambda: annotator.kept(file, target.read), target.size)


def annotators_of(source: PictureSet) -> Mapping[str, Annotator]:
    """The models that compute a reader's annotations, by name: its `computed`, which most readers do not have."""
    return getattr(source, "computed", {})


def file_record(path: str | Path, annotators: Mapping[str, Annotator]) -> SetRecord:
    """The record that the file alone would be: its image as the target, and what models compute of that."""
    target = picture_file(path)
    computed = {name: annotated(Path(path), target, annotator) for name, annotator in annotators.items()}
    return SetRecord(str(path), {CENTRE: target, **computed}, {})
