"""Estimates the parameters, memory, FLOPs and time of a run before anything is allocated, and how to make it fit."""

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from unigen.config.values import averages
from unigen.core.types import Batch, ImageSlot
from unigen.nn.muon import block_matrices
from unigen.nn.quantized import bytes_beside
from unigen.nn.shards import gathered
from unigen.pipeline.build import build, build_learner
from unigen.pipeline.learner import Learner, parameters
from unigen.pipeline.pipeline import Pipeline
from unigen.tools.plan.memory import GIB, Held, Traffic, held, precision, sharding, strategy_name, traffic
from unigen.tools.plan.profile import Profile
from unigen.tools.plan.trace import Trace, trace_encoding, trace_step
from unigen.training.global_batch import global_batch, unpublished


class Plan(NamedTuple):
    """The resource estimate of a run. Bytes are those of one device; a multiply-add is 2 FLOPs.

    components: {name: {"trained", "total"}}, numbers of parameters. step, encoding: traces of a micro-batch of `batch`
    samples. update: bytes that the optimizer step allocates and frees again. model_flops: FLOPs of one sample without
    recomputation, over attended pairs alone (`unigen.learners.denoising.sample_cost`). computing: seconds of one
    optimizer step without communication. warning: a warning about the batch, if there is one.
    """

    name: str
    profile: Profile
    switches: Mapping[str, Any]
    components: Mapping[str, Mapping[str, int]]
    tokens: int
    model_flops: float
    batch: int
    accumulate: int
    world: int
    nodes: int
    steps: int
    held: Held
    step: Trace
    encoding: Trace
    update: float
    computing: float
    traffic: Traffic
    warning: str | None

    @property
    def activations(self) -> float:
        """The largest number of bytes beyond `held` in three moments: codec, forward and backward, optimizer step."""
        return max(self.step.peak, self.encoding.peak, self.update)

    @property
    def peak(self) -> float:
        return sum(self.held) + self.activations + self.profile.reserve_gib * GIB

    @property
    def over(self) -> float:
        """The number of missing bytes; it is negative if the run fits."""
        return self.peak - self.profile.memory_gib * GIB

    @property
    def communicating(self) -> float:
        """Seconds of communication in an optimizer step, on the slowest link and without latency.

        Latency grows with the number of devices.
        """
        return sum(self.traffic) / (self.profile.network if self.nodes > 1 else self.profile.link)

    @property
    def seconds(self) -> float:
        """Seconds of one optimizer step if communication never overlaps with computing, which is an upper bound."""
        return self.computing + self.communicating

    @property
    def hours(self) -> float:
        """Hours of the training steps alone, without validation, sampling, metrics and start-up."""
        return self.seconds * self.steps / 3600

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation, the model FLOPs a second as a share of the peak; it follows from `efficiency`."""
        peak = self.profile.flops[_rate(self.switches["trainer.precision"])]
        return self.accumulate * self.batch * self.model_flops / (self.seconds * peak)


def plan(config: Mapping[str, Any], profile: Profile, slots: tuple[ImageSlot, ...] | None = None) -> Plan:
    """Return the resource estimate of a composed configuration. No weights and no data are read.

    Every sample is taken to be as long as the longest one of the data, or as that of `slots`. Text encoders encode a
    prompt once in a run, so their FLOPs are left out, and with `cache` the codec's too. Activations of a trained text
    encoder and of UCE are also left out.
    Raises ValueError for a learner without a pipeline, and for an unknown strategy, precision or number of devices.
    """
    model = _on_meta(config)
    pipeline, learner = model.pipeline, model.learner
    world, accumulate, batch = _sizes(config)
    trainer, slots = config["trainer"], slots or build(config["data"]).slots
    stored, low = precision(trainer["precision"])
    division = sharding(config["strategy"], world)
    count = parameters(*learner.parts.values()) | {"gathered": gathered(*learner.parts.values())}
    if config["optimizer"].get("matrices") == "muon":
        count["one_state"] = sum(p.numel() for p in block_matrices(learner.parts["backbone"]))
    kept = held(count, _frozen_bytes(learner), stored, division, averages(config))
    if config["backbone"]["quantize"] is not None:  # no strategy divides quantized weights
        numbers, few = bytes_beside(pipeline.backbone.blocks, config["backbone"]["quantize"])
        kept = kept._replace(weights=kept.weights - numbers * stored.itemsize / max(1, division.weights) + few)
    step = model.step(slots, batch, stored, low or (stored if stored != torch.float32 else None))
    tokens, model_flops = learner.cost(Batch(slots, {}, [], [], []))
    made = Plan(
        name=config["name"],
        profile=profile,
        switches=_switches(config),
        components=_components(pipeline),
        tokens=tokens,
        model_flops=model_flops,
        batch=batch,
        accumulate=accumulate,
        world=world,
        nodes=trainer["num_nodes"],
        steps=trainer["max_steps"],
        held=kept,
        step=step,
        encoding=_encoding(model, slots, batch)._replace(**({"flops": 0} if config["cache"] else {})),
        update=kept.optimizer / 2,
        computing=0.0,
        traffic=traffic(count["trained"], count["total"], stored.itemsize, world, accumulate, division),
        warning=unpublished(config, global_batch(config)),
    )
    return made._replace(computing=_computed(made))


def without_encoders(made: Plan) -> Plan:
    """Return the estimate of the backbone's step alone, without the reserve: this is what profiling allocates."""
    alone = made._replace(
        held=made.held._replace(encoders=0.0),
        encoding=Trace(0, 0, 0),
        profile=made.profile._replace(reserve_gib=0.0),
    )
    return alone._replace(computing=_computed(alone))


def fitting(config: Mapping[str, Any], profile: Profile) -> Iterator[Plan]:
    """Yield estimates, each with one more switch, from the cheapest to the most expensive, until one fits."""
    now = deepcopy(dict(config))
    world, _, _ = _sizes(now)
    for change in (_every_second, _checkpointing, _smaller_batch, _bf16_text, _stage_2, _stage_3, _true_bf16):
        if not change(now, profile, world):
            continue
        made = plan(now, profile)
        yield made
        if made.over <= 0:
            return


def _every_second(config: dict[str, Any], profile: Profile, world: int) -> bool:
    changed = not config["backbone"]["gradient_checkpointing"]
    if changed:
        config["backbone"] |= {"gradient_checkpointing": True, "checkpoint_every": 2}
    return changed


def _checkpointing(config: dict[str, Any], profile: Profile, world: int) -> bool:
    """Checkpoint every block."""
    wanted = {"gradient_checkpointing": True, "checkpoint_every": 1}
    changed = any(config["backbone"][key] != value for key, value in wanted.items())
    config["backbone"] |= wanted
    return changed


def _smaller_batch(config: dict[str, Any], profile: Profile, world: int) -> bool:
    """Divide the batch into more micro-batches, of the largest size that fits or of one sample."""
    _, accumulate, batch = _sizes(config)
    if batch == 1:
        return False
    whole, one = plan(config, profile), plan(_with_batch(config, 1, accumulate * batch), profile)
    each, room = (whole.activations - one.activations) / (batch - 1), one.activations - one.over
    parts = [b for b in range(1, batch) if batch % b == 0 and one.activations + (b - 1) * each <= room]
    size = max(parts, default=1)
    config.update(_with_batch(config, size, accumulate * batch // size))
    return True


def _bf16_text(config: dict[str, Any], profile: Profile, world: int) -> bool:
    """Hold a frozen text encoder in bf16: T5-XXL is the largest part that no strategy divides."""
    text = config["encoder"]["text"]
    changed = text.get("dtype") == "float32" and not text.get("trained", False)
    if changed:
        text["dtype"] = "bfloat16"
    return changed


def _stage_2(config: dict[str, Any], profile: Profile, world: int) -> bool:
    changed = world > 1 and strategy_name(config["strategy"]) in ("single", "ddp")
    if changed:
        config["strategy"] = _zero(2)
    return changed


def _stage_3(config: dict[str, Any], profile: Profile, world: int) -> bool:
    changed = world > 1 and strategy_name(config["strategy"]) in ("deepspeed_1", "deepspeed_2")
    if changed:
        config["strategy"] = _zero(3)
    return changed


def _zero(stage: int) -> dict[str, Any]:
    kept = dict.fromkeys(("offload_optimizer", "offload_parameters"), False)
    return {"_target_": "callbacks.strategies.ZeRO", "stage": stage, **kept}


def _true_bf16(config: dict[str, Any], profile: Profile, world: int) -> bool:
    changed = precision(config["trainer"]["precision"])[0] == torch.float32
    if changed:
        config["trainer"]["precision"] = "bf16-true"
    return changed


def _with_batch(config: Mapping[str, Any], size: int, accumulate: int) -> dict[str, Any]:
    made = deepcopy(dict(config))
    made["data"]["batch_size"], made["trainer"]["accumulate_grad_batches"] = size, accumulate
    return made


@dataclass
class Model:
    """A learner on the meta device with its traces so far. Most switches that make a run fit do not change it."""

    key: str
    learner: Learner
    traces: dict[tuple[Any, ...], Trace] = field(default_factory=dict)

    @property
    def pipeline(self) -> Pipeline:
        return self.learner.pipeline

    def step(self, slots: tuple[ImageSlot, ...], size: int, stored: torch.dtype, low: torch.dtype | None) -> Trace:
        key = ("step", slots, size, stored, low)
        if key not in self.traces:
            self.pipeline.backbone.to(stored)
            self.traces[key] = trace_step(self.pipeline, slots, size, low)
        return self.traces[key]

    def encoding(self, slots: tuple[ImageSlot, ...], size: int) -> Trace:
        key = ("encoding", slots, size)
        if key not in self.traces:
            self.traces[key] = trace_encoding(self.pipeline, slots, size)
        return self.traces[key]


_LAST: list[Model] = []  # at most one


def _on_meta(config: Mapping[str, Any]) -> Model:
    """Build the learner; return the last one if only data, trainer and strategy have changed."""
    key = json.dumps({name: node for name, node in config.items() if name not in ("data", "trainer", "strategy")})
    if [key] != [model.key for model in _LAST]:
        _LAST[:] = [Model(key, _built(config))]
    return _LAST[0]


def _built(config: Mapping[str, Any]) -> Learner:
    """Build the learner without compilation, custom kernels and quantization, which meta tensors do not support."""
    backbone = {**config["backbone"], "compile": None, "kernel": None, "quantize": None}
    with torch.device("meta"):
        learner = build_learner({**config, "cache": None, "backbone": backbone})
    if not learner.has_pipeline:
        raise ValueError(
            f"learner {type(learner).__name__} has no resource estimate: it has no layout, mask or backbone"
        )
    return learner


def _sizes(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return (devices in all nodes, micro-batches of an optimizer step, samples of a micro-batch)."""
    made = global_batch(config)
    return made.world, made.accumulate, made.batch


def _switches(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide whether a run fits, as on the command line."""
    trainer = config["trainer"]
    return {
        "backbone.gradient_checkpointing": config["backbone"]["gradient_checkpointing"],
        "backbone.checkpoint_every": config["backbone"]["checkpoint_every"],
        "data.batch_size": config["data"]["batch_size"],
        "trainer.accumulate_grad_batches": trainer["accumulate_grad_batches"],
        **{f"encoder.{part}.dtype": config["encoder"][part].get("dtype", "float32") for part in ("codec", "text")},
        "strategy": strategy_name(config["strategy"]),
        "trainer.precision": trainer["precision"],
    }


def _components(pipeline: Pipeline) -> dict[str, dict[str, int]]:
    names = ("backbone", "embedding", "text", "codec")
    return {name: parameters(module) for name, module in zip(names, pipeline.modules, strict=True)}


def _frozen_bytes(learner: Learner) -> int:
    """Return the bytes of the frozen encoders, which no strategy divides: every device holds all of them."""
    return sum(x.nbytes for module in learner.frozen for x in (*module.parameters(), *module.buffers()))


def _encoding(model: Model, slots: tuple[ImageSlot, ...], batch: int) -> Trace:
    """Extrapolate the trace of `batch` samples from those of one and two.

    diffusers' video codec splits large batches in a way that fails for single frames.
    """
    one, two = (model.encoding(slots, size) for size in (1, 2))
    return Trace(0, one.peak + (batch - 1) * (two.peak - one.peak), batch * one.flops)


def _rate(word: str) -> str:
    stored, low = precision(word)
    return "fp32" if stored == torch.float32 and low is None else "bf16"


def _computed(made: Plan) -> float:
    """Return the seconds of an optimizer step without communication.

    PyTorch runs the convolutions of a codec in float32 in TF32. AdamW reads weight, gradient and two states, and writes
    all but the gradient: 7 passes over memory, of which `held.optimizer` are 2. Muon's own products are left out.
    """
    p = made.profile
    step = made.step.flops / p.flops[_rate(made.switches["trainer.precision"])]
    encoding = made.encoding.flops / p.flops["tf32" if made.switches["encoder.codec.dtype"] == "float32" else "bf16"]
    return made.accumulate * (step + encoding) / p.efficiency + 3.5 * made.held.optimizer / p.bandwidth
