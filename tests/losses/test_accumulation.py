"""A batch's gradient is the mean of its parts', in whatever parts accumulation or devices compute it (DDP averages)."""

import pytest
import torch
from tiny import batch, randomise, tiny

from unigen.core.noise import generator
from unigen.core.types import Batch
from unigen.pipeline.build import build_pipeline

SIZE = 8
FLUX = ("backbone=flux_mini", "process=rectified_flow")
GRID = ("formatter=grid", "mask=fcd_d", "conditioning/embedding=none", "conditioning/modulation=shared")
FILL = ("backbone=flux_fill_mini", "process=rectified_flow", *GRID)
EXACT = {
    "velocity": ("loss=velocity",),
    "epsilon": ("loss=epsilon",),
    "min_snr": ("loss=min_snr",),
    "flow": (*FLUX, "loss=velocity"),
    "flow_all": (*FILL, "fill=paper", "loss=flow_all"),
    "flow_masked": (*FILL, "fill=paper", "loss=flow_masked"),
    "flow_masked, as the code masks": (*FILL, "fill=code", "loss=flow_masked"),
    "flow_masked, random masks": (*FILL, "fill=random", "loss=flow_masked"),
}


def pipeline_for(*overrides: str):
    pipeline = build_pipeline(tiny(*overrides, num_layers=1, num_single_layers=1))
    for part in (pipeline.backbone, pipeline.embedding):
        randomise(part, 0.1)
    return pipeline


def part_of(found: Batch, part: slice) -> Batch:
    lists = {name: getattr(found, name)[part] for name in ("prompts", "subjects", "tasks", "keys")}
    return Batch(slots=found.slots, images={n: x[part] for n, x in found.images.items()}, **lists)


def gradient(pipeline, micro: int) -> torch.Tensor:
    """The gradient of a batch of 8 in parts of `micro` samples: the same images, masks, noise and times."""
    whole, parameters = batch(SIZE), [p for p in pipeline.backbone.parameters() if p.requires_grad]
    plan = pipeline.plan(whole.slots)
    cells = pipeline.fill.draw(whole.slots, SIZE, generator(3)) if pipeline.backbone.context_width else None
    if cells:
        counts = {tuple(x[i].any().item() for x in cells.values()) for i in range(SIZE)}
        assert len(counts) > 1, "all samples mask the same cells"
    noises = pipeline.draw_noise(plan, [generator(i) for i in range(SIZE)])
    t_B = (torch.arange(SIZE) + 0.5) / SIZE
    pipeline.backbone.zero_grad()
    for start in range(0, SIZE, micro):
        part = slice(start, start + micro)
        few = {n: x[part] for n, x in cells.items()} if cells else None
        clean = pipeline.encode(part_of(whole, part), {}, cells=few)
        own = {n: x[part] for n, x in noises.items()}
        loss, _ = pipeline.denoising_loss(clean, own, t_B[part], few)
        (loss / (SIZE // micro)).backward()
    return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


def apart(pipeline) -> list[float]:
    """Relative distances of the gradient in parts of 4, 2 and 1 samples to that of all eight at once."""
    whole = gradient(pipeline, SIZE)
    return [((gradient(pipeline, micro) - whole).norm() / whole.norm()).item() for micro in (4, 2, 1)]


@pytest.mark.parametrize("name", EXACT)
def test_accumulated_parts_have_the_gradient_of_the_batch(name):
    assert max(apart(pipeline_for(*EXACT[name]))) < 1e-5


def test_pooled_masked_tokens_have_not():
    """Negative control, and what `loss.average=batch` means."""
    found = apart(pipeline_for(*EXACT["flow_masked"], "loss.average=batch"))
    assert min(found) > 0.01, found
