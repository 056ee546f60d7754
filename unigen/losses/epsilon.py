"""Error of the noise that the prediction implies. Shapes: data, noise, predictions and errors (B, L, F), times (B,)."""

from collections.abc import Mapping

from torch import Tensor

from unigen.protocols import Process


class Epsilon:
    """e = (eps - eps_hat)^2, RealGeneral Eq. (1) taken literally; `weights` maps a role to its share of the loss.

    Under v-prediction eps_hat - eps = alpha (v_hat - v), so this is abar * v-MSE (rectified flow: (1 - t)^2): the
    signal fades with noise and is nil at t = 1. Eq. (1) is likely notation for the loss of its base, `Velocity`.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = dict(weights)

    def error(self, process: Process, x0: Tensor, eps: Tensor, x_t: Tensor, prediction: Tensor, t_B: Tensor) -> Tensor:
        """e_BLF = (eps - eps_hat(x_t, prediction))^2, fp32."""
        return (process.to_noise(x_t, prediction, t_B) - eps.float()).square()
