"""The order of a large set: every record once an epoch, window by window, the same from any start."""

from itertools import islice, pairwise

import pytest

from datamodules.sets.order import WindowBatchSampler, window_of


def stream(n: int, window: int, seed: int = 0, epochs: int = 2, start: int = 0) -> list[int]:
    sampler = WindowBatchSampler(n, 1, seed, start, window)
    return [index for ((index, _),) in islice(sampler, epochs * n - start)]


@pytest.mark.parametrize(("n", "window"), [(23, 5), (20, 5), (7, 10), (5, 1)])
def test_an_epoch_has_every_record_once_window_by_window(n, window):
    order = stream(n, window)
    for epoch in (order[:n], order[n:]):
        assert sorted(epoch) == list(range(n))
        windows = [window_of(index, n, window).start for index in epoch]
        changes = sum(one != other for one, other in pairwise(windows))
        assert changes == len(set(windows)) - 1, "a window is left before it is through"


def test_windows_are_shuffled_inside_and_among_each_other_anew_each_epoch():
    order = stream(60, 6)
    first, second = order[:60], order[60:]
    assert first != second and first != stream(60, 6, seed=1)[:60]
    windows = list(dict.fromkeys(index // 6 for index in first))
    assert windows != sorted(windows)
    inside = [[index % 6 for index in first if index // 6 == window] for window in windows]
    assert len({tuple(order) for order in inside}) > 5 and list(range(6)) != inside[0]


def test_a_run_goes_on_exactly_from_the_middle():
    whole = stream(23, 5)
    for start in (1, 22, 23, 30):
        assert stream(23, 5, start=start) == whole[start:]
    assert stream(23, 5, start=3) != stream(23, 5)[:-3]


def test_windows():
    assert window_of(7, 12, 5) == range(5, 10) and window_of(11, 12, 5) == range(10, 12)
    assert window_of(7, 12, None) == range(12)
    for wrong in (0, -1, 2.5):
        with pytest.raises(ValueError, match="window="):
            WindowBatchSampler(10, 1, 0, 0, wrong)
