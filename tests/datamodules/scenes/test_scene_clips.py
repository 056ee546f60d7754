"""SceneClips: clips by their number alone, prompts about their last moment, and what is withheld from pretraining."""

import itertools
import random

import numpy as np
import pytest
import torch

from datamodules.emoji.names import base_of
from datamodules.emoji.splits import split_of
from datamodules.reading.drawing import canny
from datamodules.scenes.captions import LONGEST
from datamodules.scenes.clip_pairs import SceneClipPairs
from datamodules.scenes.clips import CHANGE_SHARES, CHANGES, SceneClips, stage_at
from datamodules.scenes.maps import KINDS
from datamodules.scenes.render import render, render_scene
from datamodules.scenes.scene import draw_scene

SIZE, LIMIT = 32, 240
FORMS = {
    "still": {"first": False, "frames": 1, "share": 0.2},
    "clip4": {"first": False, "frames": 4, "share": 0.3},
    "next": {"first": True, "frames": 1, "share": 0.5},
}


@pytest.fixture(scope="module")
def make(folder):
    def made(kind=SceneClips, **changes):
        options = {"size": SIZE, "batch_size": 8, "val_items": 4, "test_items": 4, "clips": 500, "forms": FORMS}
        data = kind(**{**options, "cache": folder, "limit": LIMIT, **changes})
        data.prepare_data()
        return data

    return made


def test_a_clip_depends_on_its_number_alone(make):
    one, other = make(seed=0).dataset("train"), make(seed=7, clips=900, batch_size=3).dataset("train")
    for i in range(30):
        assert one.plan(i) == other.plan(i)
        for name in FORMS:
            a, b = one[name, i, 0], other[name, i, 99]
            assert (a.prompt, a.key, a.slots) == (b.prompt, b.key, b.slots)
            assert all(torch.equal(a.images[slot], b.images[slot]) for slot in a.images)
    assert len({one.plan(i).seed for i in range(30)}) == 30
    assert make().dataset("val").plan(0) != one.plan(0)


def test_a_clip_begins_and_ends_with_its_scenes(make):
    dataset = make(kinds={"image": 1.0}).dataset("train")
    for i in range(40):
        clip = dataset.plan(i)
        first, last = dataset.draw(clip, [0.0, 1.0])
        assert np.array_equal(first, render_scene(dataset.sprites, clip.start, SIZE).image)
        assert np.array_equal(last, render_scene(dataset.sprites, clip.end, SIZE).image)
        assert np.array_equal(first, last) == (clip.start == clip.end) or not clip.words


@pytest.mark.parametrize("change", [change for change in CHANGES if change != "still"])
def test_every_change_is_seen_and_said(make, change):
    dataset = make(kinds={"image": 1.0}, changes={change: 1.0}).dataset("train")
    clips = [clip for clip in map(dataset.plan, range(60)) if clip.words]
    assert clips
    for clip in clips[:10]:
        assert clip.start != clip.end
        frames = dataset.draw(clip, [0.0, 0.5, 1.0])
        assert change == "layers" or (frames[0] != frames[2]).any()
        fields = [name for name in clip.start._fields if getattr(clip.start, name) != getattr(clip.end, name)]
        expected = {"backdrop": {"backdrop", "ground"}, "second": {"second"}, "layers": {"subject_in_front"}}
        assert set(fields) <= expected.get(change, {"subject"})


def withheld(clip) -> bool:
    """Whether a clip shows what the task of a subject in another scene asks for."""
    before, after = clip.start, clip.end
    moved = before.subject.place != after.subject.place and before.subject.size != after.subject.size
    return moved and before.backdrop.colour != after.backdrop.colour


def test_no_clip_shows_a_subject_in_another_scene(make):
    dataset = make().dataset("train")
    clips = [dataset.plan(i) for i in range(400)]
    assert not any(map(withheld, clips))
    assert any(clip.start.backdrop != clip.end.backdrop for clip in clips), "backgrounds change"
    scene = clips[0].start
    other = draw_scene(random.Random(0), scene.subject.glyph, (), scene.style, dataset.sprites.clashes, scene)
    assert withheld(clips[0]._replace(end=other)), "negative control: the task's own pair would be found"
    with pytest.raises(ValueError, match="is withheld"):
        make(changes={"move+backdrop+resize": 1.0})


def test_a_clip_is_of_one_kind_throughout(make):
    """So no map and its image are in one clip."""
    dataset = make(kinds={"canny": 0.5, "image": 0.5}).dataset("train")
    kinds = set()
    for i in range(20):
        clip = dataset.plan(i)
        rendered = [render(dataset.sprites, stage_at(clip, amount, SIZE)) for amount in (0.0, 1.0)]
        shown = dataset.draw(clip, [0.0, 1.0])
        expected = [canny(moment.image) if clip.kind == "canny" else moment.image for moment in rendered]
        assert all(np.array_equal(a, b) for a, b in zip(shown, expected, strict=True))
        kinds.add(clip.kind)
    assert kinds == {"canny", "image"}


def test_prompts_fit_and_say_kind_and_change(make):
    dataset = make().dataset("train")
    told = 0
    for i in range(300):
        clip = dataset.plan(i)
        moving, still = dataset.prompt(clip, True), dataset.prompt(clip, False)
        assert max(len(moving.encode()), len(still.encode())) <= LONGEST
        assert all(clip.end.subject.place in said and KINDS[clip.kind][1] in said for said in (still, moving))
        told += moving != still
        assert moving == still or moving.endswith(f", {clip.words}")
    assert told > 80


def test_the_subjects_of_splits_are_apart(make):
    data = make()
    for split in ("train", "val", "test"):
        dataset = data.dataset(split)
        shown = {base_of(thing.glyph) for i in range(100) for scene in dataset.plan(i)[:2] for thing in scene.things}
        assert {split_of(base) for base in shown} == {split}


def test_batches_have_one_form_and_go_on(make):
    data = make(seed=3)
    batches = list(itertools.islice(data.train_dataloader(), 6))
    data.start_batch = 4
    again = next(iter(data.train_dataloader()))
    assert again.keys == batches[4].keys != batches[5].keys
    assert len({tuple(batch.slots) for batch in batches}) > 1
    assert [batch.slots[0].name for batch in data.val_dataloader()][:1] == ["first"]
    assert data.fit_images(5).shape == (5, 3, SIZE, SIZE)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"changes": {"explode": 1.0}}, "unknown change 'explode'"),
        ({"kinds": {"photo": 1.0}}, "unknown kind 'photo'"),
        ({"clips": 0}, "at least 1"),
        ({"tasks": ["subject"]}, "must be"),
    ],
)
def test_wrong_options_are_refused(make, wrong, said):
    with pytest.raises(ValueError, match=said):
        make(**wrong)


def test_the_shares_are_of_changes_that_exist():
    assert {part for name in CHANGE_SHARES for part in name.split("+")} == set(CHANGES)


# --- clip to clip --------------------------------------------------------------------------------------------------


def test_a_pair_of_clips_moves_alike(make):
    forms = {"depth": {"condition": "depth", "frames": 3, "share": 1.0}}
    data = make(SceneClipPairs, forms=forms, tasks=["depth>clip"], changes={"move": 1.0})
    dataset = data.dataset("train")
    sample = dataset["depth", 1, 0]
    assert {name: tuple(x.shape) for name, x in sample.images.items()} == {
        "condition0": (3, 3, SIZE, SIZE),
        "clip": (3, 3, SIZE, SIZE),
    }
    clip = dataset.plan(1)
    for frame, amount in enumerate((0.0, 0.5, 1.0)):
        rendered = render(dataset.sprites, stage_at(clip, amount, SIZE))
        assert np.array_equal(sample.images["clip"][frame].numpy(), rendered.image)
        assert np.array_equal(sample.images["condition0"][frame].numpy(), KINDS["depth"][0](rendered))
    assert sample.task == "depth>clip" == data.tasks[0]
    with pytest.raises(ValueError, match="legal are"):
        make(SceneClipPairs, forms={"x": {"condition": "smell", "frames": 3, "share": 1.0}}, tasks=["smell>clip"])
