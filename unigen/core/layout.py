"""Segments of tokens as boxes in (t, h, w) space, and the frozen layout that orders them.

Nothing here holds a tensor of features, so a `Layout` is hashable: a legal cache key and compile guard.
Shapes: L tokens, A = 3 axes (t, h, w).
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache, wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unigen.core.types import TARGET, TEXT, ImageSlot

TEXT_STREAM, VISUAL_STREAM = "text", "visual"
Number = int | Fraction


class Geometry(NamedTuple):
    """The sizes by which pixels become tokens on one backbone and codec.

    `stride` is pixels per latent cell (8), `patch` latent cells per token along (t, h, w), `axes` the
    position axes that the backbone has, `reach` the largest position that it can hold along each of them.
    `temporal_stride` is how many frames of a clip make one latent frame, after the first frame, which makes one alone
    (1: every frame makes its own). A clip has 1 + n * `clip_unit` frames. `reach_key` names the configuration keys that
    set the reach, for messages; it is empty if none does.
    """

    stride: int
    patch: tuple[int, int, int]
    axes: tuple[str, ...]
    reach: tuple[int, int, int]
    temporal_stride: int = 1
    clip_unit: int = 1
    reach_key: str = ""

    @property
    def where_reach_is_set(self) -> str:
        """The keys in brackets, to follow the number that they set; empty if there are none."""
        return f" ({self.reach_key})" if self.reach_key else ""

    def latent_frames(self, frames: int) -> int:
        """Return the number of latent frames of a clip of `frames` frames."""
        return 1 + (frames - 1) // self.temporal_stride

    def padded_frames(self, frames: int) -> int:
        """Return the number of latent frames of such a clip, rounded up to whole temporal patches."""
        return -(-self.latent_frames(frames) // self.patch[0]) * self.patch[0]


@dataclass(frozen=True, slots=True)
class Segment:
    """A box of tokens: `grid` tokens along (t, h, w), the first at `origin`, neighbours `step` apart.

    Both are whole numbers or fractions, so that equal boxes are equal keys: rounding comes with the rotary angles.
    `cap` is the highest noise level that the segment ever reaches: 0 for a clean condition (and for
    text), 1 for a target. Segments of one image carry that image's slot name. `number` is the place of that image among
    those of its role, from 0 (`Layout.numbered`). `turn` is the in-context row, or the turn of a session, to which it
    belongs, for masks that tell them apart.
    """

    name: str
    role: str
    stream: str
    grid: tuple[int, int, int]
    origin: tuple[Number, Number, Number] = (0, 0, 0)
    step: tuple[Number, Number, Number] = (1, 1, 1)
    cap: float = 1.0
    number: int = 0
    turn: int = 0

    @property
    def tokens(self) -> int:
        t, h, w = self.grid
        return t * h * w


def text_segment(tokens: int, turn: int = 0, name: str = TEXT) -> Segment:
    """Return the text of a turn as a segment: a line of tokens that all lie at the origin."""
    return Segment(name, TEXT, TEXT_STREAM, grid=(1, 1, tokens), step=(0, 0, 0), cap=0.0, turn=turn)


@dataclass(frozen=True)
class Layout:
    """Segments in attention order. Order carries no meaning: where a token is comes from its position."""

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        # what attention asks for is made here: a compiled block can read it, but not take the lock to fill it later
        assert len(set(self.names)) == len(self.slices) == len(self.names), f"segment names repeat: {self.names}"

    def __len__(self) -> int:
        return sum(s.tokens for s in self.segments)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.segments)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.segments)

    @property
    def turns(self) -> tuple[int, ...]:
        """The distinct turns of the segments, in order."""
        return tuple(sorted({s.turn for s in self.segments}))

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """The distinct roles, in order of first appearance."""
        return tuple(dict.fromkeys(s.role for s in self.segments))

    @cached_property
    def visual(self) -> tuple[Segment, ...]:
        return tuple(s for s in self.segments if s.stream == VISUAL_STREAM)

    @property
    def image_tokens(self) -> int:
        """The number of tokens of all images together; text does not count."""
        return sum(s.tokens for s in self.visual)

    @property
    def target_tokens(self) -> int:
        """The number of tokens of the targets together; in a session of several turns, of those of the last one."""
        last = max((s.turn for s in self.visual if s.role == TARGET), default=0)
        return sum(s.tokens for s in self.visual if s.role == TARGET and s.turn == last)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """The slice of each segment's tokens in attention order, by name."""
        found, start = {}, 0
        for s in self.segments:
            found[s.name] = slice(start, start + s.tokens)
            start += s.tokens
        return found

    def __getitem__(self, name: str) -> Segment:
        return self.segments[self.names.index(name)]

    def only(self, names: Iterable[str]) -> "Layout":
        """Return the same layout with only these segments."""
        keep = set(names)
        return Layout(tuple(s for s in self.segments if s.name in keep))

    def without(self, names: Iterable[str]) -> "Layout":
        drop = set(names)
        return Layout(tuple(s for s in self.segments if s.name not in drop))

    def __add__(self, other: "Layout") -> "Layout":
        return Layout(self.segments + other.segments)

    def numbered(self) -> "Layout":
        """Return the same boxes, the images of each role numbered in attention order; they keep their numbers in parts
        of the layout.
        """
        counts, found = Counter(), []
        for s in self.segments:
            found.append(replace(s, number=counts[s.role]))
            counts[s.role] += 1
        return Layout(tuple(found))

    def with_caps(self, caps: dict[str, float]) -> "Layout":
        """Return the same boxes with other noise ceilings, given by segment name."""
        return Layout(tuple(replace(s, cap=caps.get(s.name, s.cap)) for s in self.segments))


def one_of_each(roles: Iterable[str]) -> Layout:
    """Return a layout with one token of each role, for what follows from roles alone."""
    images = (Segment(role, role, VISUAL_STREAM, grid=(1, 1, 1)) for role in roles if role != TEXT)
    return Layout((text_segment(1), *images))


@lru_cache(maxsize=1024)
def stream_of(layout: Layout, stream: str | None) -> Layout:
    """Return the layout of one stream's segments (None: of all). Equal layouts give the very same object."""
    return layout if stream is None else Layout(tuple(s for s in layout.segments if s.stream == stream))


@lru_cache(maxsize=1024)
def one_object(layout: Layout) -> Layout:
    """Return the first layout that was equal to this one. A compiled block guards the object, not its content."""
    return layout


def kept(maxsize: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function of layouts that returns tensors with `lru_cache`, so that later calls get the same tensors.

    The tensors are made outside inference mode (a validation may come before training, and autograd refuses
    inference tensors) and never on the meta device.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @lru_cache(maxsize)
        @wraps(function)
        def made(*args: Any) -> Any:
            with torch.inference_mode(False), torch.device("cpu"):
                return function(*args)

        return made

    return decorate


@kept(maxsize=256)
def positions(layout: Layout) -> Tensor:
    """Return the positions of every token, (L, A): origin + step * index, raster order within a segment.

    They are int64, or float64 if any is a fraction.
    """
    numbers = [n for s in layout.segments for n in (*s.origin, *s.step)]
    dtype = torch.long if all(isinstance(n, int) for n in numbers) else torch.float64
    boxes = [torch.empty(0, 3, dtype=dtype)]
    for s in layout.segments:
        index = torch.stack(torch.meshgrid(*(torch.arange(n) for n in s.grid), indexing="ij"), dim=-1)
        origin, step = (
            torch.tensor([n if dtype == torch.long else float(n) for n in each]) for each in (s.origin, s.step)
        )
        boxes.append(origin.to(dtype) + step.to(dtype) * index.reshape(-1, 3))
    return torch.cat(boxes)


class Placement(NamedTuple):
    """The top left pixel of slot `slot` lies at (y, x) of canvas number `canvas`, which the codec encodes as one image.

    A `copy` has no image of its own: it takes the latents of the slot that lies there.
    """

    slot: str
    canvas: int
    y: int
    x: int
    copy: bool = False


@dataclass(frozen=True)
class Plan:
    """The placement plan that a formatter makes: the places of the images of `slots`, for this `geometry`.

    `placements` stitch images into the canvases that the codec encodes. `padding` says what the rest of a temporal
    patch holds if the latent frames of a slot do not fill it: copies of the first one ("replicate", RealGeneral
    section 3.2) or zeros ("zero"). `copy_noise` says whether those frames are noised alike ("same") or each on its own
    ("independent").
    """

    layout: Layout
    placements: tuple[Placement, ...]
    slots: tuple[ImageSlot, ...]
    geometry: Geometry
    padding: str = "replicate"
    copy_noise: str = "same"

    def slot(self, name: str) -> ImageSlot:
        """Return the slot of this name."""
        return next(slot for slot in self.slots if slot.name == name)

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the slots that are generated."""
        return tuple(slot.name for slot in self.slots if slot.role == TARGET)
