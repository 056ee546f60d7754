"""The facts of a sample in plain JSON, for the metrics that check them (`unigen.metrics.scene`).

Lengths are shares of the image's side, boxes are left, top, right and bottom.
"""

from __future__ import annotations

from typing import Any

from datamodules.scenes.render import Rendered, box_of
from datamodules.scenes.scene import HORIZONS, Backdrop, Ground, Scene, Thing


def facts_of(scene: Scene, rendered: Rendered, condition: Scene | None) -> dict[str, Any]:
    """What an output should show, and the colours of a condition whose background it should not.

    background: its colour; colours: all of the background's; ground: its colour or None; horizon: where it begins,
    1 if there is no ground. subject and second: glyph, place, and box of what is visible; second may be None.
    condition: colours, or None. scene: all of it, for `scene_of`.
    """
    boxes = {thing: _box(rendered, number, thing) for number, thing in enumerate(scene.things)}
    things = {
        name: None if thing is None else {"glyph": thing.glyph, "place": thing.place, "box": boxes[thing]}
        for name, thing in (("subject", scene.subject), ("second", scene.second))
    }
    return {
        "background": scene.backdrop.colour,
        "colours": sorted(scene.backdrop.colours),
        "ground": scene.ground.colour if scene.ground else None,
        "horizon": HORIZONS[scene.ground.horizon] if scene.ground else 1.0,
        **things,
        "condition": None if condition is None else sorted(condition.colours),
        "scene": scene,
    }


def scene_of(facts: dict[str, Any]) -> Scene:
    """The scene of facts that were read from JSON, where tuples have become lists."""
    backdrop, ground, style, subject, second, in_front = facts["scene"]
    return Scene(
        Backdrop(*backdrop),
        Ground(*ground) if ground else None,
        style,
        Thing(*subject),
        Thing(*second) if second else None,
        in_front,
    )


def _box(rendered: Rendered, number: int, thing: Thing) -> tuple[float, ...]:
    """The box of what is visible of an object, or the square that it is given if nothing is."""
    found, side = box_of(rendered.masks[number]), rendered.masks.shape[-1]
    return tuple(round(edge / side, 4) for edge in found) if found else thing.box
