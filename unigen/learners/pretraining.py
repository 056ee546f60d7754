"""Pretrains a base model: all weights learn to denoise, and are exported as stock diffusers and transformers models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unigen.core.types import CONDITION, Batch
from unigen.evaluation.latency import sampling
from unigen.evaluation.scoring import BOUNDS, evaluate, protocol
from unigen.learners.denoising import Denoising
from unigen.pipeline.build import build
from unigen.pipeline.export import save_stock
from unigen.weights.loading import round_to_half


class Pretraining(Denoising):
    """`Denoising` on clips of several forms (layouts of a sample); the result is a base model for experiments."""

    def settle(self, data: Any) -> None:
        """Round the weights to fp16, as they will be saved."""
        round_to_half(self.parts)

    def measure(self, data: Any, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the metrics of each form that has a condition, named metric_form; others have no truth.

        `began_with` beside them names the weights that this stage of the training started from, or is None.
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
        """Save what `Denoising` saves, and the base and its text encoder in fp16, by save_pretrained of each class."""
        super().export(folder, config)
        return save_stock(self.pipeline, folder, config["name"].removeprefix("mini_"))
