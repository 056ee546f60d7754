"""Measures samples, tokens and model TFLOP a second, counting only the pairs that attention computes, and MFU."""

import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml

PROFILES = Path(__file__).resolve().parents[1] / "experiments" / "conf" / "profile"


class Throughput(L.Callback):
    """Logs speed/samples_per_s, speed/tokens_per_s and speed/model_tflops over the steps since the last log.

    Tokens and FLOPs of a sample come from the learner (`Denoising.cost` says what is counted). They are those of the
    model alone, so recomputation, encoders and waiting for data lower speed/mfu, the share of all devices' peak that is
    used. `peak_tflops` is that of one device; null takes it from conf/profile, for a CUDA device of that name and the
    trainer's precision. Where no peak is known there is no speed/mfu. Time spent in validation is left out. Totals over
    the run are in `totals`. Raises ValueError for a peak that is not above 0.
    """

    def __init__(self, peak_tflops: float | None = None) -> None:
        if peak_tflops is not None and not peak_tflops > 0:
            raise ValueError(f"callback.throughput.peak_tflops is {peak_tflops}; give a number above 0, or null")
        self.peak_tflops = peak_tflops
        self._devices = 1
        self.totals: dict[str, float] = {"seconds": 0.0, "samples": 0.0, "tokens": 0.0, "tflop": 0.0}
        self._window = dict(self.totals)
        self._since: float | None = None

    def rates(self) -> dict[str, float]:
        """The averages over all training so far, by metric name."""
        return self._rates(self.totals)  # "seconds" is training time alone

    def state_dict(self) -> dict[str, float]:
        return self.totals

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.totals = dict(state_dict)

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._devices = trainer.world_size
        if self.peak_tflops is None and trainer.strategy.root_device.type == "cuda":
            self.peak_tflops = known_peak(torch.cuda.get_device_name(trainer.strategy.root_device), trainer.precision)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._clock()
        self._since = None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        tokens, per_sample = pl_module.cost(batch)
        size = len(batch) * trainer.world_size
        for counts in (self.totals, self._window):
            counts["samples"] += size
            counts["tokens"] += size * tokens
            counts["tflop"] += size * per_sample / 1e12
        self._clock()
        if trainer.global_step % trainer.log_every_n_steps == 0 and self._window["seconds"] > 0:
            pl_module.log_dict({f"speed/{k}": v for k, v in self._rates(self._window).items() if k != "seconds"})
            self._window = dict.fromkeys(self._window, 0.0)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._clock()

    def _clock(self) -> None:
        now = time.perf_counter()
        if self._since is not None:
            for counts in (self.totals, self._window):
                counts["seconds"] += now - self._since
        self._since = now

    def _rates(self, counts: dict[str, float]) -> dict[str, float]:
        seconds = max(counts["seconds"], 1e-9)
        rates = {
            "seconds": seconds,
            "samples_per_s": counts["samples"] / seconds,
            "tokens_per_s": counts["tokens"] / seconds,
            "model_tflops": counts["tflop"] / seconds,
        }
        if self.peak_tflops is not None:
            rates["mfu"] = rates["model_tflops"] / (self._devices * self.peak_tflops)
        return rates


def known_peak(device: str, precision: str, folder: Path = PROFILES) -> float | None:
    """Peak TFLOP/s of the device of exactly this name, from the profiles in `folder`; None if no profile has it.

    `precision` is Lightning's word: products are in 16 bits for all but 32-true, where they are in fp32, or in TF32 if
    torch is told so.
    """
    rate = "bf16" if str(precision).startswith(("bf16", "16")) else "tf32" if _tf32() else "fp32"
    for path in sorted(folder.glob("*.yaml")):
        profile = yaml.safe_load(path.read_bytes())
        if profile["device"] == device:
            return float(profile["flops"][rate]) / 1e12
    return None


def _tf32() -> bool:
    return torch.get_float32_matmul_precision() != "highest"
