"""A folder of the user's own pictures: annotations found by file name (`datamodules.folder`), captions beside them.

Every annotation is brought to the size of its picture, and refused, by name, if its aspect ratio differs. A style
reference or another picture of the subject may have any size: those are `references`. What is missing and can be
computed without a model (canny, grey, the degradations) is added by who draws the rows, see `datamodules.sets.online`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from datamodules.folder import ARRAY, Record, Scan, scan
from datamodules.sets.base import SetRecord, aligned, check_folder, check_index, check_limit, stored, stored_map

REFERENCES = ("reference", "instant_style_ref", "redux_style_ref")


class OwnFolder:
    """Records of a folder, sorted by key. See `datamodules.sets.base.PictureSet`.

    root: the folder. annotations: the legal names. references: those of them that need not fit their picture.
    limit: at most so many records, the first. `notes` are sentences on what was left out, for the log.
    Raises ValueError, on use, as `datamodules.folder.scan` does.
    """

    def __init__(
        self,
        root: str | Path,
        annotations: Sequence[str],
        *,
        references: Sequence[str] = REFERENCES,
        limit: int | None = None,
    ) -> None:
        self.root, self.annotations = Path(root).expanduser(), tuple(annotations)
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
            picture = (stored_map if path.suffix.lower() == ARRAY else stored)(path, self._name(path))
            own_size = name in self.references
            pictures[name] = picture if own_size else aligned(picture, target, self._name(path))
        captions = {"target": (found.caption,)} if found.caption else {}
        return SetRecord(found.key, pictures, captions)

    @cached_property
    def _scan(self) -> Scan:
        return scan(check_folder(self.root, "pictures", "name a folder that is there"), self.annotations)

    @property
    def _records(self) -> tuple[Record, ...]:
        return self._scan.records[: self.limit]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()
