"""DDIM, the deterministic first-order solver. Shapes: T times; states and predictions are (B, L, F)."""

import torch
from torch import Tensor

from unigen.protocols import Process


class DDIM:
    """DDIM, equal to diffusers' CogVideoXDDIMScheduler (eta 0, trailing); on rectified flow it is the Euler step.

    If `steps` does not divide 1000, both call the network at the same timesteps (`VariancePreserving.on_grid`), but
    diffusers ends every step 1000 // steps below its timestep, which is not where the next step begins, and the last
    step often ends short of data. Here each step ends where the next one begins, and the last one ends at data.
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
        carry: None,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, None]:
        """x_s = alpha_s x0_hat + sigma_s eps_hat (Song et al., arXiv 2010.02502, equation 12 with sigma = 0)."""
        t_B = torch.full((x_t.shape[0],), t, dtype=torch.float32, device=x_t.device)
        alpha, sigma = process.coefficients(torch.tensor(s, dtype=torch.float32, device="cpu"))
        data = process.to_data(x_t, prediction, t_B)
        noise = process.to_noise(x_t, prediction, t_B)
        return alpha.item() * data + sigma.item() * noise, None
