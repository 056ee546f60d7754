"""Scores a pipeline on held-out samples, with a lower bound without the condition and an upper bound by the codec.

Shapes: N items, H and W pixels. Images are uint8 (N, 3, H, W), or objects that return such a tensor for a slice.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unigen.config.values import averages
from unigen.core import canvas
from unigen.core.places import Place, alone, by_line, by_target, mean, others, places_of, taken, together
from unigen.core.protocol_card import digest
from unigen.core.types import CONDITION, TARGET, Batch
from unigen.evaluation.latency import Draw, timed_sample
from unigen.metrics.images import FACTS, SLOT, SUBJECT, Images, Subjects, chunks
from unigen.pipeline.pipeline import Pipeline
from unigen.protocols import NOTHING, WHOLE_SET, Codec, Metric
from unigen.weights.loading import Unavailable

BOUNDS = {"low": "no condition", "high": "through codec"}  # names of the bounds for a reader


class Evaluation(NamedTuple):
    """The result of `evaluate`: scores by metric, the latency of each batch, each item's key and clusters, and the
    slots that were measured."""

    metrics: dict[str, dict[str, Any]]
    draws: list[Draw]
    of_items: list[dict[str, Any]]
    targets: tuple[str, ...]


@torch.no_grad()
def evaluate(pipeline: Pipeline, batches: Iterable[Batch], metrics: Mapping[str, Metric], seed: int) -> Evaluation:
    """Sample the batches and return metrics {value, low, high, better, items, each} over all targets (see `measured`).

    `low` is the no-condition bound: each output is scored against another item's truth (or prompt), as a model that
    ignores its condition would score (None for a single sample). `high` scores the truth after one pass through the
    codec. `each` holds the scores of the single items, in order.
    """
    outputs, ceilings, draws, shown = [], [], [], Shown()
    for batch in batches:
        drawn, took = timed_sample(pipeline, batch, seed)
        outputs.append(together(drawn, shown.add(batch)))
        draws.append(took)
        ceilings.append(through_codec(pipeline.codec, shown.truths[-1], pipeline.device))
    found = bounded(metrics, torch.cat(outputs), torch.cat(ceilings), shown.references(), shown.places)
    found = {name: score | by_task(score, shown.tasks) for name, score in found.items()}
    return Evaluation(found, draws, shown.of_items, tuple(sorted({place.target for place in shown.places})))


class Shown:
    """Collects the references of batches (truths, prompts, subjects, conditions), one for each frame of a target."""

    def __init__(self) -> None:
        self.truths: list[Tensor] = []
        self.prompts: list[str] = []
        self.subjects: list[tuple[str, ...]] = []
        self.conditions: list[dict[str, Tensor]] = []
        self.of_items: list[dict[str, Any]] = []
        self.places: list[Place] = []
        self.tasks: list[str] = []
        self.facts: list[str] = []

    def add(self, batch: Batch) -> list[str]:
        """Add a batch; return the names of the slots that are measured."""
        names = [s.name for s in batch.slots if s.role == TARGET]
        self.truths.append(together(batch.images, names).cpu())
        self.places += places_of(batch, names, self.places[-1].line + 1 if self.places else 0)
        frames = len(self.truths[-1]) // len(batch)
        self.prompts += [said for said in batch.captions or batch.prompts for _ in range(frames)]
        self.subjects += [words for words in batch.subjects for _ in range(frames)]
        said = zip(batch.keys, batch.clusters, strict=True) if batch.clusters else ()
        self.of_items += [{"key": key, "clusters": clusters} for key, clusters in said]
        self.tasks += batch.tasks
        self.facts += [said for said in batch.facts or [""] * len(batch) for _ in range(frames)]
        stills = (s.name for s in batch.slots if s.role == CONDITION and s.frames == 1)
        self.conditions.append({n: batch.images[n].flatten(0, 1).cpu().repeat_interleave(frames, 0) for n in stills})
        return names

    def references(self) -> dict[str, Any]:
        """Return `references_of` what was added, with the conditions that all batches have in one size."""
        found = {name: [shown.get(name) for shown in self.conditions] for name in self.conditions[0]}
        everywhere = {n: x for n, x in found.items() if len({None if y is None else y.shape[1:] for y in x}) == 1}
        conditions = {name: torch.cat(parts) for name, parts in everywhere.items()}
        return references_of(torch.cat(self.truths), self.prompts, self.subjects, conditions, self.facts)


def by_task(score: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """Return {"tasks": {task: {value, items}}} of a metric that scores single items, or {} if there is one task."""
    each = score.get("each")
    if each is None or len(set(tasks)) < 2:
        return {}
    own = {task: [x for x, t in zip(each, tasks, strict=True) if t == task] for task in sorted(set(tasks))}
    return {"tasks": {task: {"value": _finite(mean(found)), "items": len(found)} for task, found in own.items()}}


def references_of(
    truth: Images,
    prompts: list[str],
    subjects: Sequence[Sequence[str]],
    conditions: Mapping[str, Images],
    facts: list[str],
) -> dict[str, Any]:
    """Return the references by `Metric.against`; facts are left out if an item has none ("")."""
    known = {FACTS: facts} if all(facts) else {}
    shown = {SLOT + name: images for name, images in conditions.items()}
    return {"truth": truth, "prompt": prompts, SUBJECT: Subjects(truth, subjects), **known, **shown}


def bounded(
    metrics: Mapping[str, Metric],
    output: Images,
    ceiling: Images,
    references: Mapping[str, Images | list[str]],
    places: Sequence[Place] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return each metric with its bounds, as in `evaluate`."""
    return {name: measured(metric, output, ceiling, references, places) for name, metric in metrics.items()}


def measured(
    metric: Metric,
    output: Images,
    ceiling: Images,
    references: Mapping[str, Images | list[str]],
    places: Sequence[Place] | None = None,
) -> dict[str, Any]:
    """Return {value, low, high, better, items, each} of one metric; `each` holds the scores of the items, in order.

    `places` assigns images to items (None: each image is an item). An item's score is the mean over its images, and
    `value` is the mean over items. If items have several targets, `targets` is {slot: {value, each}}, with None in
    `each` for an item without this target.
    A metric of whole sets has no scores of single images, so `each` is None and an interval needs several runs; its
    `low` is None, because the set of other items' truths is the set of truths. `low` is also None for a metric that
    compares with nothing. If a metric's weights or library are missing, value, low and high are None and `reason` names
    what is missing.
    """
    places = places or alone(len(output))
    try:
        dict(metric.protocol)  # raises Unavailable before any image is read
        value, single = scored(metric, output, references, places)
        low = _low(metric, output, references, places)
        high = scored(metric, ceiling, references, places)[0]
    except Unavailable as error:
        absent = dict.fromkeys(("value", "low", "high"))
        return {**absent, "better": metric.better, "items": 0, "each": None, "reason": str(error)}
    items = len({place.line for place in places})
    each = None if single is None else by_line(single, places)
    found = {"value": value, "low": low, "high": high, "better": metric.better, "items": items, "each": each}
    found |= {"images": len(places)} if len(places) > items else {}
    found |= _of_targets(single, places) if single else {}
    return found | (counted(metric, output, references[metric.against]) if hasattr(metric, "counts") else {})


def scored(
    metric: Metric,
    output: Images,
    references: Mapping[str, Images | list[str]],
    places: Sequence[Place] | None = None,
) -> tuple[float | None, list[float] | None]:
    """Return a metric's value (None if it is not finite) and the scores of the images, in order.

    The latter are None for a metric of whole sets. Raises Unavailable if the metric's weights or library are missing.
    """
    reference = _reference(metric.against, references)
    if metric.against == WHOLE_SET:
        return _finite(float(metric(output, reference))), None
    single = _each(metric, output, reference)
    return _finite(mean(by_line(single, places or alone(len(output))))), single


def _low(
    metric: Metric, output: Images, references: Mapping[str, Images | list[str]], places: Sequence[Place]
) -> float | None:
    """Return the score of the outputs against the references of other items, or None (see `measured`)."""
    pairs = others(places)
    if not pairs or metric.against in (WHOLE_SET, NOTHING):
        return None
    here, there = ([pair[k] for pair in pairs] for k in (0, 1))
    moved = {
        key: reference.moved(here, there) if isinstance(reference, Subjects) else taken(reference, there)
        for key, reference in references.items()
    }
    return scored(metric, taken(output, here), moved, taken(list(places), here))[0]


def _of_targets(single: Sequence[float], places: Sequence[Place]) -> dict[str, Any]:
    """Return {"targets": {slot: {value, each}}}, or {} if there is one target."""
    lines = sorted({place.line for place in places})
    found = {
        name: {"value": _finite(mean(list(scores.values()))), "each": [scores.get(line) for line in lines]}
        for name, scores in by_target(single, places).items()
    }
    return {"targets": found} if found else {}


def counted(metric: Any, output: Images, reference: Any) -> dict[str, int]:
    """Return the sums over all outputs of a metric's `counts`."""
    found: Counter[str] = Counter()
    for part in chunks(output):
        found.update(metric.counts(output[part], reference[part]))
    return dict(found)


def through_codec(codec: Codec, images_N3HW: Tensor, device: torch.device) -> Tensor:
    """Encode and decode uint8 images; the result is rounded to uint8 as outputs are."""
    return canvas.to_pixels(codec.decode(codec.encode(canvas.to_unit(images_N3HW[:, None].to(device)))))[:, 0]


def protocol(pipeline: Pipeline, metrics: Mapping[str, Metric], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything, besides the weights, that scores depend on.

    Scores under different protocols cannot be compared.
    """
    data = config["data"]
    return {
        "data": data["_target_"].rpartition(".")[2],
        "split": "test",
        "items": config["evaluation"]["items"],
        "size": data["size"],
        "tasks": data["tasks"],
        **graph_facts(data),
        "solver": type(pipeline.solver).__name__,
        "steps": pipeline.solver.steps,
        **getattr(pipeline.solver, "protocol", {}),  # the settings of a solver besides its steps
        **pipeline.guidance.protocol,
        "noise_seed": config["evaluation"]["seed"],
        "weights": "EMA" if averages(config) else "last",
        **metric_cards(metrics),
    }


def all_targets(names: Iterable[str]) -> dict[str, str]:
    """Return {"targets": "all"} for several targets, whose scores cannot be compared with those of the first alone."""
    return {"targets": "all"} if len(set(names)) > 1 else {}


def metric_cards(metrics: Mapping[str, Metric]) -> dict[str, dict[str, Any]]:
    """Return {"metric.NAME": the metric's protocol}, without metrics whose weights or library are missing."""
    cards = {}
    for name, metric in metrics.items():
        try:
            cards[f"metric.{name}"] = dict(metric.protocol)
        except Unavailable:  # `measured` gives the reason
            continue
    return cards


def graph_facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a protocol that describe test samples of in-context rows, an annotation graph or data sets.

    The number of examples (`test_rows`) and their choice (`test_examples`) are left out, since ablations compare them
    as they compare masks. `graph` is a
    hash of the graph, which is in config.yaml as a whole; `test_set` is the reader without its folder.
    """
    found = {key: data[key] for key in ("rows", "test_tasks", "shared_degradations", "ratios") if key in data}
    if data.get("test_example_seed"):  # other examples than those of the usual test
        found["test_example_seed"] = data["test_example_seed"]
    if data.get("instruction"):
        found["instruction"] = data["instruction"]
    if "graph" in data:
        found["held_out_tasks"] = data["graph"].get("held_out", [])
        found["graph"] = digest({**data["graph"], "_target_": data["graph"]["_target_"].rpartition(".")[2]})
    if "train" in data:
        own = data["test"] and ("root" not in data["test"] or data["test"]["root"] is not None)  # else a held-out part
        reader = data["test"] if own else {**data["train"], "held_out": data["held_out"]}
        given = {key: value for key, value in reader.items() if key not in ("_target_", "root", "cache")}
        if "computed" in given:  # annotations computed by models, most of which are null
            given["computed"] = {name: model for name, model in given["computed"].items() if model}
        options = [f"{key}={value}" for key, value in given.items()]
        found["test_set"] = f"{reader['_target_'].rpartition('.')[2]}({', '.join(options)})"
    return found


def _reference(against: str, references: Mapping[str, Any]) -> Any:
    """Return the reference for `Metric.against`. Raises Unavailable for a condition that not every sample has."""
    found = references.get("truth" if against in (WHOLE_SET, NOTHING) else against)
    if found is None and against == FACTS:
        raise Unavailable("the data say no facts of their samples; those of data=scenes do")
    if found is None:
        others = [name for name in references if name.startswith(SLOT)]
        raise Unavailable(
            f"not every sample has a condition in {against}; all samples have: {', '.join(others) or 'none'}"
        )
    return found


def _each(metric: Metric, output: Images, reference: Images | list[str]) -> list[float]:
    """Return the scores, computed over a few images at a time: some metrics need 100 times an image's memory."""
    return [x for part in chunks(output) for x in metric(output[part], reference[part]).double().tolist()]


def _finite(value: float) -> float | None:
    """Return the value, or None if it is not finite, since JSON has no infinity."""
    return value if math.isfinite(value) else None
