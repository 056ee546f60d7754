"""Profiles one training step stage by stage, and the codec."""

import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from unigen.core.types import CONDITION, TARGET, Batch, ImageSlot
from unigen.pipeline.pipeline import Pipeline
from unigen.tools.bench.turns import Effort, Table, interleaved, synchronize, timed

WORDS = ("a red apple", "smiling cat face", "the flag of a small country", "")


class Stopwatch:
    """Measures seconds by stage within one step. The time of a stage inside another counts for the inner one only."""

    def __init__(self, effort: Effort) -> None:
        self.effort, self.seconds, self._inside = effort, {}, [0.0]

    def __call__(self, stage: str, call: Callable, *args: Any, **kwargs: Any) -> Any:
        self._inside.append(0.0)
        results: list[Any] = []
        spent = timed(lambda: results.append(call(*args, **kwargs)), self.effort.device, self.effort.clock)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + spent - self._inside.pop()
        self._inside[-1] += spent
        return results[0]


def watch(pipeline: Pipeline, clock: Stopwatch) -> None:
    """Wrap the pipeline's parts in the clock, so that `training_loss` records its time by stage."""
    parts = {
        "text encoder": (pipeline.text, "encode"),
        "keywords": (pipeline.text, "keywords"),
        "codec": (pipeline.codec, "encode"),
        "condition embedding": (pipeline.embedding, "forward"),
        "noise": (pipeline, "draw_noise"),
        "backbone forward": (pipeline.backbone, "forward"),
        "patchify, corrupt, loss": (pipeline, "training_loss"),
    }
    for stage, (owner, name) in parts.items():
        setattr(owner, name, partial(clock, stage, getattr(owner, name)))


def training_step(
    pipeline: Pipeline, batch: Batch, optimizer: torch.optim.Optimizer, clip: float, mixed: bool, clock: Stopwatch
) -> None:
    """Do one step as the trainer does: loss (in bf16 autocast if `mixed`), gradients, clipping, update."""
    trained = optimizer.param_groups[0]["params"]
    with torch.autocast(clock.effort.device.type, dtype=torch.bfloat16, enabled=mixed):
        loss, _ = pipeline.training_loss(batch, torch.Generator().manual_seed(0))
    clock("backward", loss.backward)
    clock("gradient clipping", torch.nn.utils.clip_grad_norm_, trained, clip)
    clock("optimiser", optimizer.step)
    clock("optimiser", optimizer.zero_grad)


def profile_table(batch: Batch, config: Mapping[str, Any], effort: Effort) -> Table:
    """Return the table of stages: medians over the rounds, after two that do not count, and shares of the step."""
    from unigen.learners.denoising import Denoising
    from unigen.training.experiment import precision

    how = precision(config["trainer"]["precision"])

    learner = Denoising(config).to(effort.device)
    learner.place_frozen()
    pipeline, optimizer = learner.pipeline, learner.configure_optimizers()["optimizer"]
    seen: list[dict[str, float]] = []
    clock = Stopwatch(effort)
    watch(pipeline, clock)
    for _ in range(effort.rounds + 2):
        clock.seconds = {}
        synchronize(effort.device)
        training_step(pipeline, batch, optimizer, config["trainer"]["gradient_clip_val"], how == "bf16-mixed", clock)
        seen.append(clock.seconds)
    stages = {name: statistics.median(s[name] for s in seen[2:]) for name in seen[-1]}
    total = statistics.median(sum(s.values()) for s in seen[2:])
    table = Table(f"One training step of the whole pipeline, batch {len(batch)}, {how}", ("stage", "ms", "share"))
    for name, seconds in sorted(stages.items(), key=lambda item: -item[1]):
        table.add(name, 1e3 * seconds, f"{seconds / total:.1%}")
    table.add("whole step", 1e3 * total, "100%")
    count = sum(p.numel() for p in optimizer.param_groups[0]["params"])
    table.note = (
        f"{len(batch) / total:.0f} samples/s, {count:,} trained parameters. Loading data is not included, and cached "
        "images are known, as after the first epoch."
    )
    return table


def image_slots(size: int) -> tuple[ImageSlot, ...]:
    """Return the slots of a square condition and a square target."""
    return ImageSlot("condition", CONDITION, size, size), ImageSlot("target", TARGET, size, size)


def random_batch(size: int, batch: int, task: str) -> Batch:
    """Return a training batch of random images with short prompts."""
    chance = torch.Generator().manual_seed(0)
    slots = image_slots(size)
    draw = {s.name: torch.randint(0, 256, (batch, 1, 3, size, size), generator=chance).byte() for s in slots}
    prompts = [WORDS[i % len(WORDS)] for i in range(batch)]
    return Batch(slots, draw, prompts, [(p.split(" ")[-1],) for p in prompts], [task] * batch, [])


def codec_table(codec: Any, size: int, batch: int, effort: Effort) -> Table:
    """Return the table of encoding and decoding a batch of images."""
    pixels = torch.rand(batch, 1, 3, size, size, device=effort.device) * 2 - 1
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        latents = codec.to(effort.device).encode(pixels, chance)
        ways = {"encode": lambda: codec.encode(pixels, chance), "decode": lambda: codec.decode(latents)}
        t = interleaved(ways, effort)
    table = Table(f"Codec {type(codec).__name__}, {batch} images of {size}×{size}", ("pass", "ms", "images/s"))
    for name in ways:
        table.add(name, 1e3 * t.median(name), batch / t.median(name))
    return table
