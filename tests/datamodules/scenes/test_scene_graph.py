"""Scenes as an annotation graph: what every image shows, samples by their number alone, facts that fit the images."""

import itertools
import json
import pickle

import numpy as np
import pytest
import torch
import yaml
from tiny import CONF

from datamodules import degradations
from datamodules.emoji.cache import EmojiImages
from datamodules.emoji.names import base_of
from datamodules.emoji.splits import split_of
from datamodules.graph.graph import AnnotationGraph
from datamodules.reading.drawing import canny
from datamodules.scenes import maps
from datamodules.scenes.captions import LONGEST
from datamodules.scenes.data import SceneGraphData
from datamodules.scenes.facts import scene_of
from datamodules.scenes.graph import NAMES, OTHER_STYLE, SceneGraph
from datamodules.scenes.render import render_scene
from datamodules.scenes.worlds import EDITS, SceneRow

COOKS = tuple(f"{who}{tone}-200d-1f373" for who in ("1f468", "1f469", "1f9d1") for tone in ("", "-1f3fb", "-1f3ff"))
DUCK = "1f986"
GLYPHS = tuple(sorted((*COOKS, DUCK, "1f34e", "1f30d", "1f68c", "1f344", "1f415", "1f697", "1f3b8", "1f511")))
SIZE = 64


@pytest.fixture(scope="module")
def graph() -> AnnotationGraph:
    config = yaml.safe_load((CONF / "graph" / "scenes.yaml").read_text())
    return AnnotationGraph(**{key: value for key, value in config.items() if key != "_target_"})


@pytest.fixture(scope="module")
def records(folder) -> SceneGraph:
    found = SceneGraph(EmojiImages(SIZE, GLYPHS, folder), True)
    found.prepare(())
    return found


def rows(count: int = 12, paired: bool = True, glyph: str = COOKS[4]) -> list[SceneRow]:
    return [SceneRow(glyph, DUCK, sample, 0, paired) for sample in range(count)]


def test_the_graph_has_every_kind_of_task_and_graph200ks_annotations(graph):
    assert set(graph.nodes) <= {*NAMES, *(name.removesuffix("_ref") for name in NAMES)}
    assert len(graph.nodes) >= 50 and set(graph.of_kind("degradation")) - {"grey"} == set(degradations.NAMES) - {"gray"}
    released = yaml.safe_load((CONF / "graph" / "graph200k.yaml").read_text())["groups"]
    ours = yaml.safe_load((CONF / "graph" / "scenes.yaml").read_text())["groups"]
    assert all(set(groups) <= set(ours[meta_task]) for meta_task, groups in released.items())
    assert graph.strongly_connected()
    trained = {task.name for task in graph.training_tasks}
    assert {"reference>target", "depth>target", "one_object>target", "target>one_object"} <= trained
    assert "recoloured>target" not in trained and "recoloured>target" in {task.name for task in graph.held_out_tasks}


@pytest.mark.parametrize("name", NAMES)
def test_every_image_can_be_drawn_and_is_deterministic(records, name):
    row = rows(1)[0]
    image = records.image(name, row)
    assert image.dtype == np.uint8 and image.shape == (3, SIZE, SIZE)
    again = pickle.loads(pickle.dumps(records))
    assert np.array_equal(image, again.image(name, row))
    assert any(not np.array_equal(image, records.image(name, other)) for other in rows(6))


@pytest.mark.parametrize("edit", list(EDITS))
def test_an_edited_scene_differs_in_what_its_name_says(records, edit):
    fields = {
        "swap": {"subject": {"glyph"}},
        "other_background": {"backdrop": None, "ground": None},
        "one_object": {"second": None},
        "repatterned": {"backdrop": None},
        "recoloured": {"subject": {"tint"}},
        "moved": {"subject": {"place"}},
        "resized": {"subject": {"size"}},
        "mirrored": {"subject": {"flip"}},
        "tilted": {"subject": {"tilt"}},
    }[edit]
    for row in rows():
        target, edited = records.scene("target", row), records.scene(edit, row)
        changed = {name for name in target._fields if getattr(target, name) != getattr(edited, name)}
        assert changed and changed <= set(fields)
        if inside := fields.get("subject"):
            own = zip(target.subject._fields, target.subject, edited.subject, strict=True)
            assert {name for name, old, new in own if old != new} <= inside
        if edit == "repatterned":
            assert target.backdrop.colour == edited.backdrop.colour
        if edit == "other_background":
            assert not target.colours & edited.colours


def test_a_reference_shows_the_same_object_and_nothing_else_of_the_scene(records):
    for row in rows(30):
        target = records.scene("target", row)
        for name, thing in (("reference", target.subject), ("second_reference", target.second)):
            other = records.scene(name, row)
            assert other.subject.glyph == thing.glyph and other.style == target.style
            assert not other.colours & target.colours
            assert other.subject.place != thing.place and other.subject.size != thing.size
            bases = {base_of(shown.glyph) for shown in target.things}
            assert other.second is None or base_of(other.second.glyph) not in bases


def test_relatives_differ_in_one_attribute(records):
    for row in rows(6):
        subject = records.scene("target", row).subject
        for name in ("skin_tone", "gender"):
            other = records.scene(name, row).subject
            assert other.glyph != subject.glyph and base_of(other.glyph) == base_of(subject.glyph)
            assert other._replace(glyph=subject.glyph) == subject


def test_maps_are_those_of_the_target(records):
    for row in rows(4):
        scene = records.scene("target", row)
        rendered = render_scene(records.sprites, scene, SIZE)
        own = scene.things.index(scene.subject)
        assert np.array_equal(records.image("target", row), rendered.image)
        assert np.array_equal(records.image("canny", row), canny(rendered.image))
        assert np.array_equal(records.image("depth", row), maps.depth(rendered))
        assert np.array_equal(records.image("mask", row), maps.mask(rendered, own))
        assert not np.array_equal(maps.mask(rendered, own), maps.mask(rendered, 1 - own))
        empty = records.image("background", row)
        assert (empty == rendered.image)[:, ~(rendered.masks > 0).any(0)].all()
        assert (empty != rendered.image).any()
        redrawn = scene._replace(style=OTHER_STYLE[scene.style])
        assert np.array_equal(records.image("redrawn", row), render_scene(records.sprites, redrawn, SIZE).image)


# --- samples -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def make(graph, folder):
    def made(**changes) -> SceneGraphData:
        options = {"size": 32, "batch_size": 6, "val_items": 4, "test_items": 6, "cache": folder, "limit": 400}
        data = SceneGraphData(graph=graph, **{**options, "rows": [0, 1], **changes})
        data.prepare_data()
        return data

    return made


def test_a_sample_depends_on_its_number_alone(make):
    one, other = make(seed=0), make(seed=5, batch_size=2)
    a, b = one.dataset("train", one.forms), other.dataset("train", other.forms)
    keys = set()
    for form in one.forms:
        for number in (0, 7, 900):
            x, y = a[form, number, 1], b[form, number, 99]
            assert (x.key, x.prompt, x.facts) == (y.key, y.prompt, y.facts)
            assert all(torch.equal(x.images[slot], y.images[slot]) for slot in x.images)
            keys.add((form, x.key))
    assert len(keys) == 3 * len(one.forms)


def test_a_run_goes_on_where_it_was(make):
    data = make()
    batches = list(itertools.islice(data.train_dataloader(), 4))
    data.start_batch = 3
    again = next(iter(data.train_dataloader()))
    assert again.keys == batches[3].keys != batches[2].keys
    assert all(torch.equal(again.images[name], batches[3].images[name]) for name in again.images)


def test_splits_are_apart_and_prompts_fit(make):
    data = make(rows=[0, 0])
    for split, loader in (("train", data.train_dataloader()), ("val", data.val_dataloader())):
        for batch in itertools.islice(loader, 6):
            for facts, prompt, words in zip(batch.facts, batch.prompts, batch.subjects, strict=True):
                scene = scene_of(json.loads(facts))
                assert {split_of(base_of(thing.glyph)) for thing in scene.things} == {split}
                assert len(prompt.encode()) <= LONGEST and words[0] in prompt


def test_facts_are_those_of_the_first_target(make):
    data = make(rows=[0, 0], tasks=["reference>target"])
    batch = next(iter(data.test_dataloader()))
    for i, text in enumerate(batch.facts):
        facts = json.loads(text)
        rendered = render_scene(data.records.sprites, scene_of(facts), 32)
        assert np.array_equal(batch.images["target"][i, 0].numpy(), rendered.image)
        assert not np.array_equal(batch.images["condition"][i, 0].numpy(), rendered.image)
        assert facts["condition"] and not set(facts["condition"]) & set(facts["colours"])


def test_references_may_keep_the_pose_or_the_size_in_training_alone(make):
    pose = ("place", "size", "flip", "tilt")
    options = {"rows": [0, 0], "tasks": ["reference>target"]}

    def kept(share, split="train"):
        data = make(reference_alike=share, **options)
        dataset = data.dataset(split, data.forms)
        _, rows = zip(
            *(dataset.plan((next(iter(data.forms)), n, n)) for n in range(min(40, len(dataset)))), strict=True
        )
        pairs = [(data.records.scene("target", row), data.records.scene("reference", row)) for (row,) in rows]
        assert not any(here.colours & there.colours for here, there in pairs)
        return [{key for key in pose if getattr(a.subject, key) == getattr(b.subject, key)} for a, b in pairs]

    assert all(same == set(pose) for same in kept({"pose": 1.0}))
    assert all(same == {"size", "flip", "tilt"} for same in kept({"size": 1.0}))
    assert not any({"place", "size"} & same for same in [*kept(None), *kept({"pose": 1.0}, "val")])
    mixed = kept({"pose": 0.3, "size": 0.4})
    assert {("place" in same, "size" in same) for same in mixed} == {(True, True), (False, True), (False, False)}


@pytest.mark.parametrize("shares", [{"place": 1}, {"pose": -0.1}, {"pose": 0.6, "size": 0.6}, {"size": "0.1"}, 0.3])
def test_what_references_keep_is_checked(make, shares):
    with pytest.raises(ValueError, match=r"reference_alike=.* must be null or shares of .* for pose and size"):
        make(reference_alike=shares)


@pytest.mark.parametrize("task", ["other_background>target", "target>other_background", "swap>target", "canny>target"])
def test_facts_know_the_colours_of_a_condition_with_another_background(make, task):
    data = make(rows=[0, 0], tasks=[task])
    found = [json.loads(text) for text in next(iter(data.test_dataloader())).facts]
    if "background" in task:
        assert all(facts["condition"] and not set(facts["condition"]) & set(facts["colours"]) for facts in found)
    else:
        assert [facts["condition"] for facts in found] == [None] * len(found)


def test_results_are_said_where_they_are_no_scene(make):
    data = make(rows=[0, 0], tasks=["target>depth"])
    assert all(prompt.endswith(", depth") for prompt in next(iter(data.test_dataloader())).prompts)
    silent = make(rows=[0, 0], tasks=["target>depth"], results_said=False)
    assert not any("depth" in prompt for prompt in next(iter(silent.test_dataloader())).prompts)


def test_an_unknown_image_is_refused_with_the_nearest_name(records, graph):
    task = graph.training_tasks[0]._replace(conditions=("detph",))
    with pytest.raises(ValueError, match="did you mean 'depth'"):
        records.check([task], "tasks")
