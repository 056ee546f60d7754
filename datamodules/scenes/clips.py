"""SceneClips: short clips of scenes in which something changes, to pretrain a small video model on.

A clip goes from one scene to another that differs from it in one or two facts: the subject moves to another place,
grows or shrinks, turns or is mirrored; the background takes another colour and pattern; a second object comes or goes;
what lies in front changes. Objects go steadily; a background changes at once or gradually.

What is withheld, so that no base has seen what an ablation asks for:
- a clip is of one kind throughout (`datamodules.scenes.maps.KINDS`), so no two of its frames are a map and its image;
- never do the background, the place and the size of the subject all change in one clip, as they always do between
  condition and target of *subject in another scene*;
- nothing is recoloured, restyled or degraded, and no glyph turns into another one.
The edits that change one fact (background, second object) are what clips show: a table about them is no fair test of a
base.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.emoji.names import base_of
from datamodules.emoji.names import subject as short_name
from datamodules.pretraining.clips import FORMS, MOMENTS, ClipData, Form, check_forms
from datamodules.pretraining.motions import check_shares
from datamodules.scenes.captions import LONGEST, backdrop_words, caption, with_article
from datamodules.scenes.cast import Cast
from datamodules.scenes.maps import KINDS
from datamodules.scenes.render import Actor, Stage, actor_of, background_of, render
from datamodules.scenes.scene import (
    HORIZONS,
    OVERLAP,
    PLACES,
    SIZES,
    STYLES,
    TILT,
    Scene,
    draw_backdrop,
    draw_ground,
    draw_scene,
    draw_second,
    few,
    overlap,
)
from datamodules.scenes.sprites import Sprites
from unigen.core.noise import mix
from unigen.core.types import Sample

KIND_SHARES = {
    "image": 0.76,
    "canny": 0.07,
    "sketch": 0.05,
    "depth": 0.05,
    "grey": 0.03,
    "sobel": 0.02,
    "silhouette": 0.02,
}
CHANGE_SHARES = {
    "still": 0.04,
    "move": 0.16,
    "resize": 0.1,
    "turn": 0.06,
    "mirror": 0.04,
    "backdrop": 0.16,
    "second": 0.1,
    "layers": 0.02,
    "move+backdrop": 0.12,
    "resize+backdrop": 0.08,
    "turn+backdrop": 0.04,
    "move+resize": 0.05,
    "move+turn": 0.03,
}
UNSEEN = frozenset({"depth", "silhouette"})  # kinds that do not show what the background looks like
TOLD = 0.5  # share of clips whose prompt says the change too
SHORTEST = 56  # bytes that a caption has at least


class Room(NamedTuple):
    """What a change may draw from."""

    rng: random.Random
    cast: Cast
    sprites: Sprites


Changed = tuple[Scene, str]  # a scene, and the change in words; '' if there is nothing to change


def move(scene: Scene, room: Room) -> Changed:
    """The subject moves to another place, but not onto the second object."""
    places = [place for place in PLACES if place != scene.subject.place]
    things = {place: scene.subject._replace(place=place) for place in places}
    if scene.second:
        things = {
            place: thing
            for place, thing in things.items()
            if place != scene.second.place and overlap(thing, scene.second) <= OVERLAP
        }
    if not things:
        return scene, ""
    place = room.rng.choice(list(things))
    return scene._replace(subject=things[place]), f"moving to the {place}"


def resize(scene: Scene, room: Room) -> Changed:
    """The subject grows or shrinks, in its place."""
    things = [scene.subject._replace(size=size) for size in SIZES if size != scene.subject.size]
    if scene.second:
        things = [thing for thing in things if overlap(thing, scene.second) <= OVERLAP]
    if not things:
        return scene, ""
    thing = room.rng.choice(things)
    grows = SIZES[thing.size] > SIZES[scene.subject.size]
    return scene._replace(subject=thing), "growing" if grows else "shrinking"


def turn(scene: Scene, room: Room) -> Changed:
    """The subject turns between upright and tilted, or further."""
    old = scene.subject.tilt
    new = room.rng.choice([tilt for tilt in (-TILT, 0, TILT) if tilt != old])
    words = "turning right" if new > old else "turning left"
    return scene._replace(subject=scene.subject._replace(tilt=new)), words


def mirror(scene: Scene, room: Room) -> Changed:
    """The subject turns about its vertical axis, until it is mirrored."""
    return scene._replace(subject=scene.subject._replace(flip=not scene.subject.flip)), "turning round"


def backdrop(scene: Scene, room: Room) -> Changed:
    """The background takes other colours; every other time the ground is drawn anew."""
    hidden = [room.sprites.clashes(thing.glyph, scene.style) for thing in scene.things]
    kept = scene.ground and room.rng.random() < 0.5
    barred = scene.backdrop.colours | ({scene.ground.colour} if kept else set())
    new = scene._replace(backdrop=draw_backdrop(room.rng, barred, hidden))
    if not kept:
        ground = draw_ground(room.rng, new.backdrop.colours) if room.rng.random() < 0.35 else None
        new = new._replace(ground=ground)
    return new, f"the background turning {backdrop_words(new.backdrop, '')}"


def second(scene: Scene, room: Room) -> Changed:
    """A second object goes, or another one comes."""
    if scene.second:
        return scene._replace(second=None), f"the {short_name(scene.second.glyph)} leaving"
    glyphs = [glyph for glyph in few(room.rng, room.cast.plain) if base_of(glyph) != base_of(scene.subject.glyph)]
    found = draw_second(room.rng, scene.subject, glyphs)
    if found is None:
        return scene, ""
    return scene._replace(second=found), f"{with_article(short_name(found.glyph))} appearing"


def layers(scene: Scene, room: Room) -> Changed:
    """What lies in front changes, where two objects overlap."""
    if scene.second is None or not overlap(scene.subject, scene.second):
        return scene, ""
    words = "going behind" if scene.subject_in_front else "coming to the front"
    return scene._replace(subject_in_front=not scene.subject_in_front), words


def still(scene: Scene, room: Room) -> Changed:
    """Nothing changes."""
    return scene, ""


CHANGES: dict[str, Callable[[Scene, Room], Changed]] = {
    change.__name__: change for change in (still, move, resize, turn, mirror, backdrop, second, layers)
}


def spread(count: int) -> tuple[int, ...]:
    """That many moments, spread over a whole clip, its last one included, which the prompt is about."""
    return tuple((MOMENTS - 1) * (i + 1 if count == 1 else i) // max(1, count - 1) for i in range(count))


class SceneForm(Form):
    """A form whose moments are spread over the whole clip."""

    @property
    def moments(self) -> tuple[int, ...]:
        return spread(self.first + self.frames)


class SceneClip(NamedTuple):
    """A clip before anything is drawn: its first and last scene, the change that was drawn, the same in words ('':
    nothing changes), whether the prompt says it, the kind of image, and when a change that happens at once does, as
    progress (None: gradually).
    """

    start: Scene
    end: Scene
    change: str
    words: str
    told: bool
    kind: str
    at_once: float | None
    seed: int  # of the phrasing


class SceneClipDataset(Dataset):
    """Samples by (form, clip number, item seed). A clip depends on its split and number alone, so the seed is idle."""

    def __init__(
        self,
        sprites: Sprites,
        cast: Cast,
        size: int,
        kinds: Mapping[str, float],
        changes: Mapping[str, float],
        forms: Mapping[str, Form],
    ) -> None:
        self.sprites, self.cast, self.size = sprites, cast, size
        self.kinds, self.changes, self.forms = kinds, changes, forms

    def __getitem__(self, item: tuple[str, int, int]) -> Sample:
        name, i, _ = item
        form, clip = self.forms[name], self.plan(i)
        slots = form.slots(self.size)
        images = torch.from_numpy(np.stack(self.images(form, i, clip)))
        parts = dict(zip([slot.name for slot in slots], images.split([slot.frames for slot in slots]), strict=True))
        prompt = self.prompt(clip, len(form.moments) > 1)
        key = f"scene-{self.cast.split}-{i}/{name}"
        return Sample(slots, parts, prompt, (short_name(clip.start.subject.glyph),), "clip", key)

    def images(self, form: Form, i: int, clip: SceneClip) -> list[np.ndarray]:
        """All images of a sample in the order of its slots, uint8 (3, size, size)."""
        return self.draw(clip, amounts_of(form))

    def plan(self, i: int) -> SceneClip:
        """The content of clip number i."""
        rng = random.Random(mix("scene clip", self.cast.split, i))
        kind = rng.choices(list(self.kinds), list(self.kinds.values()))[0]
        style = rng.choice(STYLES)
        start = draw_scene(rng, self.cast.subject(i, rng), self.cast.plain, style, self.sprites.clashes)
        shares = {name: share for name, share in self.changes.items() if not (kind in UNSEEN and "backdrop" in name)}
        shares = shares if any(shares.values()) else {"still": 1.0}
        change = rng.choices(list(shares), list(shares.values()))[0]
        return self.changed(start, change, kind, rng)

    def changed(self, start: Scene, change: str, kind: str, rng: random.Random) -> SceneClip:
        """A clip that begins with a scene, in which one change happens, or several joined by '+'."""
        end, said = start, []
        for name in change.split("+"):
            end, words = CHANGES[name](end, Room(rng, self.cast, self.sprites))
            said += [words] if words else []
        at_once = rng.uniform(0.15, 0.85) if rng.random() < 0.5 or change == "layers" else None
        told, seed = rng.random() < TOLD, rng.getrandbits(62)
        return SceneClip(start, end, change, " and ".join(said), told, kind, at_once, seed)

    def draw(self, clip: SceneClip, amounts: Sequence[float]) -> list[np.ndarray]:
        """The frames, uint8 (3, size, size), of progress `amounts` in [0, 1]."""
        make = KINDS[clip.kind][0]
        return [make(render(self.sprites, stage_at(clip, amount, self.size))) for amount in amounts]

    def prompt(self, clip: SceneClip, moving: bool) -> str:
        """The caption of the last moment, its kind, and the change where it is told and leaves SHORTEST bytes."""
        kind, words = KINDS[clip.kind][1], f", {clip.words}" if clip.told and moving and clip.words else ""
        kind = f", {kind}" if kind else ""
        words = words if len((kind + words).encode()) <= LONGEST - SHORTEST else ""
        return caption(clip.end, random.Random(clip.seed), LONGEST - len((kind + words).encode())) + kind + words


def amounts_of(form: Form) -> list[float]:
    """The progress of a clip, 0 to 1, at each moment that a form shows."""
    return [moment / (MOMENTS - 1) for moment in form.moments]


def stage_at(clip: SceneClip, amount: float, side: int) -> Stage:
    """The clip at a moment of progress `amount`; at 0 it is its first scene, at 1 its last one."""
    start, end = clip.start, clip.end
    step = amount if clip.at_once is None else float(amount > clip.at_once)
    before, after = (background_of(scene.backdrop, scene.ground, side) for scene in (start, end))
    background = before
    if before is not after:
        background = np.rint(before + np.float32(step) * (after.astype(np.float32) - before)).astype(np.uint8)
    told = end if step >= 0.5 else start
    actors = {True: _between(actor_of(start.subject), actor_of(end.subject), amount)}
    if start.second and end.second:
        actors[False] = _between(actor_of(start.second), actor_of(end.second), amount)
    elif start.second or end.second:
        shown = step if end.second else 1 - step
        actors[False] = actor_of(end.second or start.second)._replace(fade=shown)
    in_front = (end if step >= 0.5 else start).subject_in_front
    order = (not in_front, in_front)
    horizon = HORIZONS[told.ground.horizon] if told.ground else 1.0
    return Stage(background, horizon, start.style, tuple(actors[k] for k in order if k in actors))


def _between(first: Actor, last: Actor, amount: float) -> Actor:
    """An object on its way from one pose to another."""
    if first == last:
        return first
    x, y, size, wide, turned = (a + (b - a) * amount for a, b in zip(first[1:6], last[1:6], strict=True))
    return first._replace(x=x, y=y, size=size, wide=wide, turn=turned)


def check_changes(changes: Mapping[str, Any]) -> dict[str, float]:
    """The share of each change, or of several joined by '+'. Raises ValueError for what is unknown or withheld."""
    found = check_shares("changes", changes)
    for names in (name.split("+") for name in changes):
        unknown = [name for name in names if name not in CHANGES]
        if unknown:
            raise ValueError(f"unknown change '{unknown[0]}' in changes: legal changes are {', '.join(CHANGES)}")
        if {"move", "resize", "backdrop"} <= set(names):
            raise ValueError(
                f"changes: '{'+'.join(names)}' is what the task of a subject in another scene asks for, and is withheld"
            )
    return found


def check_scene_forms(forms: Mapping[str, Mapping[str, Any]]) -> dict[str, Form]:
    """The table of forms. Raises ValueError, naming the form, as that of `ClipData` does."""
    return {name: SceneForm(*form) for name, form in check_forms(forms).items()}


class SceneClips(ClipData):
    """Clips of scenes of `size` x `size` pixels in batches of `unigen.core.types.Batch`; every batch has one form.

    clips: how many training clips there are; clip i is the same whatever `seed` is. An epoch shows each once.
    forms: as in `ClipData`, but the moments that a form shows are spread over the whole clip.
    kinds: {kind of image: share of the clips}; kinds as in `datamodules.scenes.maps.KINDS`.
    changes: {change, or several joined by '+': share of the clips}; changes as in CHANGES.
    val_items, test_items: this many clips of held-out glyphs, each shown in every form. The rest is as in `ClipData`.

    Prompts, of at most `captions.LONGEST` bytes, say what the last moment shows; in half of the clips also the change.
    Raises ValueError for an unknown name or a number out of range.
    """

    samples = SceneClipDataset
    check_forms = staticmethod(check_scene_forms)

    def __init__(
        self,
        *,
        size: int = 64,
        tasks: Sequence[str] = ("clip",),
        batch_size: int = 32,
        seed: int = 0,
        clips: int = 1048576,
        forms: Mapping[str, Mapping[str, Any]] = FORMS,
        kinds: Mapping[str, float] = KIND_SHARES,
        changes: Mapping[str, float] = CHANGE_SHARES,
        val_items: int = 64,
        test_items: int = 64,
        num_workers: int = 0,
        cache: str | Path | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(
            size=size,
            tasks=tasks,
            batch_size=batch_size,
            seed=seed,
            clips=clips,
            forms=forms,
            val_items=val_items,
            test_items=test_items,
            num_workers=num_workers,
            cache=cache,
            limit=limit,
        )
        self.kinds = check_shares("kinds", kinds, tuple(KINDS))
        self.motions = check_changes(changes)
        self.sprites = Sprites(self.size, self.emoji.images.names, cache)

    def prepare_data(self) -> None:
        """Draw the caches that are not there. Lightning calls this on one process per machine."""
        self.sprites.prepare()

    def fit_images(self, n: int) -> Tensor:
        """Last moments of `n` training clips, uint8 (n, 3, size, size), the same for every seed."""
        self.prepare_data()
        dataset = self.dataset("train")
        return torch.from_numpy(np.stack([dataset.draw(dataset.plan(i), [1.0])[0] for i in range(n)]))

    def dataset(self, split: str) -> SceneClipDataset:
        """The clips of 'train', 'val' or 'test'. Raises ValueError if `limit` left the split empty."""
        cast = Cast(split, [self.emoji.images.names[index] for index in self.emoji.indices[split]])
        return self.samples(self.sprites, cast, self.size, self.kinds, self.motions, self.forms)
