"""Profiles a training step of the published settings at full size on a GPU, switch by switch, in one table.

The backbone has random weights, made on the device; random latents and text features replace the encoders. Each row
also has its resource estimate (`unigen.tools.plan.estimate`). A finished row is written to a file at once, so that a
second start continues there.
"""

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unigen.core.types import CONDITION, EXAMPLE, TARGET, Batch, ImageSlot
from unigen.nn.kernels import TORCH
from unigen.pipeline.build import build_on_meta
from unigen.pipeline.pipeline import Pipeline
from unigen.tools.bench.turns import Effort, Table, synchronize, timed
from unigen.tools.plan.estimate import Plan, plan, without_encoders
from unigen.tools.plan.memory import GIB
from unigen.tools.plan.profile import Profile, read_profile
from unigen.tools.plan.trace import inputs

ROUNDS = 3
COLUMNS = ("step", "tokens", "ms", "samples/s", "peak GiB", "MFU", "planned ms", "planned GiB", "what else")
FRAMES = "RealGeneral, 2 frames"
OUT_OF_MEMORY = "out of memory"


class Setting(NamedTuple):
    """A published setting: its experiment, the layout of its samples, and the size of a micro-batch on one device."""

    name: str
    exp: str
    columns: int | None  # of a grid of three rows; None: a condition and a target
    batch: int

    def slots(self, size: int) -> tuple[ImageSlot, ...]:
        """Return square slots: a condition and a target, or a grid of two example rows and a row with the target."""
        if self.columns is None:
            return ImageSlot("condition", CONDITION, size, size), ImageSlot("target", TARGET, size, size)
        last = self.columns - 1
        rows = [(f"example{r}_{c}", EXAMPLE, r) for r in range(2) for c in range(self.columns)]
        rows += [(f"condition{c}", CONDITION, 2) for c in range(last)] + [("target", TARGET, 2)]
        return tuple(ImageSlot(name, role, size, size, row=row) for name, role, row in rows)


class Row(NamedTuple):
    """A setting with some switches, which are words of the command line."""

    setting: Setting
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        said = " ".join(self.words).replace("backbone.", "").replace("lowering._target_=unigen.core.attention.", "")
        return f"{self.setting.name}: {said or 'base'}"


GRIDS = {k: Setting(f"VisualCloze, 3×{k}", "visualcloze_fill", k, 1) for k in (2, 3, 4)}
PAIR = Setting(FRAMES, "fcd_mask_a", None, 4)
BASE = ("backbone.gradient_checkpointing=true", "backbone.lowering._target_=unigen.core.attention.grouped")
SWITCHES = (
    ("backbone.checkpoint_every=2",),
    ("backbone.gradient_checkpointing=false",),
    ("optimizer.fused=true",),
    ("backbone.quantize=int8",),
    ("backbone.quantize=nf4",),
)
KERNELS = tuple((f"backbone.kernel={name}",) for name in (*(n for n in TORCH if n != "math"), "flash_2", "flash_3"))
LOWERINGS = tuple((f"backbone.lowering._target_=unigen.core.attention.{name}",) for name in ("dense", "flex"))


def all_rows(backend: str = "inductor") -> list[Row]:
    """Return all rows, the most important first, since the last are missing if time runs out.

    `backend` is the compiler's.
    """
    compiled = f"backbone.compile={{backend: {backend}}}"
    switches = ((compiled,), *SWITCHES, (*SWITCHES[1], compiled))
    first = [Row(setting, ()) for setting in (PAIR, *GRIDS.values())]
    pair = [Row(PAIR, words) for words in (*switches, *LOWERINGS, *KERNELS)]
    grid = [Row(GRIDS[3], words) for words in (*switches, *KERNELS)]  # without a mask, dense and grouped are the same
    return first + pair + grid


class Step:
    """A training step of a configuration's backbone and optimizer on random inputs, with nothing else in memory."""

    def __init__(
        self, config: Mapping[str, Any], slots: tuple[ImageSlot, ...], batch: int, device: torch.device
    ) -> None:
        dtype = torch.bfloat16 if config["trainer"]["precision"] == "bf16-true" else torch.float32
        self.pipeline: Pipeline = build_on_meta(config)  # encoders stay shapes
        materialise(self.pipeline.backbone, device, dtype)
        self.pipeline.backbone.quantize_frozen()
        self.pipeline.backbone.try_kernel(device)
        self.pipeline.backbone.train()
        self.trained = [p for p in self.pipeline.backbone.parameters() if p.requires_grad]
        o = config["optimizer"]
        self.adamw = torch.optim.AdamW(self.trained, lr=1e-6, betas=tuple(o["betas"]), fused=o["fused"])
        shapes = inputs(self.pipeline, slots, batch)
        self.tokens = replace(
            shapes,
            features={n: _random(x, device) for n, x in shapes.features.items()},
            pooled=None if shapes.pooled is None else _random(shapes.pooled, device),
            context=shapes.context and {n: _random(x, device) for n, x in shapes.context.items()},
        )
        self.noises = {s.name: torch.randn_like(self.tokens.features[s.name]) for s in shapes.layout.visual if s.cap}
        self.chance = torch.Generator().manual_seed(0)
        self.clip = config["trainer"]["gradient_clip_val"]

    def __call__(self) -> None:
        """Do forward, backward, clipping and update, at new times in each step."""
        some = next(iter(self.noises.values()))
        t_B = torch.rand(len(some), generator=self.chance).to(some.device)
        loss, _ = self.pipeline.denoising_loss(self.tokens, self.noises, t_B)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, self.clip)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)


def materialise(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Give a module on the meta device random weights on `device`; shared weights stay shared.

    Raises ValueError if it has buffers, which random numbers cannot replace.
    """
    made: dict[int, nn.Parameter] = {}
    chance = torch.Generator(device).manual_seed(0)
    for name, part in module.named_modules():
        if any(True for _ in part.buffers(recurse=False)):
            raise ValueError(f"module {name} has buffers, which cannot be made up")
        for key, p in part.named_parameters(recurse=False):
            if id(p) not in made:
                x = torch.empty(p.shape, device=device, dtype=dtype).normal_(0, 0.02, generator=chance)
                made[id(p)] = nn.Parameter(x, requires_grad=p.requires_grad)
            setattr(part, key, made[id(p)])


def _random(x: Tensor, device: torch.device) -> Tensor:
    return torch.randn(x.shape, device=device)


def measured(config: Mapping[str, Any], row: Row, effort: Effort, peak: float | None) -> dict[str, Any]:
    """Return the milliseconds, bytes and MFU of a row, or the reason for their absence in `else`; free the memory."""
    began, said = time.perf_counter(), {}
    try:
        step = Step(config, row.setting.slots(config["data"]["size"]), row.setting.batch, effort.device)
        first = timed(step, effort.device)  # includes compilation and the creation of the optimizer's states
        if effort.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(effort.device)
        seconds = statistics.median(timed(step, effort.device) for _ in range(min(ROUNDS, effort.rounds)))
        said = {"ms": 1e3 * seconds, "samples_per_s": row.setting.batch / seconds, "else": f"first step {first:.1f} s"}
        if effort.device.type == "cuda":
            said["gib"] = torch.cuda.max_memory_allocated(effort.device) / GIB
        if peak is not None:
            said["mfu"] = row.setting.batch * model_flops(step.pipeline, row, config) / seconds / peak
    except torch.cuda.OutOfMemoryError:
        said = {"else": OUT_OF_MEMORY}
    except (ValueError, RuntimeError, NotImplementedError, ImportError) as error:  # not possible on this machine
        said = {"else": " ".join(str(error).split())[:90]}
    step = None
    clean(effort.device)
    return said | {"spent": time.perf_counter() - began}


def clean(device: torch.device) -> None:
    """Drop the compiled code, garbage and cached memory of the row before."""
    torch._dynamo.reset()
    gc.collect()
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.empty_cache()


def model_flops(pipeline: Pipeline, row: Row, config: Mapping[str, Any]) -> float:
    """Return the model FLOPs of one sample, as runs log them."""
    from unigen.learners.denoising import sample_cost

    return sample_cost(pipeline, Batch(row.setting.slots(config["data"]["size"]), {}, [], [], []))[1]


def planned(config: dict[str, Any], row: Row, profile: Profile) -> Plan:
    """Return the row's resource estimate, for the backbone alone and without the reserve, which is not PyTorch's."""
    config = config | {"data": config["data"] | {"batch_size": row.setting.batch}}
    return without_encoders(plan(config, profile, row.setting.slots(config["data"]["size"])))


def finished(path: Path, machine: str) -> dict[str, dict[str, Any]]:
    """Return the rows of this machine in the file, by name; an incomplete last line is ignored."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["machine"] == machine:
            found[row["name"]] = row
    return found


def measured_rows(
    rows: list[Row],
    composed: Callable[[Row], dict[str, Any]],
    profile: Profile,
    known: bool,
    path: Path,
    machine: str,
    effort: Effort,
) -> Iterator[dict[str, Any]]:
    """Yield each row, from the file, or measured and then written there. `known`: the profile is of this device."""
    done, plans = finished(path, machine), {}
    path.parent.mkdir(parents=True, exist_ok=True)
    for row in rows:
        if row.name not in done:
            config = composed(row)
            rate = "bf16" if config["trainer"]["precision"] == "bf16-true" else "fp32"
            found = measured(config, row, effort, profile.flops[rate] if known else None)
            key = row.setting, tuple(w for w in row.words if "checkpoint" in w or "quantize" in w)
            if key not in plans:  # kernels, attention backends and compilation do not change the estimate
                plans[key] = planned(config, row, profile)
            made = plans[key]
            found |= {"planned_ms": 1e3 * made.seconds, "planned_gib": made.peak / GIB, "tokens": made.tokens}
            done[row.name] = found | {"name": row.name, "machine": machine}
            with path.open("a") as file:
                file.write(json.dumps(done[row.name]) + "\n")
        yield done[row.name]


def gpu_table(rows: Iterator[dict[str, Any]], title: str, profile: Profile) -> Table:
    """Return the table of the rows, with a note that explains the columns."""
    table = Table(title, COLUMNS)
    for r in rows:
        mfu = f"{r['mfu']:.1%}" if "mfu" in r else None
        figures = [r.get(key) for key in ("tokens", "ms", "samples_per_s", "gib")]
        table.add(r["name"], *figures, mfu, r["planned_ms"], r["planned_gib"], r["else"])
    table.note = (
        f"All weights in one precision (bf16 on a GPU); AdamW and clipping included; median of {ROUNDS} steps after one"
        " that does not count. base: grouped attention backend, PyTorch's choice of kernel, every block recomputed. "
        "MFU: model FLOPs of attended pairs, adapters at 3 × forward, frozen linears at 2 ×, without recomputation, of "
        f"the dense peak. Planned: the resource estimate for {profile.name} at {profile.efficiency:.0%} of its peak "
        "(assumed), which depends on the switches that change memory, and not on attention backends, kernels or "
        "compilation."
    )
    return table


def gpu_section(
    composed: Callable[..., dict[str, Any]], profiles: Path, scale: str, profile: str, resume: Path, effort: Effort
) -> Table:
    """Return the table, measuring the rows that `resume` lacks. Raises ValueError for the paper's models on a CPU."""
    cuda = effort.device.type == "cuda"
    if scale == "paper" and not cuda:
        raise ValueError("the gpu section builds models of 11 and 24 GB on a GPU; on a CPU use scale=mini")
    device = torch.cuda.get_device_name(effort.device) if cuda else "CPU"
    known = [read_profile(profiles, path.stem) for path in sorted(profiles.glob("*.yaml"))]
    own = next((p.name for p in known if p.device == device), "h100")
    chosen = read_profile(profiles, profile or own)
    words = (f"trainer.precision={'bf16' if cuda else '32'}-true", "backbone.pretrained=null", *BASE)
    rows = measured_rows(
        all_rows("inductor" if cuda else "aot_eager"),  # a CPU's compiler takes longer than all the rest
        lambda row: composed(row.setting.exp, f"scale={scale}", *words, *row.words),
        chosen,
        chosen.device == device,
        resume,
        f"{device}, torch {torch.__version__}, {scale}",
        effort,
    )
    return gpu_table(rows, f"A training step of the published settings, scale={scale}, on {device}", chosen)
