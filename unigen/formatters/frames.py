"""RealGeneral's formatter: images one after another in time, each a frame of its own."""

from collections.abc import Mapping

from unigen.layout import VISUAL_STREAM, Geometry, Layout, Placement, Plan, Segment, text_segment
from unigen.types import TEXT, ImageSlot, Signature

FILLS = ("replicate", "zero")
COPY_NOISES = ("same", "independent")


class Frames:
    """Image i at (i, 0, 0), each filling a temporal patch of its own (RealGeneral section 3.2 and Eq. 3).

    `caps` gives each role's noise ceiling. `temporal_fill` and `copy_noise` are explained at `Plan`.
    Raises ValueError for sides or frame counts that the patches cannot hold, and for unknown roles.
    """

    axes = ("t", "h", "w")

    def __init__(self, caps: Mapping[str, float], temporal_fill: str = "replicate", copy_noise: str = "same") -> None:
        if temporal_fill not in FILLS:
            raise ValueError(f"formatter.temporal_fill is {temporal_fill!r}; legal are {', '.join(FILLS)}")
        if copy_noise not in COPY_NOISES:
            raise ValueError(f"formatter.copy_noise is {copy_noise!r}; legal are {', '.join(COPY_NOISES)}")
        self.caps = dict(caps)
        self.temporal_fill, self.copy_noise = temporal_fill, copy_noise

    @property
    def roles(self) -> tuple[str, ...]:
        return TEXT, *self.caps

    def __call__(self, signature: Signature, geometry: Geometry) -> Plan:
        """The plan for these slots; frames follow each other in slot order."""
        segments, placements, at = [text_segment(signature.text_tokens)], [], 0
        for number, slot in enumerate(signature.slots):
            grid = self._grid(slot, geometry)
            segments.append(Segment(slot.name, slot.role, VISUAL_STREAM, grid, (at, 0, 0), cap=self.caps[slot.role]))
            placements.append(Placement(slot.name, canvas=number, y=0, x=0))
            at += grid[0]
        if at > geometry.reach[0]:
            raise ValueError(
                f"formatter 'frames': {len(signature.slots)} images take {at} temporal positions; "
                f"the backbone holds {geometry.reach[0]}"
            )
        return Plan(Layout(tuple(segments)), tuple(placements), self.temporal_fill, self.copy_noise)

    def _grid(self, slot: ImageSlot, geometry: Geometry) -> tuple[int, int, int]:
        if slot.role not in self.caps:
            raise ValueError(
                f"formatter 'frames' has no place for role '{slot.role}' of slot '{slot.name}'; "
                f"formatter.caps knows {', '.join(self.caps)}"
            )
        pt, ph, pw = geometry.patch
        unit = geometry.stride * ph, geometry.stride * pw
        if slot.height % unit[0] or slot.width % unit[1]:
            raise ValueError(
                f"slot '{slot.name}' is {slot.height}×{slot.width} pixels (data.size); sides must be multiples "
                f"of {unit[0]} and {unit[1]} (codec stride {geometry.stride} × patch {ph}×{pw})"
            )
        if slot.frames != 1 and slot.frames % pt:
            raise ValueError(
                f"slot '{slot.name}' has {slot.frames} frames; legal are 1 and multiples of the temporal patch {pt}"
            )
        grid = max(1, slot.frames // pt), slot.height // unit[0], slot.width // unit[1]
        if grid[1] > geometry.reach[1] or grid[2] > geometry.reach[2]:
            raise ValueError(
                f"slot '{slot.name}' takes {grid[1]}×{grid[2]} positions; the backbone holds "
                f"{geometry.reach[1]}×{geometry.reach[2]}"
            )
        return grid
