"""What the tests of HunyuanVideo-1.5 share: a small stock model, ours with its weights, and diffusers' own forward."""

from dataclasses import replace
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
)
from tiny import randomise, tiny, tokens_for

from unigen.backbones.hunyuan_video15 import HunyuanVideo15
from unigen.core.layout import VISUAL_STREAM, Layout, Segment, text_segment
from unigen.core.masks import Mask
from unigen.core.tokens import Tokens
from unigen.pipeline.build import build

TIMES = torch.tensor([0.5, 1.0])
ROLES = ("text", "condition", "target")
WORDS, HIGH, WIDE = 5, 3, 4
GLYPHS, PICTURES = 3, 2  # tokens that the stock model takes and hides


def config(*overrides: str, **sizes: Any) -> dict[str, Any]:
    lowering = "backbone.lowering._target_=unigen.core.attention.grouped"
    return tiny("backbone=hunyuan_video_mini", "process=rectified_flow", lowering, *overrides, **sizes)


def stock_model(made: dict[str, Any], **more: Any) -> HunyuanVideo15Transformer3DModel:
    torch.manual_seed(0)
    return randomise(HunyuanVideo15Transformer3DModel(**{**made["backbone"]["config"], **more}), 0.2).eval()


def ours(stock: HunyuanVideo15Transformer3DModel, made: dict[str, Any], tied: bool | None = None) -> HunyuanVideo15:
    """Our backbone with the stock weights, its modulation split; LoRA or full as the configuration says."""
    backbone, state = build(made["backbone"]), stock.state_dict()
    backbone.model.load_state_dict({name: x for name, x in state.items() if name not in backbone.unread})
    backbone.unread = {name: state[name] for name in backbone.unread}
    adapter = build(made["conditioning"]["adapter"])
    build(made["conditioning"]["modulation"]).apply(backbone, adapter.freezes_base if tied is None else tied)
    if adapter.freezes_base:
        adapter.apply(backbone)
    return backbone.eval()


def pair(*overrides: str, **kwargs: Any) -> tuple[HunyuanVideo15Transformer3DModel, HunyuanVideo15]:
    made = config(*overrides, **kwargs)
    stock = stock_model(made)
    return stock, ours(stock, made)


def layout(conditions: int = 1, frames: int = 2) -> Layout:
    """Text, conditions on frames 0, 1, ... and behind them the target: to the stock model, one clip."""
    boxes = [
        Segment(f"condition{i}", "condition", VISUAL_STREAM, (1, HIGH, WIDE), (i, 0, 0), cap=0.0)
        for i in range(conditions)
    ]
    target = Segment("target", "target", VISUAL_STREAM, (frames, HIGH, WIDE), (conditions, 0, 0))
    return Layout((text_segment(WORDS), *boxes, target))


def case(backbone: HunyuanVideo15, conditions: int = 1, padded: bool = True, size: int = 2) -> Tokens:
    """Tokens of two samples, the second of which has two words less, if `padded`."""
    tokens = tokens_for(layout(conditions), backbone, size)
    valid = torch.arange(WORDS) < torch.tensor([WORDS, WORDS - 2])[:size, None]
    return replace(tokens, valid={"text": valid}) if padded else tokens


@torch.no_grad()
def forward(
    backbone: HunyuanVideo15, tokens: Tokens, table: Mask, times: torch.Tensor | dict[str, torch.Tensor] = TIMES
) -> torch.Tensor:
    """(B, L, P) of all images in layout order; `times` of all segments, or of each by name."""
    clocks = times if isinstance(times, dict) else dict.fromkeys(tokens.layout.names, times)
    outputs = backbone(tokens, clocks, table)
    return torch.cat([outputs[s.name] for s in tokens.layout.visual], dim=1)


def own_times(tokens: Tokens, times: torch.Tensor = TIMES) -> dict[str, torch.Tensor]:
    """Conditions at time 0, the target and the text at the step's."""
    clean = torch.zeros_like(times)
    return {s.name: clean if s.role == "condition" else times for s in tokens.layout.segments}


@torch.no_grad()
def stock_forward(
    stock: HunyuanVideo15Transformer3DModel, tokens: Tokens, times: torch.Tensor = TIMES, glyphs: bool = False
) -> torch.Tensor:
    """diffusers' forward of text to video, the images one clip; back as tokens. `glyphs` shows it those tokens."""
    c = stock.config
    p, size = c.patch_size, len(times)
    x = torch.cat([tokens.features[s.name] for s in tokens.layout.visual], dim=1)
    frames = x.shape[1] // (HIGH * WIDE)
    cells = x.view(size, frames, HIGH, WIDE, c.out_channels, p, p)
    latents = cells.permute(0, 4, 1, 2, 5, 3, 6).reshape(size, c.out_channels, frames, HIGH * p, WIDE * p)
    given = latents.new_zeros(size, c.in_channels - c.out_channels, *latents.shape[2:])
    text = tokens.features["text"]
    shown = torch.ones(text.shape[:2]) if tokens.valid is None else tokens.valid["text"].float()
    words = torch.randn(size, GLYPHS, c.text_embed_2_dim, generator=torch.Generator().manual_seed(3))
    out = stock(
        torch.cat([latents, given], dim=1),
        times * 1000,
        text,
        shown,
        encoder_hidden_states_2=words,
        encoder_attention_mask_2=torch.full((size, GLYPHS), float(glyphs)),
        image_embeds=torch.zeros(size, PICTURES, c.image_embed_dim),
        return_dict=False,
    )[0]
    parts = out.view(size, c.out_channels, frames, HIGH, p, WIDE, p).permute(0, 2, 3, 5, 1, 4, 6)
    return parts.reshape(size, frames * HIGH * WIDE, -1)


def stock_pipeline(transformer, shift: float, strength: float) -> HunyuanVideo15Pipeline:
    """The pipeline around a transformer. It is given features of text and noise; its codec only says its sizes."""
    vae = AutoencoderKLHunyuanVideo15(block_out_channels=[4, 8, 16, 32, 64], layers_per_block=1)
    scheduler, guider = FlowMatchEulerDiscreteScheduler(shift=shift), ClassifierFreeGuidance(strength)
    pipe = HunyuanVideo15Pipeline(None, None, transformer, vae, scheduler, None, None, guider)
    pipe.set_progress_bar_config(disable=True)
    return pipe
