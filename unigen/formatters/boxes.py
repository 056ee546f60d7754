"""What every formatter asks of a slot: how many tokens its picture fills, and how a still fills a temporal patch."""

from collections.abc import Mapping

from unigen.layout import Geometry
from unigen.types import ImageSlot

FILLS = ("replicate", "zero")
COPY_NOISES = ("same", "independent")


def check_fill(temporal_fill: str, copy_noise: str) -> None:
    """Raises ValueError for words that `Plan` does not know."""
    if temporal_fill not in FILLS:
        raise ValueError(f"formatter.temporal_fill is {temporal_fill!r}; legal are {', '.join(FILLS)}")
    if copy_noise not in COPY_NOISES:
        raise ValueError(f"formatter.copy_noise is {copy_noise!r}; legal are {', '.join(COPY_NOISES)}")


def token_grid(slot: ImageSlot, geometry: Geometry, caps: Mapping[str, float], formatter: str) -> tuple[int, int, int]:
    """The tokens (t, h, w) of a slot's picture; a still takes a whole temporal patch.

    Raises ValueError for a role that `caps` lacks, for sides or frame counts that the patches cannot hold, and for a
    picture beyond the backbone's reach. `formatter` is the name that the message gives.
    """
    if slot.role not in caps:
        raise ValueError(
            f"formatter '{formatter}' has no place for role '{slot.role}' of slot '{slot.name}'; "
            f"formatter.caps knows {', '.join(caps)}"
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
