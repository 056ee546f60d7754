"""The checks and sizes that all formatters share: the tokens of a slot's image, and how a temporal patch is padded."""

from collections.abc import Mapping

from unigen.core.layout import Geometry
from unigen.core.types import ImageSlot

PADDINGS = ("replicate", "zero")
FRAMES_KEY = "data.forms.NAME.frames"  # of the data sets of clips
COPY_NOISES = ("same", "independent")


def check_padding(temporal_padding: str, copy_noise: str) -> None:
    """Raises ValueError for words that `Plan` does not know."""
    if temporal_padding not in PADDINGS:
        raise ValueError(f"formatter.temporal_padding is {temporal_padding!r}; legal are {', '.join(PADDINGS)}")
    if copy_noise not in COPY_NOISES:
        raise ValueError(f"formatter.copy_noise is {copy_noise!r}; legal are {', '.join(COPY_NOISES)}")


def token_grid(slot: ImageSlot, geometry: Geometry, caps: Mapping[str, float], formatter: str) -> tuple[int, int, int]:
    """Return the tokens (t, h, w) of a slot's image; a still takes a whole temporal patch.

    Raises ValueError for a role that `caps` lacks, for sides or frame counts that the patches cannot hold, and for an
    image beyond the backbone's reach. `formatter` is the name that messages give.
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
    _check_clip(slot, geometry)
    grid = geometry.padded_frames(slot.frames) // pt, slot.height // unit[0], slot.width // unit[1]
    if grid[1] > geometry.reach[1] or grid[2] > geometry.reach[2]:
        raise ValueError(
            f"slot '{slot.name}' takes {grid[1]}×{grid[2]} positions; the backbone holds "
            f"{geometry.reach[1]}×{geometry.reach[2]}{geometry.where_reach_is_set}; take smaller images (data.size, or "
            "upsample= of sample.py)"
        )
    return grid


def _check_clip(slot: ImageSlot, geometry: Geometry) -> None:
    """Raises ValueError for a number of frames that the codec or the temporal patches cannot hold."""
    pt, unit = geometry.patch[0], geometry.clip_unit
    if slot.frames == 1:
        return
    if geometry.temporal_stride == 1 and slot.frames % pt:
        raise ValueError(
            f"slot '{slot.name}' has {slot.frames} frames ({FRAMES_KEY}); legal are 1 and multiples of the temporal "
            f"patch {pt}"
        )
    if (slot.frames - 1) % unit:
        below = slot.frames - 1 - (slot.frames - 1) % unit
        raise ValueError(
            f"slot '{slot.name}' has {slot.frames} frames ({FRAMES_KEY}), which encoder.codec cannot hold: a clip has "
            f"1 + {unit} n frames, such as {1 + below} or {1 + below + unit}"
        )
