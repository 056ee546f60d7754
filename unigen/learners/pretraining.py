"""Pretrains a base: denoising with everything trained, exported as stock diffusers and transformers models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unigen.build import build
from unigen.evaluation import evaluate, protocol
from unigen.export import save_stock
from unigen.latency import sampling
from unigen.learners.denoising import BOUNDS, Denoising
from unigen.types import CONDITION, Batch
from unigen.weights import round_to_half


class Pretraining(Denoising):
    """`Denoising` on clips of several forms (layouts of a sample), whose result is a base for others to adapt."""

    def settle(self, data: Any) -> None:
        """The weights as they will be saved."""
        round_to_half(self.parts)

    def measure(self, data: Any, config: Mapping[str, Any]) -> dict[str, Any]:
        """The metrics for each form that has a condition, as metric_form: without one there is no truth to meet.

        Beside them `began_with`: the weights that this stage of the training started from, or None.
        """
        metrics = {name: build(node) for name, node in config["metric"].items()}
        forms: dict[str, list[Batch]] = {}
        for batch in data.test_dataloader():
            if any(slot.role == CONDITION for slot in batch.slots):
                forms.setdefault(batch.keys[0].rpartition("/")[2], []).append(batch)
        scores, draws = {}, []
        for form, batches in forms.items():
            found = evaluate(self.pipeline, batches, metrics, config["evaluation"]["seed"])
            scores |= {f"{name}_{form}": score for name, score in found.metrics.items()}
            draws += found.draws
        items = max((s["items"] for s in scores.values()), default=0)
        said = protocol(self.pipeline, metrics, config) | {"items": items}
        made = {"began_with": config["backbone"]["pretrained"], "sampling": sampling(draws)}
        return {"metrics": scores, "bounds": BOUNDS, "protocol": said, **made}

    def export(self, folder: Path, config: Mapping[str, Any]) -> list[Path]:
        """As `Denoising`, and the base and its text encoder in fp16, each by its class's save_pretrained."""
        super().export(folder, config)
        return save_stock(self.pipeline, folder, config["name"].removeprefix("mini_"))
