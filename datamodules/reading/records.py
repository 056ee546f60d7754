"""Refuses records that cannot be used, and lets a run continue without them.

A data set reads its items through `Refusals.read`, within which whatever makes a record useless raises BadImage:
`datamodules.reading.images` for its images, `present` and `fitted` for its annotations. Captions are never refused,
see `datamodules.reading.captions`.
"""

from __future__ import annotations

import json
import math
import os
import platform
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np

from datamodules.reading.images import BadImage
from unigen.core.noise import mix

T = TypeVar("T")
TRIES = 16  # records tried in the place of a bad one; at a share of 0.01 all are bad in one of 10^32 cases
NAMED = 5  # bad records that an error names
DOUBT = 4.0  # standard deviations that chance is granted: 64 processes at half of the share must not end one run
ASPECT = 0.01  # largest relative difference between the aspect ratios of an annotation and its image
_NUMBERS = re.compile(r"\d+(\.\d+)?")


class Refusals:
    """Counts the records that cannot be used, puts others in their place, and ends the run if they are too many.

    what: the data set, for messages. share: of the records that may be bad, in [0, 1]; at 0 the first bad one ends
    the run. minimum: how many must have been read before the share is judged. key: the configuration key of `share`.
    report: a folder that gets a line for each bad record, see `summary`; none without it.
    A run ends when more are bad than chance explains: more than share * read + 4 sqrt(share * (1 - share) * read).
    Each process, so each loader worker, counts for itself. Raises ValueError for a number out of range.
    """

    def __init__(
        self,
        what: str,
        *,
        share: float = 0.01,
        minimum: int = 100,
        key: str = "data.bad_share",
        report: str | Path | None = None,
    ) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"{key}={share!r} must be a share of the records, from 0 to 1")
        if minimum < 1:
            raise ValueError(f"minimum={minimum!r} must be at least 1 record")
        self.what, self.share, self.minimum, self.key = what, share, minimum, key
        self.report = None if report is None else Path(report)
        self.seen, self.bad = 0, 0
        self.first: list[str] = []
        self._known: set[str] = set()

    def read(self, get: Callable[[int, int], T], item: tuple[int, int], n: int) -> T:
        """`get(index, seed)` of an item (index, seed) of `n`; where it raises BadImage, of another index.

        Which one depends on (index, seed) alone, so it is the same on every rank and after a restart. Raises
        ValueError if too many records are bad, or all TRIES others are bad too.
        """
        index, seed = item
        row: list[str] = []
        for i in _candidates(index, seed, n):
            self.seen += 1
            try:
                return get(i, seed)
            except BadImage as error:
                row.append(f"{error.name!r}: {error.reason or error}")
                self._refuse(error)
        raise ValueError(f"{len(row)} records of '{self.what}' in a row cannot be used, first {'; '.join(row[:NAMED])}")

    def _refuse(self, error: BadImage) -> None:
        """Count and report a bad record, and judge the share."""
        name, reason = error.name or "a record", error.reason or str(error)
        self.bad += 1
        if name not in self._known:  # read again in a later epoch, it is no news
            self._known.add(name)
            self._write(name, reason)
            if len(self.first) < NAMED:
                self.first.append(f"{name!r}: {reason}")
        doubt = DOUBT * math.sqrt(self.share * (1 - self.share) * self.seen)
        judged = self.seen >= self.minimum or self.share == 0
        if judged and self.bad > self.share * self.seen + doubt:
            raise ValueError(
                f"{self.bad} of the first {self.seen} records of '{self.what}' read by this process cannot be used, "
                f"more than {self.key}={self.share} allows; first {'; '.join(self.first)}; repair or remove them, or "
                f"raise {self.key}"
            )

    def _write(self, name: str, reason: str) -> None:
        """Append a line to this machine's report: one small write, which no other process can part.

        Machines have files of their own, as appending is not atomic between the clients of a network file system.
        """
        if self.report is None:
            return
        line = json.dumps({"data": self.what, "record": name[-200:], "reason": reason[:300]}) + "\n"
        with suppress(OSError):  # a full disk must not end a run for the sake of its report
            self.report.mkdir(parents=True, exist_ok=True)
            path = self.report / f"refused-{platform.node() or 'machine'}.jsonl"
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(file, line.encode("ascii"))
            finally:
                os.close(file)


def _candidates(index: int, seed: int, n: int) -> Iterator[int]:
    """The index, then up to TRIES different others of range(n), keyed by both."""
    yield index
    keyed = random.Random(mix("instead", seed, index))
    yield from [i for i in keyed.sample(range(n), min(n, TRIES + 1)) if i != index][:TRIES]


def summary(folder: str | Path, top: int = 3) -> str:
    """The reports in a folder in one sentence: how many records were refused, and the `top` reasons with an example.

    A record that several processes or runs refused counts once; reasons that differ in numbers alone are one.
    """
    reasons: dict[tuple[str, str], str] = {}
    for path in sorted(Path(folder).glob("refused-*.jsonl")):
        for line in path.read_bytes().splitlines():
            with suppress(ValueError, KeyError, TypeError):  # a line that a crash cut short
                entry = json.loads(line)
                reasons.setdefault((str(entry["data"]), str(entry["record"])), str(entry["reason"]))
    if not reasons:
        return "no record was refused"
    kinds = {record: _NUMBERS.sub("#", reason) for record, reason in reasons.items()}
    examples = {kind: record for record, kind in sorted(kinds.items(), reverse=True)}  # the first one of each kind
    often = sorted(Counter(kinds.values()).items(), key=lambda counted: (-counted[1], counted[0]))  # on any machine
    told = [f"{count} as {examples[kind][1]!r}: {kind}" for kind, count in often[:top]]
    noun = "record was" if len(reasons) == 1 else "records were"
    return f"{len(reasons)} {noun} refused, {'; '.join(told)}" + ("; ..." if len(often) > top else "")


def present(record: Mapping[str, T | None], column: str, name: str) -> T:
    """The value of a record called `name` in a column. Raises BadImage, naming both, if it is missing or None."""
    value = record.get(column)
    if value is None:
        there = ", ".join(key for key, other in record.items() if other is not None) or "nothing"
        raise BadImage.of(f"{name}, {column}", f"there is no {column}", f"it must have one; it has {there}")
    return value


def fitted(annotation: np.ndarray, height: int, width: int, name: str) -> np.ndarray:
    """An annotation, uint8 (3, H, W) or (H, W), in its image's size, `height` x `width`.

    It is resized as an image is (means when shrunk, bilinear when enlarged). Raises BadImage, naming it, if its
    aspect ratio differs by more than ASPECT and by more than a pixel of the shortest side, as rounding makes it differ.
    """
    import cv2

    h, w = annotation.shape[-2:]
    if (h, w) == (height, width):
        return annotation
    if abs(math.log((w * height) / (h * width))) > max(ASPECT, 1 / min(h, w, height, width)):
        reason = f"it has {w} x {h} pixels, its image {width} x {height}"
        raise BadImage.of(name, reason, f"it must have the aspect ratio of its image to {ASPECT:.0%}")
    pixels = annotation if annotation.ndim == 2 else np.ascontiguousarray(annotation.transpose(1, 2, 0))
    pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if h > height else cv2.INTER_LINEAR)
    return pixels if annotation.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
