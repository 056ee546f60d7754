"""Kernels that compute softmax(q k^T / sqrt(D)) v if nothing is masked: PyTorch's choice, or one by name.

Shapes: B batch, H heads, L tokens, D head width.
"""

from collections.abc import Callable
from functools import partial
from inspect import signature

import torch
import torch.nn.functional as F
from torch import Tensor

from unigen.config.values import ConfigError

# PyTorch's own (torch.nn.attention.SDPBackend)
TORCH = {"flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "cudnn": "CUDNN_ATTENTION", "math": "MATH"}
# of other packages, through diffusers.models.attention_dispatch: our word and theirs
DIFFUSERS = {
    "flash_2": "flash",
    "flash_3": "_flash_3",
    "flash_4": "flash_4_hub",
    "sage": "sage",
    "xformers": "xformers",
}
NAMES = (*TORCH, *DIFFUSERS)


def unmasked(q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, kernel: str) -> Tensor:
    """Attend from all queries to all keys by a kernel of `NAMES`."""
    if kernel in TORCH:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel(getattr(SDPBackend, TORCH[kernel])):
            return F.scaled_dot_product_attention(q_BHLD, k_BHLD, v_BHLD)
    return _dispatched(q_BHLD, k_BHLD, v_BHLD, DIFFUSERS[kernel])


def with_kernel(lowering: Callable[..., Tensor], kernel: str | None) -> Callable[..., Tensor]:
    """Return `lowering` (a function of `unigen.core.attention`) with its mask-free calls done by this kernel.

    Raises ConfigError for an unknown kernel, and for a lowering that has no mask-free calls.
    """
    if kernel is None:
        return lowering
    if kernel not in NAMES:
        raise ConfigError(f"backbone.kernel is {kernel!r}; legal are null (PyTorch's choice), {', '.join(NAMES)}")
    if "kernel" not in signature(lowering).parameters:
        raise ConfigError(
            f"backbone.kernel is '{kernel}', but the lowering {getattr(lowering, 'func', lowering).__name__} has no "
            "choice of kernels; use backbone.lowering._target_=unigen.core.attention.grouped, or backbone.kernel=null"
        )
    return partial(lowering, kernel=partial(unmasked, kernel=kernel))


def try_kernel(kernel: str, width: int, dtype: torch.dtype, device: torch.device) -> None:
    """Attend once, forward and backward, with heads of `width`, as a training step would (under its autocast too).

    Raises ConfigError, naming those of PyTorch's kernels that do work here, if this one does not: it is not installed,
    has no backward, or does not take this device, precision or width.
    """
    reason = _failure(kernel, width, dtype, device)
    if reason is not None:
        able = [name for name in TORCH if _failure(name, width, dtype, device) is None]
        raise ConfigError(
            f"backbone.kernel={kernel} cannot train here, on {device.type} in {str(dtype).removeprefix('torch.')} with "
            f"heads of {width} ({reason}); legal are null and, of PyTorch's own, {', '.join(able)}"
        )


def _failure(kernel: str, width: int, dtype: torch.dtype, device: torch.device) -> str | None:
    """Return in a line why a kernel cannot do a training step, or None if it can."""
    q, k, v = (torch.ones(1, 2, 64, width, dtype=dtype, device=device, requires_grad=True) for _ in range(3))
    try:
        unmasked(q, k, v, kernel).float().sum().backward()
    except Exception as error:  # packages of many authors, each with errors of its own
        return " ".join(str(error).split())[:160] or type(error).__name__
    return None if all(x.grad is not None for x in (q, k, v)) else "it has no backward"


def _dispatched(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    """Attend through diffusers, whose kernels take (B, L, H, D) and do not follow autocast."""
    from diffusers.models.attention_dispatch import (
        AttentionBackendName,
        _check_attention_backend_requirements,
        _maybe_download_kernel_for_backend,
        dispatch_attention_fn,
    )

    name = AttentionBackendName(backend)
    if not torch.compiler.is_compiling():
        _check_attention_backend_requirements(name)
        _maybe_download_kernel_for_backend(name)
    if torch.is_autocast_enabled(q.device.type):
        q, k, v = (x.to(torch.get_autocast_dtype(q.device.type)) for x in (q, k, v))
    return dispatch_attention_fn(*(x.transpose(1, 2) for x in (q, k, v)), backend=name).transpose(1, 2)
