"""What frozen encoders computed once: right by key, computed once, bounded."""

import torch

from unigen.core.memo import Memo


class Squares:
    """Counts what it is asked for."""

    def __init__(self, values: list[int]) -> None:
        self.values, self.asked = values, []

    def __call__(self, positions: list[int]) -> torch.Tensor:
        self.asked += [self.values[i] for i in positions]
        return torch.tensor([[float(self.values[i]) ** 2] for i in positions])


def ask(memo: Memo, values: list[int]) -> tuple[list[float], list[int]]:
    squares = Squares(values)
    return memo(values, squares)[:, 0].tolist(), squares.asked


def test_each_key_is_computed_once_and_comes_back_in_order():
    memo = Memo(limit=1000)
    assert ask(memo, [3, 2, 3]) == ([9.0, 4.0, 9.0], [3, 2])
    assert ask(memo, [5, 2, 3]) == ([25.0, 4.0, 9.0], [5])
    assert ask(memo, [2, 2]) == ([4.0, 4.0], [])


def test_the_least_recently_used_ones_are_dropped():
    memo = Memo(limit=2 * 4)  # two results of one fp32
    ask(memo, [1, 2])
    ask(memo, [1])  # 2 is now the older one
    ask(memo, [3])
    assert ask(memo, [1])[1] == [] and ask(memo, [2])[1] == [2]
    assert memo.size == 8


def test_a_result_larger_than_the_limit_is_still_right():
    memo = Memo(limit=1)
    assert ask(memo, [4, 5, 4])[0] == [16.0, 25.0, 16.0]


def test_a_kept_result_is_no_view_of_its_batch():
    memo = Memo(limit=10**6)
    made = torch.arange(8.0).view(4, 2)
    memo(["a"], lambda positions: made[:1])
    made.zero_()
    assert memo(["a"], lambda positions: made[:1]).tolist() == [[0.0, 1.0]]
