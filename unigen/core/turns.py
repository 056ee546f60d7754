"""Sessions of several turns: every turn has a text and a target, and sees the finished images of the turns before it.

A session is a sample with targets in several rows (`ImageSlot.row`); a row is a turn. Its prompt has a line for every
turn. In a session a target exists twice: noised, and as a clean copy at the same place, which belongs to the next turn
and has the role example. So one training step has the loss of all turns, and sampling takes one turn after another.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from unigen.core.layout import TEXT_STREAM, Plan, Segment, text_segment
from unigen.core.masks import Mask, closure
from unigen.core.types import EXAMPLE, TARGET, TEXT, ImageSlot


def turns_of(slots: Sequence[ImageSlot]) -> tuple[int, ...]:
    """Return the rows that have a target, in order; more than one make a session."""
    return tuple(sorted({slot.row for slot in slots if slot.role == TARGET}))


def texts(slots: Sequence[ImageSlot], tokens: int) -> list[Segment]:
    """Return the text of each turn as a segment. The only text of other samples belongs to their last row."""
    turns = turns_of(slots)
    if len(turns) < 2:
        return [text_segment(tokens, max(slot.row for slot in slots))]
    return [text_segment(tokens, turn, f"{TEXT}{number}") for number, turn in enumerate(turns)]


def copies(slots: Sequence[ImageSlot]) -> dict[str, ImageSlot]:
    """Return the clean copies of all targets but the last turn's, slots of the next turn, by the target's name."""
    turns = turns_of(slots)
    following = dict(pairwise(turns))
    return {
        slot.name: slot._replace(name=f"{slot.name}_finished", role=EXAMPLE, row=following[slot.row])
        for slot in slots
        if slot.role == TARGET and slot.row in following
    }


def prompts_by_turn(prompts: Sequence[str], slots: Sequence[ImageSlot]) -> list[list[str]]:
    """Return the prompts of a batch for each of its texts.

    Raises ValueError if the prompt of a session has not a line for every turn.
    """
    turns = len(turns_of(slots))
    if turns < 2:
        return [list(prompts)]
    lines = [prompt.split("\n") for prompt in prompts]
    for prompt, found in zip(prompts, lines, strict=True):
        if len(found) != turns:
            raise ValueError(f"the prompt {prompt!r} has {len(found)} lines; a session of {turns} turns has one each")
    return [list(line) for line in zip(*lines, strict=True)]


def parts(plan: Plan) -> list[Plan]:
    """Return what sampling makes of a plan: one plan for each turn of a session, else the plan itself.

    The part of a turn has what the earlier turns have but their noised targets, whose clean copies are images by then.
    """
    turns = turns_of(plan.slots)
    return [plan] if len(turns) < 2 else [_part(plan, turn) for turn in turns]


def _part(plan: Plan, turn: int) -> Plan:
    slots = tuple(s for s in plan.slots if s.row == turn or (s.row < turn and s.role != TARGET))
    names = {s.name for s in slots}
    kept = [s for s in plan.layout.segments if s.name in names or (s.stream == TEXT_STREAM and s.turn <= turn)]
    placed = [p for p in plan.placements if p.slot in names]
    canvases = {number: i for i, number in enumerate(dict.fromkeys(p.canvas for p in placed))}
    shown = {p.canvas for p in placed if not p.copy}
    placed = [p._replace(canvas=canvases[p.canvas], copy=p.copy and p.canvas in shown) for p in placed]
    return replace(plan, layout=replace(plan.layout, segments=tuple(kept)), placements=tuple(placed), slots=slots)


def check_causal(plan: Plan, mask: Mask) -> None:
    """Raises ValueError for a session whose targets depend on what the sampling of their turn does not have.

    That is a later turn, whose clean copy of the target itself would show the answer, or the noised target of an
    earlier one. `mask` is the one that the backbone follows.
    """
    turns = turns_of(plan.slots)
    if len(turns) < 2:
        return
    layout, reach = plan.layout, closure(plan.layout, mask)
    for part in parts(plan):
        for target in part.targets:
            row = reach[layout.names.index(target)].tolist()
            for key in (key for key, yes in zip(layout.segments, row, strict=True) if yes):
                if key in part.layout.segments:
                    continue
                later = key.turn > layout[target].turn
                what = "belongs to a later turn" if later else "is the noised target of an earlier one"
                raise ValueError(
                    f"mask '{mask.name}': in a session of {len(turns)} turns '{target}' depends on '{key.name}', which "
                    f"{what}, so that it could not be sampled turn by turn; take mask=turns, or the word earlier in "
                    "rows of your own"
                )
