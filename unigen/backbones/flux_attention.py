"""Flux's joint attention under a role mask, for its double blocks and its single ones.

Shapes: B batch, H heads, L tokens, D head width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unigen.backbones.base import View, attend


class FluxSegmentAttention:
    """Attention over [text, pictures] with per-head norms and RoPE on all tokens, as diffusers' FluxAttnProcessor.

    In a double block text has projections of its own; a single block hands in text and pictures as one sequence.
    Stateless: one object serves every block. `lowering` is one of the functions of `unigen.attention`.
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
        out = attend(self.lowering, q, k, v, view)
        if encoder_hidden_states is None:
            return out
        text = encoder_hidden_states.shape[1]
        pictures, words = out[:, text:].contiguous(), out[:, :text].contiguous()  # as the stock one: kernels differ
        return attn.to_out[1](attn.to_out[0](pictures)), attn.to_add_out(words)


def _heads(
    attn: nn.Module, x_BLD: Tensor, text_BLD: Tensor | None, rope: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, H, L, D), text first."""
    from diffusers.models.embeddings import apply_rotary_emb

    q, k, v = (to(x_BLD).unflatten(-1, (-1, attn.head_dim)) for to in (attn.to_q, attn.to_k, attn.to_v))
    q, k = _normed(attn.norm_q, q), _normed(attn.norm_k, k)
    if text_BLD is not None:
        projections = attn.add_q_proj, attn.add_k_proj, attn.add_v_proj
        text_q, text_k, text_v = (to(text_BLD).unflatten(-1, (-1, attn.head_dim)) for to in projections)
        text_q, text_k = _normed(attn.norm_added_q, text_q), _normed(attn.norm_added_k, text_k)
        q, k, v = torch.cat([text_q, q], dim=1), torch.cat([text_k, k], dim=1), torch.cat([text_v, v], dim=1)
    q, k = (apply_rotary_emb(x, rope, sequence_dim=1) for x in (q, k))
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _normed(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    """The norm with its weight in the precision of x: under autocast they differ, and torch fuses no such pair."""
    return F.rms_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.eps)
