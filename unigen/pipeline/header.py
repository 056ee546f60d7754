"""The header of a run, printed before it starts: the mask, cacheable segments, trained parameters, tokens, FLOPs."""

import re
from collections.abc import Collection
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from unigen.core import turns
from unigen.core.layout import Layout, Plan, Segment
from unigen.core.masks import Mask, closure, static_segments
from unigen.core.types import EXAMPLE, ImageSlot
from unigen.pipeline.learner import parameters
from unigen.pipeline.pipeline import Pipeline

SHOWN = 8  # images whose slot vectors are named


def print_header(pipeline: Pipeline, slots: tuple[ImageSlot, ...], config: dict[str, Any]) -> None:
    """Print the header of a run on the terminal."""
    console = Console(highlight=False)
    plan, mask = pipeline.plan(slots), pipeline.effective_mask
    layout = plan.layout
    where = f" ({config['paper']})" if config["paper"] else ""
    task = config["task"]["name"] or ", ".join(config["data"]["tasks"] or ["all"])
    console.print(f"[bold]{config['name']}[/bold]{where}, task {task}, seed {config['seed']}")
    console.print(mask_table(layout, mask))
    facts = [*strengths(mask), *influence(layout, mask), *unmasked(pipeline), *unreached(pipeline)]
    facts += [*slot_vectors(pipeline, layout), *session(pipeline, plan)]
    facts += [cacheable(pipeline, layout), *pipeline.guidance.lines()]
    for line in [*facts, *sizes(pipeline, layout), *bundled(config)]:
        console.print(line, soft_wrap=True)


def bundled(config: dict[str, Any]) -> list[str]:
    """Return a line at paper scale if the images are still the bundled ones, since a scale chooses no data."""
    if config["scale"]["name"] != "paper" or not config["data"]["_target_"].endswith(".EmojiGraphData"):
        return []
    return ["data: the bundled emoji and not the paper's, for which docs/paper_scale.md has the words (data=...)"]


def groups(layout: Layout) -> dict[str, list[Segment]]:
    """Group segments by name, or by role if several share it: in-context rows are many, and masks treat them alike."""
    roles = [s.role for s in layout.segments]
    found: dict[str, list[Segment]] = {}
    for segment in layout.segments:
        found.setdefault(segment.name if roles.count(segment.role) == 1 else segment.role, []).append(segment)
    return found


def mask_table(layout: Layout, mask: Mask) -> Table:
    """Return a table of which segments attend to which in one layer: rows are queries, columns are keys."""
    table = Table(title=f"mask {mask.name}: who attends to whom", title_justify="left", title_style="")
    table.add_column("query \\ key")
    for name, keys in groups(layout).items():
        table.add_column(f"{name} ({_tokens(keys)})")
    for name, queries in groups(layout).items():
        table.add_row(name, *(_seen(queries, keys, mask) for keys in groups(layout).values()))
    return table


def _tokens(segments: list[Segment]) -> str:
    """Return the tokens of a group in words, such as 16 or 4 × 16; segments of unequal sizes are added up."""
    if len({s.tokens for s in segments}) > 1:
        return str(sum(s.tokens for s in segments))
    return str(segments[0].tokens) if len(segments) == 1 else f"{len(segments)} × {segments[0].tokens}"


def _seen(queries: list[Segment], keys: list[Segment], mask: Mask) -> str:
    found = {mask.sees(query, key) for query in queries for key in keys}
    partly = "earlier" if mask.word(queries[0], keys[0]) == "earlier" else "itself"
    return partly if len(found) > 1 else "yes" if found.pop() else "-"


def strengths(mask: Mask) -> list[str]:
    """Return a line for each strength of a mask that is not 1."""
    told = [(q, k, x) for q, row in mask.bias for k, x in row if x != 1]
    return [f"strength: {q} attends to {k} with {x:g} times the weight (mask.bias.{q}.{k})" for q, k, x in told]


def influence(layout: Layout, mask: Mask) -> list[str]:
    """Return a line for each pair that does not attend, which says if the source arrives through others."""
    names = {s.name: name for name, segments in groups(layout).items() for s in segments}
    lines = []
    for i, query in enumerate(layout.segments):
        for j, key in enumerate(layout.segments):
            if i == j or mask.sees(query, key):
                continue
            depths = [d for d in range(1, len(layout.segments) + 1) if closure(layout, mask, d)[i, j]]
            fate = f"is blocked, but arrives after {depths[0]} layers through others" if depths else "never arrives"
            source, to = names[key.name], names[query.name]
            if mask.word(query, key) == "earlier":
                lines.append(f"closure: {source} of a later turn -> {to} {fate}")
            else:
                lines.append(f"closure: {source} -> {'another ' * (source == to)}{to} {fate}")
    return list(dict.fromkeys(lines)) or ["closure: every segment reaches every other in one layer"]


def unmasked(pipeline: Pipeline) -> list[str]:
    """Return a line for each way in which information flows in this backbone that the mask does not describe."""
    said = []
    if pipeline.backbone.pooled_width is not None:
        said.append("the prompt's pooled vector is part of every segment's time embedding, whatever the mask says")
    if not pipeline.backbone.text_asks:
        said.append(
            "text is read by cross-attention and reads nothing: the mask's row for text, its branch and its timing are "
            "not used"
        )
    return said


def session(pipeline: Pipeline, plan: Plan) -> list[str]:
    """Return a line on a session of several turns: its tokens in sampling, and what stands for a pooled prompt."""
    parts = [len(part.layout) for part in turns.parts(plan)]
    if len(parts) < 2:
        return []
    pooled = "; the pooled vector is that of the empty prompt" if pipeline.backbone.pooled_width is not None else ""
    return [
        f"session of {len(parts)} turns, sampled one after another ({', '.join(map(str, parts))} tokens): a finished "
        f"target is encoded again and seen by later turns as a clean {EXAMPLE}{pooled}"
    ]


def unreached(pipeline: Pipeline) -> list[str]:
    """Return a line for each adapter by role that some linears lack, because the mask keeps its tokens from them."""
    backbone, lines = pipeline.backbone, []
    for adapter, names in backbone.left_out.items():
        kinds = list(dict.fromkeys(re.sub(r"^.*?\.\d+\.", "", name) for name in names))
        roles = ", ".join(role for role, own in backbone.role_adapters.table if own == adapter)
        lines.append(
            f"adapter {adapter} has no {' and '.join(kinds)}: under mask {pipeline.mask.name} no token of its roles "
            f"({roles}) passes there"
        )
    return lines


def slot_vectors(pipeline: Pipeline, layout: Layout) -> list[str]:
    """Return a line that says which learned vectors are added to which segment; none without conditioning.slots."""
    slots = pipeline.backbone.slots
    if slots is None:
        return []
    words, more = slots.words(layout), ""
    if len(words) > SHOWN:
        words, more = words[:SHOWN], f"; {len(words) - SHOWN} segments more"
    return [f"slot vectors, {slots.table.numel():,} parameters: {'; '.join(words)}{more}"]


def cacheable(pipeline: Pipeline, layout: Layout) -> str:
    """Return a line that names the segments whose keys and values stay the same over the denoising steps."""
    mask, timing = pipeline.effective_mask, pipeline.backbone.effective_timing(pipeline.modulation.timing)
    now = static_segments(layout, mask, timing)
    if now:
        return f"cacheable over denoising steps: {_named(layout, now)}"
    own = static_segments(layout, mask, dict.fromkeys(timing, "own"))
    hint = f" ({_named(layout, own)} would be, with conditioning.modulation.timing own)" if own else ""
    return f"cacheable over denoising steps: nothing{hint}"


def _named(layout: Layout, names: Collection[str]) -> str:
    """Return the name of each group that is meant as a whole, and else the names of the segments that are meant."""
    said = []
    for name, segments in groups(layout).items():
        meant = [s.name for s in segments if s.name in names]
        said += [name] if len(meant) == len(segments) else meant
    return ", ".join(said)


def sizes(pipeline: Pipeline, layout: Layout) -> list[str]:
    """Return lines for parameters, tokens, FLOPs, backbone and device."""
    count = parameters(*pipeline.modules)
    flops = pipeline.backbone.flops(layout, pipeline.mask)
    attended, pairs = pipeline.backbone.pairs(layout, pipeline.mask)
    parts = ", ".join(f"{name} {_tokens(segments)}" for name, segments in groups(layout).items())
    return [
        f"parameters: {count['trained'] / 1e6:.1f} M trained of {count['total'] / 1e6:.1f} M "
        f"({count['trained']:,} of {count['total']:,})",
        f"tokens per sample: {len(layout)} ({parts}); attention computes {attended / pairs:.1%} of all pairs",
        f"forward: {(flops['linear'] + flops['attention']) / 1e12:.4g} TFLOP a sample",
        f"backbone: {type(pipeline.backbone.model).__name__} of {pipeline.backbone.stock_parameters:,} parameters, "
        "without branches and adapters",
        f"device: {device()}",
    ]


def device() -> str:
    """Return the device of training and the number of threads, in words."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{name}, {torch.get_num_threads()} threads"
