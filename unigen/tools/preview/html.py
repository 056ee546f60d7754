"""Writes the preview as one self-contained HTML page: inline style and script, images as data, no network.

All text goes through `escape`; nothing from the data or the configuration reaches the script.
"""

import base64
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from unigen.core.layout import Layout
from unigen.core.types import ImageSlot, Sample
from unigen.evaluation.agreement import counted
from unigen.pipeline.header import session, sizes
from unigen.pipeline.hiding import WORDS, share_of, way_of
from unigen.tools.forms.tables import Table
from unigen.tools.preview.gathering import (
    Bucket,
    Preview,
    Prompt,
    columns_of,
    depths,
    images_of,
    prompt_of,
    signature,
)
from unigen.tools.preview.graph import graph_tables
from unigen.tools.preview.tables import buckets_table, loss_words, mask_table, place, segments_table, tasks_table
from unigen.tools.report.html import POLICY, SCRIPT, STYLE, table_html

IMAGE_BYTES = 2**20  # the limit for all images together, as PNG; beyond it their sides are halved
LONGEST = 512  # pixels: the limit for an image's longer side
LOOK = """
h3 { font-size: 15.5px; margin: 20px 0 8px; overflow-wrap: anywhere; }
h3 small { color: var(--soft); font-weight: 400; }
.warn { border: 1px solid #c8452e; border-left-width: 5px; border-radius: 6px; padding: 8px 12px; margin: 14px 0; }
.samples { display: grid; grid-template-columns: repeat(auto-fit, minmax(610px, 1fr)); gap: 16px; margin: 14px 0; }
.sample { border: 1px solid var(--line); border-radius: 10px; padding: 2px 18px 16px; min-width: 0; }
.sample.wide { grid-column: 1 / -1; }
.rows { display: grid; gap: 12px 14px; overflow-x: auto; justify-content: start; padding-bottom: 4px; }
.rows > .row { color: var(--soft); font-size: 12.5px; align-self: center; }
.rows figure { margin: 0; width: 146px; } .rows figure.clip { width: auto; }
.rows img { display: block; height: 128px; min-width: 128px; image-rendering: pixelated; border-radius: 5px;
  border: 4px solid var(--line); background: #fff; }
.rows .noised img { border-color: #dd6b3d; } .rows .clean img { border-color: #3f7fd9; }
.rows figcaption { font-size: 12px; line-height: 1.35; margin: 5px 0 0; overflow-wrap: anywhere; }
.rows figcaption b { color: var(--ink); }
.prompt { font: 14px/2.1 ui-monospace, monospace; white-space: pre-wrap; margin: 12px 0 4px; overflow-wrap: anywhere; }
.prompt span { border: 1px solid var(--line); border-radius: 4px; padding: 0 1px; margin-right: 2px; }
.prompt :is(span, mark) { display: inline-block; line-height: 1.5; }
.prompt mark { background: #ffe08a; color: #221b00; border: 1px solid #bf9420; border-radius: 4px; padding: 0 1px;
  margin-right: 2px; font-weight: 700; }
.prompt del { color: #c8452e; text-decoration: line-through; border: 1px dashed #c8452e; border-radius: 4px; }
p.said { color: var(--soft); font-size: 13px; margin: 2px 0; max-width: 120ch; }
.bars td:last-child { text-align: left; color: #3f7fd9; letter-spacing: -1px; }
table.mask td { text-align: center; min-width: 62px; } table.mask td:first-child { text-align: left; }
td.d1 { background: #2f9d6f; color: #fff; } td.d2 { background: #f0d48a; color: #332800; }
td.d3 { background: #f7ecd0; color: #332800; } td.d0 { background: var(--shade); } td.never { background: #7b879433; }
tbody tr:hover td.d1 { background: #2f9d6f; } details { margin: 12px 0; } summary { cursor: pointer; }
"""


def page(preview: Preview) -> str:
    """Return the whole page of an experiment."""
    config = preview.config
    title = f"Preview: {escape(config['name'])}"
    tasks = f"task {next(iter(preview.tasks))}" if len(preview.tasks) == 1 else f"{len(preview.tasks)} tasks drawn"
    lead = f"{config['paper'] + '; ' if config['paper'] else ''}{tasks}, seed {config['seed']}. "
    lead += "This is what training will show to the model; no weights were read and no step was taken."
    told = [f'<p class="said">Data: {escape(preview.said)}</p>'] if preview.said else []
    told += [f'<p class="said">{escape(preview.subjects)}.</p>'] if preview.subjects else []
    sections = [*told, *map(refusal_html, preview.refusals), samples_html(preview), *layouts_html(preview)]
    sections += [section(buckets_table(preview)), section(tasks_table(preview))]
    if preview.graph is not None:
        drawn = {name: preview.tasks[name] for name in preview.expected}
        tables = graph_tables(preview.graph, drawn, preview.expected)[:-1]  # without the histogram, which is above
        sections += ["<h2>The graph that tasks are drawn from</h2>", *map(section, tables)]
    return document(title, lead, sections)


def graph_page(name: str, tables: Sequence[Table]) -> str:
    """Return the page of an annotation graph alone."""
    lead = "An annotation graph: the annotations that an image may have, and the tasks that lead from some to others."
    return document(f"Annotation graph: {escape(name)}", lead, [section(table) for table in tables])


def document(title: str, lead: str, sections: Sequence[str]) -> str:
    """Return a page with these sections; `title` and `sections` are HTML, `lead` is plain text."""
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{STYLE}{LOOK}</style></head><body><h1>{title}</h1>",
            f'<p class="lead">{escape(lead)}</p>',
            *sections,
            f"<script>{SCRIPT}</script></body></html>",
        ]
    )


def section(table: Table) -> str:
    """Return a table under its heading; a last column without a name holds bars, which are set flush left."""
    return f"<section{' class=bars' if not table.header[-1] else ''}>{table_html(table)}</section>"


def refusal_html(refusal: str) -> str:
    """Return a paragraph with the reason why something is not shown."""
    return f'<p class="warn">{escape(refusal[:1].upper() + refusal[1:])}</p>'


# samples -------------------------------------------------------------------------------------------------------------


def samples_html(preview: Preview) -> str:
    """Return the samples with their images in place, and their prompts."""
    images = encoded([sample.images for sample in preview.samples])
    parts = [
        sample_html(preview, sample, number, data)
        for number, (sample, data) in enumerate(zip(preview.samples, images, strict=True), start=1)
    ]
    said = (
        "The first training samples, then one of each other signature. Orange: noised; blue: clean. "
        "Marked in the prompt: the text tokens with the subject's words, which UCE looks up; "
        "struck out: beyond the window."
    )
    head = f'<h2>Training samples</h2><p class="lead">{said}</p>'
    return f'<section>{head}<div class="samples">{"".join(parts)}</div></section>'


def sample_html(preview: Preview, sample: Sample, number: int, images: dict[str, str]) -> str:
    bucket = preview.bucket(sample.slots)
    which = preview.buckets.index(bucket) + 1
    head = f"{number}. {escape(sample.task)} <small>{escape(sample.key)}, bucket {which}</small>"
    missing = '<p class="said">no layout: see above</p>' if bucket.refusal else ""
    frames: Counter[int] = Counter()
    for slot in sample.slots:
        frames[slot.row] += slot.frames
    wide = " wide" if max(frames.values()) > 3 else ""  # more frames do not fit into half a page
    return (
        f'<div class="sample{wide}"><h3>{head}</h3>{missing}'
        f"{grid_html(preview, sample, bucket, images)}{prompt_html(preview, sample)}</div>"
    )


def grid_html(preview: Preview, sample: Sample, bucket: Bucket, images: dict[str, str]) -> str:
    """Return a line for each row of a sample, its images ordered by (t, h, w), or by slot without a layout."""
    layout = bucket.plan.layout if bucket.plan else None
    names = dict(zip((slot.name for slot in sample.slots), images_of(columns_of(sample), sample.slots), strict=True))
    rows: dict[int, list[ImageSlot]] = {}
    for slot in sample.slots if layout is None else sorted(sample.slots, key=lambda s: layout[s.name].origin):
        rows.setdefault(slot.row, []).append(slot)
    columns, cells = max(map(len, rows.values())), []
    for row in sorted(rows):
        label = "query" if row == max(rows) else f"example {row + 1}"
        cells.append(f'<div class="row">{label if len(rows) > 1 else "time →" if timed(layout) else ""}</div>')
        cells += [slot_html(preview, slot, layout, names[slot.name], images[slot.name]) for slot in rows[row]]
        cells += ["<div></div>"] * (columns - len(rows[row]))
    return (
        f'<div class="rows" style="grid-template-columns: 64px repeat({columns}, max-content)">{"".join(cells)}</div>'
    )


def timed(layout: Layout | None) -> bool:
    """Return True if the images follow each other in time."""
    return layout is not None and len({s.origin[0] for s in layout.visual}) == len(layout.visual)


def slot_html(preview: Preview, slot: ImageSlot, layout: Layout | None, shows: str, image: str) -> str:
    """Return an image with a caption: its name, its role, and its treatments."""
    lines = [f"<b>{escape(slot.name)}</b>", f"{f'{shows}, ' if shows else ''}role {slot.role}"]
    kind = "unknown"
    if layout is not None:
        segment = layout[slot.name]
        kind = "noised" if segment.cap > 0 else "clean"
        loss = loss_words(preview.pipeline, slot.role, segment.cap)
        lines += [f"{kind}: ceiling {segment.cap:g}", f"loss {loss}", f"at {place(segment.origin)}"]
        lines[2:] = map(escape, lines[2:])
    lines[1] = escape(lines[1])
    clip = " clip" if slot.frames > 1 else ""
    return (
        f'<figure class="{kind}{clip}"><img alt="{escape(slot.name)}" src="data:image/png;base64,{image}">'
        f"<figcaption>{'<br>'.join(lines)}</figcaption></figure>"
    )


def prompt_html(preview: Preview, sample: Sample) -> str:
    """Return the prompt token by token; the subject's words are marked, and text that is cut is struck out."""
    prompt, reason = prompt_of(preview.pipeline, sample)
    if prompt is None:
        return f'<p class="prompt">{escape(sample.prompt)}</p><p class="said">not tokenized: {escape(reason)}</p>'
    pieces = "".join(
        f"<mark>{escape(text)}</mark>" if hit else f"<span>{escape(text)}</span>" for text, hit in prompt.pieces
    )
    cut = f"<del>{escape(prompt.cut)}</del>" if prompt.cut else ""
    said = "".join(f'<p class="said">{escape(line)}</p>' for line in prompt_lines(preview, sample, prompt))
    return f'<p class="prompt">{pieces}{cut}</p>{said}'


def prompt_lines(preview: Preview, sample: Sample, prompt: Prompt) -> Iterator[str]:
    """Yield lines on the tokens that are read, the words that UCE looks up, and the roles that may be hidden."""
    over = prompt.length - prompt.window
    fate = f"{counted(over, 'token')} too many: cut" if over > 0 else "nothing is cut"
    yield (
        f"{prompt.length} tokens with the end token, the window is {prompt.window}: {fate}. "
        f"They become {preview.pipeline.text.tokens} text tokens, padding included."
    )
    words = ", ".join(repr(word) for word in sample.subjects) or "none"
    found = sum(hit for _, hit in prompt.pieces)
    who = type(preview.pipeline.embedding).__name__
    yield f"subject {words}: in {counted(found, 'text token')}; conditioning.embedding is {who}."
    hidden, table = preview.pipeline.dropout, preview.pipeline.guidance.hide
    shares = {role: share_of(role, hidden) for role in ("text", *(slot.role for slot in sample.slots))}
    drops = [f"{role} {share:.0%} ({WORDS[way_of(role, table)]})" for role, share in shares.items() if share > 0]
    yield f"dropout hides: {', '.join(drops) or 'nothing'}."


def encoded(samples: Sequence[dict[str, Tensor]]) -> list[dict[str, str]]:
    """Return Base64 PNGs of every slot's image, made smaller until all of them fit into IMAGE_BYTES."""
    longest = LONGEST
    while True:
        pngs = [{name: png(x_FCHW, longest) for name, x_FCHW in images.items()} for images in samples]
        if longest <= 16 or sum(len(data) for images in pngs for data in images.values()) <= IMAGE_BYTES:
            return [{name: base64.b64encode(data).decode() for name, data in images.items()} for images in pngs]
        longest //= 2


def png(x_FCHW: Tensor, longest: int) -> bytes:
    """Return a PNG of a still, or of a clip's frames side by side, scaled to a longer side of at most `longest`."""
    height, width = x_FCHW.shape[-2:]
    image = Image.fromarray(torch.cat(list(x_FCHW), dim=-1).permute(1, 2, 0).contiguous().numpy())
    if (scale := longest / max(height, width)) < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)))
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()


# layouts -------------------------------------------------------------------------------------------------------------


def layouts_html(preview: Preview) -> Iterator[str]:
    """Yield the segments, the mask and the cost of every signature that is shown; the first one is unfolded."""
    if any(bucket.plan for bucket in preview.buckets):
        yield "<h2>What the model makes of them</h2>"
    for number, slots in enumerate(dict.fromkeys(sample.slots for sample in preview.samples)):
        bucket = preview.bucket(slots)
        if bucket.plan is None:
            continue
        layout, pipeline = bucket.plan.layout, preview.pipeline
        told = [*session(pipeline, bucket.plan), *sizes(pipeline, layout)[:-1]]  # no device
        lines = "".join(f'<p class="said">{escape(line)}</p>' for line in told)
        inside = section(segments_table(preview.config, pipeline, layout)) + mask_html(pipeline, layout) + lines
        name = f"Bucket {preview.buckets.index(bucket) + 1}: {signature(slots)}"
        yield f"<details{'' if number else ' open'}><summary><b>{escape(name)}</b></summary>{inside}</details>"


def mask_html(pipeline: Any, layout: Layout) -> str:
    """Return `mask_table` as HTML with a colour for every depth."""
    table = mask_table(pipeline, layout)
    heads = "".join(f'<th scope="col">{escape(text)}</th>' for text in table.header)
    body = ""
    for cells, row in zip(table.rows, depths(layout, pipeline.effective_mask), strict=True):
        kinds = ["never" if depth is None else f"d{min(depth, 3)}" for depth in row]
        marked = "".join(f'<td class="{k}">{escape(c.text)}</td>' for k, c in zip(kinds, cells[1:], strict=True))
        body += f"<tr><td>{escape(cells[0].text)}</td>{marked}</tr>"
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    return (
        f'<section><h2>{escape(table.title)}</h2><div class="scroll"><table class="mask">'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<ul class="notes">{notes}</ul></section>'
    )
