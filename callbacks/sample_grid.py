"""Draws labelled grids of samples: condition, output and truth of one sample in a row, with its prompt."""

import itertools
import json
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unigen.config import ranges
from unigen.config.files import write_png, write_text
from unigen.core.types import TARGET, Batch, shown_images

MARGIN, HEADING, LABEL, LINE = 8, 22, 190, 17


class SampleGrid(L.Callback):
    """Draws `items` fixed held-out samples at step 0 and at every validation, and writes them in two forms.

    `folder`/step_NNNNNN.png is the grid. `folder`/items holds each image by itself, for the report's gallery
    (`write_items`). Images and noise are the same every time; the weights are those in place (EMA first). Where batches
    of several layouts are validated, the first batch of each is drawn, from the second layout on into
    step_NNNNNN_k.png and items_k. Raises ConfigError for less than one item.
    """

    def __init__(self, folder: str, items: int, seed: int) -> None:
        ranges.check("callback.sample_grid.items", items)
        self.folder, self.items, self.seed = Path(folder), items, seed
        self._drawn: list[tuple] = []

    @torch.no_grad()
    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Draw the samples before the first step: a wrong set-up shows in them at once."""
        if trainer.global_step or trainer.val_dataloaders is None:  # a run that goes on has drawn them already
            return
        self._drawn = []
        trained = [module for module in pl_module.modules() if module.training]
        pl_module.eval()
        with isolate_rng():
            for batch in itertools.islice(trainer.val_dataloaders, int(trainer.num_val_batches[0])):
                self._draw(trainer, pl_module, trainer.strategy.batch_to_device(batch))
        for module in trained:
            module.training = True

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._drawn = []

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._draw(trainer, pl_module, batch)

    def _draw(self, trainer: L.Trainer, pl_module: Any, batch: Batch) -> None:
        """Draw the batch's first samples, unless a batch of this layout is drawn already."""
        if batch.slots in self._drawn:
            return
        self._drawn.append(batch.slots)
        number = f"_{len(self._drawn)}" if len(self._drawn) > 1 else ""
        few = first(batch, self.items)
        outputs = pl_module.sample(few, self.seed)  # on every rank: weights may be divided among them
        if not trainer.is_global_zero:
            return
        grid, step = draw_grid(few, outputs), f"step_{trainer.global_step:06d}"
        write_png(self.folder / f"{step}{number}.png", grid)
        write_items(self.folder / f"items{number}", few, outputs, step)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image(f"samples{number}", [grid], step=trainer.global_step)
            if hasattr(logger, "log_samples"):
                logger.log_samples(f"items{number}", sample_rows(few, outputs), step=trainer.global_step)


def write_items(folder: Path, batch: Batch, outputs: dict[str, Tensor], step: str) -> None:
    """Write every image of the batch into `folder`, and items.json, which says what they show.

    items.json is a list of {key, task, prompt, slots: {name of the slot: its file}, targets: [names of target slots]}.
    The output for slot NAME of item i after STEP is <i as three digits>_<NAME>_<STEP>.png.
    """
    items = []
    for i in range(len(batch)):
        files = {slot.name: f"{i:03d}_{slot.name}.png" for slot in batch.slots}
        for name, file in files.items() if not all((folder / file).exists() for file in files.values()) else ():
            write_png(folder / file, _image(batch.images[name][i]))
        for name, images in outputs.items():
            write_png(folder / f"{i:03d}_{name}_{step}.png", _image(images[i]))
        said = {"key": batch.keys[i] if batch.keys else str(i), "task": batch.tasks[i], "prompt": batch.prompts[i]}
        items.append(said | {"slots": files, "targets": [s.name for s in batch.slots if s.role == TARGET]})
    write_text(folder / "items.json", json.dumps(items, indent=1))


def sample_rows(batch: Batch, outputs: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Return the samples as rows of a table for a logger: key, task, prompt, and every image by its heading."""
    headings = [name if name == role else f"{role} {name}".strip() for name, role in _headings(batch)]
    rows = []
    for i in range(len(batch)):
        said = {"key": batch.keys[i] if batch.keys else str(i), "task": batch.tasks[i], "prompt": batch.prompts[i]}
        rows.append(said | dict(zip(headings, _images(batch, outputs, i), strict=True)))
    return rows


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
    """An image with `columns` samples a line: prompt, then every slot's image, targets as output and truth.

    `outputs` are uint8 (B, F, C, H, W) by target slot; a clip's frames are shown side by side, one sample a line.
    """
    columns = 1 if max(slot.frames for slot in batch.slots) > 1 else columns
    headings, rows = _headings(batch), [_images(batch, outputs, i) for i in range(len(batch))]
    scale = scale or -(-96 // rows[0][0].height)
    cell = max(p.width for p in rows[0]) * scale + MARGIN
    width = LABEL + cell * len(rows[0]) + MARGIN
    lines = -(-len(rows) // columns)
    high = max(p.height for p in rows[0]) * scale + MARGIN
    page = Image.new("RGB", (width * min(columns, len(rows)), HEADING + lines * high + MARGIN), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for i, images in enumerate(rows):
        left, top = (i % columns) * width + MARGIN, HEADING + (i // columns) * high
        draw.multiline_text(
            (left, top + 4), _label(batch, i, (high - MARGIN) // LINE), fill="black", font=font, spacing=3
        )
        for k, image in enumerate(images):
            x = left + LABEL - MARGIN + k * cell
            if i < columns:
                name, role = headings[k]  # the name, where it is not wider than the image
                draw.text((x, 4), name if font.getlength(name) < cell else role, fill="#555555", font=font)
            big = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
            page.paste(big, (x, top))
            draw.rectangle((x - 1, top - 1, x + big.width, top + big.height), outline="#cccccc")
    return page


def _images(batch: Batch, outputs: dict[str, Tensor], i: int) -> list[Image.Image]:
    """The images of one sample, a target's output before its truth."""
    return [_image(x_FCHW) for x_FCHW in shown_images(batch, outputs, i)]


def _headings(batch: Batch) -> list[tuple[str, str]]:
    """The (name, role) to write over each of these images."""
    pairs = [[("output",) * 2, ("truth",) * 2] if s.role == TARGET else [(s.name, s.role)] for s in batch.slots]
    return [pair for found in pairs for pair in found]


def _image(x_FCHW: Tensor) -> Image.Image:
    """A still, or a clip's frames side by side."""
    return Image.fromarray(torch.cat(list(x_FCHW), dim=-1).permute(1, 2, 0).cpu().numpy())


def _label(batch: Batch, i: int, most: int) -> str:
    """The task and the prompt in at most so many lines; what does not fit is cut, and dots say so."""
    words, lines = f"{batch.tasks[i]}: {batch.prompts[i]}".split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 24:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines if len(lines) <= most else [*lines[: most - 1], "..."])
