"""The parts of a data set that is published whole: records for training, and those held out for val and test."""

from __future__ import annotations

from collections.abc import Sequence

from datamodules.sets.base import ImageSet, SetRecord, check_index

BLOCK = 2  # records that stay together: a pair of Subjects200K is two records, one after the other
HELD_OUT = {"val": 0, "test": 1}  # the block of a round that each split gets


class Part:
    """Some of the records of `source`, in its order: of every `every` blocks of BLOCK records those numbered `blocks`.

    By number, because finding out what 2M records show would take an hour: where neighbours show the same thing, name a
    folder for each split instead. See `datamodules.sets.base.ImageSet`.
    least: if the source has fewer records, this part has all of them. Which it is shows on use.
    Raises ValueError if `blocks` are not rising numbers of range(every).
    """

    def __init__(self, source: ImageSet, blocks: Sequence[int], every: int, least: int = 0) -> None:
        if not blocks or sorted({*blocks} & {*range(every)}) != list(blocks):
            raise ValueError(f"blocks={list(blocks)} must be rising numbers below every={every}")
        self.source, self.blocks, self.every, self.least = source, tuple(blocks), every, least

    @property
    def whole(self) -> bool:
        """True if this part has all records, because they are too few to hold some out."""
        return len(self.source) < self.least

    @property
    def names(self) -> tuple[str, ...]:
        """All images that a record may have."""
        return self.source.names

    def __len__(self) -> int:
        if self.whole:
            return len(self.source)
        rounds, rest = divmod(len(self.source), self.every * BLOCK)
        return rounds * len(self.blocks) * BLOCK + sum(min(BLOCK, max(0, rest - i * BLOCK)) for i in self.blocks)

    def record(self, index: int, seed: int = 0) -> SetRecord:
        """Record `index` of this part."""
        if self.whole:
            return self.source.record(index, seed)
        turn, place = divmod(check_index(index, len(self)), len(self.blocks) * BLOCK)
        block, inside = divmod(place, BLOCK)
        return self.source.record((turn * self.every + self.blocks[block]) * BLOCK + inside, seed)


def splits_of(
    train: ImageSet, val: ImageSet | None, test: ImageSet | None, held_out: int | None
) -> dict[str, ImageSet]:
    """The data set of each split. Where val or test is None, it is a block in `held_out` of train, which then lacks it.

    The records of val and of test do not depend on whether the other one is given. With held_out None nothing is held
    out: val and test are train. So it is with a reader that says that its records are the user's `own`, where they are
    fewer than a round of blocks: all of them are needed for training. Raises ValueError for held_out < 3.
    """
    given = {"val": val, "test": test}
    if held_out is None:
        return {"train": train, **{name: train if source is None else source for name, source in given.items()}}
    if type(held_out) is not int or held_out < 3:
        raise ValueError(
            f"held_out={held_out!r} must be at least 3, as one part in so many is val's and another one test's, or "
            "null to hold nothing out"
        )
    taken = [HELD_OUT[name] for name in given if given[name] is None]
    if not taken:
        return {"train": train, **given}
    rest = [block for block in range(held_out) if block not in taken]
    least = held_out * BLOCK if getattr(train, "own", False) else 0
    parts = {name: Part(train, [HELD_OUT[name]], held_out, least) for name in given if given[name] is None}
    return {"train": Part(train, rest, held_out, least), **(given | parts)}
