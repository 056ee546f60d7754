"""Scores of a pipeline on held-out samples, each between what ignoring the condition gives and what the codec allows.

Shapes: N items, H and W pixels.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from unigen import canvas
from unigen.pipeline import Pipeline
from unigen.protocols import Metric
from unigen.types import TARGET, Batch

CHUNK = 16


@torch.no_grad()
def evaluate(
    pipeline: Pipeline, batches: Iterable[Batch], metrics: Mapping[str, Metric], seed: int
) -> dict[str, dict[str, Any]]:
    """{metric: {value, low, high, better, items}} over the first target slot of every sample.

    `low` is the no-condition bound: each output scored against another item's truth, as a model that
    ignores its condition would score (None for a single sample). `high` is the truth after one pass through the codec.
    """
    outputs, truths, ceilings = [], [], []
    for batch in batches:
        name = next(s.name for s in batch.slots if s.role == TARGET)
        outputs.append(pipeline.sample(batch, seed)[name].flatten(0, 1))
        truths.append(batch.images[name].flatten(0, 1))
        ceilings.append(through_codec(pipeline, truths[-1]))
    output, truth, ceiling = torch.cat(outputs), torch.cat(truths), torch.cat(ceilings)
    return {
        name: {
            "value": _mean(metric, output, truth),
            "low": _mean(metric, output, truth.roll(1, dims=0)) if len(truth) > 1 else None,
            "high": _mean(metric, ceiling, truth),
            "better": metric.better,
            "items": len(truth),
        }
        for name, metric in metrics.items()
    }


def through_codec(pipeline: Pipeline, pictures_N3HW: Tensor) -> Tensor:
    """uint8 pictures encoded and decoded, rounded to uint8 as outputs are."""
    latents = pipeline.codec.encode(canvas.to_unit(pictures_N3HW.to(pipeline.device)))
    return canvas.to_pixels(pipeline.codec.decode(latents))


def protocol(pipeline: Pipeline, metrics: Mapping[str, Metric], config: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a number depends on besides the weights: numbers under different protocols do not compare."""
    data = config["data"]
    return {
        "data": data["_target_"],
        "split": "test",
        "items": config["evaluation"]["items"],
        "size": data["size"],
        "tasks": data["tasks"],
        "solver": type(pipeline.solver).__name__,
        "steps": pipeline.solver.steps,
        "guidance": pipeline.solver.guidance,
        "drop": list(pipeline.solver.drop),
        "noise_seed": config["evaluation"]["seed"],
        "weights": "EMA" if "ema" in config["callback"] else "last",
        **{f"metric.{name}": dict(metric.protocol) for name, metric in metrics.items()},
    }


def _mean(metric: Metric, output: Tensor, truth: Tensor) -> float | None:
    """The mean score, taken over a few pictures at a time: some metrics need 100 times a picture's memory."""
    pairs = zip(output.split(CHUNK), truth.split(CHUNK), strict=True)
    value = float(torch.cat([metric(a, b) for a, b in pairs]).double().mean())
    return value if math.isfinite(value) else None
