"""SDE-DPM-Solver++(2M), CogVideoX's stochastic second-order solver. States are (B, L, F)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unigen.core.noise import normal
from unigen.protocols import Process


class Last(NamedTuple):
    """A segment's last estimate of the data, and half the log-SNR at which it was made: the second order needs both."""

    data_BLF: Tensor
    log_snr: float


class DPM:
    """SDE-DPM-Solver++(2M), equal to diffusers' CogVideoXDPMScheduler (trailing) under the same noise.

    It is finite at zero terminal SNR. If `steps` does not divide 1000, it differs from diffusers as `DDIM` does.
    """

    def __init__(self, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"a solver needs at least 1 step, got {steps}")
        self.steps = steps

    def times(self, tokens: int = 0) -> Tensor:
        """Return t_T from 1 to 0 in equal steps, T = steps + 1, fp32, whatever the number of `tokens`.

        This is the trailing spacing: on a grid of 1000, 50 steps are timesteps k = 999, 979, ..., 19 and then data.
        The sampling loop moves the times to the grid of the process.
        """
        return torch.linspace(1, 0, self.steps + 1, dtype=torch.float64, device="cpu").float()

    def step(
        self,
        process: Process,
        x_t: Tensor,
        prediction: Tensor,
        t: float,
        s: float,
        carry: Last | None,
        generator: torch.Generator | Sequence[torch.Generator],
    ) -> tuple[Tensor, Last]:
        """x_s = (sigma_s / sigma_t) e^-h x_t + alpha_s (1 - e^-2h) D + sigma_s sqrt(1 - e^-2h) z, z standard normal.

        lambda = log(alpha / sigma), h = lambda_s - lambda_t; D = x0_hat + (h / 2 h_last) (x0_hat - last x0_hat), or
        x0_hat alone on a segment's first step and on the step to data (Lu et al., arXiv 2211.01095, SDE-DPM-Solver++;
        diffusers' CogVideoXDPMScheduler). From pure noise h is infinite and the step is alpha_s x0_hat + sigma_s z.
        """
        (alpha_t, sigma_t), (alpha_s, sigma_s) = _factors(process, t), _factors(process, s)
        here = _log_ratio(alpha_t, sigma_t)
        h = _log_ratio(alpha_s, sigma_s) - here
        t_B = torch.full((x_t.shape[0],), t, dtype=torch.float32, device=x_t.device)
        data = process.to_data(x_t, prediction, t_B)
        estimate = data
        if carry is not None and sigma_s > 0:
            estimate = data + h / (2 * (here - carry.log_snr)) * (data - carry.data_BLF)
        fresh = -math.expm1(-2 * h)
        z = normal(x_t.shape, generator).to(x_t.device)
        x_s = (sigma_s / sigma_t * math.exp(-h)) * x_t.float() + (alpha_s * fresh) * estimate
        return x_s + (sigma_s * math.sqrt(fresh)) * z, Last(data, here)


def _factors(process: Process, t: float) -> tuple[float, float]:
    alpha, sigma = process.coefficients(torch.tensor(t, dtype=torch.float32, device="cpu"))
    return alpha.item(), sigma.item()


def _log_ratio(alpha: float, sigma: float) -> float:
    """Return log(alpha / sigma), half the log of the signal-to-noise ratio; it is infinite where one of them is 0."""
    if alpha == 0:
        return -math.inf
    return math.inf if sigma == 0 else math.log(alpha / sigma)
