"""Fills a cache with everything that an experiment's frozen encoders encode, and checks its entries against them.

Shapes: N images, H and W pixels.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from unigen.cache.store import Cache, StrictCache, clip_key, open_cache, prompt_keys
from unigen.core import canvas, infill
from unigen.core.turns import prompts_by_turn
from unigen.core.types import TEXT, Batch, Illustrated
from unigen.learners.denoising import FIT_IMAGES
from unigen.pipeline import hiding
from unigen.pipeline.build import build, build_on_meta
from unigen.pipeline.illustration import illustrated, looked_at

ROUNDING = {None: 0.0, "bfloat16": 2**-8, "float16": 2**-11}  # the largest relative error of a rounded value
TOLERANCE = 1e-3  # relative to an entry's standard deviation: other hardware and batches round differently


class Split(NamedTuple):
    """`count` batches of one split; a run shows `total` of them."""

    name: str
    batches: Iterable[Batch]
    count: int
    total: int


class Source:
    """An experiment's data and frozen encoders; its backbone stays on the meta device.

    Raises ValueError if the run's encoders will give other results, because they are trained or have random weights.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        from hydra.utils import get_class

        if not get_class(config["learner"]["_target_"]).has_pipeline:
            raise ValueError(
                f"learner {config['learner']['_target_']} has no frozen encoders: there is nothing to keep"
            )
        self.config, encoder = config, config["encoder"]
        frozen = ("codec",) if encoder["text"]["trained"] else ("codec", "text")
        for part in frozen:
            if encoder[part].get("pretrained", "fitted") is None:
                raise ValueError(
                    f"encoder.{part}.pretrained is null: its weights are random and differ from run to run, so nothing "
                    f"that is encoded now would be used"
                )
        self.pipeline, self.data = build_on_meta(config), build(config["data"])
        self.data.prepare_data()
        for stage in ("fit", "test"):
            self.data.setup(stage)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.codec = build(encoder["codec"])
        self.codec.fit(lambda: self.data.fit_images(FIT_IMAGES))
        self.codec.to(self.device)
        self.text = build(encoder["text"]).to(self.device) if "text" in frozen else None

    def splits(self, batches: int | None) -> Iterator[Split]:
        """Yield validation, test, and the first `batches` of the keyed training stream (None: all of the run's).

        A run on several devices divides each global batch among them; here the parts of all devices are encoded.
        """
        for name, loader in {"val": self.data.val_dataloader(), "test": self.data.test_dataloader()}.items():
            yield Split(name, loader, len(loader), len(loader))
        t = self.config["trainer"]
        devices = t["devices"] if isinstance(t["devices"], int) and t["devices"] > 0 else 1
        total = t["max_steps"] * t["accumulate_grad_batches"] * devices * t["num_nodes"]
        count = total if batches is None else min(batches, total)
        yield Split("train", itertools.islice(self.data.train_dataloader(), count), count, total)

    def clips(self, batch: Batch) -> list[Tensor]:
        """Return the uint8 clips (N, F, 3, H, W) of every canvas that training or sampling encodes for this batch.

        Canvases with masked cells are included if they are uint8 and only the targets are masked.
        """
        plan, p = self.pipeline.plan(batch.slots), self.pipeline
        black, pages = [role for role in p.formatter.roles if hiding.BLACK in p.hidden_as(role)], []
        for roles in (some for n in range(len(black) + 1) for some in itertools.combinations(black, n)):
            hidden = {role: [hiding.BLACK] * len(batch) for role in roles}
            images = hiding.blackened(batch.images, batch.slots, hidden)
            pages.append(p.canvases(images, plan, infill.targets(plan.slots, len(batch)), "sample"))
        every = [x for page in pages for x in (*page.whole, *page.blanked)]
        distinct = {id(x): x for x in every if not x.is_floating_point()}.values()
        return [canvas.by_clip(x, self.codec.temporal_stride) for x in distinct]

    def prompts(self, batch: Batch) -> list[str] | list[Illustrated]:
        """Return the prompts for a frozen text encoder: the batch's, and what stands for a hidden one.

        For an encoder that looks at images each of them comes with all that its sample shows.
        """
        ways = self.pipeline.hidden_as(TEXT)
        stand_in = hiding.prompts([""] * len(ways), {TEXT: ways}, self.pipeline.guidance.negative)
        if self.text is None:
            return []
        if roles := looked_at(self.text):
            slots, every = self.pipeline.plan(batch.slots).slots, [batch.prompts, *([w] * len(batch) for w in stand_in)]
            return [one for words in every for one in illustrated(words, batch.images, slots, roles, {})]
        said = [prompt for turn in prompts_by_turn(batch.prompts, batch.slots) for prompt in turn]
        return [*said, *stand_in]


def build_cache(config: Mapping[str, Any], batches: int | None = None) -> Cache:
    """Encode what the cache lacks, with a progress bar, and print at the end how much of the data is covered.

    After an interruption the same command continues where it stopped. Raises ValueError (see `Source`), and OSError if
    the folder cannot be written.
    """
    cache, source = open_cache(config, StrictCache), Source(config)
    console = Console(highlight=False)
    bars = (TextColumn("{task.description:5}"), BarColumn(), TextColumn("{task.completed}/{task.total} batches"))
    clocks = (TextColumn("{task.fields[said]}"), TimeElapsedColumn(), TimeRemainingColumn())
    lines = []
    with Progress(*bars, *clocks, console=console) as progress:
        for split in source.splits(batches):
            task, before = progress.add_task(split.name, total=split.count, said=""), _counts(cache, source)
            for batch in split.batches:
                for clips in source.clips(batch):
                    cache.moments(source.codec, clips, source.device)
                if prompts := source.prompts(batch):
                    cache.features(source.text, prompts, source.device)
                made, size, read = (now - then for now, then in zip(_counts(cache, source), before, strict=True))
                speed = made / max(progress.tasks[task].elapsed or 0, 1e-3)
                progress.update(task, advance=1, said=f"{made} made ({size / 1e6:.1f} MB, {speed:.0f}/s), {read} known")
            done, said = progress.tasks[task].completed, progress.tasks[task].fields["said"]
            share = f"{done / max(split.total, 1):.1%} covered, {done:.0f} of {split.total} batches"
            lines.append(f"{split.name}: {share}; {said or 'nothing to encode'}")
        cache.flush()
    for line in lines:
        console.print(line, soft_wrap=True)
    if source.text is None:
        console.print("prompts are not kept: the text encoder is trained (encoder.text.trained)", soft_wrap=True)
    return cache


def _counts(cache: Cache, source: Source) -> tuple[int, int, int]:
    """Return the number of new entries, their bytes, and the number of entries found."""
    shelves = [cache.shelf(encoder) for encoder in (source.codec, source.text) if encoder is not None]
    return sum(s.made for s in shelves), sum(s.bytes for s in shelves), sum(s.read for s in shelves)


def reencode(config: Mapping[str, Any], sample: int) -> tuple[int, list[str]]:
    """Encode up to `sample` kept clips and as many prompts again; return the number compared, and the differences."""
    source, cache = Source(config), open_cache(config)
    compared, wrong = 0, []
    for kind, inputs in {"image": _images(source), "prompt": _prompts(source)}.items():
        encoder = source.codec if kind == "image" else source.text
        known = ((key, make) for key, make in inputs if key in cache.shelf(encoder))
        for key, make in itertools.islice(known, sample):
            kept, made, compared = cache.shelf(encoder).get(key).float(), make().cpu().float(), compared + 1
            if not torch.allclose(kept, made, rtol=ROUNDING[cache.lossy], atol=TOLERANCE * float(made.std())):
                worst = float((kept - made).abs().max())
                place = cache.shelf(encoder).place(key)
                wrong.append(f"{place}: {kind} {key[:12]} is encoded differently now (by up to {worst:.3g})")
    return compared, wrong


def _distinct(inputs: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    seen = set()
    for key, make in inputs:
        if key not in seen:
            seen.add(key)
            yield key, make


def _images(source: Source) -> Iterator[tuple[str, Any]]:
    """Yield the key and the encoding of every clip of the validation and test splits."""

    def every() -> Iterator[tuple[str, Any]]:
        for batch in _held_out(source):
            for x in itertools.chain.from_iterable(source.clips(batch)):
                yield clip_key(x), lambda x=x: source.codec.moments(canvas.to_unit(x[None].to(source.device)))[0]

    return _distinct(every())


def _prompts(source: Source) -> Iterator[tuple[str, Any]]:
    """Yield the key and the encoding of every prompt of the validation and test splits."""

    def every() -> Iterator[tuple[str, Any]]:
        for batch in _held_out(source):
            for prompt in source.prompts(batch):
                (key,) = prompt_keys(source.text, [prompt])
                yield key, lambda prompt=prompt: source.text.encode([prompt])[0]

    return _distinct(every())


def _held_out(source: Source) -> Iterator[Batch]:
    return (batch for split in source.splits(0) for batch in split.batches)
