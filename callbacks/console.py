"""One line at each validation, so that a log without a terminal tells how the run goes."""

import lightning as L
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
