"""Losses by element: the error of v, of the noise, and of v with a weight that depends on time.

Shapes: data, noise, predictions and errors (B, L, F), times (B,).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from unigen.losses.weighted import SAMPLE, checked_average
from unigen.protocols import Process


class Velocity:
    """e = (v_hat - v)^2; `weights` maps a role to its share of the loss.

    `average`, "sample" or "batch", matters where cells are masked, since samples then have unequal numbers of them (see
    `weighted_mean`).
    CogVideoX's trainers write 1 / (1 - abar) * (x0_hat - x0)^2 instead. Because x0_hat - x0 = -sigma (v_hat - v) and
    sigma^2 = 1 - abar, that is the same number, but its weight reaches 1176 at the smallest t and promotes to float64.
    """

    def __init__(self, weights: Mapping[str, float], average: str = SAMPLE) -> None:
        self.weights = dict(weights)
        self.average = checked_average(average)

    def error(self, process: Process, x0: Tensor, eps: Tensor, x_t: Tensor, prediction: Tensor, t_B: Tensor) -> Tensor:
        """e_BLF = (v_hat - v)^2, fp32."""
        return (prediction.float() - process.target(x0, eps, t_B)).square()


class Epsilon:
    """e = (eps - eps_hat)^2, RealGeneral Eq. (1) taken literally; `weights` maps a role to its share of the loss.

    Under v-prediction eps_hat - eps = alpha (v_hat - v), so this is abar * v-MSE (rectified flow: (1 - t)^2): the
    loss fades as noise grows and is 0 at t = 1. Eq. (1) is likely notation for the loss of its base, `Velocity`.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = dict(weights)

    def error(self, process: Process, x0: Tensor, eps: Tensor, x_t: Tensor, prediction: Tensor, t_B: Tensor) -> Tensor:
        """e_BLF = (eps - eps_hat(x_t, prediction))^2, fp32."""
        return (process.to_noise(x_t, prediction, t_B) - eps.float()).square()


class MinSNR:
    """e = min(snr, gamma) / (snr + 1) * (v_hat - v)^2, snr = alpha^2 / sigma^2 (Hang et al., arXiv 2303.09556).

    It is min(snr, gamma) times the error of x0, clipped so that easy, nearly clean times do not dominate; under zero
    terminal SNR the weight at t = 1 is 0. `weights` maps a role to its share of the loss.
    """

    def __init__(self, weights: Mapping[str, float], gamma: float = 5.0) -> None:
        if gamma <= 0:
            raise ValueError(f"gamma of min-SNR must be positive (the paper uses 5), got {gamma}")
        self.weights = dict(weights)
        self.gamma = gamma

    def error(self, process: Process, x0: Tensor, eps: Tensor, x_t: Tensor, prediction: Tensor, t_B: Tensor) -> Tensor:
        """e_BLF = min(alpha^2, gamma sigma^2) (v_hat - v)^2, fp32.

        This is the class's weight without a division: sigma^2 (v_hat - v)^2 = (x0_hat - x0)^2 for both processes, and
        min(snr, gamma) sigma^2 = min(alpha^2, gamma sigma^2), which is finite at both ends of time.
        """
        alpha_B, sigma_B = process.coefficients(t_B)
        weight_B = torch.minimum(alpha_B.square(), self.gamma * sigma_B.square())
        error_BLF = (prediction.float() - process.target(x0, eps, t_B)).square()
        return weight_B[:, None, None] * error_BLF
