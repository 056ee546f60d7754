"""CogVideoX1.5 as a unigen backbone: diffusers' `CogVideoXTransformer3DModel`, adapted to `Tokens`, not rewritten.

Shapes: B batch, L tokens, D width, E time embedding width.
"""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from unigen.backbones.base import JOINT, DiffusersTransformer, View, attend
from unigen.core.infill import LATENTS
from unigen.core.layout import VISUAL_STREAM, Layout, stream_of
from unigen.core.masks import Mask
from unigen.core.tokens import Tokens
from unigen.nn.modulation import BranchedLayerNormZero, Modulation, by_clock, joined_state
from unigen.nn.rope import layout_rotary

ROPE_THETA = 10_000.0


class SegmentAttention:
    """CogVideoX's attention (text first, RoPE on the visual part, per-head norms) under a role mask.

    Stateless: one object serves every block. `lowering` is one of the functions of `unigen.core.attention`.
    diffusers passes on only what the signature of `__call__` names.
    """

    def __init__(self, lowering: Callable[..., Tensor]) -> None:
        self.lowering = lowering

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        *,
        view: View,
    ) -> tuple[Tensor, Tensor]:
        from diffusers.models.embeddings import apply_rotary_emb

        text = encoder_hidden_states.shape[1]
        x = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        q, k, v = (to(x).unflatten(-1, (attn.heads, -1)) for to in (attn.to_q, attn.to_k, attn.to_v))
        # The norms come before the transposition: compiled for a CPU in bf16, the other order has gradients of NaN.
        q, k, v = attn.norm_q(q).transpose(1, 2), attn.norm_k(k).transpose(1, 2), v.transpose(1, 2)
        if text < x.shape[1]:
            q = torch.cat([q[:, :, :text], apply_rotary_emb(q[:, :, text:], image_rotary_emb)], dim=2)
            k = torch.cat([k[:, :, :text], apply_rotary_emb(k[:, :, text:], image_rotary_emb)], dim=2)
        out = attn.to_out[1](attn.to_out[0](attend(self.lowering, q, k, v, view.sights[JOINT])))
        return out[:, text:], out[:, :text]


class CogVideoX(DiffusersTransformer):
    """`config` are the arguments of `CogVideoXTransformer3DModel`; `pretrained` a folder or repository id, or null;
    `switches` are the keywords of `DiffusersTransformer`.

    `training_steps` is the length of the integer time table (t = 1 is step training_steps - 1). `predicts` is what the
    pretrained weights predict: 'v' as published, 'flow' if they were trained as a rectified flow.
    With twice as many `in_channels` as `out_channels` it reads clean latents beside the noised ones, as its
    image-to-video form; the `ofs` embedding of the published 1.5 model of that form is not known here.
    Raises ValueError for that embedding, and for a 1.0 model (no temporal patch): its positions are not integers.
    """

    context_parts = (LATENTS,)
    # With rotary positions these are the sizes that training saw, and those that stock pipelines take by default.
    limits = ("sample_width", "sample_height", "sample_frames", "max_text_seq_length")
    reach_key = "backbone.config.sample_frames, sample_height and sample_width"

    def __init__(
        self,
        config: Mapping[str, Any],
        lowering: Callable[..., Tensor],
        pretrained: str | None = None,
        training_steps: int = 1000,
        predicts: str = "v",
        **switches: Any,
    ) -> None:
        from diffusers import CogVideoXTransformer3DModel

        if config.get("patch_size_t") is None or not config.get("use_rotary_positional_embeddings"):
            raise ValueError(
                "backbone.config: patch_size_t must be set and use_rotary_positional_embeddings true, "
                "as in CogVideoX1.5; CogVideoX 1.0 interpolates its positions"
            )
        if config.get("ofs_embed_dim") is not None:
            raise ValueError(
                f"backbone.config.ofs_embed_dim is {config['ofs_embed_dim']}, as in CogVideoX1.5-5B-I2V, whose second "
                "embedding and scale of clean latents are not known here; legal is null"
            )
        super().__init__(CogVideoXTransformer3DModel, lowering, config, pretrained, predicts, **switches)
        self.training_steps = training_steps

    @property
    def patch(self) -> tuple[int, int, int]:
        c = self.model.config
        return c.patch_size_t, c.patch_size, c.patch_size

    @property
    def reach(self) -> tuple[int, int, int]:
        """The largest grid that training saw: positions beyond it extrapolate (sample_frames is in pixels)."""
        c = self.model.config
        frames = (c.sample_frames - 1) // c.temporal_compression_ratio + 1
        return -(-frames // c.patch_size_t), c.sample_height // c.patch_size, c.sample_width // c.patch_size

    @property
    def text_width(self) -> int:
        return self.model.config.text_embed_dim

    @property
    def latent_channels(self) -> int:
        return self.model.config.out_channels

    @property
    def context_width(self) -> int:
        """The number of features that it reads beside those that it predicts: 0 for text to video."""
        return (self.model.config.in_channels - self.model.config.out_channels) * prod(self.patch)

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks, in the order in which tokens pass them."""
        return list(self.model.transformer_blocks)

    def _split(self, branches: Mapping[str, str], tied: bool) -> None:
        """Give every block's two norms one modulation branch for each entry of the table (SC-AdaLN)."""
        for block in self.blocks:
            block.norm1 = BranchedLayerNormZero(block.norm1, branches, tied)
            block.norm2 = BranchedLayerNormZero(block.norm2, branches, tied)

    def lora_targets(self) -> dict[str, str]:
        """Return the linears of each part as regular expressions over module names; `embedders` are both ends.

        The last two share out `feed_forward`.
        """
        block = r"transformer_blocks\.\d+\."
        return {
            "attention": block + r"attn1\.(to_q|to_k|to_v|to_out\.0)",
            "modulation": block + r"norm[12]\.branches\.\w+",
            "feed_forward": block + r"ff\.net\.(0\.proj|2)",
            "embedders": r"patch_embed\.(proj|text_proj)|time_embedding\.linear_[12]|norm_out\.linear|proj_out",
            "feed_forward_in": block + r"ff\.net\.0\.proj",
            "feed_forward_out": block + r"ff\.net\.2",
        }

    def _adapt(self, lowering: Callable[..., Tensor]) -> None:
        self.model.set_attn_processor(SegmentAttention(lowering))

    def _call(
        self, block: nn.Module, x: Tensor, c: Tensor, modulation: Modulation, rope: tuple[Tensor, Tensor], view: View
    ) -> tuple[Tensor, Tensor]:
        return block(x, c, modulation, rope, {"view": view})

    def _embedders(self) -> tuple[nn.Module, nn.Module]:
        return self.model.patch_embed.proj, self.model.patch_embed.text_proj

    def _modulation(self, tokens: Tokens, times: Mapping[str, Tensor]) -> Modulation:
        made = Modulation.at(tokens.layout, times, self._embed_time)
        return made.coarsest(self.branches) if self.branches else made

    def _embed_time(self, t_B: Tensor) -> Tensor:
        """Embed times as (B, E). Timesteps are integers only here: k = t * training_steps - 1."""
        k_B = (t_B.float() * self.training_steps - 1).clamp(min=0).round()
        return self.model.time_embedding(self.model.time_proj(k_B).to(self.dtype))

    def _rope(self, layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the tables of the images: text has no position."""
        width = self.model.config.attention_head_dim
        widths = width // 4, width // 8 * 3, width // 8 * 3
        return layout_rotary(stream_of(layout, VISUAL_STREAM), widths, ROPE_THETA, device)

    def _read_out(self, x_BLD: Tensor, modulation: Modulation) -> Tensor:
        def norm(x_BLD: Tensor, temb: Tensor) -> Tensor:
            return self.model.norm_out(x_BLD, temb=temb)

        segments, temb = modulation.layout.visual, modulation.temb
        x_BLD = by_clock(norm, self.model.norm_final(x_BLD), segments, [temb[s.name] for s in segments])
        return self.model.proj_out(x_BLD)

    def _products(self, layout: Layout, mask: Mask) -> int:
        """Count 12 D² for each token and block: 4 in attention and 8 in the feed-forward layers."""
        return len(self.blocks) * 12 * self.width**2 * len(layout)

    def _takes(self, name: str) -> str:
        if name in ("patch_embed.proj", "proj_out"):
            return "visual"
        if name == "patch_embed.text_proj":
            return "text"
        return "one" if "norm" in name or name.startswith("time_embedding") else "every"

    def _stock_state(self) -> dict[str, Tensor]:
        norm, state = self.model.transformer_blocks[0].norm1, self.model.state_dict()
        return joined_state(state, norm.table) if hasattr(norm, "table") else state
