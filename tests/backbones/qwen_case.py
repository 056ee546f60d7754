"""What the tests of Qwen-Image share: a small stock model, ours with its weights, and diffusers' own forward."""

from dataclasses import replace
from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel
from tiny import randomise, tiny, tokens_for

from unigen.backbones.qwen_image import QwenImage
from unigen.core.layout import VISUAL_STREAM, Layout, Segment, text_segment
from unigen.core.masks import Mask
from unigen.core.tokens import Tokens
from unigen.pipeline.build import build

TIMES = torch.tensor([0.5, 1.0])
ROLES = ("text", "condition", "target")
SIZES = {"target": (3, 4), "condition0": (2, 3), "condition1": (5, 2)}  # tokens high and wide, odd ones too
WORDS = 5


def config(*overrides: str, **sizes: Any) -> dict[str, Any]:
    """A small configuration; `plain`, the mini default, would equal the stock model to rounding only."""
    lowering = "backbone.lowering._target_=unigen.core.attention.grouped"
    return tiny("backbone=qwen_image_mini", "process=rectified_flow", lowering, *overrides, **sizes)


def stock_model(made: dict[str, Any], **more: Any) -> QwenImageTransformer2DModel:
    torch.manual_seed(0)
    return randomise(QwenImageTransformer2DModel(**{**made["backbone"]["config"], **more}), 0.2).eval()


def ours(stock: QwenImageTransformer2DModel, made: dict[str, Any], tied: bool | None = None) -> QwenImage:
    """Our backbone with the stock weights, its modulation split; LoRA or full as the configuration says."""
    backbone = build(made["backbone"])
    backbone.model.load_state_dict(stock.state_dict())
    adapter = build(made["conditioning"]["adapter"])
    build(made["conditioning"]["modulation"]).apply(backbone, adapter.freezes_base if tied is None else tied)
    if adapter.freezes_base:
        adapter.apply(backbone)
    return backbone.eval()


def pair(*overrides: str, **kwargs: Any) -> tuple[QwenImageTransformer2DModel, QwenImage]:
    made = config(*overrides, **kwargs)
    stock = stock_model(made)
    return stock, ours(stock, made)


def layout(backbone: QwenImage, conditions: int = 1, centred: bool = True) -> Layout:
    """Text, the target and then conditions of other sizes on frames 0, 1, ..., as the stock model has them."""
    names, boxes = ["target", *(f"condition{i}" for i in range(conditions))], []
    for t, name in enumerate(names):
        h, w = SIZES[name]
        origin = (t, -(h - h // 2), -(w - w // 2)) if centred else (t, 0, 0)
        role = "target" if name == "target" else "condition"
        boxes.append(Segment(name, role, VISUAL_STREAM, (1, h, w), origin, cap=float(role == "target")))
    return backbone.placed(Layout((text_segment(WORDS), *boxes)))


def case(backbone: QwenImage, conditions: int = 1, padded: bool = True, size: int = 2) -> Tokens:
    """Tokens of two samples, the second of which has two words less, if `padded`."""
    tokens = tokens_for(layout(backbone, conditions), backbone, size)
    valid = torch.arange(WORDS) < torch.tensor([WORDS, WORDS - 2])[:size, None]
    return replace(tokens, valid={"text": valid}) if padded else tokens


@torch.no_grad()
def forward(backbone: QwenImage, tokens: Tokens, table: Mask, times: torch.Tensor | dict[str, torch.Tensor] = TIMES):
    """(B, L, P) of all images in layout order; `times` of all segments, or of each by name."""
    clocks = times if isinstance(times, dict) else dict.fromkeys(tokens.layout.names, times)
    outputs = backbone(tokens, clocks, table)
    return torch.cat([outputs[s.name] for s in tokens.layout.visual], dim=1)


def own_times(tokens: Tokens, times: torch.Tensor = TIMES) -> dict[str, torch.Tensor]:
    """Conditions at time 0, the target and the text at the step's."""
    clean = torch.zeros_like(times)
    return {s.name: clean if s.role == "condition" else times for s in tokens.layout.segments}


@torch.no_grad()
def stock_forward(stock: QwenImageTransformer2DModel, tokens: Tokens, times: torch.Tensor = TIMES) -> torch.Tensor:
    """diffusers' forward, all images in one sequence, with the mask of the text's padding."""
    x = torch.cat([tokens.features[s.name] for s in tokens.layout.visual], dim=1)
    shapes = [[s.grid for s in tokens.layout.visual]] * len(x)
    hidden = None if tokens.valid is None else tokens.valid["text"]
    return stock(x, tokens.features["text"], hidden, times, shapes, return_dict=False)[0]
