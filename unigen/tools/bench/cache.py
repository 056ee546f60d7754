"""Profiles sampling with a memory of the static segments' keys and values, and without one."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unigen.core.layout import Layout, Plan
from unigen.core.types import CONDITION, EXAMPLE, TARGET, Batch, ImageSlot
from unigen.pipeline.build import build_pipeline
from unigen.pipeline.pipeline import Pipeline
from unigen.tools.bench.turns import Effort, Table, interleaved

OWN = ("mask=fcd_b", "conditioning.modulation.timing.condition=own", "conditioning.modulation.timing.example=own")
PLAIN = ("backbone.pretrained=null", "conditioning/adapter=full")  # random weights, nothing around them
WIDE = ("backbone.config.num_attention_heads=8", "backbone.config.attention_head_dim=64")
FLUX = ("formatter=grid_clean", *OWN, *PLAIN)
COLUMNS = ("case", "guidance", "tokens", "of which static", "steps", "full ms", "reuse ms", "reuse /full", "difference")
NOTE = (
    "Mask B, conditions and examples modulated at their own time 0; random weights, one sample, fp32, from encoding to "
    "the final latents. Guidance above 1 computes two branches in one batch, and the memory holds both. Static: tokens "
    "whose keys and values are the same in every step (unigen.core.masks.static_segments). Difference: the largest "
    "difference between the final latents of the two."
)


class Case(NamedTuple):
    """A case: an experiment with overrides, the number of example rows before the query, and the solver's steps."""

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
    """Sampling that ends with the latents: pixels would round the difference away, and decoding is equally slow."""

    def decode(self, state: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
        return {name: state[name] for name in plan.targets}


class Forgetful(Latents):
    """`Latents` without a memory: every step computes everything."""

    def static(self, layout: Layout) -> tuple[str, ...]:
        return ()


def cache_table(configs: Mapping[Case, Mapping[str, Any]], effort: Effort) -> Table:
    """Return a table with two rows for each case, without guidance and with it."""
    table = Table("Sampling with and without a memory of static segments", COLUMNS, note=NOTE)
    for case, config in configs.items():
        torch.manual_seed(0)
        pipeline = build_pipeline(config)
        for module in pipeline.modules:
            module.to(effort.device).eval()
        pipeline.solver.steps = case.steps
        slots = rows_of_images(case.examples, config["data"]["size"])
        batch = random_images(slots, config["data"]["tasks"][0])
        for guidance in (1.0, 6.0):
            pipeline.guidance = pipeline.guidance.at(guidance)
            table.add(case.name, guidance, *measured(pipeline, batch, effort))
    return table


def measured(pipeline: Pipeline, batch: Batch, effort: Effort) -> tuple[int | float, ...]:
    """Return the cells that follow case and guidance in a row."""
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


def rows_of_images(examples: int, size: int) -> tuple[ImageSlot, ...]:
    """Return the slots of example rows of two images, then a condition and a target, all square."""
    shown = [ImageSlot(f"example{r}_{i}", EXAMPLE, size, size, 1, r) for r in range(examples) for i in range(2)]
    query = [ImageSlot(role, role, size, size, 1, examples) for role in (CONDITION, TARGET)]
    return (*shown, *query)


def random_images(slots: tuple[ImageSlot, ...], task: str) -> Batch:
    """Return a batch of one sample with random images."""
    chance = torch.Generator().manual_seed(0)
    images = {s.name: torch.randint(0, 256, (1, 1, 3, s.height, s.width), generator=chance).byte() for s in slots}
    return Batch(slots, images, ["a red apple"], [("apple",)], [task], [])
