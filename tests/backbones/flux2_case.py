"""What the tests of FLUX.2 share: a small stock model, ours with its weights, and diffusers' own forward."""

from typing import Any

import torch
from diffusers import Flux2Transformer2DModel
from tiny import placing, query_plan, randomise, tiny, tokens_for

from unigen.backbones.flux2 import Flux2, ids
from unigen.core.masks import Mask
from unigen.core.tokens import Tokens
from unigen.pipeline.build import build

TIMES = torch.tensor([0.5, 1.0])  # whose thousandfold bf16 holds exactly
ROLES = ("text", "condition", "target")
ONE_BRANCH = dict.fromkeys(ROLES, "every")
ALONE = Mask("alone", {query: dict.fromkeys(ROLES, "same") for query in ROLES})
GUIDANCE = {"train": 1.0, "sample": 4.0}


def config(*overrides: str, guided: bool = False, **sizes: Any) -> dict[str, Any]:
    """A small configuration; `plain`, the mini default, would equal the stock model to rounding only."""
    made = tiny("backbone=flux2_mini", "backbone.lowering._target_=unigen.core.attention.grouped", *overrides, **sizes)
    made["backbone"]["config"]["guidance_embeds"] = guided
    made["backbone"]["guidance"] = GUIDANCE if guided else None
    return made


def stock_model(made: dict[str, Any], dtype: torch.dtype = torch.float32) -> Flux2Transformer2DModel:
    torch.manual_seed(0)
    return randomise(Flux2Transformer2DModel(**made["backbone"]["config"]), 0.1).eval().to(dtype)


def ours(stock: Flux2Transformer2DModel, made: dict[str, Any], tied: bool | None = None) -> Flux2:
    """Our backbone with the stock weights, its modulation split; LoRA or full as the configuration says."""
    backbone = build(made["backbone"])
    backbone.model.load_state_dict(stock.state_dict())
    backbone = backbone.to(stock.dtype)
    adapter = build(made["conditioning"]["adapter"])
    build(made["conditioning"]["modulation"]).apply(backbone, adapter.freezes_base if tied is None else tied)
    if adapter.freezes_base:
        adapter.apply(backbone)
    return backbone.eval()


def pair(*overrides: str, **kwargs: Any) -> tuple[Flux2Transformer2DModel, Flux2]:
    made = config(*overrides, **kwargs)
    stock = stock_model(made)
    return stock, ours(stock, made)


def case(backbone: Flux2, conditions: int = 1) -> Tokens:
    """Tokens of two samples, placed as klein's pipeline places them: references behind each other in steps of ten."""
    tokens = tokens_for(query_plan(placing("tens"), backbone, conditions, text_tokens=4).layout, backbone, 2)
    dtype = next(backbone.parameters()).dtype
    return Tokens(tokens.layout, {n: x.to(dtype) for n, x in tokens.features.items()})


@torch.no_grad()
def forward(backbone: Flux2, tokens: Tokens, table: Mask, times: torch.Tensor | dict[str, torch.Tensor] = TIMES):
    """(B, L, 64) of all images in layout order; `times` of all segments, or of each by name."""
    clocks = times if isinstance(times, dict) else dict.fromkeys(tokens.layout.names, times)
    outputs = backbone(tokens, clocks, table)
    return torch.cat([outputs[s.name] for s in tokens.layout.visual], dim=1)


@torch.no_grad()
def stock_forward(
    stock: Flux2Transformer2DModel,
    tokens: Tokens,
    guidance: float | None = None,
    allowed: torch.Tensor | None = None,
    times: torch.Tensor = TIMES,
    **cached: Any,
) -> Any:
    """diffusers' forward as its pipelines call it: one sequence of images, ids for it and for the text."""
    layout = tokens.layout
    x = torch.cat([tokens.features[s.name] for s in layout.visual], dim=1)
    where, words = ids(layout), len(layout) - x.shape[1]
    made = stock(
        hidden_states=x,
        encoder_hidden_states=tokens.features["text"],
        timestep=times,
        img_ids=where[words:],
        txt_ids=where[:words],
        guidance=None if guidance is None else torch.full_like(times, guidance),
        joint_attention_kwargs=None if allowed is None else {"attention_mask": allowed[None, None]},
        **cached,
    )
    return made if cached else made.sample
