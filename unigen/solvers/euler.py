"""Euler's method on a shifted time grid: the sampler of Flux and VisualCloze. Shapes: T times; states are (B, L, F)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unigen.core.shift import DynamicShift, EmpiricalShift, StaticShift, checked_shift
from unigen.solvers.ddim import DDIM

COUNTS = ("steps", "points")


class Euler(DDIM):
    """x_s = x_t + (s - t) v on rectified flow, where DDIM's step is this one (on other processes it is DDIM's).

    It equals diffusers' FlowMatchEulerDiscreteScheduler with dynamic shifting. `steps` counts what `count` names: the
    "steps", as in diffusers, or the "points" of the time grid, which are one more, as in VisualCloze's own sampler (30
    points are 29 steps). `shift` moves the grid towards noise; None leaves it even.
    """

    def __init__(
        self,
        steps: int,
        count: str = "steps",
        shift: DynamicShift | StaticShift | EmpiricalShift | None = None,
    ) -> None:
        if count not in COUNTS:
            raise ValueError(f"solver.count is {count!r}; legal are {', '.join(COUNTS)}")
        super().__init__(steps)
        self.count, self.shift = count, checked_shift(shift, "solver.shift")

    @property
    def protocol(self) -> Mapping[str, Any]:
        """The settings, besides `steps`, that a score depends on."""
        shift = self.shift and dict(vars(self.shift))
        if shift and shift.get("count") == "all":
            del shift["count"]  # the cards of runs from before this key say the same
        return {"solver.count": self.count, "solver.shift": shift}

    def times(self, tokens: int = 0) -> Tensor:
        """Return t_T from 1 to 0 in fp32, with T = steps + 1, or T = steps if points are counted.

        Raises ValueError for a single point, and for a shift that is degenerate at this number of `tokens`.
        """
        points = self.steps + 1 if self.count == "steps" else self.steps
        if points < 2:
            raise ValueError(f"solver.steps={self.steps} counts points (solver.count); a step needs at least 2")
        t_T = torch.linspace(1, 0, points, dtype=torch.float64, device="cpu")
        return (t_T if self.shift is None else self.shift(t_T, tokens, points - 1)).float()
