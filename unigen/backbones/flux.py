"""FLUX.1 as a unigen backbone: diffusers' `FluxTransformer2DModel`, dev or Fill, adapted to `Tokens`, not rewritten.

What is unusual here: the prompt's pooled vector is part of every segment's time embedding, so text reaches all of
them, whatever the mask says of tokens.

Shapes: B batch, L tokens, D width.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unigen.backbones.base import JointTransformer
from unigen.backbones.flux_attention import FluxSegmentAttention
from unigen.layout import Layout, positions
from unigen.nn.adaln_zero import EVERY, VISUAL, BranchedAdaLayerNorm, stock_state
from unigen.tokens import Tokens
from unigen.types import TEXT

PATCH = (1, 2, 2)  # Flux packs 2×2 latent cells into one token before the model sees them
# Flux has no table of positions, so this is a choice: VisualCloze's demo has up to 5 rows, numbered from 1, of up to
# 5 cells of 512² pixels; 8192 pixels hold such a row with cells as far as 10 times as wide as high.
REACH = (6, 256, 512)
GUIDANCE = ("train", "sample")


class Flux(JointTransformer):
    """`config` are the arguments of `FluxTransformer2DModel`; `pretrained` a folder or repository id, or null;
    `switches` are the keywords of `JointTransformer`.

    Its `in_channels` decide the form: dev reads a token's latents (64 features, as many as it predicts), Fill also
    `Tokens.context` behind them (384: + 64 of the masked picture + 256 of the mask). `guidance` are the strengths that
    a guidance-distilled model is told in `train` and `sample` (VisualCloze: 1 and 30), null for any other model.
    The network takes t in [0, 1] as it is; `predicts` is what the pretrained weights predict: 'flow' (noise - data) as
    published.
    Raises ValueError for a config whose parts do not fit each other, or guidance that does not fit it.
    """

    pictures_first = False
    patch = PATCH
    reach = REACH

    def __init__(
        self,
        config: Mapping[str, Any],
        lowering: Callable[..., Tensor],
        pretrained: str | None = None,
        guidance: Mapping[str, float] | None = None,
        predicts: str = "flow",
        **switches: Any,
    ) -> None:
        from diffusers import FluxTransformer2DModel

        _check(config, guidance)
        super().__init__(
            FluxTransformer2DModel, FluxSegmentAttention, lowering, config, pretrained, predicts, **switches
        )
        self.guidance = guidance

    @property
    def text_width(self) -> int:
        return self.model.config.joint_attention_dim

    @property
    def pooled_width(self) -> int:
        return self.model.config.pooled_projection_dim

    @property
    def context_width(self) -> int:
        """320 for Fill: what it reads beside the features that it predicts; 0 for dev."""
        return self.model.config.in_channels - self.model.out_channels

    @property
    def latent_channels(self) -> int:
        return self.model.out_channels // (PATCH[1] * PATCH[2])

    @property
    def blocks(self) -> list[nn.Module]:
        """Double ones first."""
        return [*self.model.transformer_blocks, *self.model.single_transformer_blocks]

    def split_modulation(self, branches: Mapping[str, str], tied: bool) -> None:
        """Give every norm one modulation branch for each entry of the table that it serves (SC-AdaLN).

        In double blocks text and pictures have norms of their own; in single blocks they share one. There text has a
        branch of its own only if pictures have several: with one for all pictures this is the stock model.
        """
        pictures = {name for role, name in branches.items() if role != TEXT}
        joined = dict.fromkeys(branches, *pictures) if len(pictures) == 1 else branches
        for block in self.model.transformer_blocks:
            block.norm1 = BranchedAdaLayerNorm(block.norm1, branches, tied, VISUAL)
            block.norm1_context = BranchedAdaLayerNorm(block.norm1_context, branches, tied, TEXT)
        for block in self.model.single_transformer_blocks:
            block.norm = BranchedAdaLayerNorm(block.norm, joined, tied, EVERY)

    def lora_targets(self) -> dict[str, str]:
        """Every linear of the model by part, as regular expressions over module names; `embedders` are both ends."""
        double, single = r"transformer_blocks\.\d+\.", r"single_transformer_blocks\.\d+\."
        attention = r"attn\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
        embedded = r"time_text_embed\.(timestep|guidance|text)_embedder\.linear_[12]"
        return {
            "attention": rf"(single_)?{double}{attention}",
            "modulation": rf"{double}norm1(_context)?\.branches\.\w+|{single}norm\.branches\.\w+",
            "feed_forward": rf"{double}ff(_context)?\.net\.(0\.proj|2)|{single}proj_(mlp|out)",
            "embedders": rf"x_embedder|context_embedder|{embedded}|norm_out\.linear|proj_out",
        }

    def _input(self, tokens: Tokens, name: str) -> Tensor:
        """A visual segment as the model reads it: its features, and behind them its context if this is Fill.

        Raises ValueError if there is no context for a Fill model, or any for another.
        """
        given, width = tokens.context or {}, self.context_width
        if width and name not in given:
            raise ValueError(
                f"backbone Flux is a Fill model (backbone.config.in_channels {self.model.config.in_channels}): segment "
                f"'{name}' needs {width} features of context (masked picture and mask), but has none; use a formatter "
                "and learner that make them, or a dev model, e.g. backbone=flux_mini"
            )
        if given and not width:
            raise ValueError(
                f"backbone Flux has in_channels {self.model.config.in_channels} (backbone.config), a dev model without "
                f"room for context, but segments {', '.join(given)} have some; use a Fill model, e.g. "
                "backbone=flux_fill_mini"
            )
        features = tokens.features[name]
        return torch.cat([features, given[name].to(features.dtype)], dim=-1) if width else features

    def _takes(self, name: str) -> str:
        """Double blocks have linears for each stream, single blocks one for both."""
        if "norm" in name or name.startswith("time_text_embed"):
            return "one"
        if name == "context_embedder" or any(part in name for part in ("add_", "ff_context")):
            return "text"
        return "every" if name.startswith("single_") else "visual"

    def _embedders(self) -> tuple[nn.Module, nn.Module]:
        return self.model.x_embedder, self.model.context_embedder

    def _embed_time(self, t_B: Tensor, tokens: Tokens) -> Tensor:
        """(B, D) of 1000 t, 1000 guidance and the pooled prompt.

        All of it in fp32; diffusers rounds the products to its inputs' precision (in bf16 guidance 30 is 29.952).
        """
        scalars = [t_B.float() * 1000]
        if self.guidance is not None:
            strength = self.guidance["sample" if tokens.sampling else "train"]
            scalars.append(torch.full_like(scalars[0], strength * 1000))
        return self.model.time_text_embed(*scalars, tokens.pooled.to(self.model.proj_out.weight.dtype))

    def _rope(self, layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
        """Of text, which lies at the origin, and of pictures."""
        return self.model.pos_embed(positions(layout).to(device))

    def _stock_state(self) -> dict[str, Tensor]:
        return stock_state(self.model)


def _check(config: Mapping[str, Any], guidance: Mapping[str, float] | None) -> None:
    """Raise ValueError for positions that do not fill a head, or guidance that does not fit the model."""
    axes, head = config["axes_dims_rope"], config["attention_head_dim"]
    if sum(axes) != head or any(width % 2 for width in axes):
        raise ValueError(
            f"backbone.config.axes_dims_rope is {list(axes)}; it must be three even numbers with the sum "
            f"attention_head_dim ({head})"
        )
    if config["guidance_embeds"] and (guidance is None or set(guidance) != set(GUIDANCE)):
        said = "null" if guidance is None else f"for {', '.join(guidance)}"
        raise ValueError(
            f"backbone.guidance is {said}, but backbone.config.guidance_embeds is true; "
            f"give the strengths for {' and '.join(GUIDANCE)}, e.g. 1.0 and 30.0"
        )
    if guidance is not None and not config["guidance_embeds"]:
        raise ValueError("backbone.guidance must be null, since backbone.config.guidance_embeds is false")
