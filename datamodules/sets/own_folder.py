"""Reads a folder of the user's own images, whose annotations are found by file name (`datamodules.reading.folder`).

Captions lie beside the images.

Every annotation is brought to the size of its image, and refused, by name, if its aspect ratio differs. A style
reference or another image of the subject may have any size: those are `references`. What is missing is computed: by
models that the user names (`datamodules.reading.annotators`), and what needs none (canny, grey, the degradations) by
who draws the rows, see `datamodules.sets.online`.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.reading.accounts import NAMED, Account, LeftOut, listed_out, same_files, visible
from datamodules.reading.annotators import Annotator, annotators
from datamodules.reading.folder import CHECKED, KEY, Record, Scan, scan
from datamodules.reading.images import FIRST_FRAME, looked_at
from datamodules.sets.base import (
    SetRecord,
    aligned,
    check_folder,
    check_index,
    check_limit,
    stored,
)
from datamodules.sets.files import annotated, computed_by, image_file

SPLITS = {  # folder names of Hugging Face's imagefolder
    "train": ("train", "training"),
    "val": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
REFERENCES = ("reference", "instant_style_ref", "redux_style_ref")


def other_images(root: str | Path | None, **options: Any) -> OwnFolder | None:
    """The reader of a folder for val or test, see `OwnFolder`; None without a root: they are held out of train."""
    return None if root is None else OwnFolder(root, **options)


class OwnFolder:
    """Records of a folder, sorted by key. See `datamodules.sets.base.ImageSet`.

    root: the folder. annotations: the legal names, by default none. references: those of them that need not fit their
        image.
    computed: {annotation: model} for those that a model of transformers computes where there is no file, such as
        {depth: depth-anything/Depth-Anything-V2-Small-hf}; null: none does. Such names are legal for files too.
    limit: at most so many records, the first. cache: where what models computed is kept, by default
        ~/.cache/unigen/annotations. `own`: that a few images are enough, see `datamodules.sets.parts`.
    Raises ValueError for an annotation that no model here computes, and on use as `datamodules.reading.folder.scan`
    does, and if a model is needed that is not there.
    """

    own = True

    def __init__(
        self,
        root: str | Path,
        annotations: Sequence[str] = (),
        *,
        references: Sequence[str] = REFERENCES,
        computed: Mapping[str, str | None] | None = None,
        limit: int | None = None,
        cache: str | Path | None = None,
    ) -> None:
        self.computed: dict[str, Annotator] = annotators(computed or {}, "data.train.computed", cache)
        more = () if isinstance(annotations, str) else (name for name in self.computed if name not in annotations)
        self.root, self.annotations = Path(str(root)).expanduser(), (*annotations, *more)
        self.references, self.limit = frozenset(references), check_limit(limit)
        self.names = ("target", *self.annotations)
        self._animated: set[Path] = set()

    def __len__(self) -> int:
        return len(self._records)

    @cached_property
    def account(self) -> Account:
        """The account: how many images have captions, what was left out and guessed, and which images are the same."""
        found, notes = self._scan, self._scan.notes
        if same := same_files(record.target for record in self._records) if len(self) <= CHECKED else []:
            pairs = [f"{self._name(again)} as {self._name(first)}" for first, *others in same for again in others]
            more = f" and {len(pairs) - NAMED} more" if len(pairs) > NAMED else ""
            notes = (*notes, f"images of the same content are used each: {', '.join(pairs[:NAMED])}{more}")
        notes = (*self._mixed_splits(), *notes, *self._animations())
        if more := len(found.records) - len(self):
            notes = (f"data.train.limit={self.limit} leaves out {more} of {len(found.records)} images", *notes)
        return Account("images", sum(record.caption is not None for record in self._records), found.left_out, notes)

    def looked_for(self, name: str) -> str:
        """Words on the files that would be the annotation `name`, and what else gives it, for a task that lacks it."""
        example = self._records[0].target.stem if "_scan" in self.__dict__ else "photo"
        files = f"{example}.{name}.png, {example}_{name}.png and {name}/{example}.png (or .jpg, .webp, ..., .npy)"
        if name not in self.annotations:
            said = f"with {KEY}=[{name}], {files} are looked for beside {example}.png in '{self.root}'"
        else:
            said = f"looked for {files} in '{self.root}'"
        return "; ".join(filter(None, (said, computed_by(name, "data.train.computed"))))

    def record(self, index: int, seed: int = 0) -> SetRecord:
        """Record `index`; there are no variants, so `seed` is not used."""
        found = self._records[check_index(index, len(self))]
        target = stored(found.target, self._name(found.target))
        images = {"target": target}
        for name, path in found.annotations.items():
            image = image_file(path, self._name(path))
            own_size = name in self.references
            images[name] = image if own_size else aligned(image, target, self._name(path))
        for name in self.computed.keys() - found.annotations.keys():
            images[name] = annotated(found.target, target, self.computed[name])
        captions = {"target": (found.caption,)} if found.caption else {}
        origin = posixpath.splitext(self._name(found.target))[0]  # no sample has both a.jpg and a.png
        return SetRecord(found.key, images, captions, origin=origin)

    def _animations(self) -> Iterator[str]:
        """A sentence on the used files that are animations. Files of a large folder are not looked at, see `scan`."""
        used = [path for record in self._records for path in (record.target, *record.annotations.values())]
        if found := [LeftOut(self._name(path), FIRST_FRAME) for path in used if path in self._animated]:
            yield f"not stills: {listed_out(found)}"

    def _mixed_splits(self) -> Iterator[str]:
        """A sentence on folders of the root that are called as splits are, and what keeps them apart."""
        tops = {
            self._name(record.target).partition("/")[0] for record in self._records if record.target.parent != self.root
        }
        found = {split: [name for name in names if name in tops] for split, names in SPLITS.items()}
        folders = [name for names in found.values() for name in names]
        if found["train"] and len(folders) > 1:
            root, first = visible(str(self.root)), {split: names[0] for split, names in found.items() if names}
            apart = " ".join(f"data.{split}.root={root}/{name}" for split, name in first.items())
            named = f"{', '.join(folders[:-1])} and {folders[-1]}"
            yield f"folders {named} of {root} are used as one set; {apart} uses them apart"

    @cached_property
    def _scan(self) -> Scan:
        found = scan(check_folder(self.root, "images", "name a folder that is there"), self.annotations, self._fault)
        for name, annotator in self.computed.items():
            if any(name not in record.annotations for record in found.records[: self.limit]):
                annotator.load()
        return found

    def _fault(self, file: Path) -> str:
        """Explain why a file is no image, '' if it is one, and note it if it is an animation."""
        why, animated = looked_at(file)
        if animated:
            self._animated.add(file)
        return why

    @property
    def _records(self) -> tuple[Record, ...]:
        return self._scan.records[: self.limit]

    def _name(self, path: Path) -> str:
        return visible(os.fsencode(path.relative_to(self.root)).decode("utf-8", "backslashreplace"))
