"""The base class of learners: a LightningModule with its optimiser, its checks and what a checkpoint keeps."""

from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn

from unigen.config.values import ConfigError
from unigen.core import noise
from unigen.core.finite import LossWatch, NotFinite, names_of_not_finite
from unigen.core.types import Batch, ImageSlot
from unigen.nn import shards
from unigen.nn.muon import MuonAdamW, block_matrices

MUON = "muon"
DIVIDING = (".ZeRO", ".FSDP2")  # strategies that divide gradients, states or weights over devices


class Learner(L.LightningModule):
    """The base of `unigen.learners`: a subclass fills `parts` with what it optimises and implements the calls below.

    `unigen.training.experiment` calls, in this order: print_header, notes, prepare, (fit), settle, measure, export,
    facts. Frozen encoders go into `frozen`: they follow the module's device without belonging to it, so that no
    strategy shards or saves them. `config` is the whole plain configuration; of `optimizer` it reads lr, betas,
    weight_decay, matrices (muon or null), shares (of lr, for a name in `parts`), fused (AdamW in one kernel), warmup
    (steps of linear warm-up) and cooldown (the last share of the steps, in which the rate falls linearly to 0; 0 keeps
    it constant, so that a run may stop at any step). Raises ConfigError for Muon under a strategy that divides its
    states or weights.
    """

    strict_loading = False
    has_pipeline = False  # True for a learner with a `pipeline`: placements, a mask, a backbone, frozen encoders

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.options, self.seed = dict(config["optimizer"]), config["seed"]
        self.options = {"matrices": None, "shares": {}} | self.options  # keys that older runs do not have
        if self.options["matrices"] not in (None, MUON):
            raise ConfigError(f"optimizer.matrices is {self.options['matrices']!r}; legal are null and {MUON}")
        if self.options["matrices"] == MUON and config["strategy"]["_target_"].endswith(DIVIDING):
            raise ConfigError(
                "optimizer.matrices=muon updates whole matrices, and this strategy divides their gradients or states; "
                "use strategy=single, strategy=ddp or optimizer=adamw"
            )
        self.steps = config["trainer"]["max_steps"]
        self.parts = nn.ModuleDict()
        self.frozen: Iterable[nn.Module] = ()
        self.loss_watch = LossWatch()

    def check_options(self) -> None:
        """Raise ConfigError if the optimizer's options name a part that is not there, or Muon finds no matrix."""
        for name in self.options["shares"]:
            if name not in self.parts:
                raise ConfigError(f"optimizer.shares.{name}: this run trains {', '.join(self.parts)}")
        if self.options["matrices"] == MUON and not self._matrices():
            raise ConfigError("optimizer.matrices=muon finds no trained matrix inside blocks; use optimizer=adamw")

    def _matrices(self) -> list[nn.Parameter]:
        return block_matrices(self.parts["backbone"]) if "backbone" in self.parts else []

    # --- calls by unigen.training.experiment ----------------------------------------------------------------

    def print_header(self, slots: tuple[ImageSlot, ...], config: Mapping[str, Any]) -> None:
        """Describe the run on the terminal, before anything is read."""
        raise NotImplementedError

    def notes(self, data: Any) -> str:
        """Return a line for the header on what the prepared data mean for this experiment; "" for nothing."""
        return ""

    def check(self, data: Any) -> None:
        """Refuse, before anything is read, data that do not fit the configuration."""

    def prepare(self, data: Any) -> None:
        """Make what depends on the data before training, such as a linear codec."""

    def settle(self, data: Any) -> None:
        """Compute what depends on the final weights, such as the scale of a codec's latents."""

    def measure(self, data: Any, config: Mapping[str, Any]) -> dict[str, Any]:
        """Measure on the test split.

        Returns {"metrics": {name: {value, low, high, better, items}}, "bounds": {...}, "protocol": {...}}. `bounds`
        says in a word or two what `low` and `high` are. A learner that draws images adds `sampling`, the time that an
        image takes (`unigen.evaluation.latency`). A metric may hold `each`, the scores of the single items in order,
        and `targets`, the same for each of several targets; `of_items` says the key and clusters of each item
        (`unigen.core.types.Sample`). All of it goes into scores.jsonl.
        """
        raise NotImplementedError

    def export(self, folder: Path, config: Mapping[str, Any]) -> list[Path]:
        """Write the files that others load; return the folders that hold a model, each of which gets a card."""
        raise NotImplementedError

    def facts(self, slots: tuple[ImageSlot, ...]) -> dict[str, Any]:
        """Return the facts on the model itself for the summary, at least `parameters`."""
        return {"parameters": parameters(self.parts, *self.frozen)}

    # --- calls by callbacks ---------------------------------------------------------------------------------

    def sample(self, batch: Batch, seed: int) -> dict[str, Tensor]:
        """Return outputs for the target slots of a batch, uint8 (B, F, C, H, W)."""
        raise NotImplementedError

    def cost(self, batch: Batch) -> tuple[int, float]:
        """Return (tokens of one sample, FLOPs of one training step on it); (0, 0) if they are not counted."""
        return 0, 0.0

    # --- Lightning ------------------------------------------------------------------------------------------

    def chance(self, purpose: str) -> torch.Generator:
        """Return the generator of a training step, a pure function of the seed and of this rank's micro-batch.

        Micro-batches are counted over all ranks, so that n devices draw what one that accumulates n of them draws.
        """
        number = self.trainer.fit_loop.total_batch_idx * self.trainer.world_size + self.global_rank
        return noise.generator(self.seed, purpose, number, 0)

    def configure_model(self) -> None:
        """Divide the weights, if the strategy has a mesh for it (FSDP2) and has not done so before."""
        if self.device_mesh is not None and not any(shards.is_divided(p) for p in self.parameters()):
            shards.divide(self, self.device_mesh["data_parallel"])

    def on_fit_start(self) -> None:
        """Set train mode, since from_pretrained leaves eval mode, and follow the module, which Lightning has moved."""
        self.parts.train()
        self.place_frozen()
        if self.options["fused"] and self.trainer.gradient_clip_val and _scaler(self.trainer) is not None:
            raise ConfigError(
                f"optimizer.fused=true unscales gradients itself under trainer.precision={self.trainer.precision}, "
                "so they cannot be clipped; use bf16-mixed, optimizer.fused=false or trainer.gradient_clip_val=null"
            )

    def place_frozen(self) -> None:
        """Move the frozen encoders to the module's device."""
        for encoder in self.frozen:
            encoder.to(self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Key the global generator, from which dropout layers draw, by the batch too, so that a run can be resumed."""
        torch.manual_seed(noise.mix(self.seed, "global", self.trainer.fit_loop.total_batch_idx, self.global_rank))

    def on_train_start(self) -> None:
        """Set the rate of this step: a checkpoint holds the rate of its own schedule, which may be a shorter one."""
        for ramp in filter(None, [self.lr_schedulers()]):
            for group, rate in zip(ramp.optimizer.param_groups, ramp.base_lrs, strict=True):
                group["lr"] = rate * self._share_of_rate(self.trainer.global_step)

    def on_before_backward(self, loss: Tensor) -> None:
        self.loss_watch.note(loss, self.trainer.global_step + 1)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Check the numbers at the end of a step, not of each micro-batch that it accumulates."""
        ended = (self.trainer.fit_loop.total_batch_idx + 1) % self.trainer.accumulate_grad_batches == 0
        if ended and self.trainer.global_step % self.trainer.log_every_n_steps == 0:
            self.require_finite()

    def on_validation_start(self) -> None:
        if self.trainer.state.fn == "fit":
            self.require_finite()

    def require_finite(self) -> None:
        """Check loss and weights: before a checkpoint and a validation, every log_every_n_steps, and at the end.

        Every rank must call it. Raises NotFinite on all ranks if on any of them a loss so far, or a trained weight now,
        is not finite.
        """
        step = self.loss_watch.first()
        weights = names_of_not_finite((name, shards.local(p)) for name, p in shards.trained(self))
        if not self.trainer.strategy.reduce_boolean_decision(step is not None or bool(weights), all=False):
            return
        loss = f"the loss of step {step} is not finite" if step else None
        weight = f"{len(weights)} trained weights are not finite, the first is {weights[0]}" if weights else None
        cause = "; ".join(filter(None, [loss, weight])) or "a loss or a weight of another rank is not finite"
        narrow = "16" in str(self.trainer.precision) and "bf16" not in str(self.trainer.precision)
        advice = (
            "trainer.precision=32-true or bf16-mixed" if narrow else "a lower optimizer.lr or more optimizer.warmup"
        )
        raise NotFinite(
            f"training stopped after step {self.trainer.global_step}: {cause} (optimizer.lr={self.options['lr']:g}, "
            f"trainer.precision={self.trainer.precision}); nothing of it is saved or exported; start anew with {advice}"
        )

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the optimizer of the trained weights, with linear warm-up and cool-down."""
        optimizer = self._optimizer()
        ramp = torch.optim.lr_scheduler.LambdaLR(optimizer, self._share_of_rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": ramp, "interval": "step"}}

    def _optimizer(self) -> torch.optim.Optimizer:
        """Return AdamW, or with optimizer.matrices=muon Muon for the matrices inside blocks and AdamW for the rest."""
        o = self.options
        shared = {key: o[key] for key in ("lr", "weight_decay", "fused")} | {"betas": tuple(o["betas"])}
        if o["matrices"] is None:
            return torch.optim.AdamW(self._groups(), **shared)
        matrices = self._matrices()
        return MuonAdamW(matrices, self._groups({id(p) for p in matrices}), **shared)

    def _groups(self, others: Set[int] = frozenset()) -> list[dict[str, Any]]:
        """Return the trained weights but `others`, in one group for each rate."""
        shares = self.options["shares"]
        own = {id(p): share for name, share in shares.items() for p in self.parts[name].parameters()}
        rates: dict[float, list[nn.Parameter]] = {}
        for p in self.parameters():  # a learner may have weights of its own beside its parts
            if p.requires_grad and id(p) not in others:
                rates.setdefault(self.options["lr"] * own.get(id(p), 1.0), []).append(p)
        return [{"params": weights, "lr": rate} for rate, weights in rates.items()]

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does. Its mixed precision refuses to clip for a fused optimizer, which may unscale
        gradients by itself. In bf16 there is no scale, so the clipping is done here."""
        if not (
            self.options["fused"] and gradient_clip_val and isinstance(self.trainer.precision_plugin, MixedPrecision)
        ):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        if gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(trained, gradient_clip_val)
        else:
            torch.nn.utils.clip_grad_norm_(trained, gradient_clip_val)

    def _share_of_rate(self, step: int) -> float:
        """Return the learning rate of a step, as a share of lr."""
        up = (step + 1) / max(1, self.options["warmup"])
        tail = self.options["cooldown"] * self.steps
        down = (self.steps - step) / tail if tail > 0 else 1.0
        return max(0.0, min(1.0, up, down))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what training changed: frozen pretrained weights are not copied."""
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}


def _scaler(trainer: L.Trainer) -> Any:
    """Return the scaler of losses in fp16, or None in every other precision."""
    return getattr(trainer.precision_plugin, "scaler", None)


def parameters(*modules: nn.Module) -> dict[str, int]:
    """Return the number of `trained` parameters and of all in `total`; shared ones count once."""
    every = {id(p): p for m in modules for p in m.parameters()}
    return {
        "trained": sum(p.numel() for p in every.values() if p.requires_grad),
        "total": sum(p.numel() for p in every.values()),
    }
