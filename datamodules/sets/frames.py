"""Ordered frames: the process of a painting, or views around an object, each in a folder of its own.

VisualCloze (section 3.3) trains on drawing processes and on views, both made by its authors and not published, so this
layout is our own: `<root>/<sequence>/<frame>`, frames in the order of their names, numbers by value (2 before 10), and
a `caption.txt` among them if there is one.

So many frames of each sequence are taken, evenly spread from its first to its last. One end is the `target`: the last
one of a painting that is finished ('frame0+frame1>target', or 'target>frame0+frame1' to take it apart), the first one
of views ('target>frame1+frame2+frame3'). The others are called after their place, `frame0` being the first.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

from datamodules.reading.accounts import Account, LeftOut
from datamodules.reading.captions import text_of
from datamodules.reading.images import BadImage
from datamodules.sets.base import SetRecord, captions_of, check_folder, check_index, check_limit, stored
from datamodules.sets.files import images_in, left_out_of

CAPTION = "caption.txt"
ENDS = ("first", "last")


class Frames:
    """Records of `count` frames, one of which is the `target`, by name of the sequence.

    root: the folder of the sequences. count: frames of a record, at least 2; a shorter sequence is refused. target:
    'first' or 'last'. limit: at most so many records, the first. `own`: that few
    sequences are enough, see `datamodules.sets.parts`. See `datamodules.sets.base.ImageSet`.
    """

    own = True

    def __init__(self, root: str | Path, *, count: int = 4, target: str = "last", limit: int | None = None) -> None:
        if count < 2:
            raise ValueError(f"count={count!r} must be at least 2 frames")
        if target not in ENDS:
            raise ValueError(f"target={target!r} must be one of {', '.join(ENDS)}")
        self.root, self.count, self.limit = Path(root).expanduser(), count, check_limit(limit)
        place = 0 if target == "first" else count - 1
        self._places = tuple("target" if i == place else f"frame{i}" for i in range(count))

    @property
    def names(self) -> tuple[str, ...]:
        """The images of every record, in order."""
        return self._places

    def __len__(self) -> int:
        return len(self._sequences)

    def record(self, index: int, seed: int = 0) -> SetRecord:
        """Record `index`; there are no variants, so `seed` is not used. Raises BadImage for too few frames."""
        key = self._sequences[check_index(index, len(self))]
        folder, found = self.root / key, self._frames(key)
        if len(found) < self.count:
            raise BadImage.of(key, f"it has {len(found)} frames", f"a sequence must have at least {self.count}")
        spread = [found[i * (len(found) - 1) // (self.count - 1)] for i in range(self.count)]
        images = {name: stored(folder / file, f"{key}/{file}") for name, file in zip(self._places, spread, strict=True)}
        return SetRecord(key, images, captions_of({"target": [self._caption(key)]}))

    @property
    def account(self) -> Account:
        """The account: files in the folders that are no frames, sequences that are too short, and what lies beside
        them.
        """
        left: list[LeftOut] = []
        for key in self._sequences:
            frames = self._frames(key)
            if len(frames) < self.count:
                left.append(LeftOut(f"{key}/", f"it has fewer frames than data.train.count={self.count}"))
            told = self._caption(key)
            left += left_out_of(self.root, self.root / key, {*frames, *([CAPTION] if told else [])})
        left += left_out_of(self.root, self.root, self._sequences)
        captioned = sum(bool(self._caption(key)) for key in self._sequences)
        return Account("sequences", captioned, tuple(left))

    def _caption(self, key: str) -> str:
        """The text of a sequence, '' if there is none."""
        try:
            return text_of(self.root / key / CAPTION)
        except ValueError:
            return ""

    def _frames(self, key: str) -> list[str]:
        """The file names of a sequence's frames, in order."""
        return sorted(images_in(self.root / key), key=_by_number)

    @cached_property
    def _sequences(self) -> list[str]:
        folder = check_folder(self.root, "a folder for each sequence", "name one that is there")
        found = [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        if not found:
            raise ValueError(f"folder '{folder}' has no folder; each sequence of frames must be in one of its own")
        return sorted(found, key=_by_number)[: self.limit]


def _by_number(name: str) -> tuple[list[tuple[int, str]], str]:
    """A key that sorts names as people do: 2.png before 10.png."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)], name
