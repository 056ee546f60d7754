"""Batches: stacked samples of one signature."""

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from tiny import batch
from torch.utils.data._utils.pin_memory import pin_memory

from unigen.core.types import Batch, ImageSlot, Sample, collate, rows_of

SLOTS = (ImageSlot("c", "condition", 16, 16), ImageSlot("x", "target", 16, 16))


def sample(key: str, slots=SLOTS) -> Sample:
    images = {s.name: torch.zeros(1, 3, s.height, s.width, dtype=torch.uint8) for s in slots}
    return Sample(slots, images, f"a {key}", (key,), "canny", key)


def test_collate_stacks():
    made = collate([sample("cat"), sample("dog")])
    assert len(made) == 2 and made.keys == ["cat", "dog"] and made.subjects == [("cat",), ("dog",)]
    assert {n: x.shape for n, x in made.images.items()} == dict.fromkeys(("c", "x"), (2, 1, 3, 16, 16))
    assert made.images["c"].dtype == torch.uint8 and made.slots == SLOTS


def test_an_item_without_clusters_is_one_by_itself():
    told = sample("cat")._replace(clusters={"subject": "cat", "prompt": "in the jungle"})
    made = collate([told, sample("dog")])
    assert made.clusters == [dict(told.clusters), {"key": "dog"}] and rows_of(made, [1]).clusters == [{"key": "dog"}]
    assert rows_of(batch(), [0]).clusters == [], "a batch that says none"


def test_collate_refuses_mixed_sizes_and_names_both():
    wide = sample("dog", (SLOTS[0], SLOTS[1]._replace(width=32)))
    with pytest.raises(ValueError, match="samples 'cat' and 'dog' have different slots"):
        collate([sample("cat"), wide])


def test_a_batch_is_moved_and_pinned_with_its_values(monkeypatch):
    """Without CUDA nothing is pinned for real: that every image is asked, and that a copy to CUDA does not wait."""
    asked, copies = [], []
    whole = batch()
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: asked.append(x) or x.clone())
    pinned = pin_memory({"nested": [whole]})["nested"][0]  # as the thread of a loader does
    assert len(asked) == len(whole.images) and type(pinned) is Batch and pinned.prompts == whole.prompts
    assert all(torch.equal(pinned.images[n], x) and pinned.images[n] is not x for n, x in whole.images.items())
    moved = move_data_to_device(whole, torch.device("cpu"))
    assert type(moved) is Batch and all(torch.equal(moved.images[n], x) for n, x in whole.images.items())
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *a, **k: copies.append((a, k)) or x)
    for device, waits in (("cuda", False), ("cpu", True), ("mps", True)):
        copies.clear()
        move_data_to_device(whole, torch.device(device))
        assert copies == [((torch.device(device),), {"non_blocking": not waits})] * len(whole.images)
