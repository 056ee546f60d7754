"""Whole runs that take half a second: the command line of a run made tiny, and run.py and sample.py in this process."""

import json
import runpy
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tiny import ROOT, composed

from unigen.launch.preemption import SIGNALS
from unigen.pipeline import export
from unigen.pipeline.pipeline import Pipeline
from unigen.training import experiment as training

SMALL = (
    "encoder/codec=patch_pca metric=[canny_f1,ssim,psnr,rmse] evaluation.items=4 "
    "data.size=32 data.limit=200 data.batch_size=4 data.val_items=4 "
    "backbone.config.num_layers=1 backbone.config.num_attention_heads=2 backbone.config.attention_head_dim=16 "
    "backbone.pretrained=null encoder.text.pretrained=null encoder.text.trained=true conditioning/adapter=full "
    "trainer.max_steps=2 validation.every=1 solver.steps=2 callback.sample_grid.items=2"
).split()
LORA = ("conditioning/adapter=lora", "conditioning.adapter.rank=4", "conditioning.adapter.alpha=4")


@cache
def _cache() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="unigen-pictures-")


def kept_images() -> str:
    """The word that keeps a run's images for this process, out of the user's own cache."""
    return f"data.cache={_cache().name}"


def line(*overrides: str) -> list[str]:
    """The words of a small run."""
    return [*SMALL, kept_images(), *overrides]


def small(run_dir: Path, *overrides: str) -> dict[str, Any]:
    """The configuration of a small run without W&B."""
    return composed(*line("logger=[jsonl]", *overrides, f"run_dir={run_dir}"))


def train(config: dict[str, Any]) -> Pipeline:
    """What run.py does with a configuration; returns the trained pipeline (None if the run was finished already)."""
    run_dir, trained = Path(config["run_dir"]), []
    training.quiet()
    with pytest.MonkeyPatch.context() as patch:
        save = export.save
        patch.setattr(
            export,
            "save",
            lambda pipeline, *args, **options: (trained.append(pipeline), save(pipeline, *args, **options)),
        )
        training.run(config, run_dir)
    return trained[0] if trained else None


def summary(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "summary.json").read_text())


def log(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (run_dir / "metrics.jsonl").read_text().splitlines()]


@contextmanager
def heard() -> Iterator[None]:
    """A script that ends ignores what SLURM sends, and so would all that later tests start."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def command(script: str, *words: str) -> int:
    """The exit code of `python experiments/<script> words`, run in this process, which hears signals afterwards."""
    with pytest.MonkeyPatch.context() as patch, heard():
        patch.setattr(sys, "argv", [script, *words])
        try:
            runpy.run_path(str(ROOT / "experiments" / script), run_name="__main__")
        except SystemExit as stop:
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
            return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, to be compared before and after."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
