"""Fills a cache with all that an experiment's data show its frozen encoders, and checks kept entries against them.

Shapes: N pictures, H and W pixels.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from unigen import canvas
from unigen.build import build, build_on_meta
from unigen.cache import Cache, StrictCache, ids_key, open_cache, picture_key
from unigen.learners.denoising import FIT_PICTURES, Denoising
from unigen.types import TEXT, Batch

ROUNDING = {None: 0.0, "bfloat16": 2**-8, "float16": 2**-11}  # relative error of a rounded value, at most
TOLERANCE = 1e-3  # of an entry's standard deviation: other hardware and other batches round differently


class Split(NamedTuple):
    """Batches of one split; `total` of them make up what a run shows."""

    name: str
    batches: Iterable[Batch]
    count: int
    total: int


class Source:
    """An experiment's data and frozen encoders, without its backbone: that stays on the meta device.

    Raises ValueError if what is encoded now cannot be what the run will encode: its encoders are trained, or they
    have random weights.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        from hydra.utils import get_class

        if not issubclass(get_class(config["learner"]["_target_"]), Denoising):
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
        self.plan, self.data = build_on_meta(config).plan, build(config["data"])
        self.data.prepare_data()
        for stage in ("fit", "test"):
            self.data.setup(stage)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.codec = build(encoder["codec"])
        self.codec.fit(lambda: self.data.fit_pictures(FIT_PICTURES))
        self.codec.to(self.device)
        self.text = build(encoder["text"]).to(self.device) if "text" in frozen else None

    def splits(self, batches: int | None) -> Iterator[Split]:
        """Validation, test, and the first `batches` of the keyed training stream (None: all of the run's).

        A run of several devices parts each global batch among them: this walks them all.
        """
        for name, loader in {"val": self.data.val_dataloader(), "test": self.data.test_dataloader()}.items():
            yield Split(name, loader, len(loader), len(loader))
        t = self.config["trainer"]
        devices = t["devices"] if isinstance(t["devices"], int) and t["devices"] > 0 else 1
        total = t["max_steps"] * t["accumulate_grad_batches"] * devices * t["num_nodes"]
        count = total if batches is None else min(batches, total)
        yield Split("train", itertools.islice(self.data.train_dataloader(), count), count, total)

    def pages(self, batch: Batch) -> list[Tensor]:
        """What the codec sees: uint8 (N, 3, H, W) for every canvas of the layout."""
        return [page.flatten(0, 1) for page in canvas.stitch(batch.images, self.plan(batch.slots), batch.slots)]

    def prompts(self, batch: Batch) -> list[str]:
        """What a frozen text encoder sees: the batch's prompts, and the empty one where a role may be hidden."""
        hides = TEXT in self.config["solver"]["drop"] or self.config["dropout"].get(TEXT, 0) > 0
        return [] if self.text is None else [*batch.prompts, *([""] if hides else [])]


def build_cache(config: Mapping[str, Any], batches: int | None = None) -> Cache:
    """Encode what is not there yet, with a progress bar; at the end say how much of the data is covered.

    Interrupted or killed, it goes on where it was when it is said again. Raises ValueError (see `Source`), and OSError
    if the folder cannot be written.
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
                for page in source.pages(batch):
                    cache.moments(source.codec, page, source.device)
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
    """Entries made, their bytes, entries found."""
    shelves = [cache.shelf(encoder) for encoder in (source.codec, source.text) if encoder is not None]
    return sum(s.made for s in shelves), sum(s.bytes for s in shelves), sum(s.read for s in shelves)


def reencode(config: Mapping[str, Any], sample: int) -> tuple[int, list[str]]:
    """Encode up to `sample` kept pictures and as many prompts anew: how many were compared, and what differs."""
    source, cache = Source(config), open_cache(config)
    compared, wrong = 0, []
    for kind, inputs in {"picture": _pictures(source), "prompt": _prompts(source)}.items():
        encoder = source.codec if kind == "picture" else source.text
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


def _pictures(source: Source) -> Iterator[tuple[str, Any]]:
    """Key and encoding of every picture of the validation and test splits."""

    def every() -> Iterator[tuple[str, Any]]:
        for batch in _held_out(source):
            for x in itertools.chain.from_iterable(source.pages(batch)):
                yield picture_key(x), lambda x=x: source.codec.moments(canvas.to_unit(x[None].to(source.device)))[0]

    return _distinct(every())


def _prompts(source: Source) -> Iterator[tuple[str, Any]]:
    """Key and encoding of every prompt of the validation and test splits."""

    def every() -> Iterator[tuple[str, Any]]:
        for batch in _held_out(source):
            for prompt in source.prompts(batch):
                yield ids_key(source.text.ids([prompt])[0]), lambda prompt=prompt: source.text.encode([prompt])[0]

    return _distinct(every())


def _held_out(source: Source) -> Iterator[Batch]:
    return (batch for split in source.splits(0) for batch in split.batches)
