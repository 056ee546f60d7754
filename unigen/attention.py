"""One mask, four lowerings with the same signature: dense (reference), grouped, plain (short sequences), flex.

Shapes: B batch, H heads, L tokens (Lq queries, Lk keys), D head width.
`valid_BL` marks the keys that exist (False is padding). A query that may see nothing gets zeros.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from unigen import masks
from unigen.layout import Layout, kept
from unigen.masks import Mask


def dense(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    queries: Layout,
    keys: Layout,
    mask: Mask,
    valid_BL: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(D) + M) v with the whole (Lq, Lk) mask M (RealGeneral Eqs. 6-7)."""
    if valid_BL is None and all(map(all, masks.visible(queries, keys, mask))):
        return F.scaled_dot_product_attention(q_BHLD, k_BHLD, v_BHLD)
    allowed = _allowed(queries, keys, mask, valid_BL, q_BHLD.device)
    out = F.scaled_dot_product_attention(q_BHLD, k_BHLD, v_BHLD, attn_mask=allowed)
    return torch.where(allowed.any(-1, keepdim=True), out, 0)


def grouped(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    queries: Layout,
    keys: Layout,
    mask: Mask,
    valid_BL: Tensor | None = None,
    kernel: Callable[[Tensor, Tensor, Tensor], Tensor] = F.scaled_dot_product_attention,
) -> Tensor:
    """One mask-free call for each distinct key set, so flash kernels stay usable and no (Lq, Lk) tensor exists.

    `kernel` does these calls (`unigen.nn.kernels`); where keys are padding they have a mask, and PyTorch chooses.
    """
    outputs: dict[str, Tensor] = {}
    for names, seen in masks.groups(queries, keys, mask):
        q = _gather(q_BHLD, queries, names)
        if not seen:
            out = torch.zeros_like(q)
        elif valid_BL is None:
            out = kernel(q, _gather(k_BHLD, keys, seen), _gather(v_BHLD, keys, seen))
        else:
            allowed = _gather(valid_BL[:, None, :, None], keys, seen).transpose(2, 3)
            out = F.scaled_dot_product_attention(
                q, _gather(k_BHLD, keys, seen), _gather(v_BHLD, keys, seen), attn_mask=allowed
            )
            out = torch.where(allowed.any(-1, keepdim=True), out, 0)
        parts = out.split([queries[n].tokens for n in names], dim=2)
        outputs.update(zip(names, parts, strict=True))
    if len(outputs) == 1 or tuple(outputs) == queries.names:
        return torch.cat(tuple(outputs.values()), dim=2)
    return torch.cat([outputs[n] for n in queries.names], dim=2)


def plain(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    queries: Layout,
    keys: Layout,
    mask: Mask,
    valid_BL: Tensor | None = None,
) -> Tensor:
    """The dense form written out as two batched products: for the short sequences of mini models on a CPU.

    At some tens of tokens the fused CPU kernel is slower than this, by far so in bf16 (docs/benchmarks.md). All
    scores (B, H, Lq, Lk) exist, so it is not for long sequences. What is hidden gets a large finite bias: a query
    without keys has zero gradients and no NaN.
    """
    bias = _bias(queries, keys, mask, q_BHLD.dtype, q_BHLD.device)
    if valid_BL is not None:
        bias = bias.masked_fill(~valid_BL[:, None, None, :], torch.finfo(bias.dtype).min / 2)
        bias = bias.expand(-1, q_BHLD.shape[1], -1, -1).flatten(0, 1)
    q, k, v = (x.flatten(0, 1) for x in (q_BHLD, k_BHLD, v_BHLD))
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
    out = torch.bmm(scores.softmax(-1).to(v.dtype), v).unflatten(0, q_BHLD.shape[:2])
    if valid_BL is None and all(map(any, masks.visible(queries, keys, mask))):
        return out
    return torch.where(_allowed(queries, keys, mask, valid_BL, q.device).any(-1, keepdim=True), out, 0)


def flex(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    queries: Layout,
    keys: Layout,
    mask: Mask,
    valid_BL: Tensor | None = None,
) -> Tensor:
    """FlexAttention with a block mask made from the table. It has no backward on a CPU."""
    from torch.nn.attention.flex_attention import flex_attention

    if valid_BL is None:
        block = _block_mask(queries, keys, mask, q_BHLD.device)
    else:
        block = _padded_block_mask(queries, keys, mask, valid_BL)
    kernel = _compiled_flex() if q_BHLD.is_cuda else flex_attention
    return kernel(q_BHLD, k_BHLD, v_BHLD, block_mask=block)


@kept(maxsize=64)
def _on_device(queries: Layout, keys: Layout, mask: Mask, device: torch.device) -> Tensor:
    return masks.dense(queries, keys, mask).to(device)


@kept(maxsize=64)
def _bias(queries: Layout, keys: Layout, mask: Mask, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(1, Lq, Lk): 0 where attention is allowed, a large negative number elsewhere."""
    hidden = ~masks.dense(queries, keys, mask)[None]
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min / 2).to(device)


def _allowed(queries: Layout, keys: Layout, mask: Mask, valid_BL: Tensor | None, device: torch.device) -> Tensor:
    """Booleans, broadcastable to (B, H, Lq, Lk): the mask, less the keys that are padding."""
    allowed = _on_device(queries, keys, mask, device)[None, None]
    return allowed if valid_BL is None else allowed & valid_BL[:, None, None, :]


def _gather(x: Tensor, layout: Layout, names: tuple[str, ...]) -> Tensor:
    """The tokens (axis 2) of these segments; neighbours are taken as one slice, everything as no copy."""
    spans: list[list[int]] = []
    for name in names:
        at = layout.slices[name]
        if spans and spans[-1][1] == at.start:
            spans[-1][1] = at.stop
        else:
            spans.append([at.start, at.stop])
    if len(spans) == 1:
        return x[:, :, spans[0][0] : spans[0][1]]
    return torch.cat([x[:, :, a:b] for a, b in spans], dim=2)


@lru_cache(maxsize=1)
def _compiled_flex():
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


@kept(maxsize=64)
def _block_mask(queries: Layout, keys: Layout, mask: Mask, device: torch.device):
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(_mask_mod(queries, keys, mask, device), None, None, len(queries), len(keys), str(device))


def _padded_block_mask(queries: Layout, keys: Layout, mask: Mask, valid_BL: Tensor):
    from torch.nn.attention.flex_attention import create_block_mask

    rule = _mask_mod(queries, keys, mask, valid_BL.device)

    def padded(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return rule(b, h, i, j) & valid_BL[b, j]

    return create_block_mask(padded, len(valid_BL), None, len(queries), len(keys), str(valid_BL.device))


def _mask_mod(queries: Layout, keys: Layout, mask: Mask, device: torch.device):
    table = torch.tensor(masks.visible(queries, keys, mask), dtype=torch.bool, device=device)
    of_query = masks.segment_ids(queries).to(device)
    of_key = masks.segment_ids(keys).to(device)

    def rule(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return table[of_query[i], of_key[j]]

    return rule
