"""Shows a running training on the terminal and in a log: a progress bar, and one line at each validation."""

import sys

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console


class ConsoleLine(L.Callback):
    """Prints step, losses and speed after every validation."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        m = trainer.callback_metrics
        parts = [f"step {trainer.global_step:>6}/{trainer.max_steps}"]
        for key, label in (("train/loss", "train loss"), ("val/loss", "val loss")):
            if key in m:
                parts.append(f"{label} {float(m[key]):.4f}")
        if "speed/samples_per_s" in m:
            speed = float(m["speed/samples_per_s"])
            steps = speed / (trainer.train_dataloader.batch_sampler.batch_size * trainer.world_size)
            parts.append(f"{speed:.0f} samples/s ({steps:.1f} batches/s)")
        Console(highlight=False).print("  ".join(parts), soft_wrap=True)


class StepBar(RichProgressBar):
    """A progress bar for runs that count steps, for which Lightning's own would say "Epoch 0/-2"."""

    def __init__(self) -> None:
        super().__init__(leave=True)
        if not sys.stdout.isatty():
            self.disable()

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, str]:
        """Return the loss and the speed, without Lightning's version number."""
        shown = {"train/loss": "loss", "speed/samples_per_s": "samples/s"}
        return {
            label: f"{float(v):.4g}" for k, label in shown.items() if (v := trainer.callback_metrics.get(k)) is not None
        }
