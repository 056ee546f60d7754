"""Min-SNR weighting over time. Shapes: data, noise, predictions and errors (B, L, F), times (B,)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from unigen.protocols import Process


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

        The same weight without a division: sigma^2 (v_hat - v)^2 = (x0_hat - x0)^2 for both processes, and
        min(snr, gamma) sigma^2 = min(alpha^2, gamma sigma^2), finite at both ends of time.
        """
        alpha_B, sigma_B = process.coefficients(t_B)
        weight_B = torch.minimum(alpha_B.square(), self.gamma * sigma_B.square())
        error_BLF = (prediction.float() - process.target(x0, eps, t_B)).square()
        return weight_B[:, None, None] * error_BLF
