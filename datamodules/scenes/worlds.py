"""The scenes around a scene: for every annotation that shows another scene, which one it shows, as facts.

A row of a sample has a target scene. Its references show the same object in another scene that shares nothing else
with it; its edited scenes differ from it in one fact; the scenes of its style references show something else.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from datamodules.emoji.names import base_of
from datamodules.emoji.splits import split_of
from datamodules.scenes.cast import Cast
from datamodules.scenes.scene import (
    OVERLAP,
    PATTERNS,
    PLACES,
    SIZES,
    STYLES,
    TILT,
    Backdrop,
    Clashes,
    Scene,
    Thing,
    draw_backdrop,
    draw_ground,
    draw_scene,
    draw_thing,
    few,
    overlap,
)
from unigen.core.colours import COLOURS
from unigen.core.noise import mix

REFERENCES = ("reference", "second_reference")
ALIKE = ("pose", "size")  # what a reference may share with the target beside the object: see `SceneRow.alike`
MOST_DRAWS = 100  # of a scene that must have two objects, as two in five have
PAIRED = frozenset({"second_reference", "one_object"})  # these need a scene of two objects


class SceneRow(NamedTuple):
    """One row of a sample: the subject of its scene, that of its style reference, its place in the sample, and whether
    its scene must have two objects.

    alike: 'pose' if its references show the object as the target does, on another background alone; 'size' if they show
    it elsewhere, but in the same size, mirrored and tilted alike; None if they share nothing but the object.
    """

    glyph: str
    other: str
    sample: int  # a seed that all rows of the sample share
    number: int  # 0 for the first example; the query comes last
    paired: bool = False
    alike: str | None = None


class Worlds:
    """The scenes of rows, drawn from the glyphs of the split that a row's subject lies in.

    names: all glyphs. clashes: see `scene.Clashes`. relatives: for an edit of the glyph itself, the glyph
    that it gives a row.
    """

    def __init__(
        self, names: Sequence[str], clashes: Clashes, relatives: Mapping[str, Callable[[SceneRow], str]]
    ) -> None:
        self.clashes, self.relatives = clashes, dict(relatives)
        by_split: dict[str, list[str]] = {}
        for name in names:
            by_split.setdefault(split_of(base_of(name)), []).append(name)
        self.casts = {split: Cast(split, found) for split, found in by_split.items()}

    def cast(self, glyph: str) -> Cast:
        """The glyphs of this glyph's split."""
        return self.casts[split_of(base_of(glyph))]

    def target(self, row: SceneRow) -> Scene:
        """The scene that a row is about."""
        return self._scene(row, "target", row.glyph, paired=row.paired)

    def style_scene(self, row: SceneRow, style: str) -> Scene:
        """The scene of a style reference: another subject, another background."""
        target = self.target(row)
        scene = self._scene(row, f"{style}_ref", row.other, other_than=target)
        return scene._replace(style=target.style)

    def scene(self, name: str, row: SceneRow) -> Scene:
        """The scene that an image of this name shows; for maps, degradations and styles of the target, the target."""
        target, rng = self.target(row), random.Random(mix(row.sample, row.number, name))
        if name == "reference":
            return self._elsewhere(target, target.subject, rng, row.alike)
        if name == "second_reference":
            return self._elsewhere(target, target.second, rng, row.alike)
        if name in self.relatives:
            return target._replace(subject=target.subject._replace(glyph=self.relatives[name](row)))
        return EDITS[name](target, rng, self) if name in EDITS else target

    def _elsewhere(self, target: Scene, thing: Thing, rng: random.Random, alike: str | None) -> Scene:
        """Another scene of an object of the target, with which it shares nothing else but what `alike` says."""
        from_here = target._replace(subject=thing, second=target.second if thing is target.subject else target.subject)
        posed = thing if alike == "pose" else None
        if alike == "size":
            posed = draw_thing(rng, thing.glyph, thing)._replace(size=thing.size, flip=thing.flip, tilt=thing.tilt)
        others = self.cast(thing.glyph).plain
        return draw_scene(rng, thing.glyph, others, target.style, self.clashes, from_here, posed)

    def _scene(
        self, row: SceneRow, purpose: str, glyph: str, paired: bool = False, other_than: Scene | None = None
    ) -> Scene:
        rng = random.Random(mix(row.sample, row.number, purpose))
        style = random.Random(mix(row.sample, "style")).choice(STYLES)  # all rows of a sample are drawn alike
        for _ in range(MOST_DRAWS):
            scene = draw_scene(rng, glyph, self.cast(glyph).plain, style, self.clashes, other_than)
            if scene.second or not paired:
                return scene
        raise ValueError(f"the split of glyph '{glyph}' has too few glyphs for a second object: raise or drop `limit`")


Edit = Callable[[Scene, random.Random, Worlds], Scene]


def swap(scene: Scene, rng: random.Random, worlds: Worlds) -> Scene:
    """Another subject in the same pose on the same background."""
    taken = {base_of(thing.glyph) for thing in scene.things}
    free = [glyph for glyph in few(rng, worlds.cast(scene.subject.glyph).plain, 24) if base_of(glyph) not in taken]
    seen = [glyph for glyph in free if scene.backdrop.colour not in worlds.clashes(glyph, scene.style)] or free
    glyph = seen[0] if seen else scene.subject.glyph
    return scene._replace(subject=scene.subject._replace(glyph=glyph))


def other_background(scene: Scene, rng: random.Random, worlds: Worlds) -> Scene:
    """The same objects on another background, with another ground or none."""
    hidden = [worlds.clashes(thing.glyph, scene.style) for thing in scene.things]
    backdrop = draw_backdrop(rng, scene.colours, hidden)
    ground = draw_ground(rng, scene.colours | backdrop.colours) if rng.random() < 0.4 else None
    return scene._replace(backdrop=backdrop, ground=ground)


def one_object(scene: Scene, rng: random.Random, worlds: Worlds) -> Scene:
    """The scene without its second object: to the target one is added, and from it one is removed."""
    return scene._replace(second=None)


def repatterned(scene: Scene, rng: random.Random, worlds: Worlds) -> Scene:
    """Another pattern on the background; its colour stays."""
    pattern = rng.choice([name for name in PATTERNS if name != scene.backdrop.pattern])
    if pattern == "plain":
        return scene._replace(backdrop=Backdrop(scene.backdrop.colour))
    second = scene.backdrop.second or rng.choice([name for name in COLOURS if name not in scene.colours])
    return scene._replace(backdrop=Backdrop(scene.backdrop.colour, pattern, second))


def recoloured(scene: Scene, rng: random.Random, worlds: Worlds) -> Scene:
    """The subject painted in one colour, other than the background's."""
    free = [name for name in COLOURS if name not in scene.colours and name not in ("white", "black")]
    return scene._replace(subject=scene.subject._replace(tint=rng.choice(free)))


def moved(scene: Scene, rng: random.Random, worlds: Worlds) -> Scene:
    """The subject elsewhere on the same background."""
    things = [scene.subject._replace(place=place) for place in PLACES if place != scene.subject.place]
    return scene._replace(subject=rng.choice(_beside(things, scene)))


def resized(scene: Scene, rng: random.Random, worlds: Worlds) -> Scene:
    """The subject in another size at the same place."""
    things = [scene.subject._replace(size=size) for size in SIZES if size != scene.subject.size]
    return scene._replace(subject=rng.choice(_beside(things, scene)))


def mirrored(scene: Scene, rng: random.Random, worlds: Worlds) -> Scene:
    """The subject mirrored."""
    return scene._replace(subject=scene.subject._replace(flip=not scene.subject.flip))


def tilted(scene: Scene, rng: random.Random, worlds: Worlds) -> Scene:
    """The subject tilted otherwise."""
    tilt = rng.choice([tilt for tilt in (-TILT, 0, TILT) if tilt != scene.subject.tilt])
    return scene._replace(subject=scene.subject._replace(tilt=tilt))


def _beside(things: Sequence[Thing], scene: Scene) -> Sequence[Thing]:
    """Those of the poses that leave the second object to be seen, if there are any."""
    if scene.second is None:
        return things
    return [thing for thing in things if overlap(thing, scene.second) <= OVERLAP] or things


EDITS: dict[str, Edit] = {
    edit.__name__: edit
    for edit in (swap, other_background, one_object, repatterned, recoloured, moved, resized, mirrored, tilted)
}
