"""One formatter for all placements by rules: frames in time, conditions on their target, beside it, or around it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from unigen.core import turns
from unigen.core.layout import VISUAL_STREAM, Geometry, Layout, Placement, Plan, Segment
from unigen.core.types import BUFFER, CONDITION, EXAMPLE, TARGET, TEXT, ImageSlot, Signature
from unigen.formatters.boxes import check_padding, token_grid
from unigen.formatters.rules import AXES, TARGET_BOX, Rule, Three, rules

ALL = "all"


class Placed:
    """Every image lies where its rule says, and the codec encodes each by itself.

    `places` holds a rule (`unigen.formatters.rules.Rule`) by slot name, by role, or for "all"; the most special one
    holds. Under {all: {run: t}} image i is frame i (RealGeneral section 3.2 and Eq. 3; `name` frames): in-context rows
    follow each other as their slots do, and no position marks the end of a row. Under {condition: {at: target}} a
    condition lies on its target (OminiControl). Images may lie at one place: they differ by clock, branch or mask.

    `caps` gives each role's noise ceiling. `buffers` are the ceilings of frames between the last condition and the
    targets. They begin with the condition's content, are denoised like targets, and are no output (TIC-FT: 0.25, 0.5,
    0.75). In a session of several turns (`unigen.core.turns`) a finished target lies where it was generated.
    `temporal_padding` and `copy_noise` are explained at `Plan`; `name` is what messages call this placement.
    Raises ValueError for sides or frame counts that the patches cannot hold, for unknown roles, for rules that cannot
    be followed, for a ceiling that does not lie between 0 and 1, for buffers without a condition before the targets,
    and for a session where `caps` has no example, the role of its finished targets.
    """

    axes = AXES

    def __init__(
        self,
        caps: Mapping[str, float],
        places: Mapping[str, Mapping[str, Any]],
        name: str = "placed",
        temporal_padding: str = "replicate",
        copy_noise: str = "same",
        buffers: Sequence[float] = (),
    ) -> None:
        check_padding(temporal_padding, copy_noise)
        for cap in buffers:
            if isinstance(cap, bool) or not isinstance(cap, int | float) or not 0 < cap < 1:
                raise ValueError(f"formatter.buffers has {cap}; a buffer's noise ceiling lies between 0 and 1")
        self.caps, self.buffers, self.name = dict(caps), tuple(buffers), name
        self.rules = rules(places)
        self.temporal_padding, self.copy_noise = temporal_padding, copy_noise

    @property
    def roles(self) -> tuple[str, ...]:
        return TEXT, *self.caps, *([BUFFER] if self.buffers else [])

    def __call__(self, signature: Signature, geometry: Geometry) -> Plan:
        """Return the plan for these slots; the images of one rule follow each other in slot order."""
        slots = [(self._sized(slot, geometry), cap) for slot, cap in self._with_buffers(signature.slots)]
        grids = [token_grid(slot, geometry, {**self.caps, slot.role: cap}, self.name) for slot, cap in slots]
        boxes = self._boxes([slot for slot, _ in slots], grids)
        finished = turns.copies(signature.slots)
        self._check_session(finished)
        segments, placements = turns.texts(signature.slots, signature.text_tokens), []
        for (slot, cap), grid, (origin, step) in zip(slots, grids, boxes, strict=True):
            segments.append(Segment(slot.name, slot.role, VISUAL_STREAM, grid, origin, step, cap, turn=slot.row))
            canvas, copy = sum(not p.copy for p in placements), slot.role == BUFFER
            placements.append(Placement(slot.name, canvas - copy, y=0, x=0, copy=copy))
            if again := finished.get(slot.name):
                segments.append(replace(segments[-1], name=again.name, role=again.role, cap=0.0, turn=again.row))
                placements.append(placements[-1]._replace(slot=again.name, copy=True))
        layout = Layout(tuple(segments))
        self._check_reach(layout.visual, geometry)
        placed = tuple(again for slot, _ in slots for again in (slot, finished.get(slot.name)) if again)
        return Plan(layout, tuple(placements), placed, geometry, self.temporal_padding, self.copy_noise)

    def rule(self, slot: ImageSlot) -> tuple[str, Rule]:
        """Return the name and the rule that hold for a slot. Raises ValueError if there is none."""
        role = CONDITION if slot.role == BUFFER and BUFFER not in self.rules else slot.role
        for name in (slot.name, role, ALL):
            if name in self.rules:
                return name, self.rules[name]
        raise ValueError(
            f"formatter '{self.name}' has no rule for slot '{slot.name}' of role '{slot.role}'; formatter.places knows "
            f"{', '.join(self.rules)}"
        )

    def _cap(self, slot: ImageSlot) -> float:
        """Return the noise ceiling of a slot. Raises ValueError for a target whose rule would not let it be noise."""
        name, rule = self.rule(slot)
        if slot.role == TARGET and rule.cap not in (None, 1):
            raise ValueError(
                f"formatter.places.{name}.cap is {rule.cap:g}; a target begins as noise, so its ceiling is 1"
            )
        return self.caps[slot.role] if rule.cap is None else rule.cap

    def _sized(self, slot: ImageSlot, geometry: Geometry) -> ImageSlot:
        """Return the slot at the size at which its rule has it encoded."""
        name, rule = self.rule(slot)
        if rule.size == 1:
            return slot
        if slot.role == TARGET:
            raise ValueError(f"formatter.places.{name}.size is {rule.size}; a target is generated at its own size, 1")
        height, width = slot.height * rule.size, slot.width * rule.size
        unit = [geometry.stride * side for side in geometry.patch[1:]]
        if height % unit[0] or width % unit[1]:
            raise ValueError(
                f"formatter.places.{name}.size is {rule.size}, which makes '{slot.name}' {float(height):g}×"
                f"{float(width):g} of {slot.height}×{slot.width} pixels; sides must be multiples of {unit[0]} and "
                f"{unit[1]}"
            )
        return slot._replace(height=int(height), width=int(width))

    def _boxes(self, slots: Sequence[ImageSlot], grids: Sequence[tuple[int, int, int]]) -> list[tuple[Three, Three]]:
        """Return the origin and the step of every slot: first of those that count from the origin, then of the rest."""
        ruled = [self.rule(slot) for slot in slots]
        target = next((i for i, slot in enumerate(slots) if slot.role == TARGET), None)
        anchored = [i for i, (_, rule) in enumerate(ruled) if rule.at == TARGET_BOX]
        for i in anchored:
            if target is None or slots[i].role == TARGET:
                why = "there is none" if target is None else "a target cannot lie by itself"
                raise ValueError(f"formatter.places.{ruled[i][0]}.at is target, and {why}; legal here is origin")
        found: dict[int, tuple[Three, Three]] = {}
        run: dict[str, Three] = {}  # how far the images of each rule reach by now
        for i in (*(i for i in range(len(slots)) if i not in anchored), *anchored):
            (name, rule), beside = ruled[i], grids[i if target is None else target]
            step = rule.steps(grids[i], beside)
            place, behind = (0, 0, 0), (0, 0, 0)
            if i in anchored:
                place, behind = found[target][0], rule.extent(beside, found[target][1])
            along = run.get(name, behind)
            found[i] = _sum(place, rule.shift(grids[i]), along, rule.first(grids[i], step)), step
            run[name] = _sum(along, rule.extent(grids[i], step))
        return [found[i] for i in range(len(slots))]

    def _with_buffers(self, slots: tuple[ImageSlot, ...]) -> list[tuple[ImageSlot, float]]:
        """Return the slots with their ceilings, and the buffers after the last condition before the targets."""
        for slot in slots:
            if slot.role not in self.caps:
                legal = ", ".join(self.caps)
                raise ValueError(
                    f"formatter '{self.name}' has no place for role '{slot.role}' of slot '{slot.name}'; "
                    f"formatter.caps knows {legal}"
                )
        found = [(slot, self._cap(slot)) for slot in slots]
        if not self.buffers:
            return found
        first = next(i for i, slot in enumerate(slots) if slot.role == TARGET)
        if first == 0 or slots[first - 1].role != CONDITION:
            raise ValueError("formatter.buffers needs a condition right before the target: buffers hold its content")
        shown = slots[first - 1]
        buffers = [(shown._replace(name=f"{BUFFER}{i}", role=BUFFER), cap) for i, cap in enumerate(self.buffers)]
        return [*found[:first], *buffers, *found[first:]]

    def _check_session(self, finished: Mapping[str, ImageSlot]) -> None:
        """Raises ValueError if there are finished targets, and the formatter has no role for them."""
        if finished and EXAMPLE not in self.caps:
            raise ValueError(
                f"formatter '{self.name}': a session shows finished targets as role '{EXAMPLE}', which formatter.caps "
                f"does not have; it knows {', '.join(self.caps)}"
            )

    def _check_reach(self, segments: Sequence[Segment], geometry: Geometry) -> None:
        """Raises ValueError if images go beyond the backbone's positions, counted from 0 in both directions."""
        rows = any(s.role == EXAMPLE for s in segments)
        fewer = "; take fewer example rows (data.rows), or tasks of fewer images (data.tasks)" if rows else ""
        for axis, what in enumerate(("temporal positions", "positions high", "positions wide")):
            ends = [(s.origin[axis], s.origin[axis] + s.step[axis] * (s.grid[axis] - 1)) for s in segments]
            above, below = max(last for _, last in ends) + 1, -min(first for first, _ in ends)
            if (needed := max(above, below)) > geometry.reach[axis]:
                side = " below 0" if below > above else ""
                raise ValueError(
                    f"formatter '{self.name}': {len(segments)} images take {float(needed):g} {what}{side}; "
                    f"the backbone holds {geometry.reach[axis]}{geometry.where_reach_is_set}{fewer}"
                )


def _sum(*parts: Three) -> Three:
    return tuple(map(sum, zip(*parts, strict=True)))
