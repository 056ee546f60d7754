"""SceneGraph: the images around a scene that an annotation graph needs, every one of them exact.

`target` is the scene. Around it (VisualCloze, section 3.2, for the kinds):
- degradations: the 32 of `datamodules.degradations`, of the target; `grey` is their `gray`
- maps: `canny`, `sobel`, `sketch` (line art), `depth`, `normal`, `mask` and `bbox` (of the subject), `layout` (both
  boxes), `segmentation`, `silhouette`, `foreground`, `background` (the empty scene), `cutout` (the subject alone)
- the course of painting it: `paint1` (the bare colour), `paint2` (pattern and ground), `paint3` (shapes of one colour)
- styles: `redrawn` by the other designers, `line` and `colour_layer` (the outlines, the colours of OpenMoji), `night`,
  `sepia`; their `_ref` is another scene in that style
- edits, `reference` and `second_reference`: other scenes, see `datamodules.scenes.worlds`
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np

from datamodules import degradations
from datamodules.emoji.cache import EmojiImages
from datamodules.emoji.images import ATTRIBUTES, EmojiGraph, Row
from datamodules.graph.sampling import Task, meant
from datamodules.reading.drawing import canny, grey
from datamodules.scenes import maps
from datamodules.scenes.render import Rendered, background_of, render, render_scene, stage_of
from datamodules.scenes.scene import Backdrop, Scene
from datamodules.scenes.sprites import Sprites
from datamodules.scenes.worlds import EDITS, PAIRED, REFERENCES, SceneRow, Worlds
from datamodules.sets.online import Draw, degraded

OTHER_STYLE = {"twemoji": "openmoji", "openmoji": "twemoji"}
# Light that is left of red, green and blue, and what is added.
NIGHT = np.array([[0.30, 0.34, 0.62]], np.float32), np.array([[4, 6, 34]], np.float32)
SEPIA = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]], np.float32)


def night(image: np.ndarray) -> np.ndarray:
    """The image in the dark: dim and blue."""
    kept, added = NIGHT
    return np.rint(image * kept.T[..., None] + added.T[..., None]).clip(0, 255).astype(np.uint8)


def sepia(image: np.ndarray) -> np.ndarray:
    """The image as an old photograph."""
    return np.rint(np.einsum("dc,chw->dhw", SEPIA, image)).clip(0, 255).astype(np.uint8)


def in_style(sprites: Sprites, scene: Scene, style: str, side: int) -> np.ndarray:
    """The scene in one of STYLES, uint8 (3, side, side)."""
    if style in ("night", "sepia"):
        return {"night": night, "sepia": sepia}[style](render_scene(sprites, scene, side).image)
    if style == "redrawn":
        return render_scene(sprites, scene._replace(style=OTHER_STYLE[scene.style]), side).image
    stage = stage_of(scene, side, {"line": "line", "colour_layer": "flat"}[style])
    if style == "line":
        drawn = maps.sketch(np.ascontiguousarray(stage.background.transpose(2, 0, 1)))
        stage = stage._replace(background=np.ascontiguousarray(drawn.transpose(1, 2, 0)))
    return render(sprites, stage).image


def painted(sprites: Sprites, scene: Scene, step: int, side: int) -> np.ndarray:
    """The scene after step 1, 2 or 3 of painting it, uint8 (3, side, side)."""
    if step == 1:
        return np.ascontiguousarray(background_of(Backdrop(scene.backdrop.colour), None, side).transpose(2, 0, 1))
    if step == 2:
        return np.ascontiguousarray(background_of(scene.backdrop, scene.ground, side).transpose(2, 0, 1))
    rendered = render_scene(sprites, scene, side)
    image = np.ascontiguousarray(background_of(scene.backdrop, scene.ground, side).transpose(2, 0, 1)).astype(
        np.float32
    )
    for mask in rendered.masks:
        weight = mask.astype(np.float32) / 255
        mean = (rendered.image * weight).sum((1, 2)) / max(1.0, float(weight.sum()))
        image += weight * (mean[:, None, None] - image)
    return np.rint(image).astype(np.uint8)


def _subject(scene: Scene) -> int:
    """The subject's number among the objects of a rendered scene."""
    return scene.things.index(scene.subject)


def _cutout(rendered: Rendered, scene: Scene) -> np.ndarray:
    visible = rendered.masks[_subject(scene)] >= 128
    return np.where(visible, rendered.image, 255).astype(np.uint8)


OF_IMAGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "canny": canny,
    "sobel": maps.sobel,
    "sketch": maps.sketch,
    "grey": grey,
}
OF_SCENES: dict[str, Callable[[Rendered, Scene], np.ndarray]] = {
    "depth": lambda rendered, scene: maps.depth(rendered),
    "normal": lambda rendered, scene: maps.normal(rendered),
    "mask": lambda rendered, scene: maps.mask(rendered, _subject(scene)),
    "bbox": lambda rendered, scene: maps.box(rendered, _subject(scene)),
    "layout": lambda rendered, scene: maps.layout(rendered, _subject(scene)),
    "segmentation": lambda rendered, scene: maps.segmentation(rendered, _subject(scene)),
    "silhouette": lambda rendered, scene: maps.three(255 * rendered.covered.astype(np.uint8)),
    "foreground": lambda rendered, scene: maps.foreground(rendered),
    "cutout": _cutout,
}
PAINTED = {"paint1": 1, "paint2": 2, "paint3": 3}
STYLES = ("redrawn", "line", "colour_layer", "night", "sepia")
NAMES = (
    "target",
    *REFERENCES,
    *EDITS,
    *ATTRIBUTES,
    *STYLES,
    *(f"{style}_ref" for style in STYLES),
    *OF_IMAGES,
    *OF_SCENES,
    "background",
    *PAINTED,
    *degradations.NAMES,
)


class SceneGraph(EmojiGraph):
    """The images of a row by name, uint8 (3, size, size). A row's glyphs are as in `EmojiGraph`.

    shared_degradations: as in `EmojiGraph`.
    """

    def __init__(self, images: EmojiImages, shared_degradations: bool) -> None:
        super().__init__(images, shared_degradations)
        self.sprites = Sprites(images.size, images.names, images.folder)
        edits = {name: lambda row, name=name: self._relative(name, row) for name in ATTRIBUTES}
        self.worlds = Worlds(images.names, self.sprites.clashes, edits)
        self._number = {name: index for index, name in enumerate(images.names)}
        self._scene = lru_cache(maxsize=64)(self.worlds.scene)
        self.rendered = lru_cache(maxsize=16)(lambda scene: render_scene(self.sprites, scene, self.images.size))

    def __getstate__(self) -> dict:
        kept = {name: value for name, value in self.__dict__.items() if name not in ("_scene", "rendered", "worlds")}
        return kept

    def __setstate__(self, kept: dict) -> None:
        self.__init__(kept["images"], kept["shared_degradations"])

    def prepare(self, tasks: Iterable[Task]) -> None:
        """Draw the caches that are not there."""
        self.sprites.prepare()

    def check(self, tasks: Sequence[Task], where: str) -> None:
        """Check the names of tasks' images. Raises ValueError, with the nearest legal name, for another."""
        for task in tasks:
            for name in task.images:
                if name not in NAMES:
                    raise ValueError(
                        f"{where}: scenes have no image '{name}', which task {task.name} needs{meant(name, NAMES)}"
                    )

    def row(self, row: Row, task: Task) -> SceneRow:
        """A row in glyphs instead of their numbers, for a task."""
        names, paired = self.images.names, bool(PAIRED & set(task.images))
        return SceneRow(names[row.glyph], names[row.other], row.sample, row.number, paired)

    def scene(self, name: str, row: SceneRow) -> Scene:
        """The scene that an image of a row shows."""
        if name.endswith("_ref"):
            return self.worlds.style_scene(row, name)
        return self._scene(name, row)

    def image(self, name: str, row: SceneRow) -> np.ndarray:
        """One image of a row. `name` is one of NAMES."""
        scene, side = self.scene(name, row), self.images.size
        style = name.removesuffix("_ref")
        if style in STYLES:
            return in_style(self.sprites, scene, style, side)
        if name in PAINTED:
            return painted(self.sprites, scene, PAINTED[name], side)
        if name == "background":
            return painted(self.sprites, scene, 2, side)
        rendered = self.rendered(scene)
        if name in OF_SCENES:
            return OF_SCENES[name](rendered, scene)
        if name in OF_IMAGES:
            return OF_IMAGES[name](rendered.image)
        if name in degradations.NAMES:
            return degraded(rendered.image, name, Draw(row.sample, row.number, self.shared_degradations))
        return rendered.image

    def of_image(self, name: str, image: np.ndarray, sample: int) -> np.ndarray:
        """The image that a row of sample `sample` shows under this name if `image` is its target."""
        if name in OF_IMAGES:
            return OF_IMAGES[name](image)
        return degraded(image, name, Draw(sample, 0, self.shared_degradations))

    def _relative(self, name: str, row: SceneRow) -> str:
        """The glyph that differs from a row's in this attribute alone."""
        index = self._number[row.glyph]
        return self.images.names[self.shown(name, Row(index, index, row.sample, row.number))]
