"""Reads samples of WebDataset tar files by index: the places of members are found once and cached, then read directly.

A sample is a run of members of one base name, 'a/000017.jpg' and 'a/000017.json'; what it consists of is told by the
rest of the name. Nothing is ever unpacked, so the names in a tar can lead nowhere.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import tarfile
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np

from datamodules.reading.accounts import Account
from datamodules.reading.images import BadImage
from datamodules.sets.base import check_index, check_limit
from unigen.config.files import user_cache, whole_file


class Tars:
    """The samples of all tars, in the order of file names and members.

    root: the folder of the data set; pattern: for its tars, below it. parts: what every sample has, such as ('jpg',
    'json'). limit: at most so many samples, the first; later tars are not opened then. cache: the folder for what is
    found out, 16 bytes for every part of a sample.
    Using it raises ValueError if there is no tar, one cannot be read to its end, or none of its samples has a part.
    """

    def __init__(
        self,
        root: str | Path,
        pattern: str,
        parts: Sequence[str],
        *,
        limit: int | None = None,
        cache: str | Path | None = None,
    ) -> None:
        self.root, self.pattern, self.parts = Path(root).expanduser(), pattern, tuple(parts)
        self.limit, self.cache = check_limit(limit), Path(cache or user_cache("sets")).expanduser()

    def __len__(self) -> int:
        return self._starts[-1] if self.limit is None else min(self._starts[-1], self.limit)

    def name(self, index: int) -> str:
        """The name of a sample in reports: 'data_512_2M/data_000003.tar, sample 17'."""
        path, row, _ = self._at(index)
        return f"{path.relative_to(self.root).as_posix()}, sample {row}"

    def read(self, index: int, part: str) -> bytes:
        """A part of a sample. Raises BadImage, naming it, if the sample lacks it or the tar cannot be read."""
        path, row, places = self._at(index)
        offset, size = places[row, self.parts.index(part)]
        name = f"{self.name(index)}, {part}"
        if offset < 0:
            raise BadImage.of(name, f"there is no {part}", f"every sample must have {', '.join(self.parts)}")
        try:
            with open(path, "rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise BadImage.of(name, str(error), "the file must be readable") from error

    @property
    def account(self) -> Account:
        """The account: how many samples lack a part; each of them is refused when it is drawn."""
        lacking = sum(int((places[:, :, 0] < 0).any(1).sum()) for _, places in self._shards)
        noun = "sample lacks" if lacking == 1 else "samples lack"
        notes = (f"{lacking} {noun} one of {', '.join(self.parts)} and will be refused",) if lacking else ()
        return Account(notes=notes)

    def _at(self, index: int) -> tuple[Path, int, np.ndarray]:
        shard = bisect_right(self._starts, check_index(index, len(self))) - 1
        path, places = self._shards[shard]
        return path, index - self._starts[shard], places

    @cached_property
    def _shards(self) -> list[tuple[Path, np.ndarray]]:
        files, found, missing = sorted(self.root.glob(self.pattern)), [], self.limit
        if not files:
            raise ValueError(f"no tar in folder '{self.root}'; there must be {self.pattern}")
        for path in files:
            places = self._places(path)
            found.append((path, places))
            missing = None if missing is None else missing - len(places)
            if missing is not None and missing <= 0:
                break
        return found

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(len(places) for _, places in self._shards)]

    def _places(self, path: Path) -> np.ndarray:
        """(offset, size) of the parts of all samples, int64 (N, parts, 2), from the cache if the tar is as it was."""
        status = path.stat()
        which = json.dumps([str(path.resolve()), status.st_size, status.st_mtime_ns, self.parts])
        cached = self.cache / f"tar-{hashlib.sha256(which.encode()).hexdigest()[:16]}.npy"
        with suppress(Exception):  # numpy's parser raises OSError, ValueError, EOFError, SyntaxError and more
            places = np.load(cached, allow_pickle=False)
            shaped = places.dtype == np.int64 and places.shape[1:] == (len(self.parts), 2)
            if shaped and (places >= 0).all() and (places <= status.st_size - places[..., ::-1]).all():
                return places
        places = _scanned(path, self.parts)
        # where the folder cannot be written, the next run looks again
        with suppress(OSError), whole_file(cached) as part, open(part, "wb") as file:
            np.save(file, places, allow_pickle=False)
        return places


def _scanned(path: Path, parts: Sequence[str]) -> np.ndarray:
    """Scan a tar for the result of `Tars._places`, with offset -1 for a missing part. Raises ValueError, naming the
    tar, if it is not whole.
    """
    samples: list[dict[str, tuple[int, int]]] = []
    seen: dict[str, None] = {}
    before = None
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:  # raises if it ends within a member's data
                if not member.isreg():
                    continue
                folder, file = posixpath.split(member.name)
                base, _, part = file.partition(".")
                if (folder, base) != before:
                    samples.append({})
                    before = folder, base
                seen[part] = None
                samples[-1][part] = (member.offset_data, member.size)
            if 0 < path.stat().st_size - tar.offset < tarfile.BLOCKSIZE:  # tarfile does not report this
                raise tarfile.ReadError("it ends within a header")
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"cannot read tar '{path}': {error}; download it again") from error
    if lacking := [part for part in parts if part not in seen]:
        raise ValueError(
            f"no sample of tar '{path}' has {', '.join(lacking)}; they have {', '.join(seen) or 'nothing'}"
        )
    none = (-1, 0)
    return np.array([[sample.get(part, none) for part in parts] for sample in samples], np.int64)
