"""Sampling as diffusers' pipelines of klein do it: references from pixels, guidance, the shift, and final latents."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinKVPipeline, Flux2KleinPipeline
from flux2_case import config, stock_model
from PIL import Image
from tiny import randomise, slots, tiny

from unigen.core import canvas, noise
from unigen.core.types import Batch
from unigen.encoders.vae import Flux2VAE
from unigen.pipeline.build import build_pipeline

STEPS = 6
SMALL_VAE = {"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 16,
             "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}  # fmt: skip
WORDS = ("backbone=flux2_mini", "formatter=tens", "process=rectified_flow", "solver=euler_empirical",
         "conditioning/modulation=shared", "conditioning/embedding=none")  # fmt: skip


def codec() -> Flux2VAE:
    torch.manual_seed(0)
    made = randomise(Flux2VAE(SMALL_VAE), 0.05)
    made.vae.bn.running_mean.normal_(generator=torch.Generator().manual_seed(4))
    made.vae.bn.running_var.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(5))
    return made


def pictures(conditions: int) -> Batch:
    """One sample of 64×96 pixels: diffusers refuses smaller ones."""
    where = tuple(slot._replace(height=64, width=96) for slot in slots(conditions))
    g = torch.Generator().manual_seed(0)
    images = {s.name: torch.randint(0, 256, (1, 1, 3, 64, 96), generator=g, dtype=torch.uint8) for s in where}
    return Batch(where, images, ["a cat"], [("cat",)], ["canny>target"], ["item"])


def sampled(*words: str, conditions: int) -> tuple[Any, Any, torch.Tensor, Batch]:
    """Our pipeline, the stock model of the same weights, the latents (1, C, h, w) that ours makes, and their images."""
    pipeline = build_pipeline(tiny(*WORDS, *words))
    stock = stock_model(config())
    pipeline.backbone.model.load_state_dict(stock.state_dict())
    pipeline.backbone.eval()
    pipeline.codec = codec()
    pipeline.solver.steps = STEPS
    given, latents = pictures(conditions), {}
    pipeline.decode = lambda state, *_: latents.update(state) or {}
    pipeline.sample(given, seed=0)
    z = canvas.from_tokens(latents["target"], pipeline.plan(given.slots).layout["target"].grid, (1, 2, 2))
    return pipeline, stock, pipeline.codec.denormalised(z[:, 0]), given


def theirs(kind: type, pipeline: Any, stock: Any, images: Sequence[torch.Tensor], **more: Any) -> torch.Tensor:
    """The final latents of a pipeline of diffusers, from our noise and our features of the prompt."""
    plan = pipeline.plan(pictures(len(images)).slots)
    eps = pipeline.draw_noise(plan, [noise.generator(0, "sample", "item")])["target"]
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipe = kind(scheduler, pipeline.codec.vae, text_encoder=None, tokenizer=None, transformer=stock)
    pipe.set_progress_bar_config(disable=True)
    shown = [Image.fromarray(x[0, 0].movedim(0, -1).numpy()) for x in images]
    with torch.no_grad():
        return pipe(
            image=shown or None,
            prompt_embeds=pipeline.text.encode(["a cat"]),
            latents=eps.transpose(1, 2).unflatten(2, plan.layout["target"].grid[1:]),
            height=64,
            width=96,
            num_inference_steps=STEPS,
            output_type="latent",
            **more,
        ).images


@pytest.mark.parametrize("conditions", [0, 2])
def test_sampling_equals_kleins_own_pipeline(conditions):
    pipeline, stock, ours, given = sampled("mask=fcd_d", "guidance.strength=4.0", conditions=conditions)
    images = [given.images[f"condition{i}"] for i in range(conditions)]
    empty = {"negative_prompt_embeds": pipeline.text.encode([""])}
    expected = theirs(Flux2KleinPipeline, pipeline, stock, images, guidance_scale=4.0, **empty)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)
    weaker = theirs(Flux2KleinPipeline, pipeline, stock, images, guidance_scale=3.0, **empty)
    assert not torch.allclose(ours, weaker, atol=1e-2), "negative control: guidance counts"
    if conditions:
        turned = theirs(Flux2KleinPipeline, pipeline, stock, images[::-1], guidance_scale=4.0, **empty)
        assert not torch.allclose(ours, turned, atol=1e-2), "negative control: so do references"


def test_sampling_with_cached_references_equals_kleins_own_pipeline():
    """The cache is derived from the mask and the clock; diffusers has a pipeline of its own for it."""
    own = "conditioning.modulation.timing.condition=own"
    pipeline, stock, ours, given = sampled("mask=conditions_together", own, "guidance.strength=1.0", conditions=2)
    images = [given.images[f"condition{i}"] for i in range(2)]
    expected = theirs(Flux2KleinKVPipeline, pipeline, stock, images)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)
    _, _, seeing, _ = sampled("mask=fcd_d", own, "guidance.strength=1.0", conditions=2)
    assert not torch.allclose(seeing, expected, atol=1e-2), "negative control: the mask counts"
