"""Muon for the matrices of a backbone's blocks and AdamW for every other weight, as one optimizer of PyTorch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Words in the names of a block's modulation, which has as many matrices as attention, for one vector a sample.
MODULATION = ("norm", "_mod.")


def block_matrices(backbone: nn.Module) -> list[nn.Parameter]:
    """Return the trained matrices of attention and feed-forward layers in `backbone.blocks`.

    The modulation and both ends of the model are left out, as in Muon's own code: they read or write other things than
    the residual stream.
    """
    return [
        parameter
        for block in backbone.blocks
        for name, parameter in block.named_parameters()
        if parameter.requires_grad and parameter.ndim == 2 and not any(word in name for word in MODULATION)
    ]


class MuonAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` (Jordan et al., 2024) on `matrices` and AdamW on `rest`, stepped together.

    Muon's update of a matrix is its momentum made orthogonal, scaled to the root mean square of AdamW's updates
    (Liu et al., arXiv 2502.16982), so that one `lr` suits both. The weights are divided over no devices: an orthogonal
    update needs the whole matrix.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        rest: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        fused: bool = False,
    ) -> None:
        muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        adamw = torch.optim.AdamW(rest, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)
        self._both: Sequence[torch.optim.Optimizer] = (muon, adamw)
        super().__init__([group for each in self._both for group in each.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let both optimizers read this one's groups, whose rates a schedule sets, and write its states."""
        first = len(self._both[0].param_groups)
        for each, groups in zip(self._both, (self.param_groups[:first], self.param_groups[first:]), strict=True):
            each.param_groups, each.state = groups, self.state

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Update all weights once; return what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for each in self._both:
            each.step()
        return loss

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned."""
        super().load_state_dict(dict(state_dict))
        self._share()
