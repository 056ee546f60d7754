"""Euler's method on a shifted time grid: the sampler of Flux and VisualCloze. Shapes: T times; states are (B, L, F)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unigen.shift import DynamicShift, checked_shift
from unigen.solvers.ddim import DDIM

COUNTS = ("steps", "points")


class Euler(DDIM):
    """x_s = x_t + (s - t) v on rectified flow, where DDIM's step is this one (on other processes it is DDIM's).

    Equal to diffusers' FlowMatchEulerDiscreteScheduler with dynamic shifting. `count` says what `steps` counts: the
    "steps", as diffusers does, or the "points" of the time grid, one more, as VisualCloze's own sampler does (30 are 29
    steps). `shift` moves the grid towards noise by the number of image tokens; None leaves it even.
    """

    def __init__(
        self,
        steps: int,
        guidance: float,
        drop: Sequence[str],
        count: str = "steps",
        shift: DynamicShift | None = None,
    ) -> None:
        if count not in COUNTS:
            raise ValueError(f"solver.count is {count!r}; legal are {', '.join(COUNTS)}")
        super().__init__(steps, guidance, drop)
        self.count, self.shift = count, checked_shift(shift, "solver.shift")

    @property
    def protocol(self) -> Mapping[str, Any]:
        """What a number depends on besides `steps`."""
        return {"solver.count": self.count, "solver.shift": self.shift and dict(vars(self.shift))}

    def times(self, tokens: int = 0) -> Tensor:
        """t_T from 1 to 0, T = steps + 1 or, where points are counted, T = steps; fp32.

        Raises ValueError for a single point, and for a shift that `tokens` make degenerate.
        """
        points = self.steps + 1 if self.count == "steps" else self.steps
        if points < 2:
            raise ValueError(f"solver.steps={self.steps} counts points (solver.count); a step needs at least 2")
        t_T = torch.linspace(1, 0, points, dtype=torch.float64, device="cpu")
        return (t_T if self.shift is None else self.shift(t_T, tokens)).float()
