"""RealGeneral's formatter: images one after another in time, each a frame of its own."""

from collections.abc import Mapping

from unigen.formatters.boxes import check_fill, token_grid
from unigen.layout import VISUAL_STREAM, Geometry, Layout, Placement, Plan, Segment, text_segment
from unigen.types import EXAMPLE, TEXT, Signature


class Frames:
    """Image i at (i, 0, 0), each filling a temporal patch of its own (RealGeneral section 3.2 and Eq. 3).

    In-context rows (VisualCloze) follow each other as their slots do: the images of the first example, those of the
    second, the query's. No position says where a row ends, which the order of its images shows.
    `caps` gives each role's noise ceiling. `temporal_fill` and `copy_noise` are explained at `Plan`.
    Raises ValueError for sides or frame counts that the patches cannot hold, and for unknown roles.
    """

    axes = ("t", "h", "w")

    def __init__(self, caps: Mapping[str, float], temporal_fill: str = "replicate", copy_noise: str = "same") -> None:
        check_fill(temporal_fill, copy_noise)
        self.caps = dict(caps)
        self.temporal_fill, self.copy_noise = temporal_fill, copy_noise

    @property
    def roles(self) -> tuple[str, ...]:
        return TEXT, *self.caps

    def __call__(self, signature: Signature, geometry: Geometry) -> Plan:
        """The plan for these slots; frames follow each other in slot order."""
        segments, placements, at = [text_segment(signature.text_tokens)], [], 0
        for number, slot in enumerate(signature.slots):
            grid = token_grid(slot, geometry, self.caps, "frames")
            segments.append(Segment(slot.name, slot.role, VISUAL_STREAM, grid, (at, 0, 0), cap=self.caps[slot.role]))
            placements.append(Placement(slot.name, canvas=number, y=0, x=0))
            at += grid[0]
        if at > geometry.reach[0]:
            rows = any(slot.role == EXAMPLE for slot in signature.slots)
            fewer = "; take fewer example rows (data.rows), or tasks of fewer images (data.tasks)" if rows else ""
            raise ValueError(
                f"formatter 'frames': {len(signature.slots)} images take {at} temporal positions; "
                f"the backbone holds {geometry.reach[0]}{fewer}"
            )
        return Plan(Layout(tuple(segments)), tuple(placements), self.temporal_fill, self.copy_noise)
