"""VITON-HD: women in front view and the garments that they wear, for virtual try-on.

`shadow2496/VITON-HD` on GitHub (the link to the data is in its README), CC BY-NC 4.0, research only: 11,647 training
and 2,032 test pairs of 1024 x 768 pixels (height x width). Checked in November 2026: sizes, counts and licence in that
README (02afa4b), the folders and file names in its datasets.py (1fa4037) and in other readers of the published archive,
whose folders for the same thing differ in name; FOLDERS has the names that were found. Not checked: the archive.

A person's own garment has the person's file name, in both splits; the lists `test_pairs.txt` put others together, of
which no image exists, so they are not read. VisualCloze (section 3.3) trains on this set; its demo shows the person
without the garment, the garment, and the result: the task 'agnostic+garment>target'.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from datamodules.reading.accounts import Account, LeftOut
from datamodules.sets.base import SetRecord, aligned, check_folder, check_index, check_limit, stored
from datamodules.sets.files import left_out_of

# by the graph's name: the folders that it may be in, and its file name for a person's
FOLDERS = {
    "target": (("image",), "{stem}.jpg"),
    "garment": (("cloth",), "{stem}.jpg"),
    "garment_mask": (("cloth-mask",), "{stem}.jpg"),
    "agnostic": (("agnostic-v3.2", "agnostic"), "{stem}.jpg"),
    "openpose": (("openpose_img", "openpose-img"), "{stem}_rendered.png"),
    "densepose": (("image-densepose", "densepose"), "{stem}.jpg"),
}
OF_PERSON = ("agnostic", "openpose", "densepose")
HOW = "download VITON-HD (github.com/shadow2496/VITON-HD) and unpack it there"


class VitonHD:
    """Records of a `target`, its `garment` and the maps of FOLDERS that are there, by file name.

    root: the folder with `train` and `test`. split: one of them. limit: at most so many records, the first.
    See `datamodules.sets.base.ImageSet`.
    """

    names = tuple(FOLDERS)

    def __init__(self, root: str | Path, split: str = "train", *, limit: int | None = None) -> None:
        self.root, self.split, self.limit = Path(root).expanduser(), split, check_limit(limit)

    def __len__(self) -> int:
        return len(self._stems)

    def record(self, index: int, seed: int = 0) -> SetRecord:
        """Record `index`; there are no variants, so `seed` is not used."""
        stem = self._stems[check_index(index, len(self))]
        images = {}
        for name, folder in self._folders.items():
            path = f"{self.split}/{folder}/{FOLDERS[name][1].format(stem=stem)}"
            if (self.root / path).is_file():
                image = stored(self.root / path, path)
                images[name] = aligned(image, images["target"], path) if name in OF_PERSON else image
        return SetRecord(f"{self.split}/{stem}", images, {})

    @property
    def account(self) -> Account:
        """Entries of the persons' folder that are no .jpg, and the maps of FOLDERS that are not there."""
        folder = self.root / self.split / self._folders["target"]
        persons = {path.name for path in folder.glob("*.jpg") if path.is_file()}
        left = tuple(LeftOut(thing.name, "no .jpg file") for thing in left_out_of(self.root, folder, persons))
        missing = [name for name in FOLDERS if name not in self._folders]
        notes = (f"folder '{self.root / self.split}' has no {', '.join(missing)}",) if missing else ()
        return Account("persons", None, left, notes)

    @cached_property
    def _folders(self) -> dict[str, str]:
        """The folders that are there, the target's first. Raises ValueError if that or the garments' is not."""
        split = check_folder(self.root / self.split, f"the {self.split} split of VITON-HD", HOW)
        there = {path.name for path in split.iterdir() if path.is_dir()}
        found = {name: next((f for f in folders if f in there), None) for name, (folders, _) in FOLDERS.items()}
        for name in ("target", "garment"):
            if found[name] is None:
                legal = FOLDERS[name][0][0]
                raise ValueError(f"folder '{split}' has no folder {legal}; it has {', '.join(sorted(there))}; {HOW}")
        return {name: folder for name, folder in found.items() if folder}

    @cached_property
    def _stems(self) -> list[str]:
        folder = self.root / self.split / self._folders["target"]
        found = sorted(path.stem for path in folder.glob("*.jpg") if path.is_file())[: self.limit]
        if not found:
            raise ValueError(f"no .jpg in folder '{folder}'; {HOW}")
        return found
