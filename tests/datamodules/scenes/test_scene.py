"""Scenes: facts that are drawn as they say, images that show them, and captions that say them within the window."""

import random

import numpy as np
import pytest

from datamodules.emoji.names import subject
from datamodules.scenes.captions import LONGEST, caption
from datamodules.scenes.render import background_of, box_of, depth_of, render_scene
from datamodules.scenes.scene import (
    OVERLAP,
    PATTERNS,
    PLACES,
    SIZES,
    STYLES,
    Backdrop,
    Ground,
    Scene,
    Thing,
    draw_scene,
    overlap,
)
from datamodules.scenes.sprites import DRAWINGS, Sprites
from unigen.core.colours import COLOURS, NAMED, nearest_colours

DUCK, APPLE, COOK = "1f986", "1f34e", "1f469-1f3fd-200d-1f373"
GLYPHS = (APPLE, DUCK, COOK, "1f30d", "1f68c", "1f9d1-200d-1f680", "2764")
SIDE = 64


@pytest.fixture(scope="module")
def sprites(folder):
    found = Sprites(SIDE, sorted(GLYPHS), folder)
    found.prepare()
    return found


def scenes(sprites, count: int = 60) -> list[Scene]:
    drawn = []
    for seed in range(count):
        rng = random.Random(seed)
        drawn.append(draw_scene(rng, rng.choice(GLYPHS), GLYPHS, rng.choice(STYLES), sprites.clashes))
    return drawn


def test_a_scene_is_a_function_of_its_seed(sprites):
    assert scenes(sprites) == scenes(sprites) and len(set(scenes(sprites))) == 60


def test_two_objects_hardly_overlap_and_are_two(sprites):
    pairs = [scene for scene in scenes(sprites, 200) if scene.second]
    assert len(pairs) > 40
    for scene in pairs:
        assert scene.second.place != scene.subject.place and scene.second.glyph != scene.subject.glyph
        assert overlap(scene.subject, scene.second) <= OVERLAP
    assert overlap(Thing("", "middle", "large"), Thing("", "middle", "small")) == 1, "the measure sees an overlap"


def test_another_scene_shares_nothing_but_the_subject(sprites):
    shared = 0
    for seed, scene in enumerate(scenes(sprites, 200)):
        other = draw_scene(
            random.Random(seed), scene.subject.glyph, GLYPHS, scene.style, sprites.clashes, other_than=scene
        )
        assert (other.subject.glyph, other.style) == (scene.subject.glyph, scene.style)
        assert not scene.colours & other.colours
        assert other.subject.place != scene.subject.place and other.subject.size != scene.subject.size
        assert other.backdrop.pattern != scene.backdrop.pattern or other.backdrop.pattern == "plain"
        free = draw_scene(random.Random(seed), scene.subject.glyph, GLYPHS, scene.style, sprites.clashes)
        shared += bool(scene.colours & free.colours)
    assert shared > 20, "without other_than they often would"


def test_a_background_does_not_hide_its_objects(sprites):
    assert "red" in sprites.clashes(APPLE, "twemoji")
    for scene in scenes(sprites):
        assert scene.backdrop.colour not in sprites.clashes(scene.subject.glyph, scene.style)


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_the_first_colour_of_a_background_has_the_most_pixels(pattern):
    backdrop = Backdrop("red", pattern, None if pattern == "plain" else "white")
    named = nearest_colours(background_of(backdrop, None, SIDE).reshape(-1, 3))
    counts = np.bincount(named, minlength=len(NAMED))
    assert NAMED[counts.argmax()] == "red" and counts.max() > 0.4 * SIDE**2
    assert (counts[NAMED.index("white")] > 100) == (pattern != "plain")


def test_every_colour_is_its_own_nearest():
    assert [NAMED[i] for i in nearest_colours(np.array(list(COLOURS.values())))] == list(COLOURS)


@pytest.mark.parametrize("size", list(SIZES))
@pytest.mark.parametrize("place", list(PLACES))
def test_an_object_lies_where_the_scene_says(sprites, place, size):
    rendered = render_scene(sprites, Scene(Backdrop("blue"), None, "twemoji", Thing(DUCK, place, size)), SIDE)
    left, top, right, bottom = box_of(rendered.masks[0])
    x, y = Thing(DUCK, place, size).centre
    assert abs((left + right) / 2 - x * SIDE) <= 1 and abs((top + bottom) / 2 - y * SIDE) <= 1
    assert abs(max(right - left, bottom - top) - SIZES[size] * SIDE) <= 1
    outside = ~(rendered.masks[0] > 0)
    assert (rendered.image[:, outside] == np.array(COLOURS["blue"])[:, None]).all()


def test_mirrored_and_tilted_objects_look_so(sprites):
    def image(**pose):
        scene = Scene(Backdrop("blue"), None, "twemoji", Thing(DUCK, "middle", "large", **pose))
        return render_scene(sprites, scene, SIDE).image.astype(int)

    assert np.abs(image(flip=True)[..., ::-1] - image()).mean() < 2 < np.abs(image(flip=True) - image()).mean()
    assert np.abs(image(tilt=20) - image()).mean() > 2
    assert np.abs(image(tint="purple") - image()).mean() > 2


def test_masks_and_depth_know_what_is_in_front(sprites):
    thing, other = Thing("1f30d", "middle", "large"), Thing("2764", "bottom right", "medium")
    front = render_scene(sprites, Scene(Backdrop("white"), Ground("green", "low"), "twemoji", thing, other, True), SIDE)
    back = render_scene(sprites, Scene(Backdrop("white"), Ground("green", "low"), "twemoji", thing, other, False), SIDE)
    shared = (front.masks[1] >= 128) & (back.masks[1] >= 128)
    assert shared.any() and not ((front.masks[0] >= 128) & (front.masks[1] >= 128)).any()
    assert (front.image[:, shared] != back.image[:, shared]).any()
    depth = depth_of(front)
    assert depth[0, 0] < depth[-1, 0] < depth[front.masks[0] >= 128].min() < depth[front.masks[1] >= 128].min()
    assert (np.diff(depth[front.horizon :, 0].astype(int)) >= 0).all(), "the ground comes nearer"


@pytest.mark.parametrize("drawing", list(DRAWINGS))
def test_a_sprite_is_laid_over_any_background(sprites, drawing):
    sprite = sprites.sprite(COOK, drawing).astype(int)
    assert (sprite[..., :3] <= sprite[..., 3:]).all() and sprite[..., 3].max() == 255


def test_captions_say_the_facts_in_several_ways_and_fit(sprites):
    scene = Scene(
        Backdrop("red", "stripes", "blue"), Ground("green", "low"), "twemoji", Thing(DUCK, "bottom left", "small")
    )
    said = {caption(scene, random.Random(seed)) for seed in range(20)}
    assert said == {
        "a small duck at the bottom left on a red background with blue stripes, low green ground",
        "red background with blue stripes, low green ground, small duck at the bottom left",
        "small duck bottom left, on red with blue stripes, low green ground",
    }
    for number, drawn in enumerate(scenes(sprites, 300)):
        words = caption(drawn, random.Random(number))
        assert len(words.encode()) <= LONGEST
        assert subject(drawn.subject.glyph) in words and drawn.subject.place in words and drawn.backdrop.colour in words


def test_every_glyph_can_be_said():
    from datamodules.emoji.cache import glyphs

    other = Thing(max(glyphs(), key=lambda glyph: len(subject(glyph))), "bottom right", "small", True, 20)
    for glyph in glyphs()[::7]:
        scene = Scene(
            Backdrop("turquoise", "two-tone", "orange"),
            Ground("yellow", "low"),
            "openmoji",
            Thing(glyph, "bottom left", "small", True, 20),
            other,
        )
        words = caption(scene, random.Random(0))
        assert len(words.encode()) <= LONGEST and subject(glyph) in words and "turquoise" in words
