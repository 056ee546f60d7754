"""Rectified flow: the straight path between data and noise, on which Flux and so VisualCloze is trained.

t in [0, 1], 1 is noise, 0 is data. Shapes: B batch; times are (B,), data and noise (B, L, F).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from unigen.core.shift import DynamicShift, StaticShift, checked_shift
from unigen.processes.gaussian import combine, require_precise, uniform_draws


class Uniform:
    """t = u."""

    def __call__(self, u_B: Tensor) -> Tensor:
        return u_B


class LogitNormal:
    """t = sigmoid(mean + std z), z standard normal (Esser et al., arXiv 2403.03206, section 3.1), z = Phi^-1(u)."""

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        if std <= 0:
            raise ValueError(f"std of the logit-normal times must be positive, got {std}")
        self.mean = mean
        self.std = std

    def __call__(self, u_B: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u_B))


class RectifiedFlow:
    """x_t = (1 - t) x0 + t eps; the network predicts dx/dt = eps - x0 (Liu et al., arXiv 2209.03003, equation 1).

    `density` turns uniform draws into training times (it is an inverse cumulative distribution). `shift`, if there is
    one, then moves the times towards noise; more tokens move them further (VisualCloze describes it in the paper, and
    its released code has none).
    """

    predicts = "flow"

    def __init__(
        self,
        density: Callable[[Tensor], Tensor],
        stratified: bool = True,
        shift: DynamicShift | StaticShift | None = None,
    ) -> None:
        self.density = density
        self.stratified = stratified
        self.shift = checked_shift(shift, "process.shift")

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma) = (1 - t, t), shaped like t, fp32."""
        require_precise(t)
        return (1 - t.double()).float(), t.float()

    def on_grid(self, t: Tensor) -> Tensor:
        """Return the times unchanged: a flow is continuous."""
        return t

    def sample_times(
        self, batch: int, generator: torch.Generator | None, device: torch.device | str = "cpu", tokens: int = 0
    ) -> Tensor:
        """Draw t = density(u_B), shifted for samples with `tokens` image tokens."""
        t_B = self.density(uniform_draws(batch, generator, device, self.stratified))
        return (t_B if self.shift is None else self.shift(t_B, tokens)).float()

    def corrupt(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = (1 - t) x0 + t eps."""
        alpha_B, sigma_B = self.coefficients(t)
        return combine(alpha_B, x0, sigma_B, eps)

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """eps - x0, the same at every t."""
        return eps.float() - x0.float()

    def to_data(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """x0 = x_t - t (eps - x0)."""
        _, sigma_B = self.coefficients(t)
        return combine(torch.ones_like(sigma_B), x_t, -sigma_B, prediction)

    def to_noise(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """eps = x_t + (1 - t) (eps - x0)."""
        alpha_B, _ = self.coefficients(t)
        return combine(torch.ones_like(alpha_B), x_t, alpha_B, prediction)
