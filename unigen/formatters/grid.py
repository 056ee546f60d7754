"""VisualCloze's formatter: rows of images side by side, first the in-context examples, last the query."""

from collections.abc import Mapping, Sequence

from unigen.core.layout import VISUAL_STREAM, Geometry, Layout, Placement, Plan, Segment, text_segment
from unigen.core.types import EXAMPLE, TARGET, TEXT, ImageSlot, Signature
from unigen.formatters.boxes import check_padding, token_grid

IDS = ("rows", "canvas")
ENCODINGS = ("row", "cell", "canvas")
Row = tuple[ImageSlot, ...]


class Grid:
    """Image i of row r at (r, 0, x): rows count from 1, and x continues across the row's images (VisualCloze's code).

    `caps` gives each role's noise ceiling: 1 for all where the backbone gets a clean copy on channels of its own (the
    paper's Fill form: the whole grid is denoised), 0 for examples and conditions that stay clean (its dev form).
    `ids` is "rows" as above, or "canvas", where all rows lie below each other in one image, (0, y, x).
    `encode` is what the codec encodes as one image: a "row" (published), a "cell", or the "canvas" of all rows, which
    then must be equally wide. A clean image is never encoded in one with a target: the codec sees across the
    borders of images, so the clean latents would leak some of the target. `temporal_padding` and `copy_noise` are
    explained at `Plan`.
    Raises ValueError for rows that do not make a grid, for a query without a target, for a target that would leak, and
    for what the backbone's patches and positions cannot hold.
    """

    axes = ("t", "h", "w")
    name = "grid"

    def __init__(
        self,
        caps: Mapping[str, float],
        ids: str = "rows",
        encode: str = "row",
        temporal_padding: str = "replicate",
        copy_noise: str = "same",
    ) -> None:
        if ids not in IDS:
            raise ValueError(f"formatter.ids is {ids!r}; legal are {', '.join(IDS)}")
        if encode not in ENCODINGS:
            raise ValueError(f"formatter.encode is {encode!r}; legal are {', '.join(ENCODINGS)}")
        check_padding(temporal_padding, copy_noise)
        check_leak(caps, encode)
        self.caps = dict(caps)
        self.ids, self.encode = ids, encode
        self.temporal_padding, self.copy_noise = temporal_padding, copy_noise

    @property
    def roles(self) -> tuple[str, ...]:
        return TEXT, *self.caps

    def __call__(self, signature: Signature, geometry: Geometry) -> Plan:
        """Return the plan for these slots, row after row; within a row images lie in slot order."""
        grids = {slot.name: self._cell(slot, geometry) for slot in signature.slots}
        rows = rows_of(signature.slots)
        check_rows(rows, same_width=self.encode == "canvas")
        segments, placements, down = [text_segment(signature.text_tokens, rows[-1][0].row)], [], 0
        for number, row in enumerate(rows):
            across = 0
            for slot in row:
                segments.append(self._segment(slot, grids[slot.name], number, down, across))
                placements.append(self._placement(slot, number, len(placements), rows))
                across += grids[slot.name][2]
            down += grids[row[0].name][1]
        check_reach(segments[1:], rows, geometry)
        layout = Layout(tuple(segments))
        return Plan(layout, tuple(placements), signature.slots, geometry, self.temporal_padding, self.copy_noise)

    def _cell(self, slot: ImageSlot, geometry: Geometry) -> tuple[int, int, int]:
        if slot.frames != 1:
            raise ValueError(f"slot '{slot.name}' has {slot.frames} frames; formatter 'grid' places stills alone")
        return token_grid(slot, geometry, self.caps, "grid")

    def _segment(self, slot: ImageSlot, grid: tuple[int, int, int], number: int, down: int, across: int) -> Segment:
        """Return the segment of an image in row `number`, from 0, with `down` tokens above and `across` left of it."""
        origin = (number + 1, 0, across) if self.ids == "rows" else (0, down, across)
        return Segment(slot.name, slot.role, VISUAL_STREAM, grid, origin, cap=self.caps[slot.role], turn=slot.row)

    def _placement(self, slot: ImageSlot, number: int, index: int, rows: Sequence[Row]) -> Placement:
        """Return the image's place on its canvas; `index` counts images."""
        if self.encode == "cell":
            return Placement(slot.name, canvas=index, y=0, x=0)
        left = sum(s.width for s in rows[number][: rows[number].index(slot)])
        if self.encode == "row":
            return Placement(slot.name, canvas=number, y=0, x=left)
        return Placement(slot.name, canvas=0, y=sum(row[0].height for row in rows[:number]), x=left)


def rows_of(slots: Sequence[ImageSlot]) -> tuple[Row, ...]:
    """Return the slots by row, in the order of the row numbers; the last row is the query."""
    return tuple(tuple(s for s in slots if s.row == number) for number in sorted({s.row for s in slots}))


def check_leak(caps: Mapping[str, float], encode: str) -> None:
    """Raises ValueError if a target would be encoded in one image with another that is noised less than fully."""
    apart = (TARGET, EXAMPLE) if encode == "row" else (TARGET,)
    shown = [role for role, cap in caps.items() if cap < 1 and role not in apart]
    if shown and encode != "cell":
        raise ValueError(
            f"formatter.encode is '{encode}', so the codec sees a target in one image with role '{shown[0]}', whose "
            f"noise ceiling (formatter.caps) is {caps[shown[0]]:g}: it would show some of the target; use "
            "formatter.encode=cell"
        )


def check_rows(rows: Sequence[Row], same_width: bool) -> None:
    """Raises ValueError, naming the rows, if they do not make a grid with something to generate in its last row."""
    query = rows[-1]
    for row in rows:
        if len(row) != len(query):
            raise ValueError(
                f"formatter 'grid': row {row[0].row} has {_named(row)} and row {query[0].row}, the query, "
                f"{_named(query)}; all rows must have equally many images"
            )
        if len({slot.height for slot in row}) > 1:
            sizes = ", ".join(f"'{s.name}' {s.height}×{s.width}" for s in row)
            raise ValueError(f"formatter 'grid': the images of row {row[0].row} must be equally high, but are {sizes}")
        if generated := [slot.name for slot in row if slot.role == TARGET and row is not query]:
            raise ValueError(
                f"formatter 'grid': '{generated[0]}' of row {row[0].row} is a target; only the last row, "
                f"{query[0].row}, may have any"
            )
    if not any(slot.role == TARGET for slot in query):
        raise ValueError(f"formatter 'grid': row {query[0].row}, the query, has {_named(query)} and no target")
    widths = {sum(slot.width for slot in row) for row in rows}
    if same_width and len(widths) > 1:
        raise ValueError(
            f"formatter.encode is 'canvas', but rows are {', '.join(map(str, sorted(widths)))} pixels wide; all must "
            "be equally wide, or formatter.encode row or cell"
        )


def check_reach(segments: Sequence[Segment], rows: Sequence[Row], geometry: Geometry) -> None:
    """Raises ValueError if the grid goes beyond the backbone's positions, which count from 0."""
    for axis, what in enumerate(("temporal positions", "positions high", "positions wide")):
        needed = max(s.origin[axis] + s.grid[axis] for s in segments)
        if needed > geometry.reach[axis]:
            raise ValueError(
                f"formatter 'grid': {len(rows)} rows of {len(rows[-1])} images take {needed} {what}; "
                f"the backbone holds {geometry.reach[axis]}{geometry.where_reach_is_set}; take smaller images "
                "(data.size), fewer rows (data.rows) or tasks of fewer images (data.tasks)"
            )


def _named(row: Row) -> str:
    return f"{len(row)} ({', '.join(slot.name for slot in row)})"
