"""What a run says before it starts: who sees whom, what may be cached, what is trained, how long a sample is."""

from collections.abc import Collection
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from unigen.layout import Layout, Segment
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
    facts = [*influence(layout, mask), *unmasked(pipeline), cacheable(pipeline, layout), *sizes(pipeline, layout)]
    for line in [*facts, *bundled(config)]:
        console.print(line, soft_wrap=True)


def bundled(config: dict[str, Any]) -> list[str]:
    """At paper scale, that the images are still the bundled ones: a scale chooses models and training, and no data."""
    if config["scale"]["name"] != "paper" or not config["data"]["_target_"].endswith(".EmojiGraphData"):
        return []
    return ["data: the bundled emoji and not the paper's, for which docs/paper_scale.md has the words (data=...)"]


def groups(layout: Layout) -> dict[str, list[Segment]]:
    """Segments by name, or by role where several have one: in-context rows are many, and a table treats them alike."""
    roles = [s.role for s in layout.segments]
    found: dict[str, list[Segment]] = {}
    for segment in layout.segments:
        found.setdefault(segment.name if roles.count(segment.role) == 1 else segment.role, []).append(segment)
    return found


def mask_table(layout: Layout, mask: Mask) -> Table:
    """Rows are queries, columns keys: who attends to whom in one layer."""
    table = Table(title=f"mask {mask.name}: who attends to whom", title_justify="left", title_style="")
    table.add_column("query \\ key")
    for name, keys in groups(layout).items():
        table.add_column(f"{name} ({_tokens(keys)})")
    for name, queries in groups(layout).items():
        table.add_row(name, *(_seen(queries, keys, mask) for keys in groups(layout).values()))
    return table


def _tokens(segments: list[Segment]) -> str:
    """16, or 4 × 16, or for unequal ones their sum."""
    if len({s.tokens for s in segments}) > 1:
        return str(sum(s.tokens for s in segments))
    return str(segments[0].tokens) if len(segments) == 1 else f"{len(segments)} × {segments[0].tokens}"


def _seen(queries: list[Segment], keys: list[Segment], mask: Mask) -> str:
    found = {mask.sees(query, key) for query in queries for key in keys}
    return "itself" if len(found) > 1 else "yes" if found.pop() else "-"


def influence(layout: Layout, mask: Mask) -> list[str]:
    """Pairs that do not attend to each other, and whether the source arrives all the same after several layers."""
    names = {s.name: name for name, segments in groups(layout).items() for s in segments}
    lines = []
    for i, query in enumerate(layout.segments):
        for j, key in enumerate(layout.segments):
            if i == j or mask.sees(query, key):
                continue
            depths = [d for d in range(1, len(layout.segments) + 1) if closure(layout, mask, d)[i, j]]
            fate = f"is blocked, but arrives after {depths[0]} layers through others" if depths else "never arrives"
            source, to = names[key.name], names[query.name]
            lines.append(f"closure: {source} -> {'another ' * (source == to)}{to} {fate}")
    return list(dict.fromkeys(lines)) or ["closure: every segment reaches every other in one layer"]


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
        return f"cacheable over denoising steps: {_named(layout, now)}"
    own = static_segments(layout, pipeline.mask, dict.fromkeys(timing, "own"))
    hint = f" ({_named(layout, own)} would be, with conditioning.modulation.timing own)" if own else ""
    return f"cacheable over denoising steps: nothing{hint}"


def _named(layout: Layout, names: Collection[str]) -> str:
    """A group's name where all of it is meant, else the segments' own."""
    said = []
    for name, segments in groups(layout).items():
        meant = [s.name for s in segments if s.name in names]
        said += [name] if len(meant) == len(segments) else meant
    return ", ".join(said)


def sizes(pipeline: Pipeline, layout: Layout) -> list[str]:
    """Parameters, tokens and FLOPs."""
    count = parameters(*pipeline.modules)
    flops = pipeline.backbone.flops(layout, pipeline.mask)
    share = attended_pairs(layout, layout, pipeline.mask) / len(layout) ** 2
    parts = ", ".join(f"{name} {_tokens(segments)}" for name, segments in groups(layout).items())
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
