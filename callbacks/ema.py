"""Exponential moving average of the trained weights only (Lightning's own averages a copy of the whole module)."""

from typing import Any

import lightning as L
import torch


class EMA(L.Callback):
    """average <- d * average + (1 - d) * weight after every step, with d = min(decay, (1 + k) / (10 + k)) at step k.

    The averaged weights are in place during validation (so for samples and metrics) and after training.
    They are kept in fp32 and travel in the checkpoint.
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"callback.ema.decay is {decay}; legal is 0 (off) up to, but not including, 1")
        self.decay = decay
        self.average: dict[str, torch.Tensor] = {}
        self._live: dict[str, torch.Tensor] = {}
        self._step = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, p in self._trained(pl_module):
            known = self.average.get(name, p)
            self.average[name] = known.detach().float().clone().to(p.device)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._step = trainer.global_step  # restored by now (at on_fit_start it is not)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:  # gradients still accumulate
            return
        self._step = trainer.global_step
        d = min(self.decay, (1 + self._step) / (10 + self._step))
        weights = [p.detach().float() for _, p in self._trained(pl_module)]
        torch._foreach_lerp_(list(self.average.values()), weights, 1 - d)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._live = {name: p.detach().clone() for name, p in self._trained(pl_module)}
        self._put(pl_module, self.average)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._put(pl_module, self._live)
        self._live = {}

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._put(pl_module, self.average)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average = state_dict["average"]

    @torch.no_grad()
    def _put(self, pl_module: L.LightningModule, weights: dict[str, torch.Tensor]) -> None:
        for name, p in self._trained(pl_module):
            if name in weights:
                p.copy_(weights[name])

    @staticmethod
    def _trained(pl_module: L.LightningModule) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, p) for name, p in pl_module.named_parameters() if p.requires_grad]
