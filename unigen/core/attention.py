"""Four attention backends that follow one mask: dense (reference), grouped, plain (short sequences) and flex.

Shapes: B batch, H heads, L tokens (Lq queries, Lk keys), D head width.
All have the same signature. `valid_BL` marks the keys that exist (False is padding). The output of a query without
keys is zero.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from unigen.core import masks
from unigen.core.layout import Layout, kept
from unigen.core.masks import Mask


def dense(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    queries: Layout,
    keys: Layout,
    mask: Mask,
    valid_BL: Tensor | None = None,
) -> Tensor:
    """Return softmax(q k^T / sqrt(D) + M) v with the whole (Lq, Lk) mask M (RealGeneral Eqs. 6-7)."""
    if valid_BL is None and masks.unrestricted(queries, keys, mask):
        return F.scaled_dot_product_attention(q_BHLD, k_BHLD, v_BHLD)
    bias = _bias_of(queries, keys, mask, q_BHLD)
    allowed = _allowed(queries, keys, mask, valid_BL, q_BHLD.device)
    added = allowed if bias is None else bias.masked_fill(~allowed, -torch.inf)
    out = F.scaled_dot_product_attention(q_BHLD, k_BHLD, v_BHLD, attn_mask=added)
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
    """Attend in one mask-free call for each distinct key set: flash kernels stay usable, no (Lq, Lk) tensor exists.

    `kernel` does these calls (`unigen.nn.kernels`). With `valid_BL`, and where a group has a bias, the calls have a
    mask of one row, and PyTorch chooses.
    """
    bias = _bias_of(queries, keys, mask, q_BHLD)
    outputs: dict[str, Tensor] = {}
    for names, seen in masks.groups(queries, keys, mask):
        q = _gather(q_BHLD, queries, names)
        if not seen:
            outputs.update(
                zip(names, torch.zeros_like(q).split([queries[n].tokens for n in names], dim=2), strict=True)
            )
            continue
        k, v = _gather(k_BHLD, keys, seen), _gather(v_BHLD, keys, seen)
        row = _row(bias, queries, keys, mask, (names[0], seen))
        if valid_BL is None and row is None:
            out = kernel(q, k, v)
        elif valid_BL is None:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=row)
        else:
            allowed = _gather(valid_BL[:, None, :, None], keys, seen).transpose(2, 3)
            added = allowed if row is None else row.masked_fill(~allowed, -torch.inf)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=added)
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
    """Compute the dense form as two batched products, for the short sequences of mini models on a CPU.

    For some tens of tokens the fused CPU kernel is slower than this, and in bf16 much slower (docs/benchmarks.md). All
    scores (B, H, Lq, Lk) are in memory, so this is not for long sequences. Hidden keys get a large but
    finite negative bias, so a query without keys has zero gradients and no NaN.
    """
    q, k, v = (x.flatten(0, 1) for x in (q_BHLD, k_BHLD, v_BHLD))
    if valid_BL is None and masks.unrestricted(queries, keys, mask):
        # without a bias, whose table would break a compiled graph
        scores = torch.baddbmm(q.new_zeros(()), q, k.transpose(1, 2), beta=0, alpha=q.shape[-1] ** -0.5)
        return torch.bmm(scores.softmax(-1).to(v.dtype), v).unflatten(0, q_BHLD.shape[:2])
    bias = _bias(queries, keys, mask, q_BHLD.dtype, q_BHLD.device)
    if valid_BL is not None:
        bias = bias.masked_fill(~valid_BL[:, None, None, :], torch.finfo(bias.dtype).min / 2)
        bias = bias.expand(-1, q_BHLD.shape[1], -1, -1).flatten(0, 1)
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
    """Attend by FlexAttention, with a block mask made from the table. It has no backward pass on a CPU."""
    from torch.nn.attention.flex_attention import flex_attention

    if valid_BL is None:
        block = _block_mask(queries, keys, mask, q_BHLD.device)
    else:
        block = _padded_block_mask(queries, keys, mask, valid_BL)
    kernel = _compiled_flex() if q_BHLD.is_cuda else flex_attention
    added = _score_mod(queries, keys, mask, q_BHLD.device) if masks.biases(queries, keys, mask) else None
    return kernel(q_BHLD, k_BHLD, v_BHLD, score_mod=added, block_mask=block)


@kept(maxsize=64)
def _on_device(queries: Layout, keys: Layout, mask: Mask, device: torch.device) -> Tensor:
    return masks.dense(queries, keys, mask).to(device)


@kept(maxsize=64)
def _bias(queries: Layout, keys: Layout, mask: Mask, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return (1, Lq, Lk): the mask's bias where attention is allowed, a large negative number elsewhere."""
    hidden = ~masks.dense(queries, keys, mask)[None]
    bias = masks.dense_bias(queries, keys, mask)[None].to(dtype)
    return bias.masked_fill(hidden, torch.finfo(dtype).min / 2).to(device)


def _bias_of(queries: Layout, keys: Layout, mask: Mask, like: Tensor) -> Tensor | None:
    """Return what is added to the scores, (1, 1, Lq, Lk) in the type and on the device of `like`, None for nothing."""
    if masks.biases(queries, keys, mask) is None:
        return None
    return _bias_on_device(queries, keys, mask, like.dtype, like.device)


@kept(maxsize=64)
def _bias_on_device(queries: Layout, keys: Layout, mask: Mask, dtype: torch.dtype, device: torch.device) -> Tensor:
    return masks.dense_bias(queries, keys, mask)[None, None].to(device, dtype)


def _row(
    bias_11LL: Tensor | None, queries: Layout, keys: Layout, mask: Mask, group: tuple[str, tuple[str, ...]]
) -> Tensor | None:
    """Return the bias of the keys of a group (its first query, its keys), (1, 1, 1, L); None if it is 0.

    All queries of a group share it.
    """
    first, seen = group
    if bias_11LL is None:
        return None
    of_key = dict(zip(keys.names, masks.biases(queries, keys, mask)[queries.names.index(first)], strict=True))
    if not any(of_key[name] for name in seen):
        return None
    at = queries.slices[first].start
    return _gather(bias_11LL[:, :, at : at + 1].transpose(2, 3), keys, seen).transpose(2, 3)


def _allowed(queries: Layout, keys: Layout, mask: Mask, valid_BL: Tensor | None, device: torch.device) -> Tensor:
    """Return booleans that broadcast to (B, H, Lq, Lk): the mask without the keys that are padding."""
    allowed = _on_device(queries, keys, mask, device)[None, None]
    return allowed if valid_BL is None else allowed & valid_BL[:, None, None, :]


def _gather(x: Tensor, layout: Layout, names: tuple[str, ...]) -> Tensor:
    """Return the tokens (axis 2) of these segments. Segments that follow each other are one slice, without a copy."""
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


@kept(maxsize=64)
def _score_mod(queries: Layout, keys: Layout, mask: Mask, device: torch.device):
    table = torch.tensor(masks.biases(queries, keys, mask), device=device)
    of_query = masks.segment_ids(queries).to(device)
    of_key = masks.segment_ids(keys).to(device)

    def added(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + table[of_query[i], of_key[j]].to(score.dtype)

    return added
