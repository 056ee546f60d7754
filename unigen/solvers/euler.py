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
    `terminal` stretches the shifted grid so that its last step begins at this time (Qwen-Image); None leaves it.
    """

    def __init__(
        self,
        steps: int,
        count: str = "steps",
        shift: DynamicShift | StaticShift | EmpiricalShift | None = None,
        terminal: float | None = None,
    ) -> None:
        if terminal is not None and not 0 < terminal < 1:
            raise ValueError(f"solver.terminal is {terminal}; legal are null and times between 0 and 1")
        if count not in COUNTS:
            raise ValueError(f"solver.count is {count!r}; legal are {', '.join(COUNTS)}")
        super().__init__(steps)
        self.count, self.shift, self.terminal = count, checked_shift(shift, "solver.shift"), terminal

    @property
    def protocol(self) -> Mapping[str, Any]:
        """The settings, besides `steps`, that a score depends on."""
        shift = self.shift and dict(vars(self.shift))
        if shift and shift.get("count") == "all":
            del shift["count"]  # the cards of runs from before this key say the same
        stretched = {} if self.terminal is None else {"solver.terminal": self.terminal}
        return {"solver.count": self.count, "solver.shift": shift, **stretched}

    def times(self, tokens: int = 0) -> Tensor:
        """Return t_T from 1 to 0 in fp32, with T = steps + 1, or T = steps if points are counted.

        Raises ValueError for a single point, for a single step that should begin at `terminal`, and for a shift that is
        degenerate at this number of `tokens`.
        """
        points = self.steps + 1 if self.count == "steps" else self.steps
        if points < 2:
            raise ValueError(f"solver.steps={self.steps} counts points (solver.count); a step needs at least 2")
        t_T = torch.linspace(1, 0, points, dtype=torch.float64, device="cpu")
        t_T = t_T if self.shift is None else self.shift(t_T, tokens, points - 1)
        return (t_T if self.terminal is None else self._stretched(t_T)).float()

    def _stretched(self, t_T: Tensor) -> Tensor:
        """Return 1 - (1 - t) (1 - terminal) / (1 - t_last) for all times but 0, with t_last the last one before it."""
        if len(t_T) < 3:
            raise ValueError(f"solver.steps={self.steps} is a single step, which begins at 1, not at solver.terminal")
        left = (1 - self.terminal) / (1 - t_T[-2])
        return torch.cat([1 - (1 - t_T[:-1]) * left, t_T[-1:]])
