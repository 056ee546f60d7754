"""FLUX.2 as a unigen backbone: diffusers' `Flux2Transformer2DModel`, klein or dev, adapted to `Tokens`.

This family is unusual in four things. Modulation is made outside the blocks, by three linears for all of them. A
position has a fourth number, which counts the tokens of the text. A single block has one linear for queries, keys,
values and the feed-forward layer, and one for the outputs of both. There is no pooled text.

Shapes: B batch, H heads, L tokens, D width (in attention: of a head), P patch features, M modulation features.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unigen.backbones.base import JOINT, DiffusersTransformer, View, attend, normed
from unigen.backbones.flux import FluxSegmentAttention, check_guidance
from unigen.core.layout import TEXT_STREAM, VISUAL_STREAM, Layout, Segment, kept, positions, stream_of
from unigen.core.masks import Mask
from unigen.core.tokens import Tokens
from unigen.core.types import TEXT
from unigen.nn.modulation import BranchedProjection, Modulation, by_clock

PATCH = (1, 2, 2)  # FLUX.2 packs 2×2 latent cells into one token before the model sees them
# There is no table of positions, so this is a choice: 12 references at t = 10, 20, ... and images of 4096×8192 pixels.
REACH = (128, 256, 512)
AXES = 4  # t, h, w, and the number of a token in its text
DOUBLE, DOUBLE_TEXT, SINGLE = "double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation"


class Flux2Modulation(NamedTuple):
    """The modulation of all blocks, and the clocks from which the read-out makes its own.

    `images` and `text` (B, L, M) are those of a double block's two streams, and `every` (B, L, M) is that of a single
    block, whose tokens are text and then images. L is 1 where all tokens are modulated alike.
    """

    images: Tensor
    text: Tensor
    every: Tensor
    own: Modulation


class ParallelSegmentAttention:
    """Attention and feed-forward layer of a single block, which run side by side, as Flux2ParallelSelfAttnProcessor.

    Stateless: one object serves every block. `lowering` is one of the functions of `unigen.core.attention`.
    diffusers passes on only what the signature of `__call__` names.
    """

    def __init__(self, lowering: Callable[..., Tensor]) -> None:
        self.lowering = lowering

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        attention_mask: None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        *,
        view: View,
    ) -> Tensor:
        from diffusers.models.embeddings import apply_rotary_emb

        hidden = attn.mlp_hidden_dim * attn.mlp_mult_factor
        qkv, forward = attn.to_qkv_mlp_proj(hidden_states).split([3 * attn.inner_dim, hidden], dim=-1)
        q, k, v = (x.unflatten(-1, (-1, attn.head_dim)) for x in qkv.chunk(3, dim=-1))
        q, k = normed(attn.norm_q, q), normed(attn.norm_k, k)
        q, k = (apply_rotary_emb(x, image_rotary_emb, sequence_dim=1) for x in (q, k))
        sight = view.sights[JOINT]
        out = attend(self.lowering, q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), sight)
        return attn.to_out(torch.cat([out, attn.mlp_act_fn(forward)], dim=-1))


class Flux2(DiffusersTransformer):
    """`config` are the arguments of `Flux2Transformer2DModel`; `pretrained` a folder or repository id, or null;
    `switches` are the keywords of `DiffusersTransformer`.

    `guidance` are the strengths that a model with `guidance_embeds` (dev) is told in `train` and `sample`, null for any
    other (klein). The network takes t in [0, 1] as it is; `predicts` is what the pretrained weights predict: 'flow'
    (noise - data) as published. Text lies at t = h = w = 0 and counts its tokens on the fourth axis, images at 0 there.
    Raises ValueError for a config whose parts do not fit each other, or guidance that does not fit it.
    """

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
        from diffusers import Flux2Transformer2DModel

        _check(config)
        check_guidance(config, guidance)
        super().__init__(Flux2Transformer2DModel, lowering, config, pretrained, predicts, **switches)
        self.guidance = guidance

    @property
    def text_width(self) -> int:
        return self.model.config.joint_attention_dim

    @property
    def latent_channels(self) -> int:
        return self.model.out_channels // (PATCH[1] * PATCH[2])

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks, double ones first."""
        return [*self.model.transformer_blocks, *self.model.single_transformer_blocks]

    def _split(self, branches: Mapping[str, str], tied: bool) -> None:
        """Give the modulation one branch for each entry of the table that it serves (SC-AdaLN).

        With one branch for all images this stays the stock model. Text has a linear of its own in double blocks; in
        single blocks it shares that of the images, and has a branch of its own only if images have several.
        """
        names = list(dict.fromkeys(branches.values()))
        visual = list(dict.fromkeys(name for role, name in branches.items() if role != TEXT))
        if len(visual) < 2:
            return
        for module, served in ((self._modulator(DOUBLE), visual), (self._modulator(SINGLE), names)):
            module.linear = BranchedProjection(module.linear, served, tied)

    def _modulator(self, name: str) -> nn.Module:
        return getattr(self.model, name)

    @property
    def branched(self) -> bool:
        """True if images have several branches of modulation; then this is no stock model."""
        return isinstance(self._modulator(DOUBLE).linear, BranchedProjection)

    def lora_targets(self) -> dict[str, str]:
        """Return the linears of each part as regular expressions over module names; `embedders` are both ends.

        Single blocks are in `attention` as a whole: each of their two linears serves attention and the feed-forward
        layer together. The last two share out `feed_forward`, which is that of double blocks.
        """
        double, single = r"transformer_blocks\.\d+\.", r"single_transformer_blocks\.\d+\."
        attention = r"attn\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
        embedded = r"time_guidance_embed\.(timestep|guidance)_embedder\.linear_[12]"
        branch = r"\.branches\.\w+" * self.branched
        return {
            "attention": rf"{double}{attention}|{single}attn\.(to_qkv_mlp_proj|to_out)",
            "modulation": rf"({DOUBLE}|{SINGLE})\.linear{branch}|{DOUBLE_TEXT}\.linear",
            "feed_forward": rf"{double}ff(_context)?\.linear_(in|out)",
            "embedders": rf"x_embedder|context_embedder|{embedded}|norm_out\.linear|proj_out",
            "feed_forward_in": rf"{double}ff(_context)?\.linear_in",
            "feed_forward_out": rf"{double}ff(_context)?\.linear_out",
        }

    def _adapt(self, lowering: Callable[..., Tensor]) -> None:
        double, single = FluxSegmentAttention(lowering), ParallelSegmentAttention(lowering)
        for blocks, attention in (
            (self.model.transformer_blocks, double),
            (self.model.single_transformer_blocks, single),
        ):
            for block in blocks:
                block.attn.set_processor(attention)

    def _call(
        self,
        block: nn.Module,
        x: Tensor,
        c: Tensor,
        modulation: Flux2Modulation,
        rope: tuple[Tensor, Tensor],
        view: View,
    ) -> tuple[Tensor, Tensor]:
        if hasattr(block, "ff"):
            c, x = block(x, c, modulation.images, modulation.text, rope, {"view": view})
        else:
            c, x = block(x, c, modulation.every, rope, {"view": view}, split_hidden_states=True)
        return x, c

    def _embedders(self) -> tuple[nn.Module, nn.Module]:
        return self.model.x_embedder, self.model.context_embedder

    def _modulation(self, tokens: Tokens, times: Mapping[str, Tensor]) -> Flux2Modulation:
        own = Modulation.at(tokens.layout, times, lambda t_B: self._embed_time(t_B, tokens.sampling))
        clocks = dict(zip(tokens.layout.names, own.clock_of, strict=True))
        images, text = (stream_of(tokens.layout, stream).segments for stream in (VISUAL_STREAM, TEXT_STREAM))
        made = (self._made(*at, own, clocks) for at in ((DOUBLE, images), (DOUBLE_TEXT, text), (SINGLE, text + images)))
        return Flux2Modulation(*made, own)

    def _made(self, name: str, segments: Sequence[Segment], own: Modulation, clocks: Mapping[str, int]) -> Tensor:
        """Return what a modulation's linear makes for these segments' tokens, (B, L, M), L = 1 if it is one for all."""
        module = self._modulator(name)
        if not segments:
            return own.clocks[0].new_zeros(1, 1, 3 * module.mod_param_sets * self.width)
        branched = isinstance(module.linear, BranchedProjection)
        keys = [(self.branches[s.role] if branched else None, clocks[s.name]) for s in segments]
        made = {}
        for branch, clock in dict.fromkeys(keys):
            linear = module.linear.branches[branch] if branched else module.linear
            made[branch, clock] = linear(module.act_fn(own.clocks[clock]))[:, None]
        if len(made) == 1:
            return made[keys[0]]
        return torch.cat([made[key].expand(-1, s.tokens, -1) for key, s in zip(keys, segments, strict=True)], dim=1)

    def _embed_time(self, t_B: Tensor, sampling: bool) -> Tensor:
        """Embed 1000 t and 1000 guidance as (B, D).

        The products and sinusoids are in fp32; diffusers rounds both to its inputs' precision (in bf16 0.9 is 0.898).
        """
        embedder = self.model.time_guidance_embed
        made = embedder.timestep_embedder(embedder.time_proj(t_B.float() * 1000).to(self.dtype))
        if self.guidance is None:
            return made
        strength = torch.full_like(t_B, self.guidance["sample" if sampling else "train"] * 1000, dtype=torch.float32)
        return made + embedder.guidance_embedder(embedder.time_proj(strength).to(self.dtype))

    def _rope(self, layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the tables of all tokens on the model's four axes."""
        return self.model.pos_embed(ids(layout).to(device))

    def _read_out(self, x_BLD: Tensor, modulation: Flux2Modulation) -> Tensor:
        segments, temb = modulation.own.layout.visual, modulation.own.temb
        x_BLD = by_clock(self.model.norm_out, x_BLD, segments, [temb[s.name] for s in segments])
        return self.model.proj_out(x_BLD)

    def _products(self, layout: Layout, mask: Mask) -> int:
        """Count 4 D² and 3 D F (F the width of a feed-forward layer, 3 D as published) for each token and block."""
        hidden = int(self.width * self.model.config.mlp_ratio)
        return len(self.blocks) * (4 * self.width + 3 * hidden) * self.width * len(layout)

    def _served(self, name: str) -> tuple[str, ...]:
        """Return the roles that a linear of the modulation serves: it is one for all blocks, split or not."""
        if name.startswith(DOUBLE_TEXT):
            return (TEXT,)
        if not name.startswith((DOUBLE, SINGLE)):
            return ()
        roles = super()._served(name) if ".branches." in name else tuple(self.branches)
        return roles if name.startswith(SINGLE) else tuple(role for role in roles if role != TEXT)

    def _takes(self, name: str) -> str:
        """Return the tokens of a linear: double blocks have one for each stream, single blocks one for both."""
        if name.startswith((DOUBLE, DOUBLE_TEXT, SINGLE, "time_guidance_embed", "norm_out")):
            return "one"
        if name == "context_embedder" or any(part in name for part in ("add_", "ff_context")):
            return "text"
        return "every" if name.startswith("single_") else "visual"

    def _stock_state(self) -> dict[str, Tensor]:
        if self.branched:
            raise ValueError(
                "conditioning.modulation.branches has the visual branches "
                f"{', '.join(self._modulator(DOUBLE).linear.branches)}; "
                "only a model with one can be saved as a stock model (conditioning/modulation=shared)"
            )
        return self.model.state_dict()


@kept(maxsize=256)
def ids(layout: Layout) -> Tensor:
    """Return the positions of every token on the axes t, h, w and l, (L, 4): each text counts its tokens on l."""
    number = [torch.arange(s.tokens) * (s.stream == TEXT_STREAM) for s in layout.segments]
    three = positions(layout)
    return torch.cat([three, torch.cat(number)[:, None].to(three.dtype)], dim=1)


def _check(config: Mapping[str, Any]) -> None:
    """Raise ValueError for positions that do not fill a head."""
    axes, head = config["axes_dims_rope"], config["attention_head_dim"]
    even = all(isinstance(width, int) and width % 2 == 0 for width in axes)
    if len(axes) != AXES or not even or sum(axes) != head:
        raise ValueError(
            f"backbone.config.axes_dims_rope is {list(axes)}; it must be four even numbers with the sum "
            f"attention_head_dim ({head})"
        )
