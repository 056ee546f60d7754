"""FLUX.1 as a unigen backbone: diffusers' `FluxTransformer2DModel`, dev or Fill, adapted to `Tokens`, not rewritten.

One thing is unusual in this family: the prompt's pooled vector is part of every segment's time embedding, so text
reaches all of them, whatever the mask says of tokens.

Shapes: B batch, H heads, L tokens, D width (in attention: of a head).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unigen.backbones.base import JOINT, DiffusersTransformer, View, attend, normed
from unigen.core.infill import FILL
from unigen.core.layout import Layout, positions
from unigen.core.masks import Mask
from unigen.core.tokens import Tokens
from unigen.core.types import TEXT
from unigen.nn.adaln_zero import EVERY, VISUAL, BranchedAdaLayerNorm, stock_state
from unigen.nn.modulation import Modulation, by_clock

PATCH = (1, 2, 2)  # Flux packs 2×2 latent cells into one token before the model sees them
# Flux has no table of positions, so this is a choice: 15 frames; VisualCloze's demo has up to 5 rows, numbered from 1,
# of up to 5 cells of 512² pixels; 8192 pixels hold such a row with cells as far as 10 times as wide as high.
REACH = (16, 256, 512)
GUIDANCE = ("train", "sample")


class FluxSegmentAttention:
    """Attention over [text, images] with per-head norms and RoPE on all tokens, as diffusers' FluxAttnProcessor.

    In a double block text has projections of its own; a single block hands in text and images as one sequence.
    Stateless: one object serves every block. `lowering` is one of the functions of `unigen.core.attention`.
    diffusers passes on only what the signature of `__call__` names.
    """

    def __init__(self, lowering: Callable[..., Tensor]) -> None:
        self.lowering = lowering

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        *,
        view: View,
    ) -> Tensor | tuple[Tensor, Tensor]:
        q, k, v = _heads(attn, hidden_states, encoder_hidden_states, image_rotary_emb)
        out = attend(self.lowering, q, k, v, view.sights[JOINT])
        if encoder_hidden_states is None:
            return out
        text = encoder_hidden_states.shape[1]
        # contiguous, as the stock processor makes them: for other strides, kernels may differ
        images, words = out[:, text:].contiguous(), out[:, :text].contiguous()
        return attn.to_out[1](attn.to_out[0](images)), attn.to_add_out(words)


def _heads(
    attn: nn.Module, x_BLD: Tensor, text_BLD: Tensor | None, rope: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values (B, H, L, D), text first."""
    from diffusers.models.embeddings import apply_rotary_emb

    q, k, v = (to(x_BLD).unflatten(-1, (attn.heads, -1)) for to in (attn.to_q, attn.to_k, attn.to_v))
    q, k = normed(attn.norm_q, q), normed(attn.norm_k, k)
    if text_BLD is not None:
        projections = attn.add_q_proj, attn.add_k_proj, attn.add_v_proj
        text_q, text_k, text_v = (to(text_BLD).unflatten(-1, (attn.heads, -1)) for to in projections)
        text_q, text_k = normed(attn.norm_added_q, text_q), normed(attn.norm_added_k, text_k)
        q, k, v = torch.cat([text_q, q], dim=1), torch.cat([text_k, k], dim=1), torch.cat([text_v, v], dim=1)
    q, k = (apply_rotary_emb(x, rope, sequence_dim=1) for x in (q, k))
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


class Flux(DiffusersTransformer):
    """`config` are the arguments of `FluxTransformer2DModel`; `pretrained` a folder or repository id, or null;
    `switches` are the keywords of `DiffusersTransformer`.

    Its `in_channels` decide the form: dev reads a token's latents (64 features, as many as it predicts), Fill also
    `Tokens.context` behind them (384: + 64 of the masked image + 256 of the mask). `guidance` are the strengths that
    a guidance-distilled model is told in `train` and `sample` (VisualCloze: 1 and 30), null for any other model.
    The network takes t in [0, 1] as it is; `predicts` is what the pretrained weights predict: 'flow' (noise - data) as
    published.
    Raises ValueError for a config whose parts do not fit each other, or guidance that does not fit it.
    """

    patch = PATCH
    reach = REACH
    context_parts = FILL

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
        super().__init__(FluxTransformer2DModel, lowering, config, pretrained, predicts, **switches)
        self.guidance = guidance

    @property
    def text_width(self) -> int:
        return self.model.config.joint_attention_dim

    @property
    def pooled_width(self) -> int:
        return self.model.config.pooled_projection_dim

    @property
    def context_width(self) -> int:
        """The number of features that it reads beside those that it predicts: 320 for Fill, 0 for dev."""
        return self.model.config.in_channels - self.model.out_channels

    @property
    def latent_channels(self) -> int:
        return self.model.out_channels // (PATCH[1] * PATCH[2])

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks, double ones first."""
        return [*self.model.transformer_blocks, *self.model.single_transformer_blocks]

    def _split(self, branches: Mapping[str, str], tied: bool) -> None:
        """Give every norm one modulation branch for each entry of the table that it serves (SC-AdaLN).

        In double blocks text and images have norms of their own; in single blocks they share one. There text has a
        branch of its own only if images have several: with one for all images this is the stock model.
        """
        visual = {name for role, name in branches.items() if role != TEXT}
        joined = dict.fromkeys(branches, *visual) if len(visual) == 1 else branches
        for block in self.model.transformer_blocks:
            block.norm1 = BranchedAdaLayerNorm(block.norm1, branches, tied, VISUAL)
            block.norm1_context = BranchedAdaLayerNorm(block.norm1_context, branches, tied, TEXT)
        for block in self.model.single_transformer_blocks:
            block.norm = BranchedAdaLayerNorm(block.norm, joined, tied, EVERY)

    def lora_targets(self) -> dict[str, str]:
        """Return the linears of each part as regular expressions over module names; `embedders` are both ends.

        The last four share out `feed_forward`. In a single block `single_mlp` is the input of the feed-forward, and
        `single_out` one linear for the outputs of attention and feed-forward together.
        """
        double, single = r"transformer_blocks\.\d+\.", r"single_transformer_blocks\.\d+\."
        attention = r"attn\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
        embedded = r"time_text_embed\.(timestep|guidance|text)_embedder\.linear_[12]"
        return {
            "attention": rf"(single_)?{double}{attention}",
            "modulation": rf"{double}norm1(_context)?\.branches\.\w+|{single}norm\.branches\.\w+",
            "feed_forward": rf"{double}ff(_context)?\.net\.(0\.proj|2)|{single}proj_(mlp|out)",
            "embedders": rf"x_embedder|context_embedder|{embedded}|norm_out\.linear|proj_out",
            "feed_forward_in": rf"{double}ff(_context)?\.net\.0\.proj",
            "feed_forward_out": rf"{double}ff(_context)?\.net\.2",
            "single_mlp": rf"{single}proj_mlp",
            "single_out": rf"{single}proj_out",
        }

    def _input(self, tokens: Tokens, name: str) -> Tensor:
        """Return a visual segment as the model reads it: its features, followed by its context if this is Fill.

        Raises ValueError if there is no context for a Fill model, or any for another.
        """
        given, width = tokens.context or {}, self.context_width
        if width and name not in given:
            raise ValueError(
                f"backbone Flux is a Fill model (backbone.config.in_channels {self.model.config.in_channels}): segment "
                f"'{name}' needs {width} features of context (masked image and mask), but has none; use a formatter "
                "and learner that make them, or a dev model, e.g. backbone=flux_mini"
            )
        if given and not width:
            raise ValueError(
                f"backbone Flux has in_channels {self.model.config.in_channels} (backbone.config), a dev model without "
                f"room for context, but segments {', '.join(given)} have some; use a Fill model, e.g. "
                "backbone=flux_fill_mini"
            )
        return super()._input(tokens, name)

    def _adapt(self, lowering: Callable[..., Tensor]) -> None:
        self.model.set_attn_processor(FluxSegmentAttention(lowering))

    def _call(
        self, block: nn.Module, x: Tensor, c: Tensor, modulation: Modulation, rope: tuple[Tensor, Tensor], view: View
    ) -> tuple[Tensor, Tensor]:
        c, x = block(x, c, modulation, rope, {"view": view})
        return x, c

    def _embedders(self) -> tuple[nn.Module, nn.Module]:
        return self.model.x_embedder, self.model.context_embedder

    def _modulation(self, tokens: Tokens, times: Mapping[str, Tensor]) -> Modulation:
        return Modulation.at(tokens.layout, times, lambda t_B: self._embed_time(t_B, tokens))

    def _embed_time(self, t_B: Tensor, tokens: Tokens) -> Tensor:
        """Embed 1000 t, 1000 guidance and the pooled prompt as (B, D).

        The products are in fp32; diffusers rounds them to its inputs' precision (in bf16 guidance 30 is 29.952).
        """
        scalars = [t_B.float() * 1000]
        if self.guidance is not None:
            strength = self.guidance["sample" if tokens.sampling else "train"]
            scalars.append(torch.full_like(scalars[0], strength * 1000))
        return self.model.time_text_embed(*scalars, tokens.pooled.to(self.dtype))

    def _rope(self, layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the tables of all tokens: text lies at the origin."""
        return self.model.pos_embed(positions(layout).to(device))

    def _read_out(self, x_BLD: Tensor, modulation: Modulation) -> Tensor:
        segments, temb = modulation.layout.visual, modulation.temb
        x_BLD = by_clock(self.model.norm_out, x_BLD, segments, [temb[s.name] for s in segments])
        return self.model.proj_out(x_BLD)

    def _products(self, layout: Layout, mask: Mask) -> int:
        """Count 12 D² for each token and block: 4 + 8 in a double one, 3 + 4 + 5 in a single one, which fuses two."""
        return len(self.blocks) * 12 * self.width**2 * len(layout)

    def _served(self, name: str) -> tuple[str, ...]:
        """Return the roles as every family does; text is one of them in single blocks if all images share a branch."""
        roles = super()._served(name)
        joined = name.startswith("single_") and len({b for role, b in self.branches.items() if role != TEXT}) == 1
        return tuple(self.branches) if joined and roles else roles

    def _takes(self, name: str) -> str:
        """Return the tokens of a linear: double blocks have one for each stream, single blocks one for both."""
        if "norm" in name or name.startswith("time_text_embed"):
            return "one"
        if name == "context_embedder" or any(part in name for part in ("add_", "ff_context")):
            return "text"
        return "every" if name.startswith("single_") else "visual"

    def _stock_state(self) -> dict[str, Tensor]:
        return stock_state(self.model)


def _check(config: Mapping[str, Any], guidance: Mapping[str, float] | None) -> None:
    """Raise ValueError for positions that do not fill a head, or guidance that does not fit the model."""
    axes, head = config["axes_dims_rope"], config["attention_head_dim"]
    if not all(isinstance(width, int) for width in axes) or sum(axes) != head or any(width % 2 for width in axes):
        raise ValueError(
            f"backbone.config.axes_dims_rope is {list(axes)}; it must be three even numbers with the sum "
            f"attention_head_dim ({head})"
        )
    check_guidance(config, guidance)


def check_guidance(config: Mapping[str, Any], guidance: Mapping[str, float] | None) -> None:
    """Raise ValueError for guidance that does not fit the model, of FLUX.1 or FLUX.2."""
    if config["guidance_embeds"] and (guidance is None or set(guidance) != set(GUIDANCE)):
        said = "null" if guidance is None else f"for {', '.join(guidance)}"
        raise ValueError(
            f"backbone.guidance is {said}, but backbone.config.guidance_embeds is true; "
            f"give the strengths for {' and '.join(GUIDANCE)}, e.g. 1.0 and 30.0"
        )
    if guidance is not None and not config["guidance_embeds"]:
        raise ValueError("backbone.guidance must be null, since backbone.config.guidance_embeds is false")
