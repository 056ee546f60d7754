"""Single image files as images and as records: those of a folder, and a user's own that sampling is given."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from datamodules.graph.graph import CENTRE
from datamodules.reading.accounts import LeftOut
from datamodules.reading.annotators import ANNOTATORS, Annotator
from datamodules.reading.folder import ARRAY
from datamodules.reading.images import image_suffixes, undecodable
from datamodules.sets.base import ImageSet, LazyImage, SetRecord, Source, content_of, stored, stored_map


def image_file(path: str | Path, name: str = "") -> LazyImage:
    """The image in a file, or the map in an .npy; `name` is what refusals call it, by default the path."""
    kind = stored_map if Path(path).suffix.lower() == ARRAY else stored
    return kind(Path(path), name or str(path))


def annotated(source: Source, target: LazyImage, annotator: Annotator) -> LazyImage:
    """A model's annotation of the target, whose file or its bytes `source` is; computed when it is read, and kept."""

    def content() -> bytes:
        found = content_of(source)
        return found if isinstance(found, bytes) else found.read_bytes()

    return LazyImage(lambda: annotator.kept(content(), target.read), target.size)


def loaded(annotators: Mapping[str, Annotator]) -> None:
    """Load every model, so that a missing one is noticed before training. Raises ValueError, naming its key."""
    for annotator in annotators.values():
        annotator.load()


def computed_by(name: str, where: str) -> str:
    """Words on the config key below `where` that gives the annotation `name`, "" if no model here computes it."""
    return f"{where}.{name} names a model that computes it" if name in ANNOTATORS else ""


def annotators_of(source: ImageSet) -> Mapping[str, Annotator]:
    """The models that compute a reader's annotations, by name: its `computed`, which most readers do not have."""
    return getattr(source, "computed", {})


def file_record(path: str | Path, annotators: Mapping[str, Annotator]) -> SetRecord:
    """The record that a single file makes: its image as the target, and what models compute of it."""
    target = image_file(path)
    computed = {name: annotated(Path(path), target, annotator) for name, annotator in annotators.items()}
    return SetRecord(str(path), {CENTRE: target, **computed}, {})


def images_in(folder: Path) -> list[str]:
    """The names of the images in a folder, sorted, without hidden files and links to nothing."""
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
    """Explain why an entry of a folder is no image, by its name alone; '' if it is one."""
    if path.name.startswith("."):
        return "hidden"
    if path.suffix.lower() not in image_suffixes():
        return undecodable(path.suffix.lower()) or ("a folder" if path.is_dir() else "no image")
    if not path.exists():
        return "a link to nothing"
    return "" if path.is_file() else "not a regular file"
