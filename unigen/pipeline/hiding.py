"""How a role is hidden from the model in some samples: an empty prompt, zero latents, a black image, or no tokens.

Training (`dropout`) and guidance hide roles by the same functions, so that a pass of guidance shows the model what
training has shown it.
Shapes: B batch, F frames, f latent frames, C channels, H and W pixels, h and w latent cells, L tokens.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unigen.core.layout import Layout, Plan
from unigen.core.types import BUFFER, TARGET, TEXT, ImageSlot

EMPTY, BLANK, NEGATIVE, ZERO, BLACK, ABSENT = "empty", "blank", "negative", "zero", "black", "absent"
PROMPTS = {EMPTY: "", BLANK: " "}  # the prompt that stands for a hidden text; encoders tell these two apart
IMAGES = (ZERO, BLACK, ABSENT)
WORDS = {  # as a reader is told
    EMPTY: "the empty prompt",
    BLANK: "a blank as prompt",
    NEGATIVE: "the negative prompt",
    ZERO: "zero latents",
    BLACK: "a black image",
    ABSENT: "no tokens",
}
JOIN = "+"  # `dropout` may name several roles that are hidden together: text+condition
# The way in which each sample of a batch hides a role, None where the role is shown; roles that are not here are shown.
Hidden = Mapping[str, Sequence[str | None]]


def way_of(role: str, table: Mapping[str, str]) -> str:
    """Return the way in which a role is hidden: what the table says of it, else an empty prompt or zero latents."""
    return table.get(role, EMPTY if role == TEXT else ZERO)


def checked_ways(key: str, table: Any) -> dict[str, str]:
    """Return a table from role to way as it was given. Raises ValueError, naming the key, for an illegal entry."""
    if not isinstance(table or {}, Mapping):
        raise ValueError(f"{key} is {table!r}; legal is a table such as {{condition: {BLACK}}}")
    for role, way in (table or {}).items():
        legal = tuple(PROMPTS) if role == TEXT else IMAGES
        if role == BUFFER and way == BLACK:
            raise ValueError(f"{key}.{role} is {way!r}, but a buffer frame has no image of its own; legal is {ZERO}")
        if role == TARGET:
            raise ValueError(f"{key} names '{TARGET}', which is generated and so cannot be hidden")
        if way not in legal:
            raise ValueError(f"{key}.{role} is {way!r}; legal are {', '.join(legal)}")
    return dict(table or {})


def together(name: str) -> tuple[str, ...]:
    """Return the roles that a key of `dropout` hides: text, or text and condition of text+condition."""
    return tuple(role.strip() for role in name.split(JOIN))


def share_of(role: str, dropout: Mapping[str, float]) -> float:
    """Return the share of the training samples that hide a role, by itself or together with others."""
    share = 0.0
    for name, own in dropout.items():
        if role in together(name):
            share = share + own - share * own
    return share


def drawn(dropout: Mapping[str, float], size: int, table: Mapping[str, str], generator: torch.Generator) -> Hidden:
    """Draw for each sample of a training batch what it hides; each entry of `dropout` is drawn independently."""
    hidden: dict[str, list[str | None]] = {}
    for name, share in dropout.items():
        if share <= 0:
            continue
        chosen = (torch.rand(size, generator=generator) < share).tolist()
        for role in together(name):
            way, before = way_of(role, table), hidden.get(role, [None] * size)
            hidden[role] = [way if now else old for now, old in zip(chosen, before, strict=True)]
    return hidden


def prompts(given: list[str], hidden: Hidden, negative: str | None = None) -> list[str]:
    """Return the prompts, replaced in the samples in which text is hidden; `negative` is the negative prompt."""
    ways, stand_in = hidden.get(TEXT), {**PROMPTS, NEGATIVE: negative}
    if ways is None:
        return given
    return [prompt if way is None else stand_in[way] for prompt, way in zip(given, ways, strict=True)]


def blackened(images: Mapping[str, Tensor], slots: Iterable[ImageSlot], hidden: Hidden) -> dict[str, Tensor]:
    """Return uint8 images (B, F, C, H, W) by slot, black in the samples that hide the slot's role in this way."""
    return _filled(images, {slot.name: slot.role for slot in slots}, hidden, BLACK)


def zeroed(latents: Mapping[str, Tensor], slots: Iterable[ImageSlot], hidden: Hidden) -> dict[str, Tensor]:
    """Return latents (B, f, C, h, w) by slot, zero in the samples that hide the slot's role in this way."""
    return _filled(latents, {slot.name: slot.role for slot in slots}, hidden, ZERO)


def _filled(given: Mapping[str, Tensor], roles: Mapping[str, str], hidden: Hidden, way: str) -> dict[str, Tensor]:
    found = dict(given)
    for name, x in given.items():
        where = [own == way for own in hidden.get(roles.get(name, ""), ())]
        if any(where):
            where_B = torch.tensor(where, device=x.device)
            found[name] = x.masked_fill(where_B[:, None, None, None, None], 0)
    return found


def present(layout: Layout, hidden: Hidden, device: torch.device) -> dict[str, Tensor]:
    """Return (B, L) booleans for the segments that are absent in some samples, False in those samples.

    No token attends to an absent one, so the others are what they would be if the sample did not have that image.
    """
    found = {}
    for s in layout.visual:
        here = [way != ABSENT for way in hidden.get(s.role, ())]
        if not all(here):
            found[s.name] = torch.tensor(here, device=device)[:, None].expand(-1, s.tokens)
    return found


def check_absent(plan: Plan, roles: Iterable[str]) -> None:
    """Raises ValueError for a role that is to be absent, but noised: it is denoised, and so it must have tokens."""
    for s in plan.layout.visual:
        if s.role in roles and s.cap > 0:
            raise ValueError(
                f"guidance hides {s.role} as '{ABSENT}', but formatter.caps noises it up to {s.cap:g}: a segment that "
                f"is denoised cannot leave; write guidance.hide.{s.role}: {ZERO} or {BLACK}, or lower its cap to 0"
            )
