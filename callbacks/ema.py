"""Keeps an exponential moving average of the trained weights. Lightning's own averages a copy of the whole module."""

from typing import Any

import lightning as L
import torch

from unigen.nn import shards


class EMA(L.Callback):
    """average <- d * average + (1 - d) * weight after every step, with d = min(decay, (1 + k) / (10 + k)) at step k.

    The averaged weights are in place during validation (so for samples and metrics) and after training.
    They are kept in fp32 and travel in the checkpoint, whole. Where weights are divided among ranks (ZeRO-3, FSDP2)
    each averages its own part. A decay of 0 keeps nothing: the average of the last weights alone is the last weights.
    Under DeepSpeed in bf16-true the average is of the rounded weights, those that the steps compute with.
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"callback.ema.decay is {decay}; legal is 0 (off) up to, but not including, 1")
        self.decay = decay
        self.average: dict[str, torch.Tensor] = {}
        self._live: dict[str, torch.Tensor] = {}
        self._weights: list[tuple[str, torch.nn.Parameter]] = []
        self._step = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._weights = shards.trained(pl_module) if self.decay else []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the averages here: weights, averages and step are restored by now (at on_fit_start not with every
        strategy).
        """
        self._step = trainer.global_step
        self._adopt()

    def _adopt(self) -> None:
        """Start averages as the weights. Averages from a checkpoint are whole; of those this rank keeps its part."""
        for name, p in self._weights:
            mine, known = shards.local(p), self.average.get(name)
            if known is not None and known.shape != mine.shape:
                known = shards.part_of(known, p)
            self.average[name] = (mine if known is None else known).detach().float().clone().to(mine.device)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.decay or trainer.global_step == self._step:  # off, or gradients still accumulate
            return
        self._step = trainer.global_step
        d = min(self.decay, (1 + self._step) / (10 + self._step))
        weights = [shards.local(p).float() for _, p in self._weights]
        torch._foreach_lerp_([self.average[name] for name, _ in self._weights], weights, 1 - d)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.average:
            self._live = {name: shards.local(p).clone() for name, p in self._weights}
            self._put(self.average)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._put(self._live)
        self._live = {}

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.average:
            self._adopt()  # a run that had no step left to do holds what the checkpoint said
            self._put(self.average)

    def state_dict(self) -> dict[str, Any]:
        """Gather the whole averages. Every rank must call it."""
        return {"average": {name: shards.whole(self.average[name], p) for name, p in self._weights if self.average}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average = state_dict["average"] if self.decay else {}

    def _put(self, parts: dict[str, torch.Tensor]) -> None:
        for name, p in self._weights:
            if name in parts:
                shards.put(parts[name], p)
