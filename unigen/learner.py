"""What a run trains: the LightningModule that every learner is, with its optimiser and what is saved of it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from unigen.types import Batch, ImageSlot


class Learner(L.LightningModule):
    """Base of `unigen.learners`: a subclass fills `parts` with what it optimises and answers the calls below.

    `unigen.training` calls, in this order: print_header, prepare, (fit), settle, measure, export, facts.
    Frozen encoders go into `frozen`: they follow the module's device without belonging to it, so that no
    strategy shards or saves them. `config` is the whole plain configuration; of `optimizer` it reads lr, betas,
    weight_decay, warmup (steps of linear warm-up) and cooldown (the last share of the steps, in which the rate
    falls linearly to 0; 0 keeps it constant, so that a run may stop at any step).
    """

    strict_loading = False

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.options, self.seed = dict(config["optimizer"]), config["seed"]
        self.steps = config["trainer"]["max_steps"]
        self.parts = nn.ModuleDict()
        self.frozen: Iterable[nn.Module] = ()

    # --- what training.run asks of a learner ----------------------------------------------------------------

    def print_header(self, slots: tuple[ImageSlot, ...], config: Mapping[str, Any]) -> None:
        """What the run is, on the terminal, before anything is read."""
        raise NotImplementedError

    def prepare(self, data: Any) -> None:
        """What the data decide before training, such as a linear codec."""

    def settle(self, data: Any) -> None:
        """What is computed once the weights are final, such as the scale of a codec's latents."""

    def measure(self, data: Any, config: Mapping[str, Any]) -> dict[str, Any]:
        """{"metrics": {name: {value, low, high, better, items}}, "bounds": {...}, "protocol": {...}} on the test split.

        `bounds` says in a word or two what `low` and `high` are. A metric may hold `each`, the scores of the single
        items in order, which go into scores.jsonl.
        """
        raise NotImplementedError

    def export(self, folder: Path, config: Mapping[str, Any]) -> list[Path]:
        """Write what others load; returns the folders that hold a model of its own, each of which gets a card."""
        raise NotImplementedError

    def facts(self, slots: tuple[ImageSlot, ...]) -> dict[str, Any]:
        """What the summary says of the model itself; `parameters` at least."""
        return {"parameters": parameters(self.parts, *self.frozen)}

    # --- what callbacks ask of a learner --------------------------------------------------------------------

    def sample(self, batch: Batch, seed: int) -> dict[str, Tensor]:
        """Outputs for the target slots of a batch, uint8 (B, F, C, H, W)."""
        raise NotImplementedError

    def cost(self, batch: Batch) -> tuple[int, float]:
        """(tokens of one sample, FLOPs of one training step on it); (0, 0) where nobody counts them."""
        return 0, 0.0

    # --- Lightning ------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Lightning has moved the module by now (at `setup` it has not). from_pretrained leaves models in eval mode."""
        self.parts.train()
        self.place_frozen()

    def place_frozen(self) -> None:
        """Frozen encoders to the module's device."""
        for encoder in self.frozen:
            encoder.to(self.device)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW over what is trained, with linear warm-up and cool-down."""
        o = self.options
        trained = [p for p in self.parameters() if p.requires_grad]
        adamw = torch.optim.AdamW(trained, lr=o["lr"], betas=tuple(o["betas"]), weight_decay=o["weight_decay"])
        ramp = torch.optim.lr_scheduler.LambdaLR(adamw, self._share_of_rate)
        return {"optimizer": adamw, "lr_scheduler": {"scheduler": ramp, "interval": "step"}}

    def _share_of_rate(self, step: int) -> float:
        """The learning rate of a step, as a share of lr."""
        up = (step + 1) / max(1, self.options["warmup"])
        tail = self.options["cooldown"] * self.steps
        down = (self.steps - step) / tail if tail > 0 else 1.0
        return max(0.0, min(1.0, up, down))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what training changed: frozen pretrained weights are not copied."""
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}


def parameters(*modules: nn.Module) -> dict[str, int]:
    """How many parameters are `trained`, and how many there are in `total`; shared ones count once."""
    every = {id(p): p for m in modules for p in m.parameters()}
    return {
        "trained": sum(p.numel() for p in every.values() if p.requires_grad),
        "total": sum(p.numel() for p in every.values()),
    }
