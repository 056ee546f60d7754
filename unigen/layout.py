"""Where things are: segments of tokens as boxes in (t, h, w) space, and the frozen layout that orders them.

Nothing here holds a tensor of features, so a `Layout` is hashable: a legal cache key and compile guard.
Shapes: L tokens, A = 3 axes (t, h, w).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unigen.types import TEXT

TEXT_STREAM, VISUAL_STREAM = "text", "visual"


class Geometry(NamedTuple):
    """How pixels become tokens on one backbone and codec.

    `stride` is pixels per latent cell (8), `patch` latent cells per token along (t, h, w), `axes` the
    position axes that the backbone has, `reach` the largest position that it can hold along each of them.
    """

    stride: int
    patch: tuple[int, int, int]
    axes: tuple[str, ...]
    reach: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Segment:
    """A box of tokens: `grid` tokens along (t, h, w), the first at `origin`, neighbours `step` apart.

    `cap` is the highest noise level that the segment ever reaches: 0 for a clean condition (and for
    text), 1 for a target. Segments of one image carry that image's slot name.
    """

    name: str
    role: str
    stream: str
    grid: tuple[int, int, int]
    origin: tuple[int, int, int] = (0, 0, 0)
    step: tuple[int, int, int] = (1, 1, 1)
    cap: float = 1.0

    @property
    def tokens(self) -> int:
        t, h, w = self.grid
        return t * h * w


def text_segment(tokens: int) -> Segment:
    """The text as a segment: a line of tokens without a place in space."""
    return Segment(TEXT, TEXT, TEXT_STREAM, grid=(1, 1, tokens), step=(0, 0, 0), cap=0.0)


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

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """The distinct roles, in order of first appearance."""
        return tuple(dict.fromkeys(s.role for s in self.segments))

    @cached_property
    def visual(self) -> tuple[Segment, ...]:
        return tuple(s for s in self.segments if s.stream == VISUAL_STREAM)

    @property
    def image_tokens(self) -> int:
        """How many tokens all pictures have together, text not counted."""
        return sum(s.tokens for s in self.visual)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each segment's tokens lie in attention order."""
        found, start = {}, 0
        for s in self.segments:
            found[s.name] = slice(start, start + s.tokens)
            start += s.tokens
        return found

    def __getitem__(self, name: str) -> Segment:
        return self.segments[self.names.index(name)]

    def only(self, names: Iterable[str]) -> "Layout":
        """The same layout with just these segments."""
        keep = set(names)
        return Layout(tuple(s for s in self.segments if s.name in keep))

    def without(self, names: Iterable[str]) -> "Layout":
        drop = set(names)
        return Layout(tuple(s for s in self.segments if s.name not in drop))

    def __add__(self, other: "Layout") -> "Layout":
        return Layout(self.segments + other.segments)

    def with_caps(self, caps: dict[str, float]) -> "Layout":
        """The same boxes with other noise ceilings by segment name."""
        return Layout(tuple(replace(s, cap=caps.get(s.name, s.cap)) for s in self.segments))


def kept(maxsize: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`lru_cache` for functions of layouts that return tensors, which outlive the call that happened to come first.

    They are made outside inference mode (a validation may come before training, and autograd refuses
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
    """Integer positions of every token, (L, A): origin + step * index, raster order within a segment."""
    boxes = [torch.empty(0, 3, dtype=torch.long)]
    for s in layout.segments:
        index = torch.stack(torch.meshgrid(*(torch.arange(n) for n in s.grid), indexing="ij"), dim=-1)
        boxes.append(torch.tensor(s.origin) + torch.tensor(s.step) * index.reshape(-1, 3))
    return torch.cat(boxes)


class Placement(NamedTuple):
    """Slot `slot` has its top left pixel at (y, x) of picture `canvas`, which the codec sees as one."""

    slot: str
    canvas: int
    y: int
    x: int


@dataclass(frozen=True)
class Plan:
    """A formatter's whole answer: the layout, the stitching before the codec, and how a still fills a patch.

    `fill` says what the rest of a temporal patch holds when a slot has one frame: its copies
    ("replicate", RealGeneral section 3.2) or zeros ("zero"). `copy_noise` says whether those frames
    are noised alike ("same") or each on its own ("independent").
    """

    layout: Layout
    placements: tuple[Placement, ...]
    fill: str = "replicate"
    copy_noise: str = "same"
