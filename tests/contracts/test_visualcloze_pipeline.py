"""Our sampler is diffusers' `VisualClozeGenerationPipeline`, step for step, on the same tiny random weights.

Both get one noise (theirs is patched in) and a VAE whose posterior is next to a point (a log-variance of -30, the least
that diffusers lets through): theirs draws from it, ours takes the mean. Their prompt holds the repr of a tuple, ours is
given the very string. Preset: formatter=grid, fill=code, mask=fcd_d, conditioning/embedding=none,
conditioning/modulation=shared, process=rectified_flow, solver=euler (count: steps) with guidance.strength=1, since
guidance is distilled (backbone.guidance.sample 30).
"""

from functools import cache

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel, VisualClozeGenerationPipeline
from diffusers.pipelines.visualcloze import pipeline_visualcloze_generation as theirs
from PIL import Image
from tiny import composed, randomise, tiny
from transformers import ByT5Tokenizer

from unigen.core import canvas, noise
from unigen.core.infill import Fill
from unigen.core.types import CONDITION, EXAMPLE, TARGET, Batch, ImageSlot
from unigen.formatters.grid import Grid
from unigen.pipeline.build import build_pipeline
from unigen.pipeline.pipeline import Guided, Pipeline

SIDE, STEPS, WINDOW, SEED = 64, 4, 384, 7
TASK, CONTENT = "Each row turns [IMAGE1] edges into [IMAGE2] a picture.", "a red fox"
WORDS = (
    *("backbone=flux_fill_mini", "formatter=grid", "fill=code", "loss=flow_all", "mask=fcd_d"),
    *("conditioning/embedding=none", "conditioning/modulation=shared", "process=rectified_flow", "solver=euler"),
    *("guidance.strength=1.0", "backbone.lowering._target_=unigen.core.attention.grouped"),
)
CLIP = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
CLIP |= {"max_position_embeddings": 77, "vocab_size": 384, "eos_token_id": 1, "pad_token_id": 0}
# (width, height) by row and column; None is masked. One row of examples of another shape; two targets in one row.
GRIDS = {
    "example and query": [[(128, 32), (128, 32)], [(64, 64), None]],
    "two targets": [[None, (64, 64), None]],
}


def configuration() -> dict:
    made = tiny(*WORDS)
    made["backbone"]["config"]["guidance_embeds"] = True
    made["backbone"]["guidance"] = {"train": 1.0, "sample": 30.0}
    made["solver"]["steps"] = STEPS
    codec, text = (
        composed(f"encoder/{w}")["encoder"][w.partition("=")[0]] for w in ("codec=flux_vae", "text=flux_text")
    )
    sizes = {"block_out_channels": [8] * 4, "norm_num_groups": 4, "layers_per_block": 1}
    codec |= {"pretrained": None, "config": codec["config"] | sizes}
    clip = text["clip"] | {"pretrained": None, "tokenizer": "byt5", "config": CLIP}
    small = made["encoder"]["text"]["config"]
    text |= {
        "pretrained": None,
        "tokenizer": "byt5",
        "vocabulary": 384,
        "window": WINDOW,
        "config": small,
        "clip": clip,
    }
    made["encoder"] = {"codec": codec, "text": text}
    return made


@cache
def parts() -> tuple[Pipeline, VisualClozeGenerationPipeline]:
    """Ours and theirs on the same modules, the transformer apart, whose weights are copies."""
    torch.manual_seed(0)
    made = configuration()
    ours = build_pipeline(made)
    vae, text = ours.codec.vae, ours.text
    for part in (vae, text, ours.backbone):
        randomise(part, 0.1)
    with torch.no_grad():
        vae.encoder.conv_out.weight[16:] = 0
        vae.encoder.conv_out.bias[16:] = -30
    stock = FluxTransformer2DModel(**made["backbone"]["config"])
    stock.load_state_dict(ours.backbone.stock().state_dict())
    pipe = VisualClozeGenerationPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=vae,
        text_encoder=text.clip.model,
        tokenizer=ByT5Tokenizer(model_max_length=77),
        text_encoder_2=text.model,
        tokenizer_2=ByT5Tokenizer(),
        transformer=stock.eval(),
        resolution=SIDE,
    )
    pipe.set_progress_bar_config(disable=True)
    ours.backbone.eval()
    return ours, pipe


def images(grid: list) -> list[list[Image.Image | None]]:
    rng = np.random.default_rng(0)
    made = [[size and rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8) for size in row] for row in grid]
    return [[None if x is None else Image.fromarray(x) for x in row] for row in made]


def batch_of(rows: list[list[Image.Image | None]], prompt: str) -> Batch:
    """The same grid as ours: masked cells are targets of the row's size, whose pixels nobody may see."""
    slots, images = [], {}
    for number, row in enumerate(rows):
        width, height = next(image.size for image in row if image is not None)
        for column, image in enumerate(row):
            role = TARGET if image is None else CONDITION if row is rows[-1] else EXAMPLE
            slots.append(ImageSlot(f"cell{number}_{column}", role, height, width, row=number))
            pixels = np.full((height, width, 3), 99, np.uint8) if image is None else np.array(image)
            images[slots[-1].name] = torch.from_numpy(pixels).permute(2, 0, 1)[None, None]
    return Batch(tuple(slots), images, [prompt], [()], ["task"], ["item"])


def in_rows(pipeline: Pipeline, batch: Batch, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """Our tokens by cell as theirs: each row's in raster order over the whole row."""
    plan, patch = pipeline.plan(batch.slots), pipeline.backbone.patch
    boxes = {s.name: canvas.from_tokens(state[s.name], plan.layout[s.name].grid, patch) for s in batch.slots}
    rows = canvas.paste(boxes, plan)
    return torch.cat([canvas.to_tokens(row, patch) for row in rows], dim=1)


def run_ours(pipeline: Pipeline, batch: Batch) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Latents after every step, and the targets' pixels."""
    seen, call, decode = [], Guided.__call__, Pipeline.decode

    def kept(function):
        """The state is the solver's own and changes in place."""
        return lambda self, state, *rest, **more: (seen.append(dict(state)), function(self, state, *rest, **more))[1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Guided, "__call__", kept(call))
        patch.setattr(Pipeline, "decode", kept(decode))
        pixels = pipeline.sample(batch, SEED)
    targets = [pixels[s.name][0, 0] for s in batch.slots if s.role == TARGET]
    return [in_rows(pipeline, batch, state) for state in seen[1:]], targets


def run_theirs(pipe, rows, eps: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    seen = []

    def keep(_pipe, _step, _time, given):
        seen.append(given["latents"])
        return given

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "randn_tensor", lambda shape, **_: eps.reshape(shape))
        images = pipe(
            TASK,
            CONTENT,
            rows,
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(0),
            output_type="pil",
            callback_on_step_end=keep,
            max_sequence_length=WINDOW,
        ).images[0]
    return seen, [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]


def prompt_of(pipe, rows) -> str:
    """Their layout sentence is a tuple by mistake, so that its repr goes into the prompt (0.42.1)."""
    layout = pipe.image_processor.get_layout_prompt((len(rows), len(rows[0])))
    assert isinstance(layout, tuple)
    return f"{layout} {TASK} The last image of the last row depicts: {CONTENT}"


def noise_of(pipeline: Pipeline, batch: Batch) -> torch.Tensor:
    """What `Pipeline.sample` will draw."""
    keys = [noise.generator(SEED, "sample", key) for key in batch.keys]
    return in_rows(pipeline, batch, pipeline.draw_noise(pipeline.plan(batch.slots), keys))


class FromZero(Grid):
    """Rows counted from 0."""

    def _segment(self, slot, grid, number, down, across):
        return super()._segment(slot, grid, number - 1, down, across)


def other_pipeline(pipeline: Pipeline, what: str, monkeypatch) -> None:
    """One thing otherwise than diffusers has it."""
    blank = {"train": "grey", "sample": "grey"}
    changes = {
        "rows from 0": lambda: monkeypatch.setattr(pipeline, "formatter", FromZero(pipeline.formatter.caps)),
        "grey": lambda: monkeypatch.setattr(pipeline, "fill", Fill("code", 0.5, blank)),
        "points": lambda: monkeypatch.setattr(pipeline.solver, "count", "points"),
        "no shift": lambda: monkeypatch.setattr(pipeline.solver, "shift", None),
        "guidance 1": lambda: monkeypatch.setattr(pipeline.backbone, "guidance", {"train": 1.0, "sample": 1.0}),
    }
    changes[what]()
    pipeline._plan.cache_clear()


@pytest.fixture(scope="module")
def expected() -> dict:
    """What diffusers makes of each grid."""
    ours, pipe = parts()
    found = {}
    for name, grid in GRIDS.items():
        rows = images(grid)
        batch = batch_of(rows, prompt_of(pipe, rows))
        found[name] = batch, *run_theirs(pipe, rows, noise_of(ours, batch))
    return found


@pytest.mark.parametrize("grid", GRIDS)
def test_every_step_and_the_image_are_diffusers(grid, expected):
    batch, latents, targets = expected[grid]
    found, pixels = run_ours(parts()[0], batch)
    assert len(found) == len(latents) == STEPS and len(pixels) == len(targets) == sum(
        slot.role == TARGET for slot in batch.slots
    )
    for ours, there in zip(found, latents, strict=True):
        torch.testing.assert_close(ours, there, rtol=0, atol=1e-4)
    for ours, there in zip(pixels, targets, strict=True):
        assert (ours.int() - there.int()).abs().max() <= 1, "up to rounding"
        assert there.float().std() > 5, "a picture, not one grey"


@pytest.mark.parametrize("what", ["rows from 0", "grey", "points", "no shift", "guidance 1"])
def test_what_diffusers_has_otherwise_shows(what, expected, monkeypatch):
    """Negative controls, each far beyond the tolerance."""
    ours, _ = parts()
    batch, latents, _ = expected["example and query"]
    with monkeypatch.context() as patch:
        other_pipeline(ours, what, patch)
        found, _ = run_ours(ours, batch)
    ours._plan.cache_clear()
    assert len(found) == STEPS - (what == "points")
    assert (found[-1] - latents[-1]).abs().max() > 1e-2
