"""Qwen-Image and Qwen-Image-Edit as a unigen backbone: diffusers' `QwenImageTransformer2DModel`, adapted to `Tokens`.

Every block has two streams, text and images, that meet in one attention. This family is unusual in three things. Text
lies on a diagonal of all three axes, which starts behind the images, so where it lies depends on the whole layout. The
prompt's padding is hidden from attention (`Tokens.valid`). A third of the weights makes the modulation, block by block.

Shapes: B batch, H heads, L tokens, D width (in attention: of a head).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil, floor
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unigen.backbones.base import DiffusersTransformer, View
from unigen.backbones.flux import FluxSegmentAttention
from unigen.core.layout import TEXT_STREAM, VISUAL_STREAM, Layout, Segment, kept, positions
from unigen.core.masks import Mask
from unigen.core.tokens import Tokens
from unigen.core.types import TEXT
from unigen.nn.adaln_zero import stock_state
from unigen.nn.modulation import BranchedProjection, Modulation, by_clock
from unigen.nn.rope import rotary

PATCH = (1, 2, 2)  # 2×2 latent cells are packed into one token before the model sees them
# The stock model looks positions up in a table of -4096..4095; ours are computed and end nowhere, so this is a choice:
# 16 images, and 8192 pixels along a side.
REACH = (16, 256, 512)
ROPE_THETA = 10_000.0
OTHER_FORMS = {  # of the architecture, which need inputs that `Tokens` do not have
    "guidance_embeds": "a guidance-distilled form, which diffusers itself cannot run",
    "use_additional_t_cond": "the layered form, which is told whether an image has an alpha channel",
    "use_layer3d_rope": "the layered form, whose last image lies at position -1",
}


class Spread(NamedTuple):
    """A modulation that differs by segment, where a stock block expects (B, 6 D): `values` (B, n) for `tokens` each.

    A block chunks it by width and then inserts the token axis; only there is a value repeated for its tokens.
    """

    tokens: tuple[int, ...]
    values: tuple[Tensor, ...]

    def chunk(self, chunks: int, dim: int) -> tuple["Spread", ...]:
        parts = zip(*(value.chunk(chunks, dim) for value in self.values), strict=True)
        return tuple(Spread(self.tokens, part) for part in parts)

    def unsqueeze(self, axis: int) -> Tensor:
        """Return (B, L, n)."""
        assert axis == 1
        each = zip(self.tokens, self.values, strict=True)
        return torch.cat([value[:, None].expand(-1, tokens, -1) for tokens, value in each], dim=1)


class StreamModulation(nn.Sequential):
    """The modulation of one stream in a block, SiLU and a linear D -> 6 D, with one branch for each role's name.

    `serves` is the stream. Each branch starts as the stock linear, so at initialisation the block equals the stock one
    bit for bit for every table. `tied` branches share the frozen stock parameters; otherwise each is a copy.
    """

    def __init__(self, stock: nn.Sequential, branches: Mapping[str, str], tied: bool, serves: str) -> None:
        table = {role: name for role, name in branches.items() if (role == TEXT) == (serves == TEXT_STREAM)}
        super().__init__(stock[0], BranchedProjection(stock[1], list(dict.fromkeys(table.values())), tied))
        self.table, self.serves, self.width = table, serves, stock[1].out_features

    def forward(self, emb: Modulation) -> Tensor | Spread:
        """Return (B, 6 D) if all served segments are modulated alike, else a `Spread`."""
        pairs = zip(emb.layout.segments, emb.clock_of, strict=True)
        served = [(s.tokens, (self.table[s.role], clock)) for s, clock in pairs if s.stream == self.serves]
        if not served:  # the stream has no tokens in this call
            return emb.clocks[0].new_zeros(len(emb.clocks[0]), self.width)
        distinct = dict.fromkeys(key for _, key in served)
        made = {(b, c): self[1].branches[b](self[0](emb.clocks[c])) for b, c in distinct}
        if len(made) == 1:
            return made[served[0][1]]
        return Spread(tuple(tokens for tokens, _ in served), tuple(made[key] for _, key in served))


class QwenSegmentAttention(FluxSegmentAttention):
    """FLUX's attention of a double block, in the signature that diffusers calls here; the view has the stock mask."""

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_mask: None = None,
        attention_mask: None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        *,
        view: View,
    ) -> tuple[Tensor, Tensor]:
        return super().__call__(attn, hidden_states, encoder_hidden_states, None, image_rotary_emb, view=view)


class QwenImage(DiffusersTransformer):
    """`config` are the arguments of `QwenImageTransformer2DModel`; `pretrained` a folder or repository id, or null;
    `switches` are the keywords of `DiffusersTransformer`.

    The network takes t in [0, 1] as it is; `predicts` is what the pretrained weights predict: 'flow' (noise - data) as
    published. `config.zero_cond_t` (Edit-2511) says of stock weights that conditions are modulated at time 0. Here
    conditioning.modulation.timing decides that, by `condition: own`, and the key is only kept for exports.
    Raises ValueError for a config whose parts do not fit each other, and for forms of the model that need other inputs.
    """

    patch = PATCH
    reach = REACH
    limits = ("zero_cond_t",)

    def __init__(
        self,
        config: Mapping[str, Any],
        lowering: Callable[..., Tensor],
        pretrained: str | None = None,
        predicts: str = "flow",
        **switches: Any,
    ) -> None:
        from diffusers import QwenImageTransformer2DModel

        _check(config)
        super().__init__(QwenImageTransformer2DModel, lowering, config, pretrained, predicts, **switches)

    @property
    def text_width(self) -> int:
        return self.model.config.joint_attention_dim

    @property
    def latent_channels(self) -> int:
        return self.model.config.out_channels

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks, in the order in which tokens pass them."""
        return list(self.model.transformer_blocks)

    def placed(self, layout: Layout) -> Layout:
        """Return the layout with the texts, one after another, on the diagonal behind the images.

        The stock model counts rows and columns of every image from its middle, and text begins half the longest side
        behind that. Here the middle is that of the box around all images, which is the same for images that lie as the
        stock model has them. A layout that is moved as a whole in h and w is thus the same to the network.
        """
        if not layout.visual:
            return layout
        start, found = _behind(layout.visual), []
        for s in layout.segments:
            if s.stream == TEXT_STREAM:
                s, start = replace(s, origin=start), tuple(at + s.tokens for at in start)
            found.append(s)
        return Layout(tuple(found))

    def _split(self, branches: Mapping[str, str], tied: bool) -> None:
        """Give the modulation of both streams one branch for each entry of the table that it serves (SC-AdaLN)."""
        for block in self.blocks:
            block.img_mod = StreamModulation(block.img_mod, branches, tied, VISUAL_STREAM)
            block.txt_mod = StreamModulation(block.txt_mod, branches, tied, TEXT_STREAM)

    def lora_targets(self) -> dict[str, str]:
        """Return the linears of each part as regular expressions over module names; `embedders` are both ends.

        The last two share out `feed_forward`.
        """
        block = r"transformer_blocks\.\d+\."
        linears = "to_q|to_k|to_v|to_out\\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out"
        embedded = r"time_text_embed\.timestep_embedder\.linear_[12]"
        return {
            "attention": rf"{block}attn\.({linears})",
            "modulation": rf"{block}(img|txt)_mod\.1\.branches\.\w+",
            "feed_forward": rf"{block}(img|txt)_mlp\.net\.(0\.proj|2)",
            "embedders": rf"img_in|txt_in|{embedded}|norm_out\.linear|proj_out",
            "feed_forward_in": rf"{block}(img|txt)_mlp\.net\.0\.proj",
            "feed_forward_out": rf"{block}(img|txt)_mlp\.net\.2",
        }

    def _adapt(self, lowering: Callable[..., Tensor]) -> None:
        processor = QwenSegmentAttention(lowering)
        for block in self.blocks:
            block.attn.set_processor(processor)
            block.zero_cond_t = False  # the stock block would cut the batch of time embeddings in two

    def _call(
        self, block: nn.Module, x: Tensor, c: Tensor, modulation: Modulation, rope: tuple[Tensor, Tensor], view: View
    ) -> tuple[Tensor, Tensor]:
        c, x = block(x, c, None, modulation, rope, {"view": view})
        return x, c

    def _embedders(self) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        return self.model.img_in, lambda text_BLD: self.model.txt_in(self.model.txt_norm(text_BLD))

    def _modulation(self, tokens: Tokens, times: Mapping[str, Tensor]) -> Modulation:
        return Modulation.at(tokens.layout, times, self._embed_time)

    def _embed_time(self, t_B: Tensor) -> Tensor:
        """Embed 1000 t as (B, D). The product is in fp32; diffusers rounds t to its inputs' precision before it."""
        embed = self.model.time_text_embed
        return embed.timestep_embedder(embed.time_proj(t_B.float()).to(self.dtype))

    def _rope(self, layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the tables of all tokens, text on its diagonal."""
        return _tables(layout, tuple(self.model.config.axes_dims_rope), device)

    def _read_out(self, x_BLD: Tensor, modulation: Modulation) -> Tensor:
        segments, temb = modulation.layout.visual, modulation.temb
        x_BLD = by_clock(self.model.norm_out, x_BLD, segments, [temb[s.name] for s in segments])
        return self.model.proj_out(x_BLD)

    def _products(self, layout: Layout, mask: Mask) -> int:
        """Count 12 D² for each token and block: 4 in attention and 8 in the feed-forward layers of either stream."""
        return len(self.blocks) * 12 * self.width**2 * len(layout)

    def _takes(self, name: str) -> str:
        """Return the tokens of a linear; a modulation's is applied once a clock."""
        if "_mod." in name or name.startswith(("norm_out", "time_text_embed")):
            return "one"
        return "text" if name == "txt_in" or any(part in name for part in ("add_", "txt_mlp")) else "visual"

    def _unheard(self) -> str:
        return rf"transformer_blocks\.{len(self.blocks) - 1}\.(attn\.to_add_out|txt_mlp)\."

    def _stock_state(self) -> dict[str, Tensor]:
        names = dict.fromkeys(name for role, name in self.branches.items() if role != TEXT)
        if len(names) > 1:
            raise ValueError(
                f"conditioning.modulation.branches has the visual branches {', '.join(names)}; "
                "only a model with one can be saved as a stock model (conditioning/modulation=shared)"
            )
        return stock_state(self.model)


def _behind(images: Sequence[Segment]) -> tuple[int, int, int]:
    """Return where the first token of the text lies: half the longest side of the images' box behind its middle."""
    halves, middles = [], []
    for axis in (1, 2):
        first = floor(min(s.origin[axis] for s in images))
        last = ceil(max(s.origin[axis] + s.step[axis] * (s.grid[axis] - 1) for s in images))
        side = last - first + 1
        halves.append(side // 2)
        middles.append(first + side - side // 2)
    half = max(halves)
    return half, half + middles[0], half + middles[1]


@kept(maxsize=64)
def _tables(layout: Layout, widths: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (cos, sin), each fp32 (L, D), of a layout whose texts begin at their origins and go on along all axes."""
    where = positions(layout).clone()
    for s in layout.segments:
        if s.stream == TEXT_STREAM:
            where[layout.slices[s.name]] = torch.tensor(s.origin) + torch.arange(s.tokens)[:, None]
    cos, sin = rotary(where, widths, ROPE_THETA)
    return cos.to(device), sin.to(device)


def _check(config: Mapping[str, Any]) -> None:
    """Raise ValueError for another form of the model, and for sizes that do not fit each other."""
    if odd := next((key for key in OTHER_FORMS if config.get(key)), None):
        raise ValueError(f"backbone.config.{odd} is true: this is {OTHER_FORMS[odd]}; legal is false")
    axes, head = config["axes_dims_rope"], config["attention_head_dim"]
    if len(axes) != 3 or not all(isinstance(width, int) and width % 2 == 0 for width in axes) or sum(axes) != head:
        raise ValueError(
            f"backbone.config.axes_dims_rope is {list(axes)}; it must be three even numbers with the sum "
            f"attention_head_dim ({head})"
        )
    if config["in_channels"] != 4 * config["out_channels"]:
        raise ValueError(
            f"backbone.config.in_channels is {config['in_channels']}; a token is 2×2 cells of out_channels "
            f"({config['out_channels']}) channels, so it must be {4 * config['out_channels']}"
        )
