"""What the tests of Wan share: a small stock model, ours with its weights, and diffusers' own forward."""

from typing import Any

import torch
from diffusers import WanTransformer3DModel
from tiny import plan_for, randomise, tiny, tokens_for

from unigen.backbones.wan import Wan
from unigen.core.canvas import from_tokens, to_tokens
from unigen.core.layout import Layout, Segment, text_segment
from unigen.core.masks import Mask
from unigen.core.tokens import Tokens
from unigen.pipeline.build import build

TIMES = torch.tensor([0.5, 1.0])
ROLES = ("text", "condition", "target")
ONE_BRANCH = dict.fromkeys(ROLES, "every")


def config(*overrides: str, **sizes: Any) -> dict[str, Any]:
    """A small configuration; `plain`, the mini default, would equal the stock model to rounding only."""
    return tiny("backbone=wan_mini", "backbone.lowering._target_=unigen.core.attention.grouped", *overrides, **sizes)


def stock_model(made: dict[str, Any]) -> WanTransformer3DModel:
    """Gates and tables are not zero, where errors would hide."""
    torch.manual_seed(0)
    return randomise(WanTransformer3DModel(**made["backbone"]["config"]), 0.2).eval()


def ours(stock: WanTransformer3DModel, made: dict[str, Any], tied: bool | None = None) -> Wan:
    """Our backbone with the stock weights, its modulation split; LoRA or full as the configuration says."""
    backbone = build(made["backbone"])
    backbone.model.load_state_dict(stock.state_dict())
    adapter = build(made["conditioning"]["adapter"])
    build(made["conditioning"]["modulation"]).apply(backbone, adapter.freezes_base if tied is None else tied)
    if adapter.freezes_base:
        adapter.apply(backbone)
    return backbone.eval()


def pair(*overrides: str, **kwargs: Any) -> tuple[WanTransformer3DModel, Wan]:
    made = config(*overrides, **kwargs)
    stock = stock_model(made)
    return stock, ours(stock, made)


def case(backbone: Wan, conditions: int = 1, size: int = 2) -> Tokens:
    """Tokens of two samples: conditions and the target on consecutive frames, of equal size."""
    formatter = build(tiny()["formatter"])
    layout = plan_for(formatter, backbone, conditions, text_tokens=4).layout
    layout = layout.without([s.name for s in layout.segments if s.role == "example"])
    frames = [s for s in layout.segments if s.stream == "visual"]
    placed = [Segment(s.name, s.role, s.stream, s.grid, (t, 0, 0), s.step, s.cap) for t, s in enumerate(frames)]
    return tokens_for(Layout((text_segment(4), *placed)), backbone, size)


@torch.no_grad()
def forward(backbone: Wan, tokens: Tokens, table: Mask, times: torch.Tensor | dict[str, torch.Tensor] = TIMES):
    """(B, L, P) of all images in layout order; `times` of all segments, or of each by name."""
    clocks = times if isinstance(times, dict) else dict.fromkeys(tokens.layout.names, times)
    outputs = backbone(tokens, clocks, table)
    return torch.cat([outputs[s.name] for s in tokens.layout.visual], dim=1)


def video(tokens: Tokens) -> torch.Tensor:
    """The images of `case` as the frames (B, C, F, H, W) of one latent clip."""
    frames = [from_tokens(tokens.features[s.name], s.grid, (1, 2, 2)) for s in tokens.layout.visual]
    return torch.cat(frames, dim=1).transpose(1, 2)


@torch.no_grad()
def stock_forward(stock: WanTransformer3DModel, tokens: Tokens, times: torch.Tensor = TIMES) -> torch.Tensor:
    """diffusers' forward of the images as frames, and its prediction as tokens in our order."""
    sample = stock(video(tokens), times * 1000, tokens.features["text"]).sample
    return to_tokens(sample.transpose(1, 2), (1, 2, 2))
