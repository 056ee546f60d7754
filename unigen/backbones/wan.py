"""Wan 2.1 and 2.2 as a unigen backbone: diffusers' `WanTransformer3DModel`, adapted to `Tokens`.

This family is unusual in four things. Text is read by cross-attention, as keys without queries, so a mask's row for
text cannot be followed. Modulation is one projection of the time for all blocks and a small table in each. A token's
features have another order at the output than at the input. Angles of positions are computed in float64.

Shapes: B batch, H heads, L image tokens, T text tokens, D width (in attention: of a head), P patch features.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unigen.backbones.base import DiffusersTransformer, Memory, Sight, View, attend, normed
from unigen.core.infill import GIVEN, LATENTS
from unigen.core.layout import TEXT_STREAM, VISUAL_STREAM, Layout, Segment, stream_of
from unigen.core.masks import Mask, visible
from unigen.core.tokens import Tokens
from unigen.core.types import TEXT
from unigen.nn.modulation import BranchedProjection, Modulation
from unigen.nn.rope import layout_rotary

ROPE_THETA = 10_000.0
SELF, CROSS = "self", "cross"  # a block's two attentions
Parts = Sequence[tuple[Tensor, ...]]  # shift, scale, gate, ..., each (B, 1, D), for every branch and clock
OTHER_INPUTS = ("image_dim", "added_kv_proj_dim", "pos_embed_seq_len")  # of models that read image features


class WanModulation(NamedTuple):
    """The modulation of image tokens: their segments, and the time projections to which blocks add their tables.

    `made` are the distinct time projections (B, 6, D), one for each pair of branch and clock; `branches` has the branch
    of each, and `made_of[i]` is the index in `made` for segment i. `temb` are the time embeddings (B, D) that the
    read-out takes, one for each clock, and `clock_of[i]` is the index of segment i's. Indices, not the identity of
    tensors, say what is shared, since a compiled block would be compiled again for new tensors.
    """

    segments: tuple[Segment, ...]
    made: tuple[Tensor, ...]
    branches: tuple[str, ...]
    made_of: tuple[int, ...]
    temb: tuple[Tensor, ...]
    clock_of: tuple[int, ...]


class RoleBlock(nn.Module):
    """diffusers' `WanTransformerBlock`, whose modules it holds by their names, on images of several roles.

    Each segment is modulated by its own branch and clock. This is bit-equal to the stock block with a time for each
    token, but holds no tensor of that size. Segments from which the mask hides the text get no residual of the
    cross-attention. `split` gives every branch a table of its own.
    """

    def __init__(self, stock: nn.Module, lowering: Callable[..., Tensor]) -> None:
        super().__init__()
        self.norm1, self.attn1, self.norm2, self.attn2 = stock.norm1, stock.attn1, stock.norm2, stock.attn2
        self.norm3, self.ffn, self.scale_shift_table = stock.norm3, stock.ffn, stock.scale_shift_table
        self.tables, self.lowering = nn.ParameterDict(), lowering

    def split(self, names: Sequence[str]) -> None:
        """Give each branch a table of its own, a copy of the stock one."""
        table = self.scale_shift_table.detach()
        self.tables.update({name: nn.Parameter(table.clone()) for name in names})
        del self.scale_shift_table

    def forward(
        self, x_BLD: Tensor, text_BTD: Tensor, modulation: WanModulation, rope: tuple[Tensor, Tensor], view: View
    ) -> Tensor:
        """Return the images after self-attention, cross-attention to the text, and the feed-forward layers."""
        if not modulation.segments:  # text alone, which is to be remembered
            _remember(view.sights[CROSS], *self._text(text_BTD))
            return x_BLD
        tables = [self.tables[name] if self.tables else self.scale_shift_table for name in modulation.branches]
        made = [(table + x.float()).chunk(6, dim=1) for table, x in zip(tables, modulation.made, strict=True)]
        x = _apart(_scaled(0, 1), modulation, made, self.norm1(x_BLD.float())).type_as(x_BLD)
        x_BLD = _apart(_gated(2), modulation, made, x_BLD, self._attend(x, rope, view.sights[SELF])).type_as(x_BLD)
        x_BLD = self._read(x_BLD, text_BTD, modulation, view.sights[CROSS])
        x = _apart(_scaled(3, 4), modulation, made, self.norm3(x_BLD.float())).type_as(x_BLD)
        return _apart(_gated(5), modulation, made, x_BLD, self.ffn(x)).type_as(x_BLD)

    def _attend(self, x_BLD: Tensor, rope: tuple[Tensor, Tensor], sight: Sight) -> Tensor:
        """Apply self-attention: norms over the whole width, then positions on queries and keys."""
        from diffusers.models.embeddings import apply_rotary_emb

        attn = self.attn1
        q, k, v = normed(attn.norm_q, attn.to_q(x_BLD)), normed(attn.norm_k, attn.to_k(x_BLD)), attn.to_v(x_BLD)
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (q, k, v))
        q, k = (apply_rotary_emb(x, rope, sequence_dim=1) for x in (q, k))
        out = attend(self.lowering, q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), sight)
        return attn.to_out[1](attn.to_out[0](out))

    def _text(self, text_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values (B, H, T, D) of the text, which depend on nothing else."""
        attn = self.attn2
        k, v = normed(attn.norm_k, attn.to_k(text_BTD)), attn.to_v(text_BTD)
        return tuple(x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in (k, v))

    def _read(self, x_BLD: Tensor, text_BTD: Tensor, modulation: WanModulation, sight: Sight) -> Tensor:
        """Apply cross-attention, residual included, to the segments that may read the text (`sight.queries`)."""
        readers, segments, attn = sight.queries, modulation.segments, self.attn2
        if not readers.segments:
            if sight.record is not None:
                _remember(sight, *self._text(text_BTD))
            return x_BLD
        everyone, parts = len(readers.segments) == len(segments), x_BLD.split([s.tokens for s in segments], dim=1)
        reading = [part for part, s in zip(parts, segments, strict=True) if s.name in readers.slices]
        x = x_BLD if everyone else torch.cat(reading, dim=1)
        q = normed(attn.norm_q, attn.to_q(self.norm2(x.float()).type_as(x))).unflatten(2, (attn.heads, -1))
        out = attend(self.lowering, q.transpose(1, 2), *self._text(text_BTD), sight)
        out = attn.to_out[1](attn.to_out[0](out))
        if everyone:
            return x_BLD + out
        read = dict(zip(readers.names, out.split([s.tokens for s in readers.segments], dim=1), strict=True))
        both = zip(parts, segments, strict=True)
        return torch.cat([part + read[s.name] if s.name in read else part for part, s in both], dim=1)


class Wan(DiffusersTransformer):
    """`config` are the arguments of `WanTransformer3DModel`; `pretrained` a folder or repository id, or null;
    `switches` are the keywords of `DiffusersTransformer`.

    `reach` is the largest grid of tokens (t, h, w) that a layout may ask for: the model has no table of positions that
    would end. `predicts` is what the pretrained weights predict: 'flow' (noise - data) as published. The network takes
    1000 t. A role whose row of the mask hides the text gets no residual of the cross-attention. With more `in_channels`
    than `out_channels` it reads a mask of what is given and clean latents beside the noised ones, as the two models of
    Wan2.2-I2V-A14B (36 and 16).
    Raises ValueError for an image-to-video model that reads image features too, and for a reach that is no grid.
    """

    text_asks = False
    context_parts = (GIVEN, LATENTS)
    reach_key = "backbone.reach"
    attentions = {SELF: (VISUAL_STREAM, VISUAL_STREAM), CROSS: (VISUAL_STREAM, TEXT_STREAM)}

    def __init__(
        self,
        config: Mapping[str, Any],
        lowering: Callable[..., Tensor],
        reach: Sequence[int],
        pretrained: str | None = None,
        predicts: str = "flow",
        **switches: Any,
    ) -> None:
        from diffusers import WanTransformer3DModel

        if odd := [key for key in OTHER_INPUTS if config.get(key) is not None]:
            raise ValueError(
                f"backbone.config.{odd[0]} is {config[odd[0]]}: this is an image-to-video Wan, which reads features of "
                "an image encoder; take a text-to-video one, e.g. backbone=wan2_1_t2v_1_3b"
            )
        if len(reach) != 3 or not all(isinstance(most, int) and most > 0 for most in reach):
            raise ValueError(
                f"backbone.reach is {list(reach)}; legal are three whole numbers above 0, for tokens along t, h and w"
            )
        super().__init__(WanTransformer3DModel, lowering, config, pretrained, predicts, **switches)
        self.reach = tuple(reach)

    @property
    def patch(self) -> tuple[int, int, int]:
        return tuple(self.model.config.patch_size)

    @property
    def text_width(self) -> int:
        return self.model.config.text_dim

    @property
    def latent_channels(self) -> int:
        return self.model.config.out_channels

    @property
    def context_width(self) -> int:
        """The number of features that it reads beside those that it predicts: 0 for text to video."""
        return (self.model.config.in_channels - self.model.config.out_channels) * prod(self.patch)

    @property
    def branched(self) -> bool:
        """True if images have several branches of modulation; then this is no stock model."""
        return isinstance(self.model.condition_embedder.time_proj, BranchedProjection)

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks, in the order in which tokens pass them."""
        return list(self.model.blocks)

    def effective_mask(self, mask: Mask) -> Mask:
        """Return the mask under which no image reaches the text, whose keys depend on the prompt alone."""
        return _text_apart(mask)

    def effective_timing(self, timing: Mapping[str, str]) -> Mapping[str, str]:
        """Return the table with text on its own clock: text has no modulation, so it stays the same over steps."""
        return {**timing, TEXT: "own"}

    def _split(self, branches: Mapping[str, str], tied: bool) -> None:
        """Give every branch of the table that serves images a time projection, and a table in every block (SC-AdaLN).

        With one branch for all images this stays the stock model. `tied` branches share the frozen weights, tables
        too, and differ by the LoRA of their time projections.
        """
        names = list(dict.fromkeys(name for role, name in branches.items() if role != TEXT))
        if len(names) < 2:
            return
        embedder = self.model.condition_embedder
        embedder.time_proj = BranchedProjection(embedder.time_proj, names, tied)
        for block in [] if tied else self.blocks:
            block.split(names)

    def lora_targets(self) -> dict[str, str]:
        """Return the linears of each part as regular expressions over module names; `embedders` are both ends.

        The patch embedding is a convolution. The last two share out `feed_forward`.
        """
        embedded = r"condition_embedder\.(time_embedder|text_embedder)\.linear_[12]"
        return {
            "attention": r"blocks\.\d+\.attn[12]\.(to_q|to_k|to_v|to_out\.0)",
            "modulation": r"condition_embedder\.time_proj" + r"\.branches\.\w+" * self.branched,
            "feed_forward": r"blocks\.\d+\.ffn\.net\.(0\.proj|2)",
            "embedders": rf"patch_embedding|{embedded}|proj_out",
            "feed_forward_in": r"blocks\.\d+\.ffn\.net\.0\.proj",
            "feed_forward_out": r"blocks\.\d+\.ffn\.net\.2",
        }

    def _adapt(self, lowering: Callable[..., Tensor]) -> None:
        self.model.blocks = nn.ModuleList(RoleBlock(block, lowering) for block in self.model.blocks)

    def _call(
        self, block: nn.Module, x: Tensor, c: Tensor, modulation: WanModulation, rope: Any, view: View
    ) -> tuple[Tensor, Tensor]:
        return block(x, c, modulation, rope, view), c

    def _taken(self, view: View, word: str) -> Layout:
        """Return the tokens as every family does, or those of a linear of cross-attention ("readers" and "read")."""
        if word == "readers":
            return view.sights[CROSS].queries
        return super()._taken(view, "text" if word == "read" else word)

    def _view(self, tokens: Tokens, mask: Mask, memory: Memory | None, record: Memory | None) -> View:
        """Make the view as every family does. Only segments that may read some text are queries of cross-attention."""
        view = super()._view(tokens, mask, memory, record)
        cross = view.sights[CROSS]
        cross = cross._replace(queries=_readers(cross.queries, cross.keys, view.mask))
        return view._replace(sights={**view.sights, CROSS: cross})

    def _embedders(self) -> tuple[Callable[[Tensor], Tensor], nn.Module]:
        return self._embed_patches, self.model.condition_embedder.text_embedder

    def _embed_patches(self, x_BLP: Tensor) -> Tensor:
        """Embed each token's own cube of latents by the convolution, which is equal to embedding whole latents."""
        cubes = x_BLP.reshape(-1, self.model.config.in_channels, *self.patch)
        return self.model.patch_embedding(cubes).view(*x_BLP.shape[:2], -1)

    def _modulation(self, tokens: Tokens, times: Mapping[str, Tensor]) -> WanModulation:
        images = stream_of(tokens.layout, VISUAL_STREAM)
        own = Modulation.at(images, times, self._embed_time)
        keys = [(self.branches.get(s.role, ""), c) for s, c in zip(images.segments, own.clock_of, strict=True)]
        distinct = list(dict.fromkeys(keys))
        made = tuple(self._project(branch, own.clocks[clock]) for branch, clock in distinct)
        made_of = tuple(distinct.index(key) for key in keys)
        return WanModulation(images.segments, made, tuple(b for b, _ in distinct), made_of, own.clocks, own.clock_of)

    def _embed_time(self, t_B: Tensor) -> Tensor:
        """Embed 1000 t as (B, D)."""
        embedder = self.model.condition_embedder
        kept = next(embedder.time_embedder.parameters()).dtype  # loaded weights may keep it in fp32
        return embedder.time_embedder(embedder.timesteps_proj(t_B.float() * 1000).to(kept)).to(self.dtype)

    def _project(self, branch: str, temb_BD: Tensor) -> Tensor:
        """Return the time projection (B, 6, D), to which a block adds its table."""
        embedder = self.model.condition_embedder
        project = embedder.time_proj.branches[branch] if self.branched else embedder.time_proj
        return project(embedder.act_fn(temb_BD)).unflatten(1, (6, -1))

    def _rope(self, layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the tables of the images: text has no position. Rows and columns have a third of a head each."""
        head = self.model.config.attention_head_dim
        side = 2 * (head // 6)
        widths = head - 2 * side, side, side
        return layout_rotary(stream_of(layout, VISUAL_STREAM), widths, ROPE_THETA, device, torch.float64)

    def _read_out(self, x_BLD: Tensor, modulation: WanModulation) -> Tensor:
        """Return (B, L, P) with the channel as the outermost feature, as in the input; the model itself has it last."""
        table = self.model.scale_shift_table
        ends = [(table + temb[:, None]).chunk(2, dim=1) for temb in modulation.temb]
        by_clock = modulation._replace(made_of=modulation.clock_of)
        x = _apart(_scaled(0, 1), by_clock, ends, self.model.norm_out(x_BLD.float())).type_as(x_BLD)
        made = self.model.proj_out(x).unflatten(-1, (*self.patch, self.latent_channels))
        return made.movedim(-1, 2).flatten(2)

    def _products(self, layout: Layout, mask: Mask) -> int:
        """Count 4 D² in self-attention and 2 D F in the feed-forward layers for each image token; in cross-attention
        2 D² for each image token that reads the text, and 2 D² for each text token if any image reads it."""
        tokens = self._counts(layout, mask, layout)
        squares = 4 * tokens["visual"] + 2 * tokens["readers"] + 2 * tokens["read"]
        forward = 2 * layout.image_tokens * self.model.config.ffn_dim
        return len(self.blocks) * (squares * self.width**2 + forward * self.width)

    def _end_products(self, layout: Layout) -> int:
        """Add the second linear of the text embedder."""
        return super()._end_products(layout) + (len(layout) - layout.image_tokens) * self.width**2

    def _counts(self, layout: Layout, mask: Mask, part: Layout) -> dict[str, int]:
        """Add `readers`, the image tokens that may read the text, and `read`, the text tokens if there are readers."""
        readers = _readers(stream_of(layout, VISUAL_STREAM), stream_of(layout, TEXT_STREAM), mask)
        of_part = sum(s.tokens for s in readers.segments if s.name in part.names)
        read = len(stream_of(part, TEXT_STREAM)) * bool(readers.segments)
        return {**super()._counts(layout, mask, part), "readers": of_part, "read": read}

    def _takes(self, name: str) -> str:
        """Return a word of every family, or "readers" or "read" for a linear of cross-attention (see `_counts`)."""
        if name.startswith("condition_embedder"):
            return "text" if name.startswith("condition_embedder.text") else "one"
        if ".attn2." in name:
            return "read" if name.endswith(("to_k", "to_v")) else "readers"
        return "visual"

    def _stock_state(self) -> dict[str, Tensor]:
        if self.branched:
            names = self.model.condition_embedder.time_proj.branches
            raise ValueError(
                f"conditioning.modulation.branches has the visual branches {', '.join(names)}; "
                "only a model with one can be saved as a stock model (conditioning/modulation=shared)"
            )
        return self.model.state_dict()


def _apart(function: Callable[..., Tensor], modulation: WanModulation, made: Parts, *tokens: Tensor) -> Tensor:
    """Apply function(modulation, tokens) to each segment's tokens, in one call if all are modulated alike."""
    if len(made) == 1:
        return function(made[0], *tokens)
    sizes = [s.tokens for s in modulation.segments]
    parts = zip(*(x.split(sizes, dim=1) for x in tokens), strict=True)
    return torch.cat([function(made[i], *part) for i, part in zip(modulation.made_of, parts, strict=True)], dim=1)


def _scaled(shift: int, scale: int) -> Callable[..., Tensor]:
    """Return the function x (1 + scale) + shift; both numbers are indices into a block's six modulations."""
    return lambda made, x_BLD: x_BLD * (1 + made[scale]) + made[shift]


def _gated(gate: int) -> Callable[..., Tensor]:
    """Return the function x + out gate, in fp32 as in the stock block."""
    return lambda made, x_BLD, out_BLD: x_BLD.float() + out_BLD * made[gate]


def _remember(sight: Sight, k: Tensor, v: Tensor) -> None:
    if sight.record is not None:
        sight.record.append((k, v))


@lru_cache(maxsize=256)
def _text_apart(mask: Mask) -> Mask:
    return mask.without_queries(TEXT)


@lru_cache(maxsize=1024)
def _readers(queries: Layout, keys: Layout, mask: Mask) -> Layout:
    """Return the segments that may read any of the keys."""
    rows = zip(queries.segments, visible(queries, keys, mask), strict=True)
    return Layout(tuple(segment for segment, row in rows if any(row)))
