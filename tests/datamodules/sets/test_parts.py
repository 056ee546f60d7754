"""Parts of a data set: every record in one split, pairs together, the same whatever else is given."""

from itertools import chain

import pytest

from datamodules.sets.base import LazyImage, SetRecord
from datamodules.sets.parts import Part, splits_of


class Numbered:
    """Records whose key is their number; records 2k and 2k + 1 are a pair."""

    names = ("target",)

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def record(self, index: int, seed: int = 0) -> SetRecord:
        if not 0 <= index < self.n:
            raise IndexError(index)
        image = LazyImage(lambda: None, lambda: (1, 1))
        return SetRecord(str(index), {"target": image}, {"target": (f"seed {seed}",)}, origin=str(index // 2))


def numbers(part: Part) -> list[int]:
    return [int(part.record(i).key) for i in range(len(part))]


@pytest.mark.parametrize("n", [0, 1, 5, 6, 7, 11, 12, 13, 50, 997])
@pytest.mark.parametrize("held_out", [3, 6, 10])
def test_every_record_is_in_one_split_and_pairs_stay_together(n, held_out):
    parts = splits_of(Numbered(n), None, None, held_out)
    found = {name: numbers(part) for name, part in parts.items()}
    assert sorted(chain.from_iterable(found.values())) == list(range(n)) and all(
        part == sorted(part) for part in found.values()
    )
    homes = [{name for name, part in found.items() if {2 * k, 2 * k + 1} & set(part)} for k in range((n + 1) // 2)]
    assert all(len(home) == 1 for home in homes)
    for name in ("val", "test"):
        assert abs(len(found[name]) - n / held_out) <= 2
    with pytest.raises(IndexError):
        parts["train"].record(len(parts["train"]))


def test_records_lie_where_they_are_said_to():
    parts = splits_of(Numbered(13), None, None, 3)
    assert {name: numbers(part) for name, part in parts.items()} == {
        "train": [4, 5, 10, 11],
        "val": [0, 1, 6, 7, 12],
        "test": [2, 3, 8, 9],
    }
    assert parts["val"].record(4, seed=7).captions == {"target": ("seed 7",)} and parts["val"].names == ("target",)


def test_what_is_given_is_taken_and_moves_nothing():
    train, other = Numbered(60), Numbered(4)
    both, given = splits_of(train, None, None, 5), splits_of(train, None, other, 5)
    assert given["test"] is other and numbers(given["val"]) == numbers(both["val"])
    assert set(numbers(given["train"])) == set(numbers(both["train"])) | set(numbers(both["test"]))
    assert splits_of(train, other, other, 5) == {"train": train, "val": other, "test": other}


@pytest.mark.parametrize("n", range(12))
def test_of_a_few_images_of_ones_own_all_train(n):
    """A published set keeps its parts; one's own is held out of from a whole round of blocks on."""
    own = Numbered(n)
    own.own = True
    parts, published = splits_of(own, None, None, 5), splits_of(Numbered(n), None, None, 5)
    assert [part.whole for part in parts.values()] == [n < 10] * 3
    for name, part in parts.items():
        assert numbers(part) == (list(range(n)) if n < 10 else numbers(published[name]))
    assert n < 10 or sum(map(len, parts.values())) == n
    given = splits_of(own, None, Numbered(3), 5)
    assert (len(given["train"]) == n) is (n < 10) or (n == 0 and numbers(given["test"]) == [0, 1, 2])


def test_nothing_is_held_out_if_that_is_asked():
    train, other = Numbered(40), Numbered(4)
    assert splits_of(train, None, other, None) == {"train": train, "val": train, "test": other}


@pytest.mark.parametrize("held_out", [2, 0, -3, 2.5, True])
def test_one_part_must_be_left(held_out):
    with pytest.raises(ValueError, match="held_out="):
        splits_of(Numbered(9), None, None, held_out)


@pytest.mark.parametrize("blocks", [[], [1, 0], [0, 0], [5]])
def test_blocks_are_rising_numbers_of_a_round(blocks):
    with pytest.raises(ValueError, match="blocks="):
        Part(Numbered(9), blocks, 5)
