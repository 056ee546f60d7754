"""EmojiGraph: the images around an emoji that an annotation graph needs, all of them from the designers' drawings.

`target` is Twemoji's drawing of a glyph. Around it (VisualCloze, section 3.2, for the kinds):
- degradations: the 32 of `datamodules.degradations`; `grey` is their `gray` by the name that the mini tasks have
- maps: `canny`, `sobel` (soft edges), `mask` (how opaque it is), `bbox` (the box of that), `foreground` (it over black)
- styles: `openmoji`, the same glyph drawn by others, and the two layers of that drawing: `line`, its outlines, and
  `colour_layer`, its colours; `openmoji_ref`, `line_ref` and `colour_layer_ref` are another glyph in that style
- edits: `skin_tone` and `gender`, Twemoji's drawing of the glyph that differs in this alone
- `reference`: the target moved, turned and made smaller, the same subject elsewhere

Hair and direction, which also come in variants, are no edits here: all glyphs with hair have one base, so they lie in
one split, and those that face right have six. Neither package has depth, normals or another scene.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from datamodules import degradations
from datamodules.emoji.cache import KINDS, LAYERS, EmojiImages, glyphs
from datamodules.emoji.names import GENDERS, TONES, ZWJ, base_of
from datamodules.graph.sampling import Task, meant
from datamodules.pretraining.motions import posed, random_pose
from datamodules.sets.online import COMPUTED as ONLINE_MAPS
from datamodules.sets.online import Draw, degraded
from unigen.core.noise import mix

STYLES = ("openmoji", "line", "colour_layer")
# A gendered person: the one without, and the gender.
GENDERED = {
    "1f468": ("1f9d1", "man"),
    "1f469": ("1f9d1", "woman"),
    "1f466": ("1f9d2", "man"),
    "1f467": ("1f9d2", "woman"),
    "1f474": ("1f9d3", "man"),
    "1f475": ("1f9d3", "woman"),
    "1f934": ("1fac5", "man"),
    "1f478": ("1fac5", "woman"),
    "1f930": ("1fac4", "woman"),
    "1fac3": ("1fac4", "man"),
    "1f57a": ("1f483", "man"),
    "1f936": ("1f385", "woman"),
    "1f46c": ("1f46b", "man"),
    "1f46d": ("1f46b", "woman"),
    **{sign: ("", gender) for sign, gender in GENDERS.items()},
}
FAMILY = "1f46a"  # Twemoji draws all families alike
NO_SKIN = frozenset({"1f3c2", "1f3c7"})  # snowboarder and jockey show a few pixels of it
# Where OpenMoji keeps everything in its line group, as code points and ranges of them.
NO_COLOUR_LAYER = """1f1e6-1f1e7 1f1e9-1f1ed 1f1f0-1f1f3 1f1f5-1f1f7 1f1f9 1f1fb-1f1ff 1f300 1f376 1f3bc 1f3c1 1f3f3
1f48c 1f493 1f49a-1f49c 1f4a4 1f4ac-1f4ad 1f4ce 1f500-1f502 1f53c-1f53d 1f550-1f567 1f587 1f5e8 1f5ef 1f90d 2122 23cf
23e9-23ef 23f8-23f9 25ab 25b6 25c0 25fb 25fd 26aa 2744 2754-2755 2b1c a9 ae"""
NO_LINE = "1f17f 1f193-1f195 1f250"  # and where it has none
BLOCKS = (
    (0x23, "keycaps"),
    (0x80, "letterlike symbols"),
    (0x2190, "arrows"),
    (0x2300, "miscellaneous technical"),
    (0x2460, "enclosed alphanumerics"),
    (0x25A0, "geometric shapes"),
    (0x2600, "miscellaneous symbols"),
    (0x2700, "dingbats"),
    (0x2900, "arrows"),
    (0x2B1B, "geometric shapes"),
    (0x3000, "enclosed characters"),
    (0x1F000, "games"),
    (0x1F100, "enclosed characters"),
    (0x1F1E6, "flags"),
    (0x1F200, "enclosed characters"),
    (0x1F300, "symbols and pictographs"),
    (0x1F600, "emoticons"),
    (0x1F680, "transport and maps"),
    (0x1F7E0, "geometric shapes"),
    (0x1F90C, "symbols and pictographs"),
)


class Row(NamedTuple):
    """One row of a sample: the glyphs (by index) that it and its style references show, and its place in a sample."""

    glyph: int
    other: int
    sample: int  # a seed that all rows of the sample share
    number: int  # 0 for the first example; the query comes last


class EmojiGraph:
    """The images of a row by name, uint8 (3, size, size).

    shared_degradations: whether the rows of a sample share the kind and the strength of a degradation, so that an
        example shows what to undo; its noise is drawn for every row either way. Else every row draws all of it, as
        VisualCloze's released code does. The pose of `reference`, and which skin tone or gender an edit prefers, are
        always shared.
    """

    def __init__(self, images: EmojiImages, shared_degradations: bool) -> None:
        self.images, self.shared_degradations = images, shared_degradations
        self.layers = EmojiImages(images.size, images.names, images.folder, LAYERS)
        self.relatives = {name: _relatives(images.names, attribute) for name, attribute in ATTRIBUTES.items()}
        self._lacking = {"line": _codes(NO_LINE), "colour_layer": _codes(NO_COLOUR_LAYER)}

    def prepare(self, tasks: Iterable[Task]) -> None:
        """Draw the image caches that these tasks need if they are not there."""
        self.images.prepare()
        if {name.removesuffix("_ref") for task in tasks for name in task.images} & {*LAYERS, *COMPUTED}:
            self.layers.prepare()

    def check(self, tasks: Sequence[Task], where: str) -> None:
        """Check the names of tasks' images. Raises ValueError, with the nearest legal name, for one that no
        glyph has.
        """
        for task in tasks:
            for name in task.images:
                if name not in NAMES:
                    raise ValueError(
                        f"{where}: the emoji have no image '{name}', which task {task.name} needs{meant(name, NAMES)}"
                    )

    def needs(self, task: Task) -> frozenset[str]:
        """The images of a task that some glyphs lack."""
        names = {name.removesuffix("_ref") for name in task.images}
        return frozenset(names & {*self.relatives, *self._lacking})

    def has(self, index: int, name: str) -> bool:
        """True if a glyph has an image of this name, or for a style reference can be one."""
        name = name.removesuffix("_ref")
        if name in self.relatives:
            return index in self.relatives[name]
        return self.images.names[index] not in self._lacking.get(name, ())

    def shown(self, name: str, row: Row) -> int:
        """The glyph that an image of the row shows: the row's own, a relative (edits) or another one (references)."""
        if name.endswith("_ref"):
            return row.other
        if name not in self.relatives:
            return row.glyph
        words = ["", *TONES.values()] if name == "skin_tone" else ["", *GENDERS.values()]
        random.Random(mix(row.sample, name)).shuffle(words)
        return min(self.relatives[name][row.glyph], key=lambda relative: [words.index(word) for word in relative[0]])[1]

    def image(self, name: str, row: Row) -> np.ndarray:
        """One image of a row: a fresh array or a read-only view. `name` is one of NAMES."""
        index, name = self.shown(name, row), name.removesuffix("_ref")
        if name in KINDS:
            return self.images.image(name, index)
        if name in LAYERS:
            return self.layers.image(name, index)
        target = self.images.image("twemoji", index)
        if name in COMPUTED:
            return COMPUTED[name](target, self.layers.image("mask", index))
        if name == "reference":
            return posed(target, random_pose(random.Random(mix(row.sample, name))))
        if name == "target" or name in self.relatives:
            return target
        return degraded(target, name, Draw(row.sample, row.number, self.shared_degradations))

    def of_image(self, name: str, image: np.ndarray, sample: int) -> np.ndarray:
        """The image that a row of sample `sample` shows under a name of OF_IMAGES if `image` is its target."""
        if name in MAPS:
            return MAPS[name](image)
        return degraded(image, name, Draw(sample, 0, self.shared_degradations))


def category(glyph: str) -> str:
    """The sort of thing that a glyph shows, in words: 'people' if it has skin tones or genders, else by its Unicode
    block.

    Neither package has the groups that the Unicode consortium sorts emoji into.
    """
    codes = glyph.split("-")
    if codes[-1] == "e007f":
        return "flags"
    if base_of(glyph) in _people():
        return "people"
    return BLOCKS[bisect(BLOCKS, int(codes[0], 16), key=lambda block: block[0]) - 1][1]


@cache
def _people() -> frozenset[str]:
    """The bases of all glyphs that show a skin tone or a gender."""
    return frozenset(base_of(glyph) for glyph in glyphs() if {*TONES, *GENDERED} & set(glyph.split("-")))


def sobel(target: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The steepness of the luma of uint8 (3, H, W), white where it changes by 255 within a pixel or more."""
    import cv2

    luma = cv2.cvtColor(np.ascontiguousarray(target.transpose(1, 2, 0)), cv2.COLOR_RGB2GRAY)
    x, y = (cv2.Sobel(luma, cv2.CV_16S, *order).astype(np.int32) for order in ((1, 0), (0, 1)))
    steep = np.sqrt(x * x + y * y) / 4  # of integers: cv2.magnitude rounds by where its arrays lie in memory
    return np.stack([np.rint(steep).clip(0, 255).astype(np.uint8)] * 3)


def bbox(target: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The smallest box around what is opaque by half or more, white on black."""
    rows, columns = (np.flatnonzero((mask[0] >= 128).any(axis)) for axis in (1, 0))
    box = np.zeros_like(mask)
    if len(rows):
        box[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 255
    return box


def foreground(target: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The drawing over black instead of white."""
    return (target.astype(np.int16) - (255 - mask.astype(np.int16))).clip(0, 255).astype(np.uint8)


COMPUTED: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "sobel": sobel,
    "bbox": bbox,
    "foreground": foreground,
}
MAPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # those that are made of any image
    **ONLINE_MAPS,
    "sobel": lambda image: sobel(image, image),  # the mask is for others of its kind
}
OF_IMAGES = frozenset({*MAPS, *degradations.NAMES})
Valued = tuple[str, tuple[str, ...]]


def _skin_tone(glyph: str) -> Valued:
    """(the glyph without skin tones, the tones)."""
    codes = [code for code in glyph.split("-") if code != ZWJ]
    rest = [code for code in codes if code not in TONES]
    key = glyph if codes[0] in NO_SKIN else "-".join(rest)
    return key, tuple(TONES[code] for code in codes if code in TONES) or ("",)


def _gender(glyph: str) -> Valued:
    """(the glyph without genders, the genders)."""
    codes = [code for code in glyph.split("-") if code != ZWJ]
    rest = [GENDERED[code][0] if code in GENDERED else code for code in codes]
    key = glyph if base_of(glyph) == FAMILY else "-".join(filter(None, rest))
    return key, tuple(GENDERED[code][1] for code in codes if code in GENDERED) or ("",)


ATTRIBUTES: dict[str, Callable[[str], Valued]] = {"skin_tone": _skin_tone, "gender": _gender}
NAMES = (
    "target",
    "reference",
    *ATTRIBUTES,
    *STYLES,
    *(f"{style}_ref" for style in STYLES),
    *("canny", "grey", "mask"),
    *COMPUTED,
    *degradations.NAMES,
)


def _relatives(
    names: Sequence[str], attribute: Callable[[str], Valued]
) -> dict[int, tuple[tuple[tuple[str, ...], int], ...]]:
    """{glyph: its relatives}, each a (value, index) of a glyph that differs in this attribute alone.

    They have its base, so they lie in its split; a sign or a swatch by itself has none.
    """
    families: dict[tuple[str, str], list[tuple[tuple[str, ...], int]]] = {}
    for index, name in enumerate(names):
        key, value = attribute(name)
        families.setdefault((base_of(name), key), []).append((value, index))
    return {
        index: tuple(relative for relative in family if relative[1] != index)
        for family in families.values()
        if len(family) > 1
        for _, index in family
    }


def _codes(text: str) -> frozenset[str]:
    """Write code points, and ranges of them, as glyphs."""
    ends = [[int(end, 16) for end in word.split("-")] for word in text.split()]
    return frozenset(f"{code:x}" for end in ends for code in range(end[0], end[-1] + 1))
