"""An export of RealGeneral in diffusers: the file that travels with it draws what unigen draws, on the same noise."""

import json
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from published import sizes
from test_published import COGVIDEOX
from test_rehearsal import words
from tiny import composed, randomise

from unigen.core.types import Batch, ImageSlot
from unigen.pipeline import export
from unigen.pipeline.build import build_pipeline

SIZE, STEPS = 32, 3
PROMPTS = ["a red heart on a table", "two hearts"]


def exported(folder: Path, *more: str):
    """A pipeline as the experiment has it, with no trained weight at its initial value, and its export."""
    config = composed(*words("fcd_mask_a", folder / "run", f"data.size={SIZE}", f"solver.steps={STEPS}", *more))
    pipeline = build_pipeline(config)
    trained = [p for module in pipeline.modules for p in module.parameters() if p.requires_grad]
    randomise(torch.nn.ParameterList(trained), 0.1)
    export.save(pipeline, folder / "export", config)
    for module in pipeline.modules:
        module.eval()
    return pipeline


def loaded(folder: Path):
    """The export as a user without unigen has it."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(
        COGVIDEOX, custom_pipeline=str(folder / "export" / "pipeline.py"), trust_remote_code=True, dtype=torch.float32
    )
    return pipe.load_export(folder / "export")


def conditions(count: int = 1) -> torch.Tensor:
    g = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, SIZE, SIZE, 3), generator=g, dtype=torch.uint8)


def ours(pipeline, images: torch.Tensor, prompts=PROMPTS, task="canny>target", subject="heart") -> torch.Tensor:
    slots = [ImageSlot(f"condition{i}", "condition", SIZE, SIZE, 1, 0) for i in range(len(images))]
    slots.append(ImageSlot("target", "target", SIZE, SIZE, 1, 0))
    shown = [x.permute(2, 0, 1)[None, None].repeat(len(prompts), 1, 1, 1, 1) for x in images]
    shown.append(torch.zeros(len(prompts), 1, 3, SIZE, SIZE, dtype=torch.uint8))
    batch = Batch(
        slots=tuple(slots),
        images={slot.name: image for slot, image in zip(slots, shown, strict=True)},
        prompts=list(prompts),
        subjects=[(subject,)] * len(prompts),
        tasks=[task] * len(prompts),
        keys=["user"] * len(prompts),
    )
    latents = {}
    pipeline.decode, keep = lambda state, plan: latents.update(state=state, plan=plan) or {}, pipeline.decode
    pipeline.sample(batch, seed=5)
    pipeline.decode = keep
    return latents["state"]["target"], pipeline.decode(latents["state"], latents["plan"])["target"]

def test_it(hub, tmp_path):
    pipeline = exported(tmp_path)
    pipe = loaded(tmp_path)
    from PIL import Image
    x = conditions()
    a, pix = ours(pipeline, x)
    out = pipe([Image.fromarray(x[0].numpy())], PROMPTS, subject="heart", seed=5)
    import numpy as np
    got = torch.stack([torch.from_numpy(np.array(i)) for i in out.images])
    print((got.permute(0,3,1,2).int() - pix[:,0].int()).abs().max(), pix.float().std())
