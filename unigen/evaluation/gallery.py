"""A gallery: the images of an evaluation in a folder with a manifest, so that metrics can be computed without a model.

`manifest.jsonl` has a line for each output; `images/` holds the files that it names, lossless; `protocol.json` holds
the request, the protocol and the hash of the weights. A line is written when its files are whole, so a killed process
leaves a shorter gallery behind. Shapes: N images, H and W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unigen.config.files import write_png, write_text
from unigen.config.values import ConfigError
from unigen.core.places import Place
from unigen.evaluation.results import unusable
from unigen.weights.own_files import read_object, unreadable

# The names of a record's files for its first target. For other targets the slot is appended, `output.target1`; all
# other names are those of conditions.
OUTPUT, TRUTH, CEILING = OWN = ("output", "truth", "through_codec")
ANEW = "use out=<a new folder>"
NEEDED = {"item": int, "image": int, "files": dict}  # of a record
SAID = {**dict.fromkeys(("key", "task", "prompt", "caption"), str), "seed": int, "subjects": list, "clusters": dict}
SAID |= {"targets": list}
SAID |= {"draw": {"seconds": (int, float), "together": int, "device": str}}
MEASURED = ("key", "prompt", "seed", "subjects")  # keys that metrics need


class ImageFiles:
    """Images of one size that are read from files when they are sliced (an `unigen.metrics.images.Images`)."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, part: slice) -> Tensor:
        """Return uint8 (N, 3, H, W). Raises ValueError, naming the file, if one cannot be read or has another size."""
        found = [_read(path) for path in self.paths[part]]
        for path, image in zip(self.paths[part], found, strict=True):
            if image.shape != found[0].shape:
                raise ValueError(f"{path} is {_size(image)} and others are {_size(found[0])}: use one of data.ratios")
        return torch.from_numpy(np.stack(found))

    def taken(self, order: Sequence[int]) -> ImageFiles:
        """Return the images at these positions."""
        return ImageFiles([self.paths[i] for i in order])


class Gallery:
    """The images in `folder`. `records` maps (item, number of the image) to a line of the manifest."""

    def __init__(self, folder: Path) -> None:
        """Read the gallery, which may be empty. Raises ConfigError for a `protocol.json` that cannot be read."""
        self.folder = folder
        self.manifest, self._state = folder / "manifest.jsonl", folder / "protocol.json"
        self.state = self._read_state()
        self.records: dict[tuple[int, int], dict[str, Any]] = {}
        self.damaged = 0
        for record in self._lines():
            self.records[record["item"], record["image"]] = record

    @property
    def complete(self) -> bool:
        return bool(self.records) and len(self.records) == self.state.get("images")

    def begin(self, state: Mapping[str, Any]) -> None:
        """Write `protocol.json` before images are drawn, and the manifest without damaged lines.

        `state` is {asked, protocol, protocol_hash, weights, images}, the last being the number of images.
        Raises ConfigError if the folder holds images of another request or other weights.
        """
        self.check(state)
        self.state = dict(state)
        write_text(self._state, json.dumps(self.state, indent=1))
        lines = [json.dumps(record) + "\n" for record in self.records.values()]
        write_text(self.manifest, "".join(lines))  # drops damaged lines, and those whose files are missing

    def check(self, state: Mapping[str, Any]) -> None:
        """Raise ConfigError if the folder holds images of another request, naming the key, or of other weights."""
        if not self.records:
            return
        was, now = leaves(self.state.get("asked", {})), leaves(state["asked"])
        for key in sorted(was.keys() | now.keys()):
            if was.get(key) != now.get(key):
                change = f"{key} was {json.dumps(was.get(key))} and is {json.dumps(now.get(key))}"
                raise ConfigError(f"{self.folder} holds images of another request ({change}); use out=<a new folder>")
        if state["weights"] not in (None, self.state.get("weights")):
            raise ConfigError(f"{self.folder} holds images of other weights; use out=<a new folder>")

    def add(self, record: Mapping[str, Any], images: Mapping[str, Tensor]) -> None:
        """Write images, uint8 (3, H, W) by name, and their line of the manifest: item, image, key, task, prompt, seed.

        Files of conditions and truths that exist already are not written again.
        """
        item, image, files = record["item"], record["image"], {}
        for name, pixels_3HW in images.items():
            files[name] = file_of(item, image, name)
            if _own(name) == OUTPUT or not (self.folder / files[name]).is_file():
                array = pixels_3HW.cpu().permute(1, 2, 0).numpy()
                write_png(self.folder / files[name], Image.fromarray(np.ascontiguousarray(array)))
        whole = {**record, "protocol_hash": self.state["protocol_hash"], "files": files}
        with open(self.manifest, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(whole) + "\n")
        self.records[item, image] = whole

    def check_whole(self) -> None:
        """Raise ConfigError, naming the manifest, if a record lacks a key or a file that metrics need."""
        for record in self.records.values():
            lacking = [key for key in MEASURED if key not in record]
            lacking += [n for name in OWN for n in names_of(record, name) if n not in record["files"]]
            if lacking:
                reason = f"the line of item {record['item']}, image {record['image']} has no '{lacking[0]}'"
                raise unreadable(self.manifest, reason, ANEW)

    def ordered(self) -> list[dict[str, Any]]:
        """Return the records, item by item."""
        return [self.records[place] for place in sorted(self.records)]

    def places(self) -> list[Place]:
        """Return the places of the images that `images` returns: record, target, and number of the image."""
        return [
            Place(line, target, record["image"])
            for line, record in enumerate(self.ordered())
            for target in targets_of(record)
        ]

    def images(self, name: str) -> ImageFiles:
        """Return the images of one name in the order of `ordered`, one for each target of a record.

        Outputs, truths and ceilings differ by target; a condition is repeated for each target.
        """
        return ImageFiles(
            [self.folder / record["files"][n] for record in self.ordered() for n in names_of(record, name)]
        )

    @property
    def conditions(self) -> list[str]:
        """The names of the conditions that all records have."""
        names = [{n for n in record["files"] if _own(n) is None} for record in self.records.values()]
        return sorted(set.intersection(*map(set, names))) if names else []

    def _read_state(self) -> dict[str, Any]:
        if not self._state.exists():
            return {}
        state, advice = read_object(self._state, ANEW), {"asked": dict, "protocol": dict, "protocol_hash": str}
        if odd := unusable(state, advice | {"images": int, "weights": (str, type(None))}):
            raise unreadable(self._state, f"it has no usable '{odd}'", ANEW)
        return state

    def _lines(self) -> Iterable[dict[str, Any]]:
        """Yield the records whose files all exist; count damaged lines in `damaged`, but for a torn last line."""
        lines = self.manifest.read_bytes().splitlines() if self.manifest.is_file() else []
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                self.damaged += number < len(lines)
                continue
            if not is_record(record):
                self.damaged += 1
            elif all((self.folder / name).is_file() for name in record["files"].values()):
                yield record


def is_record(record: Any) -> bool:
    """Return True if a line of a manifest names an item, an image and their files, and all its values are legal."""
    if unusable(record, NEEDED) or unusable(record, {key: kind for key, kind in SAID.items() if key in record}):
        return False
    numbers = [record[key] for key in ("item", "image", "seed") if key in record]
    named = {name: file_of(record["item"], record["image"], name) for name in record["files"]}
    draw = record.get("draw", {"seconds": 0.0})
    return (
        all(type(number) is int and number >= 0 for number in numbers)
        and record["files"] == named
        and all(isinstance(word, str) for key in ("subjects", "targets") for word in record.get(key, ()))
        and all(isinstance(word, str) for word in record.get("clusters", {}).values())
        and 0 <= draw["seconds"] < 1e9
    )


def file_of(item: int, image: int, name: str) -> str:
    """Return an image's path in the folder. Only outputs have a file for each image of an item; others are shared."""
    return f"images/{item:06d}{f'_{image}' if _own(name) == OUTPUT else ''}_{name}.png"


def names_of(record: Mapping[str, Any], name: str) -> list[str]:
    """Return the name of the file for each target of a record; for a condition it is the same for all targets."""
    targets = targets_of(record)
    return [name, *(f"{name}.{target}" if name in OWN else name for target in targets[1:])]


def targets_of(record: Mapping[str, Any]) -> list[str]:
    """Return the slots of a record's targets; a single target is called ""."""
    return record.get("targets") or [""]


def _own(name: str) -> str | None:
    """Return the kind of a target's file, OUTPUT, TRUTH or CEILING; None for a condition's."""
    first = name.partition(".")[0]
    return first if first in OWN else None


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to {dotted key: value}; a list is a value."""
    if not isinstance(node, Mapping):
        return {prefix: node}
    return {k: v for key, value in node.items() for k, v in leaves(value, f"{prefix}.{key}".lstrip(".")).items()}


def _read(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, zlib.error and more
        raise ConfigError(f"{path} cannot be read ({error}): remove it, and the same command draws it again") from error


def _size(image_3HW: np.ndarray) -> str:
    return f"{image_3HW.shape[2]} x {image_3HW.shape[1]}"
