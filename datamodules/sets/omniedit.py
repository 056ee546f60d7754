"""OmniEdit: images before and after an edit, those of object addition and object removal by default.

`TIGER-Lab/OmniEdit-Filtered-1.2M` on the Hugging Face Hub: 1,202,797 training rows and 700 of split `dev`, parquet,
2.98 TB, mit. Checked in November 2026 on its card, without the data: columns, types, splits, size, licence. VisualCloze
trains on addition and removal alone (section 3.3). Not checked: how the column `task` writes them (ids begin with
task_obj_add and task_obj_remove); TASKS has the words of the paper, and others can be given.

An addition in one row of a grid and a removal in the next would show no common task, so what an edit starts from is
named after it: `addition_source` and `removal_source`, with the tasks 'addition_source>target' and
'removal_source>target'. The instruction is the caption of the target; a row has several wordings of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.reading.accounts import Account
from datamodules.sets.base import SetRecord, captions_of, check_words, required
from datamodules.sets.tables import Selection, Tables

TASKS = ("addition", "removal")


class OmniEdit:
    """Records of `<task>_source` and `target`. See `datamodules.sets.base.ImageSet`.

    root: the folder that the data set was downloaded to. split: 'train' or 'dev'. tasks: the words of its column
    `task` to keep. limit: at most so many records, the first. cache: see `Tables`.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        tasks: Sequence[str] = TASKS,
        limit: int | None = None,
        cache: str | Path | None = None,
    ) -> None:
        kept = frozenset(check_words("tasks", tasks))
        self.names = ("target", *(f"{task}_source" for task in tasks))
        self.tables = Tables(
            root,
            split,
            images=("src_img", "edited_img"),
            values=("omni_edit_id", "edited_prompt_list"),
            selection=Selection(f"a task of {', '.join(sorted(kept))}", ("task",), partial(_is_of, kept)),
            limit=limit,
            cache=cache,
        )

    def __len__(self) -> int:
        return len(self.tables)

    @property
    def account(self) -> Account:
        """The account of the tables."""
        return self.tables.account

    def record(self, index: int, seed: int = 0) -> SetRecord:
        """Record `index`; there are no variants, so `seed` is not used."""
        key = self.tables.name(index)
        images = {
            name: required(self.tables.image(index, column), f"{key}, {column}")
            for name, column in (
                (f"{self.tables.value(index, 'task')}_source", "src_img"),
                ("target", "edited_img"),
            )
        }
        told = self.tables.value(index, "edited_prompt_list") or []
        return SetRecord(key, images, captions_of({"target": told}))


def _is_of(tasks: frozenset[str], row: Mapping[str, Any]) -> bool:
    return row["task"] in tasks
