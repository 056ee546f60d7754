"""Prompts with the images that they are about, for a text encoder that reads both (`TextEncoder.looks_at`).

Shapes: B batch, F frames, H and W pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from unigen.core.layout import Plan
from unigen.core.masks import closure
from unigen.core.turns import turns_of
from unigen.core.types import BUFFER, TARGET, TEXT, Illustrated, ImageSlot
from unigen.pipeline.compatibility import check_names
from unigen.pipeline.hiding import BLACK, Hidden

if TYPE_CHECKING:
    from unigen.pipeline.pipeline import Pipeline

KEY = "encoder.text.looks_at"


def looked_at(text: object) -> tuple[str, ...]:
    """Return the roles whose images a text encoder reads with the prompt; () for one that reads prompts alone."""
    return tuple(getattr(text, "looks_at", ()))


def illustrated(
    prompts: Sequence[str],
    images: Mapping[str, Tensor],
    slots: Sequence[ImageSlot],
    roles: Sequence[str],
    hidden: Hidden,
) -> list[Illustrated]:
    """Return each sample's prompt with its images of these roles, in the order of the slots.

    `images` are uint8 (B, F, 3, H, W) by slot, black already where a sample hides them so. An image that a sample hides
    in another way is left out, so that what is hidden from the sequence does not arrive as text.
    """
    shown = [slot for slot in slots if slot.role in roles]

    def of(row: int) -> tuple[Tensor, ...]:
        ways = {role: hidden[role][row] for role in roles if role in hidden}
        return tuple(images[s.name][row, 0] for s in shown if ways.get(s.role) in (None, BLACK))

    return [Illustrated(prompt, of(row)) for row, prompt in enumerate(prompts)]


def check_looked_at(p: Pipeline) -> None:
    """Raises ValueError for a role that does not exist, and for one that has no clean image."""
    roles = looked_at(p.text)
    check_names(KEY, roles, p.formatter.roles)
    for role in roles:
        if role in (TEXT, TARGET, BUFFER):
            legal = ", ".join(r for r in p.formatter.roles if r not in (TEXT, TARGET, BUFFER))
            raise ValueError(f"{KEY} names '{role}', which has no image that is given; legal are {legal or 'none'}")


def check_shown(p: Pipeline, plan: Plan) -> None:
    """Check a plan for a text encoder that looks at images.

    Raises ValueError for a clip among them, and for a session, whose prompts would have to see some turns' images only.
    Warns if the mask keeps such an image from every target: it reaches them as text.
    """
    shown = [slot for slot in plan.slots if slot.role in looked_at(p.text)]
    for slot in shown:
        if slot.frames > 1:
            raise ValueError(
                f"{KEY} names {slot.role}, but slot '{slot.name}' is a clip of {slot.frames} frames; the text encoder "
                f"reads stills: take {slot.role} out of {KEY}, or give stills"
            )
    if shown and len(turns_of(plan.slots)) > 1:
        raise ValueError(
            f"{KEY} is {list(looked_at(p.text))}, and the sample is a session, whose turns have a prompt each; write "
            f"{KEY}=[] for prompts without images"
        )
    if not shown:
        return
    layout, reach = plan.layout, closure(plan.layout, p.effective_mask)
    place = {name: i for i, name in enumerate(layout.names)}
    for slot in shown:
        if slot.name in place and not any(reach[place[target], place[slot.name]] for target in plan.targets):
            warnings.warn(
                f"mask '{p.mask.name}' keeps '{slot.name}' from the targets, but the text encoder looks at it ({KEY}), "
                f"so it reaches them as text; write {KEY}=[] for prompts without images",
                stacklevel=2,
            )
