"""The dynamic shift of rectified flow: the more image tokens, the more of all times lies near noise."""

import math

from torch import Tensor


def checked_shift(shift: object, key: str) -> "DynamicShift | None":
    """A shift as it was given. Raises ValueError for what is neither null nor a part that shifts times."""
    if shift is None or callable(shift):
        return shift
    raise ValueError(f"{key} is {shift!r}; legal are null and a part, such as unigen.shift.DynamicShift")


class DynamicShift:
    """t -> e^mu / (e^mu + 1 / t - 1), mu linear in the number N of image tokens (Esser et al., arXiv 2403.03206,
    section 5.3.2; in this form, and with these constants, in FLUX).

    mu is `base_shift` at `base_tokens` and `max_shift` at `max_tokens`, and goes on in the same line beyond both, as
    VisualCloze has it: N counts the whole grid, so 3×4 pictures at 384² (6912 tokens) have mu 1.63.
    `limit` refuses what is degenerate: beyond it next to all times lie at noise. 5×5 at 512² has mu 4.79, and the last
    of 30 steps would go from t = 0.8 to data. null allows everything.
    """

    def __init__(
        self,
        base_shift: float = 0.5,
        max_shift: float = 1.15,
        base_tokens: int = 256,
        max_tokens: int = 4096,
        limit: float | None = 3.0,
    ) -> None:
        if not 0 < base_tokens < max_tokens:
            raise ValueError(
                f"shift.base_tokens must be positive and less than shift.max_tokens, got {base_tokens} and {max_tokens}"
            )
        self.base_shift, self.max_shift = base_shift, max_shift
        self.base_tokens, self.max_tokens, self.limit = base_tokens, max_tokens, limit

    def mu(self, tokens: int) -> float:
        """The logarithm of the shift. Raises ValueError without tokens, and beyond `limit`."""
        if tokens < 1:
            raise ValueError(f"the dynamic shift needs the number of image tokens, got {tokens}")
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        mu = self.base_shift + slope * (tokens - self.base_tokens)
        if self.limit is not None and mu > self.limit:
            most = int(self.base_tokens + (self.limit - self.base_shift) / slope)
            raise ValueError(
                f"the dynamic shift degenerates: {tokens} image tokens have mu = {mu:.2f}, shift.limit is "
                f"{self.limit:g}; use at most {most} tokens (fewer or smaller pictures), or raise shift.limit"
            )
        return mu

    def __call__(self, t: Tensor, tokens: int) -> Tensor:
        """Times in [0, 1], any shape, shifted in float64 for pictures of `tokens` tokens; 0 and 1 stay."""
        factor, t = math.exp(self.mu(tokens)), t.double()
        return factor * t / (factor * t + (1 - t))
