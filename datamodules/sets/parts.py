"""The parts of a data set that is published whole: records for training, and those held out for val and test."""

from __future__ import annotations

from collections.abc import Sequence

from datamodules.sets.base import PictureSet, SetRecord, check_index

BLOCK = 2  # records that stay together: a pair of Subjects200K is two records, one after the other
HELD_OUT = {"val": 0, "test": 1}  # which block of a round each split gets


class Part:
    """Some of the records of `source`, in its order: of every `every` blocks of BLOCK records those numbered `blocks`.

    By number, because finding out what 2M records show would take an hour: where neighbours show the same thing, name a
    folder for each split instead. See `datamodules.sets.base.PictureSet`.
    Raises ValueError if `blocks` are not rising numbers of range(every).
    """

    def __init__(self, source: PictureSet, blocks: Sequence[int], every: int) -> None:
        if not blocks or sorted({*blocks} & {*range(every)}) != list(blocks):
            raise ValueError(f"blocks={list(blocks)} must be rising numbers below every={every}")
        self.source, self.blocks, self.every = source, tuple(blocks), every

    @property
    def names(self) -> tuple[str, ...]:
        """All pictures that a record may have."""
        return self.source.names

    def __len__(self) -> int:
        rounds, rest = divmod(len(self.source), self.every * BLOCK)
        return rounds * len(self.blocks) * BLOCK + sum(min(BLOCK, max(0, rest - i * BLOCK)) for i in self.blocks)

    def record(self, index: int, seed: int = 0) -> SetRecord:
        """Record `index` of this part."""
        turn, place = divmod(check_index(index, len(self)), len(self.blocks) * BLOCK)
        block, inside = divmod(place, BLOCK)
        return self.source.record((turn * self.every + self.blocks[block]) * BLOCK + inside, seed)


def splits_of(
    train: PictureSet, val: PictureSet | None, test: PictureSet | None, held_out: int
) -> dict[str, PictureSet]:
    """The data set of each split. Where val or test is None, it is a block in `held_out` of train, which then lacks it.

    The records of val and of test do not depend on whether the other one is given. Raises ValueError for held_out < 3.
    """
    if type(held_out) is not int or held_out < 3:
        raise ValueError(f"held_out={held_out!r} must be at least 3: one part in so many is val's, another one test's")
    given = {"val": val, "test": test}
    taken = [HELD_OUT[name] for name in given if given[name] is None]
    if not taken:
        return {"train": train, **given}
    rest = [block for block in range(held_out) if block not in taken]
    parts = {name: Part(train, [HELD_OUT[name]], held_out) for name in given if given[name] is None}
    return {"train": Part(train, rest, held_out), **(given | parts)}
