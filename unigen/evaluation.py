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
from unigen.places import Place, alone, by_line, by_target, mean, others, places_of, taken, together
from unigen.protocol_card import digest
from unigen.protocols import NOTHING, WHOLE_SET, Codec, Metric
from unigen.types import CONDITION, TARGET, Batch
from unigen.weights import Unavailable


class Evaluation(NamedTuple):
    """The scores of `evaluate` by metric, what each batch took to draw, the key and clusters of each item, and the
    slots that were measured."""

    metrics: dict[str, dict[str, Any]]
    draws: list[Draw]
    of_items: list[dict[str, Any]]
    targets: tuple[str, ...]


@torch.no_grad()
def evaluate(pipeline: Pipeline, batches: Iterable[Batch], metrics: Mapping[str, Metric], seed: int) -> Evaluation:
    """Metrics as {value, low, high, better, items, each} over all targets of every sample (see `measured`).

    `low` is the no-condition bound: each output scored against another item's truth (or prompt), as a model that
    ignores its condition would score (None for a single sample). `high` is the truth after one pass through the codec.
    `each` are the scores of the single items, in order.
    """
    outputs, ceilings, draws, shown = [], [], [], Shown()
    for batch in batches:
        drawn, took = timed_sample(pipeline, batch, seed)
        outputs.append(together(drawn, shown.add(batch)))
        draws.append(took)
        ceilings.append(through_codec(pipeline.codec, shown.truths[-1], pipeline.device))
    found = bounded(metrics, torch.cat(outputs), torch.cat(ceilings), shown.references(), shown.places)
    return Evaluation(found, draws, shown.of_items, tuple(sorted({place.target for place in shown.places})))


class Shown:
    """What the samples of some batches are compared with, a picture for each frame of their targets."""

    def __init__(self) -> None:
        self.truths: list[Tensor] = []
        self.prompts: list[str] = []
        self.subjects: list[tuple[str, ...]] = []
        self.conditions: list[dict[str, Tensor]] = []
        self.of_items: list[dict[str, Any]] = []
        self.places: list[Place] = []

    def add(self, batch: Batch) -> list[str]:
        """Take a batch; returns the names of the slots that are measured."""
        names = [s.name for s in batch.slots if s.role == TARGET]
        self.truths.append(together(batch.images, names).cpu())
        self.places += places_of(batch, names, self.places[-1].line + 1 if self.places else 0)
        frames = len(self.truths[-1]) // len(batch)
        self.prompts += [said for said in batch.captions or batch.prompts for _ in range(frames)]
        self.subjects += [words for words in batch.subjects for _ in range(frames)]
        said = zip(batch.keys, batch.clusters, strict=True) if batch.clusters else ()
        self.of_items += [{"key": key, "clusters": clusters} for key, clusters in said]
        stills = (s.name for s in batch.slots if s.role == CONDITION and s.frames == 1)
        self.conditions.append({n: batch.images[n].flatten(0, 1).cpu().repeat_interleave(frames, 0) for n in stills})
        return names

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
    metrics: Mapping[str, Metric],
    output: Pictures,
    ceiling: Pictures,
    references: Mapping[str, Pictures | list[str]],
    places: Sequence[Place] | None = None,
) -> dict[str, dict[str, Any]]:
    """Each metric between its bounds, as in `evaluate`."""
    return {name: measured(metric, output, ceiling, references, places) for name, metric in metrics.items()}


def measured(
    metric: Metric,
    output: Pictures,
    ceiling: Pictures,
    references: Mapping[str, Pictures | list[str]],
    places: Sequence[Place] | None = None,
) -> dict[str, Any]:
    """{value, low, high, better, items, each} of one metric; `each` are the scores of the items, in order.

    `places` says which pictures are of one item (None: each is one). An item's score is the mean over its pictures,
    `value` the mean over items. Of items with several targets `targets` holds {slot: {value, each}} besides, `each`
    by item, None for one without it.
    A metric of whole sets sees all pictures and has no score of single ones, so `each` is None and its interval can
    come from several runs alone; its `low` is None, for the set of other items' truths is the set of truths. So is that
    of a metric that compares with nothing. A metric whose weights or library are not here is absent: value, low and
    high are None, and `reason` says what is missing.
    """
    places = places or alone(len(output))
    try:
        dict(metric.protocol)  # says so before any picture is looked at
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
    output: Pictures,
    references: Mapping[str, Pictures | list[str]],
    places: Sequence[Place] | None = None,
) -> tuple[float | None, list[float] | None]:
    """The value of a metric (None if it is not finite) and the scores of the pictures, in order (None: of the set).

    Raises Unavailable if the metric's weights or library are not here.
    """
    reference = _reference(metric.against, references)
    if metric.against == WHOLE_SET:
        return _finite(float(metric(output, reference))), None
    single = _each(metric, output, reference)
    return _finite(mean(by_line(single, places or alone(len(output))))), single


def _low(
    metric: Metric, output: Pictures, references: Mapping[str, Pictures | list[str]], places: Sequence[Place]
) -> float | None:
    """Outputs against what stands in their place in other items."""
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
    """{"targets": {slot: {value, each}}}, or {} where there is one target."""
    lines = sorted({place.line for place in places})
    found = {
        name: {"value": _finite(mean(list(scores.values()))), "each": [scores.get(line) for line in lines]}
        for name, scores in by_target(single, places).items()
    }
    return {"targets": found} if found else {}


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


def all_targets(names: Iterable[str]) -> dict[str, str]:
    """What a protocol card says of several targets: numbers of the first one alone do not compare with those of all."""
    return {"targets": "all"} if len(set(names)) > 1 else {}


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


def _each(metric: Metric, output: Pictures, reference: Pictures | list[str]) -> list[float]:
    """The scores, taken over a few pictures at a time: some metrics need 100 times a picture's memory."""
    return [x for part in chunks(output) for x in metric(output[part], reference[part]).double().tolist()]


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None
