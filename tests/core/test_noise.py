"""The clock rule, and randomness that is a function of its keys."""

import subprocess
import sys

import torch

from unigen.core.layout import Layout, Segment, text_segment
from unigen.core.noise import clock, generator, mix, normal

LAYOUT = Layout((text_segment(2), *(Segment(str(c), "buffer", "visual", (1, 1, 1), cap=c) for c in (0.0, 0.25, 1.0))))


def test_clock_is_the_smaller_of_time_and_cap():
    found = clock(LAYOUT, torch.tensor([0.0, 0.125, 0.25, 0.75, 1.0]))
    assert found.tolist() == [
        [0, 0, 0, 0],
        [0, 0, 0.125, 0.125],
        [0, 0, 0.25, 0.25],
        [0, 0, 0.25, 0.75],
        [0, 0, 0.25, 1],
    ]
    assert clock(LAYOUT.with_caps({"0.25": 0.5}), torch.tensor([1.0]))[0, 2] == 0.5, "negative control"


def test_clock_is_fp32_whatever_comes_in():
    assert clock(LAYOUT, torch.tensor([0.5], dtype=torch.float64)).dtype == torch.float32


def test_mix_depends_on_every_key_and_their_order():
    keys = [
        (0, "train", 1, 0),
        (0, "train", 0, 1),
        (1, "train", 1, 0),
        (0, "test", 1, 0),
        (0, "train", 10),
        ("0", "train", 1, 0),
        ("0/train", 1, 0),
    ]
    assert len({mix(*k) for k in keys}) == len(keys)
    assert all(0 <= mix(*k) < 2**63 for k in keys)


def test_mix_is_the_same_in_every_process():
    code = "from unigen.core.noise import mix; print(mix(0, 'train', 7, 'ü'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == mix(0, "train", 7, "ü") == 4243574290682834509


def test_generators_with_equal_keys_draw_alike():
    a, b, c = (torch.randn(8, generator=generator(0, "x", i)) for i in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_one_generator_for_each_sample_makes_samples_independent():
    def drawn(*keys: int) -> torch.Tensor:
        return normal((len(keys), 2, 3), [generator(k) for k in keys])

    assert torch.equal(drawn(1, 2), drawn(2, 1).flip(0)) and torch.equal(drawn(1, 2)[:1], drawn(1))
    assert not torch.equal(drawn(1, 2)[0], drawn(1, 2)[1])
    assert torch.equal(normal((2, 3), generator(1)), torch.randn(2, 3, generator=generator(1)))
