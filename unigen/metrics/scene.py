"""Measures of facts: does an output show what its prompt says of the scene, and nothing of the condition's background.

The facts of a scene come with its sample in JSON (`Sample.facts`). Whoever draws scenes writes these keys:
- background: its named colour (`unigen.core.colours`); colours: all that the background shows
- ground: its colour or null; horizon: where it begins, 1 if there is none
- subject, and second or null: each with its box (left, top, right, bottom)
- scene: all of it, by which candidates are drawn
- condition: the colours of the condition's background and ground, or null
Lengths are shares of the image's side.

Background is what lies outside the true boxes and above the horizon. Shapes: N items, H and W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unigen.core.colours import COLOURS, NAMED, nearest_colours
from unigen.metrics.images import FACTS, require_images
from unigen.metrics.judge import judge_protocol, load_judge

Facts = dict[str, Any]
# Images, uint8 (K, 3, side, side), from facts, the side, and what differs, "subject", "second" or "place": the true
# scene first, then the same scene with other objects, or with the subject at the other places.
Draw = Callable[[Facts, int, str], np.ndarray]

GROWN = 1 / 32  # around boxes, where a shifted outline is no error of the background
UNLIKE = 60  # RGB distance from which a pixel is not of the background's colours
SEEN = 0.1  # share of the open background that the main colour has at least
LEAST = 0.01  # share of the image's pixels that an object has at least
DARKEST = 0.82  # of the ground's colour, which is shaded towards the horizon
PARAMETERS = {"library": "numpy", "version": np.__version__}


class OfFacts:
    """A score of each output by its facts alone; a subclass says how in `score` and in words in `said`."""

    name: str
    said: str
    against = FACTS
    better = "higher"

    @property
    def protocol(self) -> dict[str, str]:
        return {**PARAMETERS, "parameters": self.said}

    def __call__(self, output: Tensor, facts: Sequence[str]) -> Tensor:
        """Return scores (N,)."""
        require_images(output, output)
        pixels = output.permute(0, 2, 3, 1).cpu().numpy()
        return torch.tensor([self.score(image, json.loads(text)) for image, text in zip(pixels, facts, strict=True)])

    def score(self, image_HW3: np.ndarray, facts: Facts) -> float:
        raise NotImplementedError


class SceneBackground(OfFacts):
    """1 if the background has the prompted colours, else 0.

    That is, half of its pixels or more have one of them (or a mixture, as at the edges of a pattern), and SEEN or more
    the main one, which a large object may hide in part.
    """

    name = "scene_background"
    said = (
        f"outside the true boxes, above the horizon: half of the pixels nearest to a prompted one of {len(NAMED)} "
        f"colours, or within {UNLIKE} of two mixed, and {SEEN} nearest to the first"
    )

    def score(self, image_HW3: np.ndarray, facts: Facts) -> float:
        inside = open_background(image_HW3.shape[:2], facts)
        if not inside.any():
            return float("nan")
        named = nearest_colours(image_HW3[inside])
        right = np.isin(named, [NAMED.index(name) for name in facts["colours"]])
        right |= ~unlike_background(image_HW3, facts)[inside]
        main = (named == NAMED.index(facts["background"])).mean()
        return float(right.mean() >= 0.5 and main >= SEEN)


class SceneLeak(OfFacts):
    """The share of the background that has a colour of the condition's background and none that it should have.

    Prompted and condition's colours have nothing in common, so a model that takes its background from the prompt
    scores 0, and one that copies the condition's scores 1. NaN for an item without a condition in another scene.
    """

    name = "scene_leak"
    better = "lower"
    said = (
        f"share of pixels outside the true boxes, above the horizon, {UNLIKE} or more from the prompted colours and "
        "nearest to one of the condition's background and ground"
    )

    def score(self, image_HW3: np.ndarray, facts: Facts) -> float:
        if facts["condition"] is None:
            return float("nan")
        inside = open_background(image_HW3.shape[:2], facts)
        wrong = nearest_colours(image_HW3[inside])[unlike_background(image_HW3, facts)[inside]]
        leaked = np.isin(wrong, [NAMED.index(name) for name in facts["condition"]])
        return float(leaked.sum() / max(1, inside.sum()))


class ScenePlace(OfFacts):
    """1 if what is unlike the background lies where the subject would at the prompted place, of nine, else 0.

    Its overlap (intersection over union) with the subject, drawn at each place, must be greatest at the prompted one.
    What the subject is does not matter; the second object's box is left out. draw: see `Draw`.
    """

    name = "scene_place"
    said = (
        f"region {UNLIKE} or more from the background's colours, outside the second object's box: greatest "
        "intersection over union with the true scene, among scenes with the subject at each of the places"
    )

    def __init__(self, draw: Draw) -> None:
        self.draw = draw

    def score(self, image_HW3: np.ndarray, facts: Facts) -> float:
        free = ~boxed(image_HW3.shape[:2], [facts["second"]], 0.0)
        found = unlike_background(image_HW3, facts) & free
        drawn = self.draw(facts, image_HW3.shape[0], "place").transpose(0, 2, 3, 1)
        expected = [unlike_background(image, facts) & free for image in drawn]
        overlaps = [(found & here).sum() / max(1, (found | here).sum()) for here in expected]
        return float(overlaps[0] > max(overlaps[1:]))


class SceneSubject(OfFacts):
    """1 if the output on the true box is nearest to the true subject among the candidates, else 0.

    judge: "shipped:NAME" or a folder, whose `dino` compares images. draw: see `Draw`; by chance one in K is right.
    """

    name = "scene_subject"
    which = "subject"

    def __init__(self, judge: str, draw: Draw) -> None:
        self.source, self.draw = judge, draw
        self._known: dict[tuple[str, int], Tensor] = {}  # embedded candidates: outputs, bounds and steps share them

    @property
    def protocol(self) -> dict[str, str]:
        """The protocol, which names the judge by its weights. Raises ValueError if they are absent."""
        compares = f"output and each candidate, on the true box of the {self.which}; 1 if the true one is nearest"
        said = judge_protocol(self.source, f"metric.{self.name}.judge", compares)
        return {**said, "candidates": str(self.draw)}

    def score(self, image_HW3: np.ndarray, facts: Facts) -> float:
        return float(self._similarities(image_HW3, facts).argmax() == 0)

    @torch.no_grad()
    def _similarities(self, image_HW3: np.ndarray, facts: Facts) -> Tensor:
        """The cosines (K,) of the output to the candidates on the true box; the true subject is candidate 0."""
        side, judge = image_HW3.shape[0], load_judge(self.source, f"metric.{self.name}.judge")
        left, top, right, bottom = (round(edge * side) for edge in facts[self.which]["box"])
        key = json.dumps(facts["scene"]), side
        if key not in self._known:
            drawn = self.draw(facts, side, self.which)[:, :, top:bottom, left:right]
            self._known[key] = judge.view_embed(torch.from_numpy(np.ascontiguousarray(drawn)))
        shown = np.ascontiguousarray(image_HW3[None, top:bottom, left:right].transpose(0, 3, 1, 2))
        return self._known[key] @ judge.view_embed(torch.from_numpy(shown))[0]


class SceneLikeness(SceneSubject):
    """The cosine of the output to the true scene on the subject's true box: how alike subjects are, in small steps.

    It moves long before `SceneSubject` does, so fewer seeds resolve a difference of it.
    """

    name = "scene_likeness"

    @property
    def protocol(self) -> dict[str, str]:
        """The protocol, which names the judge by its weights. Raises ValueError if they are absent."""
        return judge_protocol(self.source, f"metric.{self.name}.judge", "output and truth, on the subject's true box")

    def score(self, image_HW3: np.ndarray, facts: Facts) -> float:
        return self._similarities(image_HW3, facts)[0].item()


class SceneSecond(SceneSubject):
    """1 if the second object is there, as `SceneSubject` has it, or if there is none where none is prompted."""

    name = "scene_second"
    which = "second"

    def score(self, image_HW3: np.ndarray, facts: Facts) -> float:
        if facts["second"] is not None:
            return super().score(image_HW3, facts)
        others = unlike_background(image_HW3, facts) & ~boxed(image_HW3.shape[:2], [facts["subject"]], 2 * GROWN)
        return float(largest(others) < LEAST)


def boxed(shape: tuple[int, int], things: Sequence[Facts | None], grown: float) -> np.ndarray:
    """Where the true boxes of things are, each grown by a share of the side, bool (H, W)."""
    found = np.zeros(shape, bool)
    for thing in filter(None, things):
        left, top, right, bottom = thing["box"]
        rows = slice(max(0, round((top - grown) * shape[0])), round((bottom + grown) * shape[0]))
        found[rows, max(0, round((left - grown) * shape[1])) : round((right + grown) * shape[1])] = True
    return found


def open_background(shape: tuple[int, int], facts: Facts) -> np.ndarray:
    """Where nothing but the background should be seen, bool (H, W)."""
    found = ~boxed(shape, [facts["subject"], facts["second"]], GROWN)
    found[round(facts["horizon"] * shape[0]) :] = False
    return found


def unlike_background(image_HW3: np.ndarray, facts: Facts) -> np.ndarray:
    """Where a pixel has no colour of the true background and ground, nor a mixture of two of them, bool (H, W)."""
    ends = [np.array(COLOURS[name], np.float32) for name in facts["colours"]]
    lines = [(ends[0], ends[-1])]
    if facts["ground"]:
        lines.append((DARKEST * np.array(COLOURS[facts["ground"]], np.float32), np.array(COLOURS[facts["ground"]])))
    distances = [_distance(image_HW3.astype(np.float32), first, last) for first, last in lines]
    return np.minimum.reduce(distances) >= UNLIKE


def largest(unlike_HW: np.ndarray) -> float:
    """The area of the largest connected region, as a share of the image; what hangs by a single pixel is taken off."""
    import cv2

    opened = cv2.morphologyEx(unlike_HW.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    _, _, regions, _ = cv2.connectedComponentsWithStats(opened)
    return float(regions[1:, cv2.CC_STAT_AREA].max(initial=0)) / unlike_HW.size


def _distance(image_HW3: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The distance (H, W) of each pixel's colour to the line from one colour to another."""
    along = last - first
    length = float((along * along).sum())
    share = np.clip(((image_HW3 - first) @ along) / length, 0, 1) if length else np.zeros(image_HW3.shape[:2])
    return np.linalg.norm(image_HW3 - (first + share[..., None] * along), axis=-1)
