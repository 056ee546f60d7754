"""What the tests of visual prompts share: an untrained run with the grid, as exported, and image files."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tiny import randomise, tiny

from unigen.pipeline import export
from unigen.pipeline.build import build_pipeline
from unigen.pipeline.pipeline import Pipeline

COMMON = ("task=graph", "conditioning/embedding=none", "conditioning/modulation=shared", "mask=fcd_d", "solver=euler")
FILL = ("backbone=flux_fill_mini", "formatter=grid", "fill=code", "loss=flow_masked", "process=rectified_flow", *COMMON)
CLEAN = ("backbone=flux_mini", "formatter=grid_clean", "process=rectified_flow", *COMMON)
COGVIDEOX = ("formatter=grid_clean", *COMMON)


def pipeline_for(*overrides: str, size: int = 32, **tasks: tuple[str, ...]) -> tuple[Pipeline, dict[str, Any]]:
    """A small pipeline with random weights and its configuration; the codec is fitted on noise."""
    torch.manual_seed(0)
    config = tiny(*overrides, **tasks)
    config["data"]["size"] = size
    pipeline = build_pipeline(config)
    pipeline.codec.fit(lambda: torch.randint(0, 256, (64, 3, size, size)).byte())
    for part in (pipeline.backbone, pipeline.embedding):
        randomise(part, 0.1)
    for module in pipeline.modules:
        module.eval()
    return pipeline, config


def exported(folder: Path, *overrides: str, size: int = 32, **tasks: tuple[str, ...]) -> Path:
    """A run folder that holds nothing but the export of such a pipeline; `tasks=` are those of `tiny`."""
    pipeline, config = pipeline_for(*overrides, size=size, **tasks)
    export.save(pipeline, folder / "export", config)
    return folder


def image_file(path: Path, size: tuple[int, int] = (32, 32), seed: int = 0) -> Path:
    """A file of smooth noise, (width, height) pixels."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC).save(path)
    return path
