"""The tables of a preview: segments with their treatments, the mask, buckets with their costs, and tasks."""

from collections.abc import Mapping
from typing import Any

from unigen.core.layout import TEXT_STREAM, Layout
from unigen.pipeline.header import cacheable, influence, slot_vectors, strengths
from unigen.pipeline.hiding import WORDS, share_of, way_of
from unigen.pipeline.pipeline import Pipeline
from unigen.tools.forms.tables import Cell, Table
from unigen.tools.preview.gathering import Bucket, Preview, depths, signature
from unigen.tools.preview.graph import draws_table

NEVER = "–"


def segments_table(config: Mapping[str, Any], pipeline: Pipeline, layout: Layout) -> Table:
    """Return the table of segments: their places, noise ceilings, and entries in the tables over roles."""
    modulation, rows = pipeline.modulation, []
    several = len(layout.turns) > 1
    still = pipeline.static(layout)
    for s in layout.segments:
        own = f"own: min(t, {s.cap:g})" if modulation.timing[s.role] == "own" else "shared: the step's t"
        modulated = s.stream != TEXT_STREAM or pipeline.backbone.text_asks
        hidden = share_of(s.role, pipeline.dropout)
        rows.append(
            [
                Cell(s.name),
                Cell(f"{s.role}, turn {s.turn}" if several else s.role),
                Cell(NEVER if s.stream == TEXT_STREAM else place(s.origin)),
                Cell(" × ".join(map(str, s.grid))),
                Cell(f"{s.tokens:,}", s.tokens),
                Cell(f"{s.cap:g}", s.cap),
                Cell(loss_words(pipeline, s.role, s.cap)),
                Cell(modulation.branches[s.role] if modulated else NEVER),
                Cell(own if modulated else NEVER),
                Cell(f"{hidden:.0%}", hidden),
                Cell(", ".join(WORDS[way] for way in pipeline.guidance.ways(s.role)) or NEVER),
                Cell("yes" if s.name in still else "no"),
            ]
        )
    header = ["segment", "role", "origin (t, h, w)", "tokens (t, h, w)", "tokens", "noise ceiling", "loss"]
    header += ["modulation", "its time", "dropout", "guidance", "cacheable"]
    notes = [
        "noise ceiling: the segment is noised at min(t, ceiling); 0 is a clean condition, 1 a target. dropout: how "
        "often training hides it. guidance: what stands for it in the passes that hide it.",
        *hidden_words(pipeline),
        *pipeline.guidance.lines(),
        *slot_vectors(pipeline, layout),
        f"Trained parts: conditioning.adapter is {part(config['conditioning']['adapter'])}.",
        f"{cacheable(pipeline, layout)}.",
    ]
    total = [Cell("all"), *[Cell("")] * 3, Cell(f"{len(layout):,}", len(layout)), *[Cell("")] * 7]
    return Table("Segments", header, rows, [total], notes)


def hidden_words(pipeline: Pipeline) -> list[str]:
    """Return a line that says what stands for the roles that training hides, if it hides any."""
    ways = {role: way_of(role, pipeline.guidance.hide) for role in pipeline.formatter.roles}
    told = [f"{role}: {WORDS[way]}" for role, way in ways.items() if share_of(role, pipeline.dropout) > 0]
    return [f"What stands for a role that training hides (guidance.hide): {', '.join(told)}."] if told else []


def place(origin: tuple[int, int, int]) -> str:
    """Return an origin as text, '(0, 0, 0)'."""
    return f"({', '.join(map(str, origin))})"


def loss_words(pipeline: Pipeline, role: str, cap: float) -> str:
    """Return the loss weight of a role that is noised up to `cap` as text, 'none' if it carries no loss."""
    weight = pipeline.loss.weights[role]
    return f"weight {weight:g}" if cap > 0 and weight > 0 else "none"


def part(node: Mapping[str, Any]) -> str:
    """Return a config node in a line: 'LoRA(rank=4, alpha=4)' or 'Full'."""
    given = ", ".join(f"{key}={value}" for key, value in node.items() if not key.startswith("_"))
    return node["_target_"].rpartition(".")[2] + (f"({given})" if given else "")


def mask_table(pipeline: Pipeline, layout: Layout) -> Table:
    """Return a table (rows are queries, columns keys) of the number of layers after which a key reaches a query."""
    words = {None: NEVER, 0: "own"}
    rows = [
        [Cell(segment.name), *(Cell(words.get(depth, str(depth))) for depth in row)]
        for segment, row in zip(layout.segments, depths(layout, pipeline.effective_mask), strict=True)
    ]
    notes = [
        "Rows are queries, columns keys. 1: the query attends to the key. 2 and more: it does not, but the key's input "
        f"arrives through others after so many layers. {NEVER}: it never arrives. own: the segment does not attend to "
        "itself, and its input stays through the residual connection alone.",
        *strengths(pipeline.effective_mask),
        *influence(layout, pipeline.effective_mask),
    ]
    return Table(f"Mask {pipeline.mask.name}: who attends to whom", ["query \\ key", *layout.names], rows, [], notes)


def buckets_table(preview: Preview) -> Table:
    """Return the table of signatures among the draws: the number of samples, and the cost of one."""
    rows, costs = [], []
    for number, bucket in enumerate(preview.buckets, start=1):
        cost = cost_of(preview.pipeline, bucket)
        costs.append(cost)
        share = bucket.count / preview.drawn
        rows.append(
            [
                Cell(f"{number}: {signature(bucket.slots)}"),
                Cell(f"{bucket.count:,}", bucket.count),
                Cell(f"{share:.1%}", share),
                *cost_cells(cost),
            ]
        )
    foot = [Cell("all (cost: mean of a sample)"), Cell(f"{preview.drawn:,}", preview.drawn), Cell("100.0%", 1.0)]
    known = [cost for cost in costs if cost is not None]
    mean = None
    if len(known) == len(costs):
        weights = [bucket.count / preview.drawn for bucket in preview.buckets]
        mean = tuple(sum(w * c[k] for w, c in zip(weights, known, strict=True)) for k in range(3))
    size = preview.config["data"]["batch_size"]
    notes = list(preview.refusals)
    if len(preview.buckets) > 1:
        batches = -(-preview.drawn // size)
        notes.append(f"The {size} samples of a batch share their signature, so this counts {batches} draws of one.")
    header = ["signature", "samples", "share", "tokens", "pairs attended", "forward FLOPs"]
    title = f"Buckets of {preview.drawn:,} drawn samples"
    return Table(title, header, rows, [[*foot, *cost_cells(mean)]], notes, terminal=True)


def cost_of(pipeline: Pipeline | None, bucket: Bucket) -> tuple[float, float, float] | None:
    """Return (tokens, share of attended pairs, forward FLOPs) of a sample; None without a layout."""
    if pipeline is None or bucket.plan is None:
        return None
    layout = bucket.plan.layout
    attended, pairs = pipeline.backbone.pairs(layout, pipeline.mask)
    return len(layout), attended / pairs, sum(pipeline.backbone.flops(layout, pipeline.mask).values())


def cost_cells(cost: tuple[float, ...] | None) -> list[Cell]:
    """Return cells with the three numbers of `cost_of`."""
    if cost is None:
        return [Cell("no layout"), Cell(NEVER), Cell(NEVER)]
    tokens, pairs, flops = cost
    return [Cell(f"{tokens:,.0f}", tokens), Cell(f"{pairs:.1%}", pairs), Cell(scaled(flops), flops)]


def scaled(flops: float) -> str:
    """Return a number with a unit, such as '83.0 M' or '41.5 T'."""
    power = next(power for power in (12, 9, 6, 3, 0) if flops >= 10**power or not power)
    return f"{flops / 10**power:.1f} {dict(zip((12, 9, 6, 3, 0), 'TGMk ', strict=True))[power]}".rstrip()


def tasks_table(preview: Preview) -> Table:
    """Return the table of the draws by task, with the graph's expectation if there is a graph."""
    names = preview.expected if preview.expected is not None else preview.tasks
    drawn = {name: preview.tasks[name] for name in names}
    title = f"Tasks of {preview.drawn:,} drawn samples"
    return draws_table(drawn, preview.expected, title)._replace(terminal=len(drawn) <= 24)
