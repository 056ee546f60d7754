"""Samples, tokens and model TFLOP a second, counting only the pairs that attention computes."""

import time
from typing import Any

import lightning as L


class Throughput(L.Callback):
    """Logs speed/samples_per_s, speed/tokens_per_s and speed/model_tflops over the steps since the last log.

    Tokens and FLOPs are what the learner says of a sample (`Learner.cost`); recomputation is not counted.
    Time spent in validation is left out. Averages over the run are in `totals`.
    """

    def __init__(self) -> None:
        self.totals: dict[str, float] = {"seconds": 0.0, "samples": 0.0, "tokens": 0.0, "tflop": 0.0}
        self._window = dict(self.totals)
        self._since: float | None = None

    def rates(self) -> dict[str, float]:
        """The averages over all training so far, by metric name."""
        return _rates(self.totals)  # "seconds" is training time alone

    def state_dict(self) -> dict[str, float]:
        return self.totals

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.totals = dict(state_dict)

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
            pl_module.log_dict({f"speed/{k}": v for k, v in _rates(self._window).items() if k != "seconds"})
            self._window = dict.fromkeys(self._window, 0.0)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._clock()

    def _clock(self) -> None:
        now = time.perf_counter()
        if self._since is not None:
            for counts in (self.totals, self._window):
                counts["seconds"] += now - self._since
        self._since = now


def _rates(counts: dict[str, float]) -> dict[str, float]:
    seconds = max(counts["seconds"], 1e-9)
    return {
        "seconds": seconds,
        "samples_per_s": counts["samples"] / seconds,
        "tokens_per_s": counts["tokens"] / seconds,
        "model_tflops": counts["tflop"] / seconds,
    }
