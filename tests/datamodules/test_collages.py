"""CollageData: rows of clips side by side, most of them alike, in grids that a formatter takes."""

import itertools

import numpy as np
import pytest
import torch
import yaml
from tiny import CONF

from datamodules.emoji.names import base_of
from datamodules.pretraining.clips import MOMENTS
from datamodules.pretraining.collages import ALIKE, CollageData, CollageForm
from unigen.formatters.grid import rows_of

FORMS = yaml.safe_load((CONF / "data" / "collages.yaml").read_text())["forms"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> CollageData:
    folder = tmp_path_factory.mktemp("collages")
    made = CollageData(
        size=32, limit=280, cache=folder, batch_size=5, clips=400, forms=FORMS, test_items=4, val_items=4
    )
    made.prepare_data()
    return made


def test_every_form_is_a_grid_whose_last_image_is_the_target(data):
    batches = list(data.test_dataloader())
    assert len(batches) == len(FORMS)
    for batch in batches:
        form = FORMS[batch.keys[0].split("/")[1]]
        rows = rows_of(batch.slots)
        assert [len(row) for row in rows] == [form["images"]] * form["rows"]
        roles = [slot.role for slot in batch.slots]
        assert roles[-1] == "target" and roles.count("target") == 1
        assert roles.count("example") == (form["rows"] - 1) * form["images"]
        assert all(batch.images[slot.name].shape == (4, 1, 3, 32, 32) for slot in batch.slots)


def test_the_last_row_is_the_clip_and_rows_are_alike_as_often_as_said(data):
    dataset = data.dataset("train")
    alike = 0
    for i in range(300):
        clip = dataset.plan(i)
        above, last = dataset.rows(i, clip, 2)
        assert last == clip
        same = above._replace(glyphs=clip.glyphs) == clip
        alike += same
        if same and len(clip.glyphs) == 2:
            one, other = (base_of(dataset.images.names[glyph]) for glyph in above.glyphs)
            assert one == other, "a family clip shows one family"
    assert alike / 300 == pytest.approx(ALIKE, abs=0.07)


def test_a_collage_shows_its_rows_in_order_and_depends_on_its_number_alone(data):
    dataset = data.dataset("train")
    form = CollageForm(3, 2, 1.0)
    for i in range(12):
        clip = dataset.plan(i)
        images = dataset.frames(form, i, clip)[1]
        rows = dataset.rows(i, clip, 3)
        for number, row in enumerate(rows):
            shown = dataset.draw(row, [0.0, 4 / (MOMENTS - 1)])[1]
            assert np.array_equal(np.stack(shown), np.stack(images[2 * number : 2 * number + 2]))
        assert not np.array_equal(images[0], images[4]), "another glyph"
    one, other = data.dataset("train")["pair_2", 7, 0], data.dataset("train")["pair_2", 7, 99]
    assert all(torch.equal(one.images[name], other.images[name]) for name in one.images)
    assert not torch.equal(one.images["target"], data.dataset("train")["pair_2", 8, 0].images["target"])


def test_training_draws_every_form(data):
    batches = itertools.islice(data.train_dataloader(), 60)
    assert {batch.keys[0].split("/")[1] for batch in batches} == set(FORMS)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"rows": 0, "images": 2, "share": 1.0}, "forms.odd.rows=0 must be a whole number from 1 to 5"),
        ({"rows": 1, "images": 2.5, "share": 1.0}, "forms.odd.images=2.5 must be a whole number from 1 to 5"),
        ({"rows": 1, "share": 1.0}, "forms.odd has the keys rows, share; it must have rows, images, share"),
        ({"rows": 1, "images": 1, "share": -1.0}, "the share of 'odd' in data.forms is -1.0"),
    ],
)
def test_a_wrong_form_is_refused(form, said):
    with pytest.raises(ValueError, match=said):
        CollageData(size=32, limit=40, forms={"odd": form})
