"""Helpers of all Gaussian paths x_t = alpha x0 + sigma eps: broadcasting, linear combination and draws of times.

Factors and times are (B,), the tensors that they multiply are (B, ...). Arithmetic is fp32 throughout.
"""

import torch
from torch import Tensor


def per_item(factor_B: Tensor, x: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, ..., 1) in fp32, so that it multiplies x (B, ...)."""
    return factor_B.float()[(...,) + (None,) * (x.ndim - 1)]


def combine(a_B: Tensor, x: Tensor, b_B: Tensor, y: Tensor) -> Tensor:
    """Return a x + b y with one factor per item, in fp32 whatever the input's precision."""
    return per_item(a_B, x) * x.float() + per_item(b_B, y) * y.float()


def require_precise(t: Tensor) -> None:
    """Raise ValueError unless times are float32 or float64.

    bf16 keeps 8 bits: 0.999 becomes 1.0 and 0.001 is off by a part in 1000. A rounded time cannot be repaired.
    """
    if t.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"times must be float32 or float64, got {t.dtype}: make them inside the step, not in the batch"
        )


def uniform_draws(
    batch: int, generator: torch.Generator | None, device: torch.device | str, stratified: bool
) -> Tensor:
    """Draw u_B in [0, 1), float64; if `stratified`, one in each of B equal slices of [0, 1), in shuffled order.

    Each u is still uniform, but a batch covers all noise levels instead of clustering by chance, so the variance that
    the choice of t adds to the loss (which changes by orders of magnitude over t) mostly vanishes. CogVideoX stratifies
    over data-parallel ranks ("explicit uniform sampling", arXiv 2408.06072).
    """
    source = device if generator is None else generator.device
    u_B = torch.rand(batch, generator=generator, device=source, dtype=torch.float64)
    if stratified:
        slice_B = torch.randperm(batch, generator=generator, device=source)
        u_B = ((slice_B + u_B) / batch).clamp(max=1 - 2**-53)
    return u_B.to(device)
