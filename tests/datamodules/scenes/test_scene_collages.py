"""SceneCollages: rows of clips of scenes side by side, most of them alike, in grids that a formatter takes."""

import numpy as np
import pytest
import torch
import yaml
from tiny import CONF

from datamodules.emoji.names import base_of
from datamodules.pretraining.collages import ALIKE
from datamodules.scenes.collages import SceneCollageForm, SceneCollages
from datamodules.scenes.render import render_scene
from unigen.formatters.grid import rows_of

FORMS = yaml.safe_load((CONF / "data" / "scene_collages.yaml").read_text())["forms"]
SIZE = 32


@pytest.fixture(scope="module")
def data(folder) -> SceneCollages:
    made = SceneCollages(
        size=SIZE, limit=240, cache=folder, batch_size=5, clips=400, forms=FORMS, test_items=4, val_items=4
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
        assert all(batch.images[slot.name].shape == (4, 1, 3, SIZE, SIZE) for slot in batch.slots)


def test_rows_are_alike_as_often_as_said_and_never_of_one_subject(data):
    dataset = data.dataset("train")
    alike = 0
    for i in range(300):
        clip = dataset.plan(i)
        above, last = dataset.rows(i, clip, 2)
        assert last == clip
        assert base_of(above.start.subject.glyph) != base_of(clip.start.subject.glyph)
        same = (above.kind, above.change) == (clip.kind, clip.change)
        alike += same
    pairs = [(dataset.plan(i), dataset.plan(i + 7)) for i in range(300)]
    chance = sum((a.kind, a.change) == (b.kind, b.change) for a, b in pairs)
    assert alike / 300 == pytest.approx(ALIKE, abs=0.12)
    assert chance / 300 < 0.4, "negative control: two clips are rarely alike"


def test_a_row_ends_with_its_last_scene_and_a_collage_depends_on_its_number_alone(data):
    dataset, form = data.dataset("train"), SceneCollageForm(3, 2, 1.0)
    for i in range(12):
        clip = dataset.plan(i)._replace(kind="image")
        images = dataset.images(form, i, clip)
        assert len(images) == 6
        assert np.array_equal(images[4], render_scene(dataset.sprites, clip.start, SIZE).image)
        assert np.array_equal(images[5], render_scene(dataset.sprites, clip.end, SIZE).image)
        assert not np.array_equal(images[0], images[4]), "another scene"
    one, other = data.dataset("train")["pair_2", 7, 0], data.dataset("train")["pair_2", 7, 99]
    assert all(torch.equal(one.images[name], other.images[name]) for name in one.images)
    assert not torch.equal(one.images["target"], data.dataset("train")["pair_2", 8, 0].images["target"])


def test_what_clips_withhold_collages_withhold():
    with pytest.raises(ValueError, match="is withheld"):
        SceneCollages(size=SIZE, forms=FORMS, changes={"move+resize+backdrop": 1.0})


def test_a_wrong_form_is_refused():
    with pytest.raises(ValueError, match=r"data\.forms\.a\.rows=9 must be a whole number from 1 to 5"):
        SceneCollages(size=SIZE, forms={"a": {"rows": 9, "images": 2, "share": 1.0}})
