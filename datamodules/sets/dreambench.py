"""DreamBench: 30 subjects by 25 prompts, to be drawn from images of the subject; no image shows what is asked for.

The folder `dataset` of google/dreambooth on GitHub: one folder of 4 to 6 photographs for each subject, and
`prompts_and_classes.txt`. Checked in November 2026 in that repository (e9b8c01, README 4f887af): the layout, the 30
subjects with their 15 classes, both lists of 25 prompts, and that each has two blanks, for a token and the class; nine
subjects are alive, those of the classes cat and dog. Each image has its own licence (references_and_licenses.txt,
most are Unsplash's); none is stated for the set.

The token names a subject to a model that was tuned on it. Models that are shown the subject get prompts without one,
'a backpack in the jungle', which is the default. DINO and CLIP-I compare a result with all photographs of its subject,
which are `DreamBench.photographs`. In the place of a target stands one of them, so that such a score can be taken like
any other; a score of pixels against it says nothing.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from datamodules.reading.accounts import Account, LeftOut
from datamodules.reading.captions import clean_caption, text_of
from datamodules.reading.images import BadImage
from datamodules.sets.base import LazyImage, SetRecord, check_folder, check_index, check_limit, stored
from datamodules.sets.files import images_in, left_out_of

ALIVE = ("cat", "dog")
TABLE = "prompts_and_classes.txt"
HOW = "clone github.com/google/dreambooth and name its folder 'dataset'"
_PROMPT = re.compile(r"'([^'{]*\{0\} \{1\}[^'{]*)'\.format\(unique_token, class_token\)")
_CLASS = re.compile(r"^(\w+),([\w ]+)$", re.MULTILINE)


class _Table(NamedTuple):
    """The subjects with their classes, and the prompts for those that are not alive and those that are."""

    subjects: tuple[tuple[str, str], ...]
    objects: tuple[str, ...]
    alive: tuple[str, ...]


class DreamBench:
    """Records of a `reference` and another photograph as `target`, which has the prompt, subject by subject.

    The other photographs take turns from prompt to prompt, so that the mean of a score over a subject's prompts is that
    over its photographs, but for the reference. Records are clustered by subject and by prompt, where a prompt of both
    lists is one. root: the folder `dataset`. token: what stands before the class in a
    prompt, '' for nothing. limit: at most so many records, the first. `subjects` is the class.
    See `datamodules.sets.base.ImageSet`.
    """

    names = ("reference", "target")

    def __init__(self, root: str | Path, *, token: str = "", limit: int | None = None) -> None:
        self.root, self.token, self.limit = Path(root).expanduser(), token, check_limit(limit)

    def __len__(self) -> int:
        return len(self._items)

    def record(self, index: int, seed: int = 0) -> SetRecord:
        """Record `index`; the reference is the subject's first photograph whatever the seed, so that scores compare."""
        subject, noun, number, prompt = self._items[check_index(index, len(self))]
        words = clean_caption(prompt.replace("{0}", self.token).replace("{1}", noun))
        first, *others = self.photographs(subject)
        if not others:
            raise BadImage.of(subject, "it has one photograph", "it must have another one to compare with")
        images = {"reference": first, "target": others[number % len(others)]}
        clusters = {"subject": subject, "prompt": prompt}
        return SetRecord(f"{subject}/{number}", images, {"target": (words,)}, (noun,), subject, clusters)

    def photographs(self, subject: str) -> tuple[LazyImage, ...]:
        """All images of a subject, by file name. Raises ValueError, naming the folder, if there are none."""
        folder, found = self.root / subject, self._names(subject)
        if not found:
            raise ValueError(f"no image of '{subject}' in folder '{folder}'; {HOW}")
        return tuple(stored(folder / name, f"{subject}/{name}") for name in found)

    @property
    def account(self) -> Account:
        """The account: files in the subjects' folders that are no photographs, and folders that the table does not
        name.
        """
        subjects = [subject for subject, _ in self._table.subjects]
        left = [thing for name in subjects for thing in left_out_of(self.root, self.root / name, self._names(name))]
        others = [path.name for path in sorted(self.root.iterdir()) if path.is_dir() and path.name not in subjects]
        left += [LeftOut(f"{name}/", f"{TABLE} does not name it") for name in others if not name.startswith(".")]
        return Account(left_out=tuple(left))

    def _names(self, subject: str) -> list[str]:
        return images_in(check_folder(self.root / subject, f"images of '{subject}'", HOW))

    @cached_property
    def _items(self) -> list[tuple[str, str, int, str]]:
        """(subject, class, number of the prompt, prompt) of all records."""
        table = self._table
        items = [
            (subject, noun, number, prompt)
            for subject, noun in table.subjects
            for number, prompt in enumerate(table.alive if noun in ALIVE else table.objects)
        ]
        return items[: self.limit]

    @cached_property
    def _table(self) -> _Table:
        path = self.root / TABLE
        if not path.is_file():
            raise ValueError(f"there is no file '{path}'; {HOW}")
        before, _, after = text_of(path).partition("Object Prompts")
        objects, _, alive = after.partition("Live Subject Prompts")
        subjects = tuple(pair for pair in _CLASS.findall(before) if pair != ("subject_name", "class"))
        table = _Table(subjects, tuple(_PROMPT.findall(objects)), tuple(_PROMPT.findall(alive)))
        for what, found in zip(("classes", "object prompts", "live subject prompts"), table, strict=True):
            if not found:
                raise ValueError(f"'{path}' has no {what}; it must be the file of google/dreambooth")
        return table
