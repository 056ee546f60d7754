"""Plain error of the prediction. Shapes: data, noise, predictions and errors (B, L, F), times (B,)."""

from collections.abc import Mapping

from torch import Tensor

from unigen.losses.weighted import SAMPLE, checked_average
from unigen.protocols import Process


class Velocity:
    """e = (v_hat - v)^2; `weights` maps a role to its share of the loss.

    `average`, "sample" or "batch", is of masked cells, of which samples have unequally many (see `weighted_mean`).
    CogVideoX's trainers write 1 / (1 - abar) * (x0_hat - x0)^2 instead. Because x0_hat - x0 = -sigma (v_hat - v) and
    sigma^2 = 1 - abar, that is the same number, but its weight reaches 1176 at the smallest t and promotes to float64.
    """

    def __init__(self, weights: Mapping[str, float], average: str = SAMPLE) -> None:
        self.weights = dict(weights)
        self.average = checked_average(average)

    def error(self, process: Process, x0: Tensor, eps: Tensor, x_t: Tensor, prediction: Tensor, t_B: Tensor) -> Tensor:
        """e_BLF = (v_hat - v)^2, fp32."""
        return (prediction.float() - process.target(x0, eps, t_B)).square()
