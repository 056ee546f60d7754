"""Images before and after an edit, listed in JSON lines: PhotoDoodle, relighting, and pairs of one's own.

Layout: `<root>/<kind>/meta.jsonl` with lines {"source": path, "target": path, "caption": text}; paths are relative to
the folder of the file; "text" may stand for "caption". What an edit starts from is named after its kind, as rows of
a grid must share one: `<kind>_source`, with the task '<kind>_source>target'.

PhotoDoodle (`nicolaus-huang/PhotoDoodle` on the Hugging Face Hub; model mit, no licence on the data's card): less than
1K images, 30 to 50 pairs of an effect. Checked in November 2026: that form of the lines in the README of
showlab/PhotoDoodle (05d1e69), with the key `text` in its training scripts (3a83480), where a kind is an effect, such as
data/sksmagiceffects/meta.jsonl, and paths are relative to that file (src/jsonl_datasets.py). Not checked: the files on
the Hub, which its viewer takes for loose images; if the lines are missing there, they have to be written.
Relighting: VisualCloze shows the task but publishes no data and no recipe; a folder `relighting` of pairs, made with
IC-Light for example, with the light in words as the caption, is one kind more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from datamodules.reading.accounts import Account, LeftOut
from datamodules.reading.captions import clean_caption
from datamodules.reading.images import inside
from datamodules.sets.base import SetRecord, captions_of, check_folder, check_index, check_limit, check_words, stored

TABLE = "meta.jsonl"
LEGAL = '{"source": "...", "target": "...", "caption": "..."}'


class _Line(NamedTuple):
    kind: str
    number: int
    source: str
    target: str
    caption: str


class EditPairs:
    """Records of `<kind>_source` and `target` with the instruction as its caption, by kind and line.

    root: the folder of the kinds. kinds: which of them; their order is that of the records. limit: at most so many
    records, the first. `own`: that few pairs are enough, see `datamodules.sets.parts`.
    See `datamodules.sets.base.ImageSet`.
    Raises ValueError, on use, naming file and line, for a line that is not of the form above.
    """

    own = True

    def __init__(self, root: str | Path, kinds: Sequence[str], *, limit: int | None = None) -> None:
        self.root, self.kinds = Path(root).expanduser(), check_words("kinds", kinds)
        self.limit = check_limit(limit)
        self.names = ("target", *(f"{kind}_source" for kind in kinds))

    def __len__(self) -> int:
        return len(self._lines)

    def record(self, index: int, seed: int = 0) -> SetRecord:
        """Record `index`; there are no variants, so `seed` is not used."""
        line = self._lines[check_index(index, len(self))]
        folder = self.root / line.kind
        images = {
            name: stored(inside(folder, path), f"{line.kind}/{path}")
            for name, path in ((f"{line.kind}_source", line.source), ("target", line.target))
        }
        return SetRecord(f"{line.kind}, line {line.number}", images, captions_of({"target": [line.caption]}))

    @property
    def account(self) -> Account:
        """Lines without a caption are counted; kinds that are there and are not asked for are left out."""
        others = [path.parent.name for path in sorted(self.root.glob(f"*/{TABLE}"))]
        left = tuple(LeftOut(f"{name}/", "not one of data.train.kinds") for name in others if name not in self.kinds)
        return Account("pairs", sum(bool(clean_caption(line.caption)) for line in self._lines), left)

    @cached_property
    def _lines(self) -> list[_Line]:
        found = [line for kind in self.kinds for line in self._read(kind)]
        if not found:
            raise ValueError(f"no pair in {', '.join(self.kinds)} of folder '{self.root}'; write lines {LEGAL}")
        return found[: self.limit]

    def _read(self, kind: str) -> Iterator[_Line]:
        path = check_folder(self.root / kind, f"pairs of kind '{kind}'", "name one that is there") / TABLE
        if not path.is_file():
            raise ValueError(f"there is no file '{path}'; it must have lines {LEGAL}")
        with open(path, "rb") as lines:
            for number, text in enumerate(lines, start=1):
                if text.strip():
                    yield _Line(kind, number, *_parsed(text, f"'{path}', line {number}"))


def _parsed(text: bytes, where: str) -> tuple[str, str, str]:
    """(source, target, caption) of a line. Raises ValueError, saying where and what there is, for another form."""
    try:
        row = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {error}; it must be {LEGAL}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: it is {type(row).__name__}; it must be {LEGAL}")
    caption = row.get("caption", row.get("text"))
    values = {"source": row.get("source"), "target": row.get("target"), "caption": caption}
    if missing := [key for key, value in values.items() if not isinstance(value, str)]:
        raise ValueError(
            f"{where}: it has no {', '.join(missing)} but {', '.join(row) or 'nothing'}; it must be {LEGAL}"
        )
    return values["source"], values["target"], values["caption"]
