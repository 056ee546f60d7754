"""Rules of placement: where the image of a slot lies, how large it is encoded, and how far its tokens are apart.

All lengths are in tokens, along (t, h, w), unless they are said to be pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from unigen.core.layout import Number
from unigen.core.types import TEXT

AXES = ("t", "h", "w")
ORIGIN, TARGET_BOX = "origin", "target"
ANCHORS = (ORIGIN, TARGET_BOX)
RUNS: dict[str, tuple[int, ...]] = {
    "t": (0,),
    "h": (1,),
    "w": (2,),
    "diagonal": (1, 2),
}  # the axes that a run goes along
ALIGNS = ("corner", "centre")
OWN = ("frames", "height", "width")  # an image's own extent along (t, h, w), as a word in an offset
FIT = "fit"
Three = tuple[Number, Number, Number]


class Rule(NamedTuple):
    """Where the images of a slot or role lie.

    at: what positions count from: the "origin" (0, 0, 0), or the "target": the first target's own first token.
    offset: three numbers that are added, or words for the image's own extent: frames, height, width, with - before them
    for its negative (OminiControl's subjects lie at [0, 0, -width]).
    run: how the images of one rule follow each other. "t", "h" and "w": each begins where the one before it ends along
    that axis, the first of them at the anchor, or behind the target if they count from it; "diagonal": along both h and
    w (UNO); three numbers: that far from one image to the next ([10, 0, 0] as FLUX.2), and from the target to the first
    of them if they count from it; null: all lie at one place.
    size: the image is encoded at this share of its own size, such as 1/2 (OminiControl2).
    step: the distance of neighbouring tokens along h and w, a number, or "fit": as many as the target's extent has
    (EasyControl).
    align: where the first token lies if `step` is not 1: at the "corner" of the area, or in the "centre" of the part of
    it that the token stands for, (step - 1) / 2.
    centred: h and w count from the image's middle, so that the first token lies at -(n - n // 2) (Qwen-Image).
    cap: the noise ceiling, where it is another than the role's: 1 minus LTX's strength of a reference.
    """

    at: str = ORIGIN
    offset: tuple[Any, Any, Any] = (0, 0, 0)
    run: str | Three | None = None
    size: Fraction = Fraction(1)
    step: Number | str = 1
    align: str = "corner"
    centred: bool = False
    cap: float | None = None

    def extent(self, grid: Sequence[int], step: Three) -> Three:
        """Return how far the next image of this rule lies behind an image of `grid` tokens, `step` apart."""
        if self.run is None or not isinstance(self.run, str):
            return self.run or (0, 0, 0)
        return tuple(grid[axis] * step[axis] if axis in RUNS[self.run] else 0 for axis in range(3))

    def shift(self, grid: Sequence[int]) -> Three:
        """Return the offset for an image of `grid` tokens, its words replaced by numbers."""
        return tuple(_length(each, grid) for each in self.offset)

    def steps(self, grid: Sequence[int], target: Sequence[int]) -> Three:
        """Return the distance of neighbouring tokens of an image of `grid` tokens, beside a target of `target`."""
        if self.step == FIT:
            return 1, *(_plain(Fraction(target[axis], grid[axis])) for axis in (1, 2))
        return 1, self.step, self.step

    def first(self, grid: Sequence[int], step: Three) -> Three:
        """Return where the first token lies, counted from the image's place."""
        inset = [0, 0, 0] if self.align == "corner" else [0, *(_plain(Fraction(s - 1) / 2) for s in step[1:])]
        middle = [0, *(-(n - n // 2) for n in grid[1:])] if self.centred else [0, 0, 0]
        return tuple(a + b * s for a, b, s in zip(inset, middle, step, strict=True))


def rules(places: Mapping[str, Mapping[str, Any]]) -> dict[str, Rule]:
    """Return the rules by role, slot or "all", as formatter.places gives them. Raises ValueError, naming the key."""
    if not isinstance(places, Mapping) or not places:
        raise ValueError(
            "formatter.places names no rule; legal are rules by slot, by role, or for all: {all: {run: t}}"
        )
    return {name: _rule(f"formatter.places.{name}", said) for name, said in places.items()}


def _rule(key: str, said: Any) -> Rule:
    if not isinstance(said, Mapping):
        raise ValueError(f"{key} is {said!r}; legal is a rule such as {{at: target, offset: [0, 0, 0]}}")
    if unknown := set(said) - set(Rule._fields):
        raise ValueError(f"{key}.{sorted(unknown)[0]} is no part of a rule; legal are {', '.join(Rule._fields)}")
    if key.endswith(f".{TEXT}"):
        raise ValueError(f"{key}: text has no place of its own; it lies at (0, 0, 0), as the families were trained")
    rule = Rule(**said)
    _one_of(f"{key}.at", rule.at, ANCHORS)
    _one_of(f"{key}.align", rule.align, ALIGNS)
    if not isinstance(rule.centred, bool):
        raise ValueError(f"{key}.centred is {rule.centred!r}; legal are true and false")
    if rule.cap is not None and (
        isinstance(rule.cap, bool) or not isinstance(rule.cap, int | float) or not 0 <= rule.cap <= 1
    ):
        raise ValueError(f"{key}.cap is {rule.cap!r}; legal are null and noise ceilings from 0 to 1")
    offset = _three(f"{key}.offset", rule.offset, words=True)
    run = rule.run
    if isinstance(run, str):
        _one_of(f"{key}.run", run, tuple(RUNS))
    elif run is not None:
        run = _three(f"{key}.run", run, words=False)
    size = _fraction(f"{key}.size", rule.size)
    if not 0 < size <= 1:
        raise ValueError(f"{key}.size is {said['size']}; legal are shares above 0 and at most 1, such as 1/2")
    step = rule.step if rule.step == FIT else _plain(_fraction(f"{key}.step", rule.step))
    if step != FIT and step <= 0:
        raise ValueError(f"{key}.step is {said['step']}; legal are numbers above 0, and fit")
    return rule._replace(offset=offset, run=run, size=size, step=step)


def _three(key: str, value: Any, words: bool) -> tuple[Any, Any, Any]:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 3:
        raise ValueError(f"{key} is {value!r}; legal are three numbers, along t, h and w")
    own = [*OWN, *(f"-{word}" for word in OWN)] if words else []
    return tuple(each if each in own else _plain(_fraction(key, each, own)) for each in value)


def _fraction(key: str, value: Any, words: Sequence[str] = ()) -> Fraction:
    """Return a number as a fraction. YAML reads 1/2 as a text, and 0.5 as a float, which is exactly a half."""
    try:
        if isinstance(value, bool):
            raise ValueError
        return Fraction(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        besides = f" and the words {', '.join(words)}" if words else ""
        raise ValueError(f"{key} has {value!r}; legal are numbers and fractions such as 1/2{besides}") from None


def _plain(number: Fraction) -> Number:
    return int(number) if number.denominator == 1 else number


def _length(each: Any, grid: Sequence[int]) -> Number:
    if not isinstance(each, str):
        return each
    length = grid[OWN.index(each.removeprefix("-"))]
    return -length if each.startswith("-") else length


def _one_of(key: str, value: Any, legal: tuple[str, ...]) -> None:
    if value not in legal:
        raise ValueError(f"{key} is {value!r}; legal are {', '.join(legal)}")
