"""CogVideoX1.5 as a unigen backbone: diffusers' `CogVideoXTransformer3DModel`, adapted to `Tokens`, not rewritten.

What is unusual here: the blocks are diffusers' own; the layout reaches the modulation through the
`temb` argument and attention through `attention_kwargs`, so no state is shared between calls.

Shapes: B batch, L tokens, D width, H heads, E time embedding width, P patch features.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unigen.backbones.memory import Memory, valid_keys
from unigen.layout import TEXT_STREAM, Layout
from unigen.masks import Mask, attended_pairs
from unigen.nn.modulation import BranchedLayerNormZero, Modulation, joined_state
from unigen.nn.rope import layout_rotary
from unigen.tokens import Tokens
from unigen.weights import load_pretrained

ROPE_THETA = 10_000.0


class SegmentAttention:
    """CogVideoX's attention (text first, RoPE on the visual part, per-head norms) under a role mask.

    Stateless: one object serves every block. `lowering` is one of the functions of `unigen.attention`.
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
        layout: Layout | None = None,
        mask: Mask | None = None,
        valid: Tensor | None = None,
        memory: tuple[Layout, Tensor, Tensor] | None = None,
        record: list | None = None,
    ) -> tuple[Tensor, Tensor]:
        from diffusers.models.embeddings import apply_rotary_emb

        text = encoder_hidden_states.shape[1]
        x = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        q, k, v = (to(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2) for to in (attn.to_q, attn.to_k, attn.to_v))
        q, k = attn.norm_q(q), attn.norm_k(k)
        if text < x.shape[1]:
            q = torch.cat([q[:, :, :text], apply_rotary_emb(q[:, :, text:], image_rotary_emb)], dim=2)
            k = torch.cat([k[:, :, :text], apply_rotary_emb(k[:, :, text:], image_rotary_emb)], dim=2)
        if record is not None:
            record.append((k, v))
        keys = layout
        if memory is not None:
            keys = memory[0] + layout
            k, v = torch.cat([memory[1], k], dim=2), torch.cat([memory[2], v], dim=2)
        out = self.lowering(q, k, v.to(q.dtype), layout, keys, mask, valid).transpose(1, 2).flatten(2)
        out = attn.to_out[1](attn.to_out[0](out))
        return out[:, text:], out[:, :text]


class CogVideoX(nn.Module):
    """`config` are the arguments of `CogVideoXTransformer3DModel`; `pretrained` a folder or repository id, or null.

    `training_steps` is the length of the integer time table (t = 1 is step training_steps - 1).
    Raises ValueError for a 1.0 model (no temporal patch): its positions are not integers.
    """

    axes = ("t", "h", "w")
    pooled_width = None
    context_width = 0

    def __init__(
        self,
        config: Mapping[str, Any],
        lowering: Callable[..., Tensor],
        pretrained: str | None = None,
        training_steps: int = 1000,
        gradient_checkpointing: bool = False,
    ) -> None:
        from diffusers import CogVideoXTransformer3DModel

        super().__init__()
        if config.get("patch_size_t") is None or not config.get("use_rotary_positional_embeddings"):
            raise ValueError(
                "backbone.config: patch_size_t must be set and use_rotary_positional_embeddings true, "
                "as in CogVideoX1.5; CogVideoX 1.0 interpolates its positions"
            )
        load = load_pretrained(CogVideoXTransformer3DModel, pretrained, "backbone.pretrained", "transformer", config)
        self.model = load or CogVideoXTransformer3DModel(**config)
        self.training_steps = training_steps
        self.model.set_attn_processor(SegmentAttention(lowering))
        if gradient_checkpointing:
            self.model.enable_gradient_checkpointing()

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
        return self.model.config.in_channels

    def split_modulation(self, branches: Mapping[str, str], tied: bool) -> None:
        """Give every block's two norms one modulation branch for each entry of the table (SC-AdaLN)."""
        for block in self.model.transformer_blocks:
            block.norm1 = BranchedLayerNormZero(block.norm1, branches, tied)
            block.norm2 = BranchedLayerNormZero(block.norm2, branches, tied)

    def stock(self) -> nn.Module:
        """The model as diffusers builds it, with copies of these weights.

        Raises ValueError for a model that is no stock model any more: with adapters, or several visual branches.
        """
        from diffusers import CogVideoXTransformer3DModel

        if getattr(self.model, "peft_config", None):
            raise ValueError("a backbone with a LoRA is no stock model; train with conditioning/adapter=full")
        stock = CogVideoXTransformer3DModel.from_config(self.model.config)
        norm = self.model.transformer_blocks[0].norm1
        state = joined_state(self.model.state_dict(), norm.table) if hasattr(norm, "table") else self.model.state_dict()
        stock.load_state_dict(state)
        return stock

    def lora_targets(self) -> dict[str, str]:
        """Every linear of the model by part, as regular expressions over module names; `embedders` are both ends."""
        block = r"transformer_blocks\.\d+\."
        return {
            "attention": block + r"attn1\.(to_q|to_k|to_v|to_out\.0)",
            "modulation": block + r"norm[12]\.branches\.\w+",
            "feed_forward": block + r"ff\.net\.(0\.proj|2)",
            "embedders": r"patch_embed\.(proj|text_proj)|time_embedding\.linear_[12]|norm_out\.linear|proj_out",
        }

    def forward(
        self,
        tokens: Tokens,
        times: Mapping[str, Tensor],
        mask: Mask,
        memory: Memory | None = None,
        record: Memory | None = None,
    ) -> dict[str, Tensor]:
        """Predictions (B, L_segment, P) for every visual segment of `tokens`.

        `times` maps a segment to its modulation time t_B in [0, 1]; segments that share a clock share
        the tensor. With `memory`, its segments are attended to without being computed again; with
        `record`, this call's keys and values are kept there.
        """
        layout = tokens.layout
        visual = [tokens.features[s.name] for s in layout.visual]
        assert all(s.stream == TEXT_STREAM for s in layout.segments[: len(layout.segments) - len(visual)])
        text = [tokens.features[s.name] for s in layout.segments if s.stream == TEXT_STREAM]
        x = self.model.patch_embed.proj(torch.cat(visual, dim=1)) if visual else None
        c = self.model.patch_embed.text_proj(torch.cat(text, dim=1)) if text else x[:, :0]
        x = c[:, :0] if x is None else x
        x, modulation = self._blocks(x, c, tokens, self._embed_times(times, layout), mask, memory, record)
        return self._head(x, modulation)

    def remember(self, tokens: Tokens, times: Mapping[str, Tensor], mask: Mask) -> Memory:
        """Keys and values of these tokens in every block, to be attended to without computing them again."""
        memory = Memory(tokens.layout, tokens.valid_keys())
        self(tokens, times, mask, record=memory)
        return memory

    def _blocks(
        self,
        x: Tensor,
        c: Tensor,
        tokens: Tokens,
        modulation: Modulation,
        mask: Mask,
        memory: Memory | None,
        record: Memory | None,
    ) -> tuple[Tensor, Modulation]:
        layout = tokens.layout
        rope = layout_rotary(Layout(layout.visual), self._rope_widths(), ROPE_THETA, x.device)
        kwargs = {"layout": layout, "mask": mask, "valid": valid_keys(tokens, memory)}
        if record is not None:
            kwargs["record"] = record.blocks
        checkpoint = self.model.gradient_checkpointing and torch.is_grad_enabled()
        for number, block in enumerate(self.model.transformer_blocks):
            if memory is not None:
                kwargs = kwargs | {"memory": (memory.layout, *memory.blocks[number])}
            if checkpoint:
                x, c = self.model._gradient_checkpointing_func(block, x, c, modulation, rope, kwargs)
            else:
                x, c = block(x, c, modulation, image_rotary_emb=rope, attention_kwargs=kwargs)
        return x, modulation

    def _head(self, x_BLD: Tensor, modulation: Modulation) -> dict[str, Tensor]:
        segments = modulation.layout.visual
        if not segments:
            return {}
        x = self.model.norm_final(x_BLD)
        tembs = [modulation.temb[s.name] for s in segments]
        if all(t is tembs[0] for t in tembs):
            x = self.model.norm_out(x, temb=tembs[0])
        else:
            parts = x.split([s.tokens for s in segments], dim=1)
            x = torch.cat([self.model.norm_out(p, temb=t) for p, t in zip(parts, tembs, strict=True)], dim=1)
        out = self.model.proj_out(x).split([s.tokens for s in segments], dim=1)
        return dict(zip((s.name for s in segments), out, strict=True))

    def _embed_times(self, times: Mapping[str, Tensor], layout: Layout) -> Modulation:
        """Each segment's (B, E) embedding; integer timesteps exist only here: k = t * training_steps - 1."""
        made: dict[int, Tensor] = {}
        temb = {}
        for s in layout.segments:
            t_B = times[s.name]
            if id(t_B) not in made:
                k_B = (t_B.float() * self.training_steps - 1).clamp(min=0).round()
                wave = self.model.time_proj(k_B).to(self.model.proj_out.weight.dtype)
                made[id(t_B)] = self.model.time_embedding(wave)
            temb[s.name] = made[id(t_B)]
        return Modulation(layout, temb)

    def _rope_widths(self) -> tuple[int, int, int]:
        width = self.model.config.attention_head_dim
        return width // 4, width // 8 * 3, width // 8 * 3

    def flops(self, layout: Layout, mask: Mask) -> dict[str, int]:
        """Forward FLOPs of one sample (a multiply-add is 2): `linear` layers of the blocks and `attention`.

        Attention counts only pairs that the mask lets through. Adapters are not counted.
        """
        c = self.model.config
        width, blocks, patch = c.num_attention_heads * c.attention_head_dim, c.num_layers, self.patch
        features = c.in_channels * patch[0] * patch[1] * patch[2]
        visual = sum(s.tokens for s in layout.visual)
        linear = blocks * (4 + 8) * width * width * len(layout)
        ends = visual * 2 * features * width + (len(layout) - visual) * c.text_embed_dim * width
        return {
            "linear": 2 * (linear + ends),
            "attention": blocks * 4 * width * attended_pairs(layout, layout, mask),
        }
