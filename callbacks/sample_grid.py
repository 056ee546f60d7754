"""Labelled pictures of what the model makes: condition, output and truth in one row per sample, prompts beside them."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unigen import ranges
from unigen.files import write_png
from unigen.types import TARGET, Batch

MARGIN, HEADING, LABEL = 8, 22, 190


class SampleGrid(L.Callback):
    """Draws `items` fixed held-out samples at every validation into `folder`/step_NNNNNN.png.

    The same pictures and the same noise every time, with whatever weights are in place (EMA first). Where batches
    of several layouts are validated, the first one of each is drawn, the second and later ones into step_NNNNNN_k.png.
    Raises ConfigError for less than one item.
    """

    def __init__(self, folder: str, items: int, seed: int) -> None:
        ranges.check("callback.sample_grid.items", items)
        self.folder, self.items, self.seed = Path(folder), items, seed
        self._drawn: list[tuple] = []

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._drawn = []

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch.slots in self._drawn:
            return
        self._drawn.append(batch.slots)
        number = f"_{len(self._drawn)}" if len(self._drawn) > 1 else ""
        few = first(batch, self.items)
        outputs = pl_module.sample(few, self.seed)  # on every rank: weights may be divided among them
        if not trainer.is_global_zero:
            return
        grid = draw_grid(few, outputs)
        write_png(self.folder / f"step_{trainer.global_step:06d}{number}.png", grid)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image(f"samples{number}", [grid], step=trainer.global_step)


def first(batch: Batch, count: int) -> Batch:
    """The first samples of a batch."""
    return Batch(
        slots=batch.slots,
        images={name: x[:count] for name, x in batch.images.items()},
        prompts=batch.prompts[:count],
        subjects=batch.subjects[:count],
        tasks=batch.tasks[:count],
        keys=batch.keys[:count],
    )


def draw_grid(batch: Batch, outputs: dict[str, Tensor], columns: int = 2, scale: int | None = None) -> Image.Image:
    """A picture with `columns` samples a line: prompt, then every slot's picture, targets as output and truth.

    `outputs` are uint8 (B, F, C, H, W) by target slot; a clip's frames are shown side by side, one sample a line.
    """
    columns = 1 if max(slot.frames for slot in batch.slots) > 1 else columns
    headings, rows = _headings(batch), [_pictures(batch, outputs, i) for i in range(len(batch))]
    scale = scale or max(1, 96 // rows[0][0].height)
    cell = max(p.width for p in rows[0]) * scale + MARGIN
    width = LABEL + cell * len(rows[0]) + MARGIN
    lines = -(-len(rows) // columns)
    high = max(p.height for p in rows[0]) * scale + MARGIN
    page = Image.new("RGB", (width * min(columns, len(rows)), HEADING + lines * high + MARGIN), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for i, pictures in enumerate(rows):
        left, top = (i % columns) * width + MARGIN, HEADING + (i // columns) * high
        draw.multiline_text((left, top + 4), _label(batch, i), fill="black", font=font, spacing=3)
        for k, picture in enumerate(pictures):
            x = left + LABEL - MARGIN + k * cell
            if i < columns:
                name, role = headings[k]  # the name, where it is not wider than the picture
                draw.text((x, 4), name if font.getlength(name) < cell else role, fill="#555555", font=font)
            big = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
            page.paste(big, (x, top))
            draw.rectangle((x - 1, top - 1, x + big.width, top + big.height), outline="#cccccc")
    return page


def _pictures(batch: Batch, outputs: dict[str, Tensor], i: int) -> list[Image.Image]:
    """Those of one sample, in the order of its slots, a target's output before its truth."""
    shown = []
    for slot in batch.slots:
        shown += [outputs[slot.name][i]] if slot.role == TARGET else []
        shown.append(batch.images[slot.name][i])
    return [_picture(x) for x in shown]


def _headings(batch: Batch) -> list[tuple[str, str]]:
    """(name, role) over each of these pictures."""
    pairs = [[("output",) * 2, ("truth",) * 2] if s.role == TARGET else [(s.name, s.role)] for s in batch.slots]
    return [pair for found in pairs for pair in found]


def _picture(x_FCHW: Tensor) -> Image.Image:
    """A still, or a clip's frames side by side."""
    return Image.fromarray(torch.cat(list(x_FCHW), dim=-1).permute(1, 2, 0).cpu().numpy())


def _label(batch: Batch, i: int) -> str:
    words, lines = f"{batch.tasks[i]}: {batch.prompts[i]}".split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 24:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines[:5])
