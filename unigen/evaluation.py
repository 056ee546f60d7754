"""Scores of a pipeline on held-out samples, each between what ignoring the condition gives and what the codec allows.

Shapes: N items, H and W pixels. Pictures are uint8 (N, 3, H, W), or whatever gives such a tensor for a slice.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from unigen import canvas
from unigen.metrics.pictures import Pictures, chunks
from unigen.pipeline import Pipeline
from unigen.protocol_card import digest
from unigen.protocols import NOTHING, WHOLE_SET, Codec, Metric
from unigen.types import TARGET, Batch
from unigen.weights import Unavailable


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
        prompts += [said for said in batch.captions or batch.prompts for _ in range(len(truths[-1]) // len(batch))]
    references = {"truth": torch.cat(truths), "prompt": prompts}
    return bounded(metrics, torch.cat(outputs), torch.cat(ceilings), references)


def bounded(
    metrics: Mapping[str, Metric], output: Pictures, ceiling: Pictures, references: Mapping[str, Pictures | list[str]]
) -> dict[str, dict[str, Any]]:
    """Each metric between its bounds, as in `evaluate`."""
    return {name: measured(metric, output, ceiling, references) for name, metric in metrics.items()}


def measured(
    metric: Metric, output: Pictures, ceiling: Pictures, references: Mapping[str, Pictures | list[str]]
) -> dict[str, Any]:
    """{value, low, high, better, items, each} of one metric; `each` are the scores of the pictures, in order.

    A metric of whole sets has no score of single pictures, so `each` is None and its interval can come from several
    runs alone; its `low` is None, for the set of other items' truths is the set of truths. So is that of a metric that
    compares with nothing. A metric whose weights or library are not here is absent: value, low and high are None, and
    `reason` says what is missing.
    """
    try:
        dict(metric.protocol)  # says so before any picture is looked at
        reference = references["truth" if metric.against in (WHOLE_SET, NOTHING) else metric.against]
        if metric.against == WHOLE_SET:
            each, low, value = None, None, _finite(float(metric(output, reference)))
            high = _finite(float(metric(ceiling, reference)))
        else:
            each = _each(metric, output, reference)
            has_low = len(output) > 1 and metric.against != NOTHING
            low = _mean(_each(metric, output, _rolled(reference))) if has_low else None
            value, high = _mean(each), _mean(_each(metric, ceiling, reference))
    except Unavailable as error:
        absent = dict.fromkeys(("value", "low", "high"))
        return {**absent, "better": metric.better, "items": 0, "each": None, "reason": str(error)}
    return {"value": value, "low": low, "high": high, "better": metric.better, "items": len(output), "each": each}


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
        **metric_cards(metrics),
    }


def metric_cards(metrics: Mapping[str, Metric]) -> dict[str, dict[str, Any]]:
    """{"metric.NAME": what the metric says of itself}; an absent one has nothing to say."""
    cards = {}
    for name, metric in metrics.items():
        try:
            cards[f"metric.{name}"] = dict(metric.protocol)
        except Unavailable:  # `measured` gives the reason
            continue
    return cards


def graph_facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """What the test's samples are where the data have in-context rows, an annotation graph, readers of a data set.

    Not how many examples they are given (`test_rows`), which is what an ablation compares, as it does masks. `graph`
    tells graphs apart, the whole of it is in config.yaml; `test_set` is the reader without its folder.
    """
    found = {key: data[key] for key in ("rows", "test_tasks", "shared_degradations", "ratios") if key in data}
    if data.get("instruction"):
        found["instruction"] = data["instruction"]
    if "graph" in data:
        found["held_out_tasks"] = data["graph"].get("held_out", [])
        found["graph"] = digest(data["graph"])
    if "train" in data:
        reader = data["test"] or {**data["train"], "held_out": data["held_out"]}
        given = {key: value for key, value in reader.items() if key not in ("_target_", "root", "cache")}
        if "computed" in given:  # by models, of which most are null
            given["computed"] = {name: model for name, model in given["computed"].items() if model}
        options = [f"{key}={value}" for key, value in given.items()]
        found["test_set"] = f"{reader['_target_'].rpartition('.')[2]}({', '.join(options)})"
    return found


def _rolled(reference: Pictures | list[str]) -> Pictures | list[str]:
    """Every item's reference moved to the next item."""
    if isinstance(reference, list):
        return [*reference[-1:], *reference[:-1]]
    return reference.roll(1, dims=0) if isinstance(reference, Tensor) else reference.rolled()


def _each(metric: Metric, output: Pictures, reference: Pictures | list[str]) -> list[float]:
    """The scores, taken over a few pictures at a time: some metrics need 100 times a picture's memory."""
    return [x for part in chunks(output) for x in metric(output[part], reference[part]).double().tolist()]


def _mean(each: list[float]) -> float | None:
    return _finite(math.fsum(each) / len(each)) if all(map(math.isfinite, each)) else None


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None
