"""Shifts of rectified flow's times towards noise: by the number of image tokens, or by one factor for all.

A solver tells a shift the number of its steps too, for the one that depends on it.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from unigen.core.layout import Layout

COUNTS = ("all", "targets")


def checked_shift(shift: object, key: str) -> "DynamicShift | StaticShift | EmpiricalShift | None":
    """Return the shift as it was given. Raises ValueError if it is neither null nor a part that shifts times, and for a
    process's shift that depends on the number of sampling steps.
    """
    if isinstance(shift, EmpiricalShift) and key.startswith("process."):
        raise ValueError(
            f"{key} is an EmpiricalShift, which depends on the number of sampling steps, and training has none; legal "
            "are null, unigen.core.shift.DynamicShift and StaticShift"
        )
    if shift is None or callable(shift):
        return shift
    raise ValueError(f"{key} is {shift!r}; legal are null and a part, such as unigen.core.shift.DynamicShift")


def counted(part: object, layout: Layout) -> int:
    """Return the number of image tokens that the shift of a process or solver counts: all, where it does not say."""
    count = getattr(getattr(part, "shift", None), "count", "all")
    return layout.target_tokens if count == "targets" else layout.image_tokens


class DynamicShift:
    """t -> e^mu / (e^mu + 1 / t - 1), mu linear in the number N of image tokens (Esser et al., arXiv 2403.03206,
    section 5.3.2; in this form, and with these constants, in FLUX).

    mu is `base_shift` at `base_tokens` and `max_shift` at `max_tokens`, and continues on the same line beyond both.
    `count` says whose tokens N counts: those of "all" images, as VisualCloze's whole grid (3×4 images at 384² are 6912
    tokens and have mu 1.63), or those of the "targets" alone, as all other in-context methods on FLUX do.
    A mu above `limit` is refused, because nearly all times then lie at noise: 5×5 images at 512² have mu 4.79, and the
    last of 30 steps would go from t = 0.8 to data. null allows every mu.
    """

    def __init__(
        self,
        base_shift: float = 0.5,
        max_shift: float = 1.15,
        base_tokens: int = 256,
        max_tokens: int = 4096,
        limit: float | None = 3.0,
        count: str = "all",
    ) -> None:
        _check_count(count)
        if not 0 < base_tokens < max_tokens:
            raise ValueError(
                f"shift.base_tokens must be positive and less than shift.max_tokens, got {base_tokens} and {max_tokens}"
            )
        self.base_shift, self.max_shift = base_shift, max_shift
        self.base_tokens, self.max_tokens, self.limit = base_tokens, max_tokens, limit
        self.count = count

    def mu(self, tokens: int) -> float:
        """Return the logarithm of the shift. Raises ValueError without tokens, and beyond `limit`."""
        if tokens < 1:
            raise ValueError(f"the dynamic shift needs the number of image tokens, got {tokens}")
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        mu = self.base_shift + slope * (tokens - self.base_tokens)
        if self.limit is not None and mu > self.limit:
            most = int(self.base_tokens + (self.limit - self.base_shift) / slope)
            raise ValueError(
                f"the dynamic shift degenerates: {tokens} image tokens have mu = {mu:.2f}, shift.limit is "
                f"{self.limit:g}; use at most {most} tokens (fewer or smaller images), or raise shift.limit"
            )
        return mu

    def __call__(self, t: Tensor, tokens: int, steps: int | None = None) -> Tensor:
        """Shift times in [0, 1], of any shape, in float64 for images of `tokens` tokens; 0 and 1 stay."""
        return _shifted(t, self.mu(tokens))


class StaticShift:
    """t -> s t / (1 + (s - 1) t) for any number of image tokens: Wan's `flow_shift` s.

    Raises ValueError for a factor that is not positive.
    """

    def __init__(self, factor: float) -> None:
        if not factor > 0:
            raise ValueError(f"shift.factor is {factor}; legal are numbers above 0, of which 1 shifts nothing")
        self.factor = factor

    def __call__(self, t: Tensor, tokens: int, steps: int | None = None) -> Tensor:
        """Shift times in [0, 1], of any shape, in float64; 0 and 1 stay."""
        t = t.double()
        return self.factor * t / (1 + (self.factor - 1) * t)


class EmpiricalShift:
    """t -> e^mu / (e^mu + 1 / t - 1), mu by the number N of image tokens and by the steps, as FLUX.2 samples.

    `few` and `many` are the slope and the intercept of mu over N at 10 and at 200 steps; other numbers of steps lie on
    the line through both. Beyond `most` tokens `many` holds for any number of steps, so mu jumps there. `count` says
    whose tokens N counts, as in `DynamicShift`.
    Raises ValueError for a line that is not two numbers.
    """

    def __init__(
        self,
        few: Sequence[float] = (8.73809524e-05, 1.89833333),
        many: Sequence[float] = (0.00016927, 0.45666666),
        most: int = 4300,
        count: str = "targets",
    ) -> None:
        _check_count(count)
        for name, line in (("few", few), ("many", many)):
            if len(line) != 2:
                raise ValueError(f"shift.{name} is {list(line)}; legal are two numbers, a slope and an intercept")
        self.few, self.many, self.most, self.count = list(few), list(many), most, count

    def mu(self, tokens: int, steps: int) -> float:
        """Return the logarithm of the shift."""
        few, many = (slope * tokens + intercept for slope, intercept in (self.few, self.many))
        return many if tokens > self.most else few + (many - few) * (steps - 10) / 190

    def __call__(self, t: Tensor, tokens: int, steps: int) -> Tensor:
        """Shift times in [0, 1], of any shape, in float64 for images of `tokens` tokens; 0 and 1 stay."""
        return _shifted(t, self.mu(tokens, steps))


def _shifted(t: Tensor, mu: float) -> Tensor:
    factor, t = math.exp(mu), t.double()
    return factor * t / (factor * t + (1 - t))


def _check_count(count: str) -> None:
    if count not in COUNTS:
        raise ValueError(f"shift.count is {count!r}; legal are {', '.join(COUNTS)}")
