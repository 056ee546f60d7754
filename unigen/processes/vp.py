"""Variance-preserving diffusion with v-prediction: the process of CogVideoX and so of RealGeneral.

t in [0, 1], 1 is noise, 0 is data. Grid point j lies at t = j / steps, j = 0 .. steps; j = 0 is data and j = k + 1 is
the integer timestep k of diffusers' schedulers. Shapes: B batch, J grid points; times are (B,), data and noise
(B, L, F).
"""

import torch
from torch import Tensor

from unigen.processes.gaussian import combine, require_precise, uniform_draws


def alpha_bar_table(
    steps: int, beta_start: float, beta_end: float, snr_shift_scale: float, zero_terminal_snr: bool
) -> Tensor:
    """Return abar_J in float64, J = steps + 1, abar_0 = 1; abar_(k+1) is diffusers' alphas_cumprod[k] to the last bit.

    abar_k = prod_(i <= k) (1 - beta_i), sqrt(beta) linear (scaled_linear of latent diffusion);
    SNR / scale, i.e. abar <- abar / (scale + (1 - scale) abar) (CogVideoX, arXiv 2408.06072, after SD3);
    sqrt(abar) shifted and scaled to end at 0 (zero terminal SNR: Lin et al., arXiv 2305.08891, algorithm 1).
    """
    beta = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64, device="cpu") ** 2
    abar = torch.cumprod(1.0 - beta, dim=0)
    abar = abar / (snr_shift_scale + (1 - snr_shift_scale) * abar)
    if zero_terminal_snr:
        root = abar.sqrt()
        abar = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
    return torch.cat([torch.ones(1, dtype=torch.float64, device="cpu"), abar])


class VariancePreserving:
    """x_t = alpha x0 + sigma eps with alpha^2 + sigma^2 = 1; the network predicts v = alpha eps - sigma x0.

    v-prediction: Salimans and Ho, arXiv 2202.00512, section 4.
    """

    predicts = "v"

    def __init__(
        self,
        steps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        snr_shift_scale: float = 1.0,
        zero_terminal_snr: bool = True,
        stratified: bool = True,
    ) -> None:
        if steps < 2:
            raise ValueError(f"steps is the size of the noise schedule and must be at least 2, got {steps}")
        if not 0 < beta_start < beta_end < 1:
            raise ValueError(f"betas must satisfy 0 < beta_start < beta_end < 1, got {beta_start} and {beta_end}")
        if snr_shift_scale <= 0:
            raise ValueError(f"snr_shift_scale must be positive, got {snr_shift_scale}")
        self.steps = steps
        self.stratified = stratified
        self.alpha_bar_J = alpha_bar_table(steps, beta_start, beta_end, snr_shift_scale, zero_terminal_snr)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma) = (sqrt(abar(t)), sqrt(1 - abar(t))), shaped like t, fp32 rounded from float64.

        Between grid points abar is interpolated linearly. A time within fp32 rounding of a grid point is that grid
        point, so fp32 times reach the schedule's own values.
        """
        require_precise(t)
        position = t.double() * self.steps
        nearest = position.round()
        position = torch.where((position - nearest).abs() < self.steps * 2.0**-22, nearest, position)
        position = position.clamp(0, self.steps)
        below = position.floor().long().clamp(max=self.steps - 1)
        table_J = self.alpha_bar_J.to(t.device)
        abar = torch.lerp(table_J[below], table_J[below + 1], position - below)
        return abar.sqrt().float(), (1 - abar).sqrt().float()

    def on_grid(self, t: Tensor) -> Tensor:
        """Return the nearest grid points, fp32, where the noise level is that of the network's integer timestep.

        Halves are rounded to even. Trailing steps so get the timesteps of diffusers' schedulers, which round likewise.
        """
        position = (t.double() * self.steps).round(decimals=3)  # a half that fp32 has displaced is a half again
        return (position.round() / self.steps).float()

    def sample_times(
        self, batch: int, generator: torch.Generator | None, device: torch.device | str = "cpu", tokens: int = 0
    ) -> Tensor:
        """Draw t uniform over {1, ..., steps} / steps, as CogVideoX trains (timestep k uniform over 0 .. steps - 1)."""
        u_B = uniform_draws(batch, generator, device, self.stratified)
        return (((u_B * self.steps).floor() + 1) / self.steps).float()

    def corrupt(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha x0 + sigma eps."""
        alpha_B, sigma_B = self.coefficients(t)
        return combine(alpha_B, x0, sigma_B, eps)

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """v = alpha eps - sigma x0."""
        alpha_B, sigma_B = self.coefficients(t)
        return combine(alpha_B, eps, -sigma_B, x0)

    def to_data(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """x0 = alpha x_t - sigma v."""
        alpha_B, sigma_B = self.coefficients(t)
        return combine(alpha_B, x_t, -sigma_B, prediction)

    def to_noise(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """eps = sigma x_t + alpha v."""
        alpha_B, sigma_B = self.coefficients(t)
        return combine(sigma_B, x_t, alpha_B, prediction)
