"""Calibrates the resource estimate: compares it, for mini training steps, with the counts of PyTorch.

Memory is that of the allocations on the CPU in torch.profiler, FLOPs are those of torch.utils.flop_counter.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer

from unigen.core.types import Batch, ImageSlot
from unigen.tools.bench.turns import Table, flop_counter

MIB = 2**20
EXPERIMENTS = "fcd_mask_a", "visualcloze_fill"
ADAPTERS = "lora", "full"
# In fp32, since a CPU's autocast differs from CUDA's, which the estimate describes. An EMA is kept by a callback and is
# no part of a step.
COMMON = "trainer.precision=32-true", "callback.ema.decay=0.0", "backbone.pretrained=null"


class Step(NamedTuple):
    """The peak memory of one optimizer step in bytes, with everything that is held, and its FLOPs."""

    peak: float
    flops: float


def calibration_table(composed: Callable[..., Mapping[str, Any]]) -> Table:
    """Return a table over both mini backbones, with LoRA and trained in full, without and with checkpointing."""
    head = ("step", "planned MiB", "profiler MiB", "/", "planned GFLOP", "counted GFLOP", "/")
    table = Table("The resource estimate beside a real step, mini, fp32 on the CPU", head)
    for exp in EXPERIMENTS:
        for adapter in ADAPTERS:
            for checkpointed in (False, True):
                config = composed(exp, *words(adapter, checkpointed))
                p, m = planned(config), measured(config)
                name = f"{exp}, {adapter}{', checkpointed' * checkpointed}"
                memory = p.peak / MIB, m.peak / MIB, p.peak / m.peak
                table.add(name, *memory, p.flops / 1e9, m.flops / 1e9, p.flops / m.flops)
    table.note = "Peak memory with weights, gradients, optimizer and frozen encoders; FLOPs with the codec's."
    return table


def words(adapter: str, checkpointed: bool) -> tuple[str, ...]:
    """Return the overrides of a row."""
    return *COMMON, f"conditioning/adapter={adapter}", f"backbone.gradient_checkpointing={str(checkpointed).lower()}"


def planned(config: Mapping[str, Any]) -> Step:
    """Return the resource estimate of `experiments/plan.py`, without a device's reserve."""
    from unigen.tools.plan.estimate import plan
    from unigen.tools.plan.profile import read_profile

    profile = read_profile(Path(__file__).resolve().parents[3] / "experiments" / "conf" / "profile", "h100")
    made = plan(config, profile._replace(reserve_gib=0.0))
    return Step(made.peak, made.step.flops + made.encoding.flops)


def measured(config: Mapping[str, Any]) -> Step:
    """Measure two steps on random images; the second finds optimizer states, old gradients and known prompts."""
    from unigen.pipeline.build import build, build_learner

    learner, slots = build_learner(config), build(config["data"]).slots
    learner.parts.train()
    optimizer = learner.configure_optimizers()["optimizer"]
    for group in optimizer.param_groups:
        group["foreach"] = True  # as on CUDA
    batches = [random_batch(slots, config["data"]["batch_size"], seed) for seed in range(3)]
    held = sum(x.nbytes for m in (learner.parts, *learner.frozen) for x in (*m.parameters(), *m.buffers()))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        for batch in batches[:2]:
            _step(learner, batch, optimizer)
    with flop_counter() as counter:
        _step(learner, batches[2], optimizer)
    return Step(held + max(running_bytes(profiler)), counter.get_total_flops())


def _step(learner: Any, batch: Batch, optimizer: Optimizer) -> None:
    """Do one step in the order of Lightning's closure, which keeps the last gradients until the forward is over."""
    loss, _ = learner.pipeline.training_loss(batch, torch.Generator().manual_seed(0))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def running_bytes(profiler: torch.profiler.profile) -> Iterable[int]:
    """Yield the bytes alive after each allocation and release since the profiler began."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted((e["ts"], i, e["args"]["Bytes"]) for i, e in enumerate(events) if e["name"] == "[memory]")
    alive = 0
    for _, _, size in changes:
        alive += size
        yield alive


def random_batch(slots: tuple[ImageSlot, ...], size: int, seed: int) -> Batch:
    """Return a batch with random images in every slot and one prompt for all samples."""
    chance = torch.Generator().manual_seed(seed)
    shapes = {s.name: (size, s.frames, 3, s.height, s.width) for s in slots}
    images = {name: torch.randint(0, 256, shape, generator=chance).byte() for name, shape in shapes.items()}
    return Batch(slots, images, ["a red apple"] * size, [("apple",)] * size, ["canny>target"] * size, [])
