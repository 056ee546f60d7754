"""SceneStills: every kind of image, keyed batches, and a test of each kind alone."""

import pytest
import torch

from datamodules.scenes.stills import KINDS, SceneStills

SIZE = 32


@pytest.fixture(scope="module")
def make(folder):
    def made(**changes) -> SceneStills:
        options = {"size": SIZE, "kinds": dict.fromkeys(KINDS, 1.0), "batch_size": 24, "seed": 0}
        options |= {"val_items": 6, "test_items": 6, "cache": folder, "limit": 240, "scenes": 400}
        data = SceneStills(**{**options, **changes})
        data.prepare_data()
        return data

    return made


def test_training_shows_every_kind_and_repeats_itself(make):
    one, again = (next(iter(make().train_dataloader())) for _ in range(2))
    assert torch.equal(one.images["image"], again.images["image"]) and one.keys == again.keys
    assert len(set(one.tasks)) > 5
    assert not torch.equal(one.images["image"], next(iter(make(seed=1).train_dataloader())).images["image"])


def test_each_kind_is_tested_by_itself(make):
    loaders = make().test_dataloaders_by_kind()
    assert set(loaders) == set(KINDS)
    shown = {kind: next(iter(loader)) for kind, loader in loaders.items()}
    assert all(set(batch.tasks) == {kind} for kind, batch in shown.items())
    assert len({batch.images["image"].numpy().tobytes() for batch in shown.values()}) == len(KINDS)


def test_images_to_fit_are_fixed(make):
    one, other = make(seed=0).fit_images(4), make(seed=9).fit_images(4)
    assert one.shape == (4, 3, SIZE, SIZE) and torch.equal(one, other)


def test_wrong_options_are_refused(make):
    with pytest.raises(ValueError, match="unknown kind 'photo'"):
        make(kinds={"photo": 1.0})
    with pytest.raises(ValueError, match="at least 1"):
        make(scenes=0)
