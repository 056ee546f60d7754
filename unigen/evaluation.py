"""Scores of a pipeline on held-out samples, each between what ignoring the condition gives and what the codec allows.

Shapes: N items, H and W pixels. Pictures are uint8 (N, 3, H, W), or whatever gives such a tensor for a slice.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unigen import canvas
from unigen.config import averages
from unigen.latency import Draw, timed_sample
from unigen.metrics.pictures import SLOT, SUBJECT, Pictures, Subjects, chunks
from unigen.pipeline import Pipeline
from unigen.protocol_card import digest
from unigen.protocols import NOTHING, WHOLE_SET, Codec, Metric
from unigen.types import CONDITION, TARGET, Batch
from unigen.weights import Unavailable


class Evaluation(NamedTuple):
    """The scores of `evaluate` by metric, what each batch took to draw, and the key and clusters of each image."""

    metrics: dict[str, dict[str, Any]]
    draws: list[Draw]
    of_items: list[dict[str, Any]]


@torch.no_grad()
def evaluate(pipeline: Pipeline, batches: Iterable[Batch], metrics: Mapping[str, Metric], seed: int) -> Evaluation:
    """Metrics as {value, low, high, better, items, each} over the first target slot of every sample.

    `low` is the no-condition bound: each output scored against another item's truth (or prompt), as a model that
    ignores its condition would score (None for a single sample). `high` is the truth after one pass through the codec.
    `each` are the scores of the single items, in order.
    """
    outputs, ceilings, draws, shown = [], [], [], Shown()
    for batch in batches:
        drawn, took = timed_sample(pipeline, batch, seed)
        outputs.append(drawn[shown.add(batch)].flatten(0, 1))
        draws.append(took)
        ceilings.append(through_codec(pipeline.codec, shown.truths[-1], pipeline.device))
    found = bounded(metrics, torch.cat(outputs), torch.cat(ceilings), shown.references())
    return Evaluation(found, draws, shown.of_items)


class Shown:
    """What the samples of some batches are compared with, a picture for each frame of their first target slot."""

    def __init__(self) -> None:
        self.truths: list[Tensor] = []
        self.prompts: list[str] = []
        self.subjects: list[tuple[str, ...]] = []
        self.conditions: list[dict[str, Tensor]] = []
        self.of_items: list[dict[str, Any]] = []

    def add(self, batch: Batch) -> str:
        """Take a batch; returns the name of the slot that is measured."""
        name = next(s.name for s in batch.slots if s.role == TARGET)
        self.truths.append(batch.images[name].flatten(0, 1).cpu())
        frames = len(self.truths[-1]) // len(batch)
        self.prompts += [said for said in batch.captions or batch.prompts for _ in range(frames)]
        self.subjects += [words for words in batch.subjects for _ in range(frames)]
        said = zip(batch.keys, batch.clusters, strict=True) if batch.clusters else ()
        self.of_items += [{"key": key, "clusters": clusters} for key, clusters in said for _ in range(frames)]
        stills = (s.name for s in batch.slots if s.role == CONDITION and s.frames == 1)
        self.conditions.append({n: batch.images[n].flatten(0, 1).cpu().repeat_interleave(frames, 0) for n in stills})
        return name

    def references(self) -> dict[str, Any]:
        """See `references_of`; of conditions those that every batch shows, in one size."""
        found = {name: [shown.get(name) for shown in self.conditions] for name in self.conditions[0]}
        everywhere = {n: x for n, x in found.items() if len({None if y is None else y.shape[1:] for y in x}) == 1}
        conditions = {name: torch.cat(parts) for name, parts in everywhere.items()}
        return references_of(torch.cat(self.truths), self.prompts, self.subjects, conditions)


def references_of(
    truth: Pictures, prompts: list[str], subjects: Sequence[Sequence[str]], conditions: Mapping[str, Pictures]
) -> dict[str, Any]:
    """What outputs are compared with, by `Metric.against`."""
    shown = {SLOT + name: pictures for name, pictures in conditions.items()}
    return {"truth": truth, "prompt": prompts, SUBJECT: Subjects(truth, subjects), **shown}


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
        value, each = scored(metric, output, references)
        has_low = len(output) > 1 and metric.against not in (WHOLE_SET, NOTHING)
        others = {key: _rolled(reference) for key, reference in references.items()} if has_low else {}
        low = scored(metric, output, others)[0] if has_low else None
        high = scored(metric, ceiling, references)[0]
    except Unavailable as error:
        absent = dict.fromkeys(("value", "low", "high"))
        return {**absent, "better": metric.better, "items": 0, "each": None, "reason": str(error)}
    found = {"value": value, "low": low, "high": high, "better": metric.better, "items": len(output), "each": each}
    return found | (counted(metric, output, references[metric.against]) if hasattr(metric, "counts") else {})


def scored(
    metric: Metric, output: Pictures, references: Mapping[str, Pictures | list[str]]
) -> tuple[float | None, list[float] | None]:
    """The value of a metric (None if it is not finite) and the scores of the pictures, in order (None: of the set).

    Raises Unavailable if the metric's weights or library are not here.
    """
    reference = _reference(metric.against, references)
    if metric.against == WHOLE_SET:
        return _finite(float(metric(output, reference))), None
    each = _each(metric, output, reference)
    return _mean(each), each


def counted(metric: Any, output: Pictures, reference: Any) -> dict[str, int]:
    """What a metric with `counts` says of the outputs, added up."""
    found: Counter[str] = Counter()
    for part in chunks(output):
        found.update(metric.counts(output[part], reference[part]))
    return dict(found)


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
        "weights": "EMA" if averages(config) else "last",
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
    if data.get("test_example_seed"):  # other examples than those that everybody's test shows
        found["test_example_seed"] = data["test_example_seed"]
    if data.get("instruction"):
        found["instruction"] = data["instruction"]
    if "graph" in data:
        found["held_out_tasks"] = data["graph"].get("held_out", [])
        found["graph"] = digest(data["graph"])
    if "train" in data:
        own = data["test"] and ("root" not in data["test"] or data["test"]["root"] is not None)  # else it is held out
        reader = data["test"] if own else {**data["train"], "held_out": data["held_out"]}
        given = {key: value for key, value in reader.items() if key not in ("_target_", "root", "cache")}
        if "computed" in given:  # by models, of which most are null
            given["computed"] = {name: model for name, model in given["computed"].items() if model}
        options = [f"{key}={value}" for key, value in given.items()]
        found["test_set"] = f"{reader['_target_'].rpartition('.')[2]}({', '.join(options)})"
    return found


def _reference(against: str, references: Mapping[str, Any]) -> Any:
    """Raises Unavailable if that is a condition which not every sample shows."""
    found = references.get("truth" if against in (WHOLE_SET, NOTHING) else against)
    if found is None:
        others = [name for name in references if name.startswith(SLOT)]
        raise Unavailable(
            f"not every sample has a condition in {against}; what all have: {', '.join(others) or 'none'}"
        )
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
