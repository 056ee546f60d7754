"""What the tests of Flux share: a small stock model, ours with its weights, and diffusers' own forward."""

from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from tiny import query_plan, randomise, tiny, tokens_for

from unigen.backbones.flux import Flux
from unigen.core.layout import positions
from unigen.core.masks import Mask
from unigen.core.tokens import Tokens
from unigen.pipeline.build import build

TIMES = torch.tensor([0.5, 1.0])  # whose thousandfold bf16 holds exactly
ROLES = ("text", "condition", "target")
ONE_BRANCH = dict.fromkeys(ROLES, "every")
ALONE = Mask("alone", {query: dict.fromkeys(ROLES, "same") for query in ROLES})
GUIDANCE = {"train": 1.0, "sample": 30.0}


def config(name: str = "flux_mini", *overrides: str, guided: bool = False, **sizes: Any) -> dict[str, Any]:
    """A small configuration; `plain`, the mini default, would equal the stock model to rounding only."""
    made = tiny(f"backbone={name}", "backbone.lowering._target_=unigen.core.attention.grouped", *overrides, **sizes)
    made["backbone"]["config"]["guidance_embeds"] = guided
    made["backbone"]["guidance"] = GUIDANCE if guided else None
    return made


def stock_model(made: dict[str, Any], dtype: torch.dtype = torch.float32) -> FluxTransformer2DModel:
    torch.manual_seed(0)
    return randomise(FluxTransformer2DModel(**made["backbone"]["config"]), 0.1).eval().to(dtype)


def ours(stock: FluxTransformer2DModel, made: dict[str, Any], tied: bool | None = None) -> Flux:
    """Our backbone with the stock weights, its modulation split; LoRA or full as the configuration says."""
    backbone = build(made["backbone"])
    backbone.model.load_state_dict(stock.state_dict())
    backbone = backbone.to(stock.dtype)
    adapter = build(made["conditioning"]["adapter"])
    build(made["conditioning"]["modulation"]).apply(backbone, adapter.freezes_base if tied is None else tied)
    if adapter.freezes_base:
        adapter.apply(backbone)
    return backbone.eval()


def pair(name: str = "flux_mini", *overrides: str, **kwargs: Any) -> tuple[FluxTransformer2DModel, Flux]:
    made = config(name, *overrides, **kwargs)
    stock = stock_model(made)
    return stock, ours(stock, made)


def case(backbone: Flux, conditions: int = 1) -> Tokens:
    """Tokens of two samples on consecutive frames, as the frames formatter places them."""
    tokens = tokens_for(query_plan(build(tiny()["formatter"]), backbone, conditions, text_tokens=4).layout, backbone, 2)
    return cast(tokens, next(backbone.parameters()).dtype)


def cast(tokens: Tokens, dtype: torch.dtype) -> Tokens:
    context = tokens.context and {n: x.to(dtype) for n, x in tokens.context.items()}
    features = {n: x.to(dtype) for n, x in tokens.features.items()}
    return Tokens(tokens.layout, features, pooled=tokens.pooled.to(dtype), context=context)


@torch.no_grad()
def forward(backbone: Flux, tokens: Tokens, table: Mask, times: torch.Tensor = TIMES) -> torch.Tensor:
    """(B, L, 64) of all images in layout order, every segment at the same times."""
    outputs = backbone(tokens, dict.fromkeys(tokens.layout.names, times), table)
    return torch.cat([outputs[s.name] for s in tokens.layout.visual], dim=1)


@torch.no_grad()
def stock_forward(
    stock: FluxTransformer2DModel,
    tokens: Tokens,
    guidance: float | None = None,
    allowed: torch.Tensor | None = None,
    times: torch.Tensor = TIMES,
) -> torch.Tensor:
    """diffusers' forward as its pipelines call it: one sequence, ids for it, Fill's channels behind the latents."""
    layout = tokens.layout
    x = torch.cat([tokens.features[s.name] for s in layout.visual], dim=1)
    if tokens.context:
        x = torch.cat([x, torch.cat([tokens.context[s.name] for s in layout.visual], dim=1)], dim=-1)
    ids, words = positions(layout), len(layout) - x.shape[1]
    return stock(
        hidden_states=x,
        encoder_hidden_states=tokens.features["text"],
        pooled_projections=tokens.pooled,
        timestep=times,
        img_ids=ids[words:],
        txt_ids=ids[:words],
        guidance=None if guidance is None else torch.full_like(times, guidance),
        joint_attention_kwargs=None if allowed is None else {"attention_mask": allowed[None, None]},
    ).sample
