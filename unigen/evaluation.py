"""Scores of a pipeline on held-out samples, each between what ignoring the condition gives and what the codec allows.

Shapes: N items, H and W pixels.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from unigen import canvas
from unigen.pipeline import Pipeline
from unigen.protocols import Codec, Metric
from unigen.types import TARGET, Batch

CHUNK = 16


@torch.no_grad()
def evaluate(
    pipeline: Pipeline, batches: Iterable[Batch], metrics: Mapping[str, Metric], seed: int
) -> dict[str, dict[str, Any]]:
    """{metric: {value, low, high, better, items, each}} over the first target slot of every sample.

    `low` is the no-condition bound: each output scored against another item's truth (or prompt), as a model that
    ignores its condition would score (None for a single sample). `high` is the truth after one pass through the codec.
    `each` are the scores of the single items, in order.
    """
    outputs, truths, ceilings, prompts = [], [], [], []
    for batch in batches:
        name = next(s.name for s in batch.slots if s.role == TARGET)
        outputs.append(pipeline.sample(batch, seed)[name].flatten(0, 1))
        truths.append(batch.images[name].flatten(0, 1))
        ceilings.append(through_codec(pipeline.codec, truths[-1], pipeline.device))
        prompts += [prompt for prompt in batch.prompts for _ in range(len(truths[-1]) // len(batch))]
    references = {"truth": torch.cat(truths), "prompt": prompts}
    return bounded(metrics, torch.cat(outputs), torch.cat(ceilings), references)


def bounded(
    metrics: Mapping[str, Metric], output: Tensor, ceiling: Tensor, references: Mapping[str, Tensor | list[str]]
) -> dict[str, dict[str, Any]]:
    """Each metric of uint8 (N, 3, H, W) outputs between its bounds, as in `evaluate`."""
    found = {}
    for name, metric in metrics.items():
        reference = references[metric.against]
        each = _each(metric, output, reference)
        found[name] = {
            "value": _mean(each),
            "low": _mean(_each(metric, output, _rolled(reference))) if len(output) > 1 else None,
            "high": _mean(_each(metric, ceiling, reference)),
            "better": metric.better,
            "items": len(output),
            "each": each,
        }
    return found


def through_codec(codec: Codec, pictures_N3HW: Tensor, device: torch.device) -> Tensor:
    """uint8 pictures encoded and decoded, rounded to uint8 as outputs are."""
    return canvas.to_pixels(codec.decode(codec.encode(canvas.to_unit(pictures_N3HW.to(device)))))


def protocol(pipeline: Pipeline, metrics: Mapping[str, Metric], config: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a number depends on besides the weights: numbers under different protocols do not compare."""
    data = config["data"]
    return {
        "data": data["_target_"],
        "split": "test",
        "items": config["evaluation"]["items"],
        "size": data["size"],
        "tasks": data["tasks"],
        **graph_facts(data),
        "solver": type(pipeline.solver).__name__,
        "steps": pipeline.solver.steps,
        **getattr(pipeline.solver, "protocol", {}),  # of solvers whose steps do not say it all
        "guidance": pipeline.solver.guidance,
        "drop": list(pipeline.solver.drop),
        "noise_seed": config["evaluation"]["seed"],
        "weights": "EMA" if "ema" in config["callback"] else "last",
        **{f"metric.{name}": dict(metric.protocol) for name, metric in metrics.items()},
    }


def graph_facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """What the test's samples are where the data have in-context rows, an annotation graph, readers of a data set.

    `graph` tells graphs apart, the whole of it is in config.yaml; `test_set` is the reader without its folder.
    """
    found = {key: data[key] for key in ("rows", "test_tasks", "shared_degradations", "ratios") if key in data}
    if "graph" in data:
        said = json.dumps(data["graph"], sort_keys=True)
        found["held_out_tasks"] = data["graph"].get("held_out", [])
        found["graph"] = hashlib.sha256(said.encode()).hexdigest()[:12]
    if "train" in data:
        reader = data["test"] or {**data["train"], "held_out": data["held_out"]}
        options = [f"{key}={value}" for key, value in reader.items() if key not in ("_target_", "root", "cache")]
        found["test_set"] = f"{reader['_target_'].rpartition('.')[2]}({', '.join(options)})"
    return found


def _rolled(reference: Tensor | list[str]) -> Tensor | list[str]:
    """Every item's reference moved to the next item."""
    return reference.roll(1, dims=0) if isinstance(reference, Tensor) else [*reference[-1:], *reference[:-1]]


def _each(metric: Metric, output: Tensor, reference: Tensor | list[str]) -> list[float]:
    """The scores, taken over a few pictures at a time: some metrics need 100 times a picture's memory."""
    parts = [slice(i, i + CHUNK) for i in range(0, len(output), CHUNK)]
    return [x for part in parts for x in metric(output[part], reference[part]).double().tolist()]


def _mean(each: list[float]) -> float | None:
    """None if a score is not finite: JSON has no infinity."""
    return math.fsum(each) / len(each) if all(map(math.isfinite, each)) else None
