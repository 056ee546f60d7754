"""COCO 2017 validation: 5,000 photographs with five captions or so each, for evaluating spatial control.

The files of cocodataset.org: `annotations/captions_val2017.json` (from annotations_trainval2017.zip, 241 MB) and
`val2017/*.jpg` (val2017.zip, 1 GB). Annotations are CC BY 4.0; the images are under the terms of Flickr. Known from
the format's description there ({images: [{id, file_name, width, height, ...}], annotations: [{image_id, caption}]}) and
from other readers of the same files; the files themselves were not at hand.

OminiControl's protocol (and so VisualCloze's) evaluates on all 5,000 at 512 pixels. Which of the captions is the prompt
is not said there; the first by id is the usual one here. COCO has no depth: a model that is named computes it
(`datamodules.reading.annotators`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.reading.accounts import Account, LeftOut
from datamodules.reading.annotators import Annotator, annotators
from datamodules.reading.images import inside
from datamodules.sets.base import SetRecord, captions_of, check_index, check_limit, stored
from datamodules.sets.files import annotated, computed_by, loaded

HOW = "get val2017.zip and annotations_trainval2017.zip from cocodataset.org and unpack both there"
ENTRIES: Mapping[str, Mapping[str, type]] = {
    "images": {"id": int, "file_name": str},
    "annotations": {"id": int, "image_id": int, "caption": str},
}


class Coco:
    """Records of a `target` with its captions, by id of the image. See `datamodules.sets.base.ImageSet`.

    root: the folder with `annotations` and the images. split: 'val2017', the name of both. computed: {annotation:
    model, null for none}, such as {depth: <model>}. limit: at most so many records, the first. cache: of what models
    computed, by default ~/.cache/unigen/annotations.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "val2017",
        *,
        computed: Mapping[str, str | None] | None = None,
        limit: int | None = None,
        cache: str | Path | None = None,
    ) -> None:
        self.root, self.split, self.limit = Path(root).expanduser(), split, check_limit(limit)
        self.computed: dict[str, Annotator] = annotators(computed or {}, "data.test.computed", cache)
        self.names = ("target", *self.computed)

    def __len__(self) -> int:
        return len(self._images)

    def looked_for(self, name: str) -> str:
        """Words on what gives the annotation `name`, for a task that lacks it."""
        return computed_by(name, "data.test.computed")

    def record(self, index: int, seed: int = 0) -> SetRecord:
        """Record `index`; there are no variants, so `seed` is not used."""
        image = self._images[check_index(index, len(self))]
        file, name = inside(self.root / self.split, image["file_name"]), f"{self.split}/{image['file_name']}"
        target = stored(file, name)
        maps = {name: annotated(file, target, annotator) for name, annotator in self.computed.items()}
        texts = [text for _, text in sorted(self._captions.get(image["id"], []))]
        return SetRecord(str(image["id"]), {"target": target, **maps}, captions_of({"target": texts}))

    @property
    def account(self) -> Account:
        """The account: how many images have captions, and captions of images that the table does not have."""
        known = {image["id"] for image in self._table["images"]}
        others = [f"caption {entry['id']}" for entry in self._table["annotations"] if entry["image_id"] not in known]
        captioned = sum(image["id"] in self._captions for image in self._images)
        left = tuple(LeftOut(name, "there is no image of its image_id") for name in others)
        return Account("images", captioned, left)

    @cached_property
    def _table(self) -> dict[str, Any]:
        path = self.root / "annotations" / f"captions_{self.split}.json"
        if not path.is_file():
            raise ValueError(f"there is no file '{path}'; {HOW}")
        try:
            table = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"'{path}' is no JSON: {error}; {HOW}") from error
        _check(table, dict.fromkeys(ENTRIES, list), f"'{path}'")
        for part, keys in ENTRIES.items():
            for number, entry in enumerate(table[part]):
                _check(entry, keys, f"'{path}', {part}[{number}]")
        return table

    @cached_property
    def _images(self) -> list[dict[str, Any]]:
        found = sorted(self._table["images"], key=lambda image: image["id"])[: self.limit]
        loaded(self.computed)
        return found

    @cached_property
    def _captions(self) -> dict[int, list[tuple[int, str]]]:
        """(id, text) of all captions, by image."""
        found: dict[int, list[tuple[int, str]]] = {}
        for entry in self._table["annotations"]:
            found.setdefault(entry["image_id"], []).append((entry["id"], entry["caption"]))
        return found


def _check(entry: Any, keys: Mapping[str, type], where: str) -> None:
    """Check an entry. Raises ValueError, saying where, if it lacks a key (and which it has) or a value has another
    type.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {type(entry).__name__}; it must be an object with {', '.join(keys)}")
    if missing := [key for key in keys if key not in entry]:
        raise ValueError(f"{where} has no {', '.join(missing)}; it has {', '.join(entry)}")
    for key, kind in keys.items():
        if not isinstance(entry[key], kind):
            raise ValueError(f"{where}: {key} is {type(entry[key]).__name__}; it must be {kind.__name__}")
