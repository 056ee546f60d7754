"""What a run says before it starts: who sees whom, what may be cached, what is trained, how long a sample is."""

from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from unigen.layout import Layout
from unigen.learner import parameters
from unigen.masks import Mask, attended_pairs, closure, static_segments
from unigen.pipeline import Pipeline
from unigen.types import ImageSlot


def print_header(pipeline: Pipeline, slots: tuple[ImageSlot, ...], config: dict[str, Any]) -> None:
    """The header of a run, on the terminal."""
    console = Console(highlight=False)
    layout, mask = pipeline.plan(slots).layout, pipeline.mask
    where = f" ({config['paper']})" if config["paper"] else ""
    task = config["task"]["name"] or ", ".join(config["data"]["tasks"] or ["all"])
    console.print(f"[bold]{config['name']}[/bold]{where}, task {task}, seed {config['seed']}")
    console.print(mask_table(layout, mask))
    for line in [*influence(layout, mask), *unmasked(pipeline), cacheable(pipeline, layout), *sizes(pipeline, layout)]:
        console.print(line, soft_wrap=True)


def mask_table(layout: Layout, mask: Mask) -> Table:
    """Rows are queries, columns keys: who attends to whom in one layer."""
    table = Table(title=f"mask {mask.name}: who attends to whom", title_justify="left", title_style="")
    table.add_column("query \\ key")
    for key in layout.segments:
        table.add_column(f"{key.name} ({key.tokens})")
    for query in layout.segments:
        table.add_row(query.name, *("yes" if mask.sees(query, key) else "-" for key in layout.segments))
    return table


def influence(layout: Layout, mask: Mask) -> list[str]:
    """Pairs that do not attend to each other, and whether the source arrives all the same after several layers."""
    lines = []
    for i, query in enumerate(layout.segments):
        for j, key in enumerate(layout.segments):
            if i == j or mask.sees(query, key):
                continue
            depths = [d for d in range(1, len(layout.segments) + 1) if closure(layout, mask, d)[i, j]]
            fate = f"is blocked, but arrives after {depths[0]} layers through others" if depths else "never arrives"
            lines.append(f"closure: {key.name} -> {query.name} {fate}")
    return lines or ["closure: every segment reaches every other in one layer"]


def unmasked(pipeline: Pipeline) -> list[str]:
    """What reaches every segment beside the tokens, so that no mask stops it."""
    if pipeline.backbone.pooled_width is None:
        return []
    return ["the prompt's pooled vector is part of every segment's time embedding, whatever the mask says"]


def cacheable(pipeline: Pipeline, layout: Layout) -> str:
    """Which segments' keys and values stay the same over the denoising steps."""
    timing = pipeline.modulation.timing
    now = static_segments(layout, pipeline.mask, timing)
    if now:
        return f"cacheable over denoising steps: {', '.join(now)}"
    own = static_segments(layout, pipeline.mask, dict.fromkeys(timing, "own"))
    hint = f" ({', '.join(own)} would be, with conditioning.modulation.timing own)" if own else ""
    return f"cacheable over denoising steps: nothing{hint}"


def sizes(pipeline: Pipeline, layout: Layout) -> list[str]:
    """Parameters, tokens and FLOPs."""
    count = parameters(*pipeline.modules)
    flops = pipeline.backbone.flops(layout, pipeline.mask)
    share = attended_pairs(layout, layout, pipeline.mask) / len(layout) ** 2
    parts = ", ".join(f"{s.name} {s.tokens}" for s in layout.segments)
    return [
        f"parameters: {count['trained'] / 1e6:.1f} M trained of {count['total'] / 1e6:.1f} M "
        f"({count['trained']:,} of {count['total']:,})",
        f"tokens per sample: {len(layout)} ({parts}); attention computes {share:.1%} of all pairs",
        f"forward: {(flops['linear'] + flops['attention']) / 1e12:.4g} TFLOP a sample",
        f"device: {device()}",
    ]


def device() -> str:
    """Where training happens, in words."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{name}, {torch.get_num_threads()} threads"
