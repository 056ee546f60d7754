"""A folder of the user's own pictures: annotations found by file name (`datamodules.folder`), captions beside them.

Every annotation is brought to the size of its picture, and refused, by name, if its aspect ratio differs. A style
reference or another picture of the subject may have any size: those are `references`. What is missing is computed: by
models that the user names (`datamodules.annotators`), and what needs none (canny, grey, the degradations) by who draws
the rows, see `datamodules.sets.online`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from datamodules.annotators import Annotator, annotators
from datamodules.folder import Record, Scan, scan
from datamodules.sets.base import SetRecord, aligned, check_folder, check_index, check_limit, stored
from datamodules.sets.files import annotated, picture_file

REFERENCES = ("reference", "instant_style_ref", "redux_style_ref")


class OwnFolder:
    """Records of a folder, sorted by key. See `datamodules.sets.base.PictureSet`.

    root: the folder. annotations: the legal names. references: those of them that need not fit their picture.
    computed: {annotation: model} for those that a model of transformers computes where there is no file, such as
        {depth: depth-anything/Depth-Anything-V2-Small-hf}; null: none does. Such names are legal for files too.
    limit: at most so many records, the first. cache: where what models computed is kept, by default
        ~/.cache/unigen/annotations. `notes` are sentences on what was left out, for the log.
    Raises ValueError for an annotation that no model here computes, and on use as `datamodules.folder.scan` does, and
    if a model is needed that is not there.
    """

    def __init__(
        self,
        root: str | Path,
        annotations: Sequence[str],
        *,
        references: Sequence[str] = REFERENCES,
        computed: Mapping[str, str | None] | None = None,
        limit: int | None = None,
        cache: str | Path | None = None,
    ) -> None:
        self.computed: dict[str, Annotator] = annotators(computed or {}, "data.train.computed", cache)
        more = () if isinstance(annotations, str) else (name for name in self.computed if name not in annotations)
        self.root, self.annotations = Path(root).expanduser(), (*annotations, *more)
        self.references, self.limit = frozenset(references), check_limit(limit)
        self.names = ("target", *self.annotations)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the scan left out, in sentences."""
        return self._scan.notes

    def record(self, index: int, seed: int = 0) -> SetRecord:
        """Record `index`; there are no variants, so `seed` is not used."""
        found = self._records[check_index(index, len(self))]
        target = stored(found.target, self._name(found.target))
        pictures = {"target": target}
        for name, path in found.annotations.items():
            picture = picture_file(path, self._name(path))
            own_size = name in self.references
            pictures[name] = picture if own_size else aligned(picture, target, self._name(path))
        for name in self.computed.keys() - found.annotations.keys():
            pictures[name] = annotated(found.target, target, self.computed[name])
        captions = {"target": (found.caption,)} if found.caption else {}
        return SetRecord(found.key, pictures, captions)

    @cached_property
    def _scan(self) -> Scan:
        found = scan(check_folder(self.root, "pictures", "name a folder that is there"), self.annotations)
        for name, annotator in self.computed.items():
            if any(name not in record.annotations for record in found.records[: self.limit]):
                annotator.load()
        return found

    @property
    def _records(self) -> tuple[Record, ...]:
        return self._scan.records[: self.limit]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()
