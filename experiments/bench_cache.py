"""The cache section of the bench: sampling that computes static segments once, against sampling that never does."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unigen.bench import Effort, Table, interleaved
from unigen.build import build_pipeline
from unigen.layout import Layout, Plan
from unigen.pipeline import Pipeline
from unigen.types import CONDITION, EXAMPLE, TARGET, Batch, ImageSlot

OWN = ("mask=fcd_b", "conditioning.modulation.timing.condition=own", "conditioning.modulation.timing.example=own")
PLAIN = ("backbone.pretrained=null", "conditioning/adapter=full")  # random weights, nothing around them
WIDE = ("backbone.config.num_attention_heads=8", "backbone.config.attention_head_dim=64")
FLUX = ("formatter=grid_clean", *OWN, *PLAIN)
COLUMNS = ("case", "guidance", "tokens", "of which static", "steps", "full ms", "reuse ms", "reuse /full", "difference")
NOTE = (
    "Mask B, conditions and examples modulated at their own time 0; random weights, one sample, fp32, from encoding to "
    "the final latents. Guidance above 1 computes two branches in one batch, and the memory holds both. Static: tokens "
    "whose keys and values are the same in every step (unigen.masks.static_segments). Difference: the largest one "
    "between the final latents of both ways."
)


class Case(NamedTuple):
    """A model and grid: an experiment and overrides of it, example rows before the query, solver steps."""

    name: str
    exp: str
    overrides: tuple[str, ...]
    examples: int
    steps: int


CASES = (
    Case("CogVideoX frames, mini", "fcd_mask_b", (*OWN, *PLAIN), 0, 20),
    Case(
        "CogVideoX frames, medium",
        "fcd_mask_b",
        (*OWN, *PLAIN, *WIDE, "backbone.config.num_layers=8", "data.size=256"),
        0,
        6,
    ),
    Case("Flux dev grid, 2 examples, mini", "cross_frames_flux_fcd_a", FLUX, 2, 20),
    Case(
        "Flux dev grid, 2 examples, medium",
        "cross_frames_flux_fcd_a",
        (*FLUX, *WIDE, "backbone.config.num_layers=4", "backbone.config.num_single_layers=8", "data.size=128"),
        2,
        6,
    ),
)


class Latents(Pipeline):
    """Sampling that ends with the latents: pixels would round the difference away, and cost the same either way."""

    def decode(self, state: dict[str, Tensor], plan: Plan, slots: tuple[ImageSlot, ...]) -> dict[str, Tensor]:
        return {slot.name: state[slot.name] for slot in slots if slot.role == TARGET}


class Forgetful(Latents):
    """The same without a memory: every step computes everything."""

    def static(self, layout: Layout) -> tuple[str, ...]:
        return ()


def cache_table(configs: Mapping[Case, Mapping[str, Any]], effort: Effort) -> Table:
    """Two rows for each case, without guidance and with it."""
    table = Table("Sampling with and without a memory of static segments", COLUMNS, note=NOTE)
    for case, config in configs.items():
        torch.manual_seed(0)
        pipeline = build_pipeline(config)
        for module in pipeline.modules:
            module.to(effort.device).eval()
        pipeline.solver.steps = case.steps
        slots = rows_of_pictures(case.examples, config["data"]["size"])
        batch = random_pictures(slots, config["data"]["tasks"][0])
        for guidance in (1.0, 6.0):
            pipeline.solver.guidance = guidance
            table.add(case.name, guidance, *measured(pipeline, batch, effort))
    return table


def measured(pipeline: Pipeline, batch: Batch, effort: Effort) -> tuple[int | float, ...]:
    """The cells behind case and guidance."""
    parts = {f.name: getattr(pipeline, f.name) for f in fields(pipeline)}
    ways = {"full": Forgetful(**parts), "reuse": Latents(**parts)}
    layout = pipeline.plan(batch.slots).layout
    static = layout.only(pipeline.static(layout))
    made = {name: way.sample(batch, 0)["target"] for name, way in ways.items()}
    times = interleaved({name: (lambda way=way: way.sample(batch, 0)) for name, way in ways.items()}, effort)
    return (
        len(layout),
        len(static),
        pipeline.solver.steps,
        *(1e3 * times.median(name) for name in ways),
        times.ratio("reuse", "full"),
        (made["reuse"] - made["full"]).abs().max().item(),
    )


def rows_of_pictures(examples: int, size: int) -> tuple[ImageSlot, ...]:
    """Example rows of two pictures, then a condition and a target, all square."""
    shown = [ImageSlot(f"example{r}_{i}", EXAMPLE, size, size, 1, r) for r in range(examples) for i in range(2)]
    query = [ImageSlot(role, role, size, size, 1, examples) for role in (CONDITION, TARGET)]
    return (*shown, *query)


def random_pictures(slots: tuple[ImageSlot, ...], task: str) -> Batch:
    """One sample of noise."""
    chance = torch.Generator().manual_seed(0)
    images = {s.name: torch.randint(0, 256, (1, 1, 3, s.height, s.width), generator=chance).byte() for s in slots}
    return Batch(slots, images, ["a red apple"], [("apple",)], [task], [])
