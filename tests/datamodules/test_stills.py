"""Single images for a codec: kinds, variation, splits."""

import random

import numpy as np
import pytest
import torch

from datamodules.emoji.names import base_of
from datamodules.pretraining.stills import StillsData, varied

KINDS = {"twemoji": 0.5, "canny": 0.5}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> StillsData:
    made = StillsData(
        size=32,
        kinds=KINDS,
        batch_size=8,
        seed=0,
        val_items=6,
        test_items=6,
        cache=tmp_path_factory.mktemp("cache"),
        limit=200,
    )
    made.prepare_data()
    return made


def first(loader) -> list:
    stream = iter(loader)
    return [next(stream) for _ in range(3)]


def test_batches_hold_one_image_a_sample_and_resume(data):
    batches = first(data.train_dataloader())
    assert batches[0].images["image"].shape == (8, 1, 3, 32, 32) and batches[0].slots == data.slots
    data.start_batch = 1
    later = first(data.train_dataloader())
    data.start_batch = None
    assert torch.equal(later[0].images["image"], batches[1].images["image"])
    assert not torch.equal(later[0].images["image"], batches[0].images["image"]), "negative control"


def test_training_mixes_kinds_and_the_test_has_a_loader_for_each(data):
    tasks = {task for batch in first(data.train_dataloader()) for task in batch.tasks}
    assert tasks == set(KINDS)
    loaders = data.test_dataloaders_by_kind()
    glyphs = {}
    for kind, loader in loaders.items():
        batches = list(loader)
        assert {task for batch in batches for task in batch.tasks} == {kind}
        glyphs[kind] = [key.split("/")[0] for batch in batches for key in batch.keys]
    assert glyphs["twemoji"] == glyphs["canny"] and 0 < len(glyphs["canny"]) <= 6


def test_held_out_images_are_as_drawn_and_training_ones_are_not(data):
    (batch,) = data.test_dataloaders_by_kind()["twemoji"]
    names = data.emoji.images.names
    drawn = [data.emoji.images.image("twemoji", names.index(key.split("/")[0])) for key in batch.keys]
    assert np.array_equal(batch.images["image"][:, 0].numpy(), np.stack(drawn))
    train = first(data.train_dataloader())[0]
    plain = [data.emoji.images.image(t, names.index(k.split("/")[0])) for k, t in zip(train.keys, train.tasks)]
    assert not np.array_equal(train.images["image"][:, 0].numpy(), np.stack(plain))


def test_training_and_held_out_glyphs_share_no_base(data):
    bases = {s: {base_of(data.emoji.images.names[i]) for i in found} for s, found in data.emoji.indices.items()}
    assert not bases["train"] & (bases["val"] | bases["test"]) and bases["train"]
    seen = {base_of(key.split("/")[0]) for batch in first(data.train_dataloader()) for key in batch.keys}
    assert seen <= bases["train"]


def test_variation_keeps_the_pixels_values():
    image = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8)
    results = [varied(image, random.Random(seed)) for seed in range(40)]
    assert all(sorted(x.ravel()) == sorted(image.ravel()) for x in results)
    assert any(np.array_equal(x, image) for x in results) and len({x.tobytes() for x in results}) > 10


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"'sketch'.*twemoji, openmoji, line, canny, grey"):
        StillsData(size=32, kinds={"sketch": 1.0}, batch_size=8, seed=0, val_items=6, test_items=6)
