"""Single image files as pictures and as records: those of a folder, and a user's own that sampling is given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from datamodules.annotators import ANNOTATORS, Annotator
from datamodules.folder import ARRAY
from datamodules.graph import CENTRE
from datamodules.sets.base import Picture, PictureSet, SetRecord, Source, content_of, stored, stored_map


def picture_file(path: str | Path, name: str = "") -> Picture:
    """The image in a file, or the map in an .npy; `name` is what refusals call it, by default the path."""
    kind = stored_map if Path(path).suffix.lower() == ARRAY else stored
    return kind(Path(path), name or str(path))


def annotated(source: Source, target: Picture, annotator: Annotator) -> Picture:
    """What a model says of the target, whose file or its bytes `source` is; computed when it is read, once for all."""

    def content() -> bytes:
        found = content_of(source)
        return found if isinstance(found, bytes) else found.read_bytes()

    return Picture(lambda: annotator.kept(content(), target.read), target.size)


def loaded(annotators: Mapping[str, Annotator]) -> None:
    """Load every model, so that one that is not there is missed before training. Raises ValueError, naming its key."""
    for annotator in annotators.values():
        annotator.load()


def computed_by(name: str, where: str) -> str:
    """Words on the config key below `where` that gives the annotation `name`, "" if no model here computes it."""
    return f"{where}.{name} names a model that computes it" if name in ANNOTATORS else ""


def annotators_of(source: PictureSet) -> Mapping[str, Annotator]:
    """The models that compute a reader's annotations, by name: its `computed`, which most readers do not have."""
    return getattr(source, "computed", {})


def file_record(path: str | Path, annotators: Mapping[str, Annotator]) -> SetRecord:
    """The record that the file alone would be: its image as the target, and what models compute of that."""
    target = picture_file(path)
    computed = {name: annotated(Path(path), target, annotator) for name, annotator in annotators.items()}
    return SetRecord(str(path), {CENTRE: target, **computed}, {})
