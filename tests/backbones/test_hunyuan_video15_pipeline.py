"""Sampling a clip from text is what diffusers' pipeline does."""

import torch
from hunyuan_case import config, stock_pipeline
from tiny import composed, randomise

from unigen.core import noise
from unigen.core.canvas import to_tokens
from unigen.core.types import Batch, ImageSlot
from unigen.pipeline.build import build_pipeline

PROMPTS = ["a red heart", "two cats"]
PAPER = ("family=hunyuan_video1_5/paper", "scale=paper")


def test_sampling_equals_diffusers_own_pipeline(monkeypatch):
    """A clip of 3 latent frames from the same noise: the published grid of times, and guidance against a blank."""
    said = composed("+exp=fcd_mask_a", *PAPER)
    shift, steps = said["solver"]["shift"]["factor"], 4
    words = (
        "solver=euler_static",
        f"solver.shift.factor={shift}",
        "guidance.strength=3.0",
        "+guidance.hide.text=blank",
    )
    words = (*words, "+exp=fcd_mask_d", "task=text", "conditioning/modulation=shared", "conditioning/embedding=none")
    made = config("encoder.text.mask_padding=true", *words)
    made["solver"]["steps"] = steps
    pipeline = build_pipeline(made)
    for part in (pipeline.backbone, pipeline.text):
        randomise(part, 0.1)
    slots = (ImageSlot("target", "target", 32, 48, 3),)
    images = {"target": torch.zeros(2, 3, 3, 32, 48, dtype=torch.uint8)}
    given = Batch(slots, images, PROMPTS, [()] * 2, ["text"] * 2, ["a", "b"])
    state = {}
    monkeypatch.setattr(pipeline, "decode", lambda found, *_: state.update(found) or {})
    pipeline.sample(given, seed=0)
    plan = pipeline.plan(slots)
    chosen = [noise.generator(0, "sample", key) for key in given.keys]
    latents = noise.normal((2, 3, pipeline.codec.channels, 4, 6), chosen).transpose(1, 2)
    torch.testing.assert_close(
        pipeline.draw_noise(plan, [noise.generator(0, "sample", key) for key in given.keys])["target"],
        to_tokens(latents.transpose(1, 2), pipeline.backbone.patch),
    )

    def stock(strength: float, factor: float) -> torch.Tensor:
        pipe = stock_pipeline(pipeline.backbone.stock(), factor, strength)
        c, told = pipe.transformer.config, {}
        for start, prompts in (("", PROMPTS), ("negative_", [" "] * 2)):
            told[f"{start}prompt_embeds"] = pipeline.text.encode(prompts).detach()
            told[f"{start}prompt_embeds_mask"] = pipeline.text.valid(prompts).float()
            told[f"{start}prompt_embeds_2"] = torch.zeros(2, 3, c.text_embed_2_dim)
            told[f"{start}prompt_embeds_mask_2"] = torch.zeros(2, 3)
        how = {"height": 32, "width": 48, "num_inference_steps": steps, "latents": latents, "output_type": "latent"}
        return to_tokens(pipe(**told, **how).frames.transpose(1, 2), pipeline.backbone.patch)

    found = stock(3.0, shift)
    torch.testing.assert_close(state["target"], found, rtol=1e-3, atol=1e-3)
    for other in (stock(2.0, shift), stock(3.0, 1.0), to_tokens(latents.transpose(1, 2), pipeline.backbone.patch)):
        assert not torch.allclose(other, found, atol=1e-2), "negative controls: guidance, times, noise"
