"""What a run will need, before anything is allocated: parameters, memory, FLOPs, time, and what makes it fit."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unigen.build import build, build_learner
from unigen.config import ConfigError
from unigen.learner import parameters
from unigen.learners.denoising import Denoising
from unigen.pipeline import Pipeline
from unigen.plan_memory import GIB, Held, held, precision, sent, sharding
from unigen.plan_trace import Trace, trace_encoding, trace_step
from unigen.types import Batch, ImageSlot


class Profile(NamedTuple):
    """A device, as its file in conf/profile says it: bytes, FLOP/s, bytes/s; `efficiency` is an assumption."""

    name: str
    memory_gib: float
    reserve_gib: float
    flops: Mapping[str, float]
    bandwidth: float
    link: float
    network: float
    efficiency: float


class Plan(NamedTuple):
    """Of one run. Bytes are of one device; FLOPs, multiply-adds being 2, of one sample but for the traces'.

    components: {name: {"trained", "total"}}; step, encoding: of a micro-batch of `batch` samples;
    update: bytes that the optimizer step makes and drops again; model_flops: without recomputation, adapters and
    modulation, attended pairs alone (`Learner.cost`); seconds: of one optimizer step.
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
    steps: int
    held: Held
    step: Trace
    encoding: Trace
    update: float
    seconds: float

    @property
    def activations(self) -> float:
        """Bytes above what is held in the worst of three moments: the codec, forward and backward, the optimizer."""
        return max(self.step.peak, self.encoding.peak, self.update)

    @property
    def peak(self) -> float:
        return sum(self.held) + self.activations + self.profile.reserve_gib * GIB

    @property
    def over(self) -> float:
        """Bytes that are missing; negative where it fits."""
        return self.peak - self.profile.memory_gib * GIB

    @property
    def hours(self) -> float:
        """Of the training steps alone: no validation, samples, metrics or start-up."""
        return self.seconds * self.steps / 3600

    @property
    def mfu(self) -> float:
        """Model FLOPs a second as a share of the peak: what `efficiency` leaves of it."""
        peak = self.profile.flops[_rate(self.switches["trainer.precision"])]
        return self.accumulate * self.batch * self.model_flops / (self.seconds * peak)


def read_profile(folder: Path, word: str) -> Profile:
    """The device `word` of `folder`, or of a .yaml file. Raises ConfigError for none such, or one with other keys."""
    from omegaconf import OmegaConf

    path = Path(word) if word.endswith(".yaml") else folder / f"{word}.yaml"
    if not path.is_file():
        legal = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise ConfigError(f"profile={word} is unknown; legal are {legal}, or the path of a .yaml file like theirs")
    said = OmegaConf.to_container(OmegaConf.load(path))
    wanted = set(Profile._fields) - {"name"}
    if not isinstance(said, dict) or set(said) != wanted:
        raise ConfigError(f"{path} must have exactly the keys {', '.join(sorted(wanted))}")
    return Profile(name=path.stem, **said)


def plan(config: Mapping[str, Any], profile: Profile) -> Plan:
    """The plan of a composed configuration. No weights and no data are read.

    The longest sample that the data name is taken for every one (`slots`). Text encoders read a prompt once in a run:
    their FLOPs are left out, and with `cache` the codec's too; so are activations of a trained text encoder and UCE.
    Raises ValueError for a learner without a pipeline, or a strategy, precision or number of devices not known here.
    """
    pipeline, learner = _on_meta(config)
    world, accumulate, batch = _sizes(config)
    trainer, slots = config["trainer"], build(config["data"]).slots
    stored, low = precision(trainer["precision"])
    shards = sharding(trainer["strategy"], world)
    count = parameters(*learner.parts.values())
    kept = held(count, _frozen_bytes(learner), stored, low, shards, "ema" in config["callback"])
    dtype = low if shards.zero and low else stored
    step = trace_step(_stored(pipeline, dtype), slots, batch, low or (dtype if dtype != torch.float32 else None))
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
        steps=trainer["max_steps"],
        held=kept,
        step=step,
        encoding=_encoding(pipeline, slots, batch)._replace(**({"flops": 0} if config["cache"] else {})),
        update=kept.optimizer / 2,
        seconds=0.0,
    )
    across = profile.network if int(trainer["num_nodes"]) > 1 else profile.link
    wire = sent(count["trained"], count["total"], dtype.itemsize, world, accumulate, shards) / across
    return made._replace(seconds=_computed(made) + wire)


def fitting(config: Mapping[str, Any], profile: Profile) -> Iterator[Plan]:
    """Plans with one more switch each, from what costs least to what costs most, until one fits."""
    now = deepcopy(dict(config))
    world, _, _ = _sizes(now)
    for change in (_checkpointing, _smaller_batch, _stage_2, _stage_3, _true_bf16):
        if not change(now, profile, world):
            continue
        made = plan(now, profile)
        yield made
        if made.over <= 0:
            return


def _checkpointing(config: dict[str, Any], profile: Profile, world: int) -> bool:
    changed = not config["backbone"]["gradient_checkpointing"]
    config["backbone"]["gradient_checkpointing"] = True
    return changed


def _smaller_batch(config: dict[str, Any], profile: Profile, world: int) -> bool:
    """The largest part of the batch that fits, or one sample, with as many more micro-batches."""
    _, accumulate, batch = _sizes(config)
    if batch == 1:
        return False
    whole, one = plan(config, profile), plan(_with_batch(config, 1, accumulate * batch), profile)
    each, room = (whole.activations - one.activations) / (batch - 1), one.activations - one.over
    parts = [b for b in range(1, batch) if batch % b == 0 and one.activations + (b - 1) * each <= room]
    size = max(parts, default=1)
    config.update(_with_batch(config, size, accumulate * batch // size))
    return True


def _stage_2(config: dict[str, Any], profile: Profile, world: int) -> bool:
    changed = world > 1 and config["trainer"]["strategy"] in ("auto", "ddp")
    if changed:
        config["trainer"]["strategy"] = "deepspeed_stage_2"
    return changed


def _stage_3(config: dict[str, Any], profile: Profile, world: int) -> bool:
    changed = world > 1 and config["trainer"]["strategy"] == "deepspeed_stage_2"
    if changed:
        config["trainer"]["strategy"] = "deepspeed_stage_3"
    return changed


def _true_bf16(config: dict[str, Any], profile: Profile, world: int) -> bool:
    """Under DeepSpeed the weights are in bf16 as it is."""
    changed = not config["trainer"]["strategy"].startswith("deepspeed")
    changed = changed and precision(config["trainer"]["precision"])[0] == torch.float32
    if changed:
        config["trainer"]["precision"] = "bf16-true"
    return changed


def _with_batch(config: Mapping[str, Any], size: int, accumulate: int) -> dict[str, Any]:
    made = deepcopy(dict(config))
    made["data"]["batch_size"], made["trainer"]["accumulate_grad_batches"] = size, accumulate
    return made


def _on_meta(config: Mapping[str, Any]) -> tuple[Pipeline, Denoising]:
    with torch.device("meta"):
        learner = build_learner({**config, "cache": None})
    if not isinstance(learner, Denoising):
        raise ValueError(f"learner {type(learner).__name__} cannot be planned: it has no layout, mask or backbone")
    return learner.pipeline, learner


def _sizes(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """(devices in all nodes, micro-batches of an optimizer step, samples of a micro-batch)."""
    trainer = config["trainer"]
    devices = trainer["devices"]
    devices = len(devices) if isinstance(devices, list) else devices
    if not str(devices).isdigit() or int(devices) < 1:
        raise ConfigError(f"trainer.devices is {devices!r}; a plan needs a number, e.g. trainer.devices=8")
    return int(devices) * trainer["num_nodes"], trainer["accumulate_grad_batches"], config["data"]["batch_size"]


def _switches(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides whether a run fits, as one would write it on the command line."""
    trainer = config["trainer"]
    return {
        "backbone.gradient_checkpointing": config["backbone"]["gradient_checkpointing"],
        "data.batch_size": config["data"]["batch_size"],
        "trainer.accumulate_grad_batches": trainer["accumulate_grad_batches"],
        "trainer.strategy": trainer["strategy"],
        "trainer.precision": trainer["precision"],
    }


def _components(pipeline: Pipeline) -> dict[str, dict[str, int]]:
    names = ("backbone", "embedding", "text", "codec")
    return {name: parameters(module) for name, module in zip(names, pipeline.modules, strict=True)}


def _frozen_bytes(learner: Denoising) -> int:
    """Encoders stay in fp32 on every device: no strategy knows them."""
    return sum(x.nbytes for module in learner.frozen for x in (*module.parameters(), *module.buffers()))


def _stored(pipeline: Pipeline, dtype: torch.dtype) -> Pipeline:
    pipeline.backbone.to(dtype)
    return pipeline


def _encoding(pipeline: Pipeline, slots: tuple[ImageSlot, ...], batch: int) -> Trace:
    """Of `batch` samples, from one and two: diffusers' video codec splits what is large, wrongly, for single frames."""
    one, two = (trace_encoding(pipeline, slots, size) for size in (1, 2))
    return Trace(0, one.peak + (batch - 1) * (two.peak - one.peak), batch * one.flops)


def _rate(word: str) -> str:
    stored, low = precision(word)
    return "fp32" if stored == torch.float32 and low is None else "bf16"


def _computed(made: Plan) -> float:
    """Seconds of an optimizer step without communication.

    The codec is in fp32, whose convolutions PyTorch runs in TF32. AdamW reads weight, gradient and two states, and
    writes all but the gradient: 7 passes where the states are 2.
    """
    p = made.profile
    step = made.step.flops / p.flops[_rate(made.switches["trainer.precision"])]
    encoding = made.encoding.flops / p.flops["tf32"]
    return made.accumulate * (step + encoding) / p.efficiency + 3.5 * made.held.optimizer / p.bandwidth
