"""FLUX.1 as a unigen backbone: diffusers' `FluxTransformer2DModel`, dev or Fill, adapted to `Tokens`, not rewritten.

What is unusual here: the blocks are diffusers' own; the layout reaches the modulation through the `temb` argument and
attention through `joint_attention_kwargs`, so no state is shared between calls. The prompt's pooled vector is part of
every segment's time embedding: text reaches all of them so, whatever the mask says of tokens.

Shapes: B batch, L tokens, D width, P patch features.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unigen.backbones.flux_attention import FluxSegmentAttention
from unigen.backbones.memory import Memory, valid_keys
from unigen.layout import TEXT_STREAM, Layout, positions
from unigen.masks import Mask, attended_pairs
from unigen.nn.adaln_zero import EVERY, VISUAL, BranchedAdaLayerNorm, stock_state
from unigen.nn.modulation import Modulation
from unigen.tokens import Tokens
from unigen.types import TEXT
from unigen.weights import load_pretrained

PATCH = (1, 2, 2)  # Flux packs 2×2 latent cells into one token before the model sees them
# Flux has no table of positions, so this is a choice: VisualCloze's demo has up to 5 rows, numbered from 1, of up to
# 5 cells of 512² pixels; 8192 pixels hold such a row with cells as far as 10 times as wide as high.
REACH = (6, 256, 512)
GUIDANCE = ("train", "sample")


class Flux(nn.Module):
    """`config` are the arguments of `FluxTransformer2DModel`; `pretrained` a folder or repository id, or null.

    Its `in_channels` decide the form: dev reads a token's latents (64 features, as many as it predicts), Fill also
    `Tokens.context` behind them (384: + 64 of the masked picture + 256 of the mask). `guidance` are the strengths that
    a guidance-distilled model is told in `train` and `sample` (VisualCloze: 1 and 30), null for any other model.
    The network predicts noise - data, and takes t in [0, 1] as it is.
    Raises ValueError for a config whose parts do not fit each other, or guidance that does not fit it.
    """

    axes = ("t", "h", "w")
    patch = PATCH
    reach = REACH

    def __init__(
        self,
        config: Mapping[str, Any],
        lowering: Callable[..., Tensor],
        pretrained: str | None = None,
        guidance: Mapping[str, float] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        from diffusers import FluxTransformer2DModel

        super().__init__()
        _check(config, guidance)
        load = load_pretrained(FluxTransformer2DModel, pretrained, "backbone.pretrained", "transformer", config)
        self.model = load or FluxTransformer2DModel(**config)
        self.guidance = guidance
        self.model.set_attn_processor(FluxSegmentAttention(lowering))
        if gradient_checkpointing:
            self.model.enable_gradient_checkpointing()

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

    def stock(self) -> nn.Module:
        """The model as diffusers builds it, with copies of these weights.

        Raises ValueError for a model that is no stock model any more: with adapters, or several branches in a norm.
        """
        from diffusers import FluxTransformer2DModel

        if getattr(self.model, "peft_config", None):
            raise ValueError("a backbone with a LoRA is no stock model; train with conditioning/adapter=full")
        stock = FluxTransformer2DModel.from_config(self.model.config)
        stock.load_state_dict(stock_state(self.model))
        return stock

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

    def forward(
        self,
        tokens: Tokens,
        times: Mapping[str, Tensor],
        mask: Mask,
        memory: Memory | None = None,
        record: Memory | None = None,
    ) -> dict[str, Tensor]:
        """Predictions (B, L_segment, P) for every visual segment of `tokens`; P is 64, with or without context.

        `times` maps a segment to its modulation time t_B in [0, 1]; segments that share a clock share
        the tensor. With `memory`, its segments are attended to without being computed again; with
        `record`, this call's keys and values are kept there.
        Raises ValueError if there is no context for a Fill model, or any for another.
        """
        layout = tokens.layout
        visual = [self._input(tokens, s.name) for s in layout.visual]
        assert all(s.stream == TEXT_STREAM for s in layout.segments[: len(layout.segments) - len(visual)])
        text = [tokens.features[s.name] for s in layout.segments if s.stream == TEXT_STREAM]
        x = self.model.x_embedder(torch.cat(visual, dim=1)) if visual else None
        c = self.model.context_embedder(torch.cat(text, dim=1)) if text else x[:, :0]
        x = c[:, :0] if x is None else x
        modulation = self._embed_times(tokens, times)
        return self._head(self._blocks(x, c, tokens, modulation, mask, memory, record), modulation)

    def remember(self, tokens: Tokens, times: Mapping[str, Tensor], mask: Mask) -> Memory:
        """Keys and values of these tokens in every block, to be attended to without computing them again."""
        memory = Memory(tokens.layout, tokens.valid_keys())
        self(tokens, times, mask, record=memory)
        return memory

    def _input(self, tokens: Tokens, name: str) -> Tensor:
        """A visual segment as the model reads it: its features, and behind them its context if this is Fill."""
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

    def _blocks(
        self,
        x: Tensor,
        c: Tensor,
        tokens: Tokens,
        modulation: Modulation,
        mask: Mask,
        memory: Memory | None,
        record: Memory | None,
    ) -> Tensor:
        """The pictures after all blocks, double ones first."""
        layout = tokens.layout
        rope = self.model.pos_embed(positions(layout).to(x.device))
        kwargs = {"layout": layout, "mask": mask, "valid": valid_keys(tokens, memory)}
        if record is not None:
            kwargs["record"] = record.blocks
        checkpoint = self.model.gradient_checkpointing and torch.is_grad_enabled()
        for number, block in enumerate([*self.model.transformer_blocks, *self.model.single_transformer_blocks]):
            if memory is not None:
                kwargs = kwargs | {"memory": (memory.layout, *memory.blocks[number])}
            if checkpoint:
                c, x = self.model._gradient_checkpointing_func(block, x, c, modulation, rope, kwargs)
            else:
                c, x = block(x, c, modulation, rope, kwargs)
        return x

    def _head(self, x_BLD: Tensor, modulation: Modulation) -> dict[str, Tensor]:
        segments = modulation.layout.visual
        if not segments:
            return {}
        sizes, tembs = [s.tokens for s in segments], [modulation.temb[s.name] for s in segments]
        if all(t is tembs[0] for t in tembs):
            x = self.model.norm_out(x_BLD, tembs[0])
        else:
            parts = x_BLD.split(sizes, dim=1)
            x = torch.cat([self.model.norm_out(p, t) for p, t in zip(parts, tembs, strict=True)], dim=1)
        return dict(zip((s.name for s in segments), self.model.proj_out(x).split(sizes, dim=1), strict=True))

    def _embed_times(self, tokens: Tokens, times: Mapping[str, Tensor]) -> Modulation:
        """Each segment's (B, D) embedding of 1000 t, 1000 guidance and the pooled prompt.

        All of it in fp32; diffusers rounds the products to its inputs' precision (in bf16 guidance 30 is 29.952).
        """
        pooled_BE = tokens.pooled.to(self.model.proj_out.weight.dtype)
        made: dict[int, Tensor] = {}
        for s in tokens.layout.segments:
            t_B = times[s.name]
            if id(t_B) not in made:
                scalars = [t_B.float() * 1000]
                if self.guidance is not None:
                    strength = self.guidance["sample" if tokens.sampling else "train"]
                    scalars.append(torch.full_like(scalars[0], strength * 1000))
                made[id(t_B)] = self.model.time_text_embed(*scalars, pooled_BE)
        return Modulation(tokens.layout, {s.name: made[id(times[s.name])] for s in tokens.layout.segments})

    def flops(self, layout: Layout, mask: Mask) -> dict[str, int]:
        """Forward FLOPs of one sample (a multiply-add is 2): `linear` layers of the blocks and `attention`.

        Attention counts only pairs that the mask lets through. Adapters are not counted. Both kinds of block cost
        12 D² for each token: 4 + 8 in a double one, 3 + 4 + 5 in a single one, where two products are fused.
        """
        c = self.model.config
        width, blocks = c.num_attention_heads * c.attention_head_dim, c.num_layers + c.num_single_layers
        visual = sum(s.tokens for s in layout.visual)
        ends = visual * (c.in_channels + self.model.out_channels) + (len(layout) - visual) * c.joint_attention_dim
        return {
            "linear": 2 * (blocks * 12 * width * width * len(layout) + ends * width),
            "attention": blocks * 4 * width * attended_pairs(layout, layout, mask),
        }


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
