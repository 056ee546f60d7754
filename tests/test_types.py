"""Batches: stacked samples of one signature."""

import pytest
import torch

from unigen.types import ImageSlot, Sample, collate

SLOTS = (ImageSlot("c", "condition", 16, 16), ImageSlot("x", "target", 16, 16))


def sample(key: str, slots=SLOTS) -> Sample:
    images = {s.name: torch.zeros(1, 3, s.height, s.width, dtype=torch.uint8) for s in slots}
    return Sample(slots, images, f"a {key}", (key,), "canny", key)


def test_collate_stacks():
    made = collate([sample("cat"), sample("dog")])
    assert len(made) == 2 and made.keys == ["cat", "dog"] and made.subjects == [("cat",), ("dog",)]
    assert {n: x.shape for n, x in made.images.items()} == dict.fromkeys(("c", "x"), (2, 1, 3, 16, 16))
    assert made.images["c"].dtype == torch.uint8 and made.slots == SLOTS


def test_collate_refuses_mixed_sizes_and_names_both():
    wide = sample("dog", (SLOTS[0], SLOTS[1]._replace(width=32)))
    with pytest.raises(ValueError, match="samples 'cat' and 'dog' have different slots"):
        collate([sample("cat"), wide])
