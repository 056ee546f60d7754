"""HunyuanVideo-1.5, text to video, as a unigen backbone: diffusers' `HunyuanVideo15Transformer3DModel`, adapted.

Every block has two streams, images and text, that meet in one attention. This family is unusual in its text: before
the blocks a refiner, two small transformer blocks on the prompt alone, is modulated by the text's time and by the mean
of the prompt. Text on the step's clock is thus another one at every step, and is computed anew.

Glyph tokens (ByT5, of words in quotation marks) are the last ones of a text segment, if `glyphs` says that there are
any. The stock model hides them from all others where there is nothing to spell, which is the same as no tokens. Its
image tokens (SigLIP) are left out, and with them their embedder: text to video hides them so. The channels beside the
noised latents, which hold the given frames of an image-to-video model, are zeros.

Shapes: B batch, H heads, L tokens, D width (in attention: of a head), P patch features.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from unigen.backbones.base import JOINT, DiffusersTransformer, View, attend, normed
from unigen.core.layout import TEXT_STREAM, VISUAL_STREAM, Layout, Segment, stream_of
from unigen.core.masks import Mask
from unigen.core.tokens import Tokens
from unigen.core.types import TEXT
from unigen.nn.adaln_zero import VISUAL, BranchedAdaLayerNorm, stock_state
from unigen.nn.modulation import Modulation, by_clock
from unigen.nn.rope import layout_rotary

# The model has no table of positions that would end, so this is a choice: the 31 latent frames of 121 frames, which is
# what diffusers samples by default, and 4096 by 8192 pixels at 16 a token.
REACH = (31, 256, 512)
PROMPT, GLYPH = 0, 1  # the rows of `cond_type_embed` for the prompt's tokens and for glyphs; 2 is for images
OF_GLYPHS, OF_IMAGES = "context_embedder_2", "image_embedder"  # the embedders of both


class HunyuanSegmentAttention:
    """Attention over [text, images] with per-head norms and RoPE on the images, as diffusers' own processor has it.

    The stock order is images, text: that changes rounding alone. Stateless: one object serves every block. `lowering`
    is one of the functions of `unigen.core.attention`. The view comes in the place of the mask, which a stock block
    hands on as it is.
    """

    def __init__(self, lowering: Callable[..., Tensor]) -> None:
        self.lowering = lowering

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: View,
        image_rotary_emb: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        q, k, v = _heads(attn, hidden_states, encoder_hidden_states, image_rotary_emb)
        out = attend(self.lowering, q, k, v, attention_mask.sights[JOINT])
        text = encoder_hidden_states.shape[1]
        # contiguous, so that kernels do not differ with the strides
        images, words = out[:, text:].contiguous(), out[:, :text].contiguous()
        return attn.to_out[1](attn.to_out[0](images)), attn.to_add_out(words)


def _heads(
    attn: nn.Module, x_BLD: Tensor, text_BLD: Tensor, rope: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values (B, H, L, D), text first."""
    from diffusers.models.embeddings import apply_rotary_emb

    def split(to: nn.Module, tokens: Tensor) -> Tensor:
        return to(tokens).unflatten(-1, (attn.heads, -1))

    q, k = normed(attn.norm_q, split(attn.to_q, x_BLD)), normed(attn.norm_k, split(attn.to_k, x_BLD))
    q, k = (apply_rotary_emb(x, rope, sequence_dim=1) for x in (q, k))
    q = torch.cat([normed(attn.norm_added_q, split(attn.add_q_proj, text_BLD)), q], dim=1)
    k = torch.cat([normed(attn.norm_added_k, split(attn.add_k_proj, text_BLD)), k], dim=1)
    v = torch.cat([split(attn.add_v_proj, text_BLD), split(attn.to_v, x_BLD)], dim=1)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


class HunyuanVideo15(DiffusersTransformer):
    """`config` are the arguments of `HunyuanVideo15Transformer3DModel`; `pretrained` a folder or repository id, or
    null; `switches` are the keywords of `DiffusersTransformer`.

    The network takes 1000 t; `predicts` is what the pretrained weights predict: 'flow' (noise - data) as published.
    Text enters the refiner at the time at which it is modulated in the blocks, and each text segment by itself, so a
    later turn of a session does not reach an earlier one. `config.target_size` and `config.task_type` say of weights
    what they were trained for, and decide nothing here. `glyphs` is the number of glyph tokens at the end of each text,
    of which `text_embed_2_dim` features are read (256 as published; `encoder/text=qwen2_5_vl_glyphs` makes them); 0:
    the text has none. `unread` has the stock weights that this model does not read, for exports: those that were
    loaded, or zeros.
    Raises ValueError for a config whose parts do not fit each other, and for a form of the model with other inputs.
    """

    reach = REACH
    limits = ("target_size", "task_type")

    def __init__(
        self,
        config: Mapping[str, Any],
        lowering: Callable[..., Tensor],
        pretrained: str | None = None,
        predicts: str = "flow",
        glyphs: int = 0,
        **switches: Any,
    ) -> None:
        from diffusers import HunyuanVideo15Transformer3DModel

        _check(config, glyphs)
        super().__init__(HunyuanVideo15Transformer3DModel, lowering, config, pretrained, predicts, **switches)
        self.glyph_tokens, self.unread = glyphs, {}
        for part in (OF_IMAGES,) if glyphs else (OF_GLYPHS, OF_IMAGES):
            for name, tensor in getattr(self.model, part).state_dict().items():
                self.unread[f"{part}.{name}"] = torch.zeros_like(tensor) if pretrained is None else tensor
            delattr(self.model, part)

    @property
    def patch(self) -> tuple[int, int, int]:
        return self.model.config.patch_size_t, self.model.config.patch_size, self.model.config.patch_size

    @property
    def text_width(self) -> int:
        return self.model.config.text_embed_dim

    @property
    def latent_channels(self) -> int:
        return self.model.config.out_channels

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks, in the order in which tokens pass them."""
        return list(self.model.transformer_blocks)

    @property
    def refiner(self) -> nn.Module:
        """The part that prepares a prompt: see `_refined`."""
        return self.model.context_embedder

    def _split(self, branches: Mapping[str, str], tied: bool) -> None:
        """Give the norms of both streams one modulation branch for each entry of the table that they serve (SC-AdaLN).

        The gates of the refiner, which belong to text alone, are not split.
        """
        for block in self.blocks:
            block.norm1 = BranchedAdaLayerNorm(block.norm1, branches, tied, VISUAL)
            block.norm1_context = BranchedAdaLayerNorm(block.norm1_context, branches, tied, TEXT)

    def lora_targets(self) -> dict[str, str]:
        """Return the linears of each part as regular expressions over module names; `embedders` are both ends, and the
        refiner. The patch embedding is a convolution. The last two share out `feed_forward`.
        """
        block = r"transformer_blocks\.\d+\."
        linears = r"to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out"
        timed = r"time_embed\.timestep_embedder\.linear_[12]"
        refined = r"attn\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2)|norm_out\.linear"
        told = r"time_text_embed\.(timestep|text)_embedder\.linear_[12]"
        refiner = rf"context_embedder\.(proj_in|{told}|token_refiner\.refiner_blocks\.\d+\.({refined}))"
        return {
            "attention": rf"{block}attn\.({linears})",
            "modulation": rf"{block}norm1(_context)?\.branches\.\w+",
            "feed_forward": rf"{block}ff(_context)?\.net\.(0\.proj|2)",
            "embedders": rf"x_embedder\.proj|{refiner}|{timed}|norm_out\.linear|proj_out",
            "feed_forward_in": rf"{block}ff(_context)?\.net\.0\.proj",
            "feed_forward_out": rf"{block}ff(_context)?\.net\.2",
        }

    def _adapt(self, lowering: Callable[..., Tensor]) -> None:
        processor = HunyuanSegmentAttention(lowering)
        for block in self.blocks:  # the model's own method would set it in the refiner too
            block.attn.set_processor(processor)

    def _call(
        self, block: nn.Module, x: Tensor, c: Tensor, modulation: Modulation, rope: tuple[Tensor, Tensor], view: View
    ) -> tuple[Tensor, Tensor]:
        return block(x, c, modulation, view, rope)

    def _embedders(self) -> tuple[Callable[[Tensor], Tensor], nn.Module]:
        return self._embed_patches, self.refiner

    def _embed_patches(self, x_BLP: Tensor) -> Tensor:
        """Embed each token's own cube of latents, with zeros for the channels of given frames."""
        cubes = x_BLP.reshape(-1, self.latent_channels, *self.patch)
        given = self.model.config.in_channels - self.latent_channels
        cubes = torch.cat([cubes, cubes.new_zeros(len(cubes), given, *self.patch)], dim=1)
        return self.model.x_embedder.proj(cubes).view(*x_BLP.shape[:2], -1)

    def _embed_text(self, tokens: Tokens, texts: Sequence[Segment], times: Mapping[str, Tensor]) -> Tensor:
        """Refine the words of each text by themselves, at its own time, and embed its glyphs."""
        valid = tokens.valid or {}
        made = [self._one_text(tokens.features[s.name], times[s.name], valid.get(s.name)) for s in texts]
        return torch.cat(made, dim=1)

    def _one_text(self, text_BTP: Tensor, t_B: Tensor, valid_BT: Tensor | None) -> Tensor:
        """Return the tokens (B, T, D) of a text, each with the vector of its kind."""
        words, kinds = text_BTP.shape[1] - self.glyph_tokens, self.model.cond_type_embed.weight.to(self.dtype)
        refined = self._refined(text_BTP[:, :words], t_B, None if valid_BT is None else valid_BT[:, :words])
        refined = refined + kinds[PROMPT]
        if not self.glyph_tokens:
            return refined
        glyphs = text_BTP[:, words:, : self.model.config.text_embed_2_dim].to(self.dtype)
        return torch.cat([refined, getattr(self.model, OF_GLYPHS)(glyphs) + kinds[GLYPH]], dim=1)

    def _refined(self, text_BTP: Tensor, t_B: Tensor, valid_BT: Tensor | None) -> Tensor:
        """Return a prompt's tokens (B, T, D), which attend to each other and are gated by the time and by their mean.

        Padding (not `valid`) counts for neither, but is a query, unlike in the stock model, where it has no key at all;
        it is hidden from everything else. Where all is padding, as in a sample that hides its text, all counts.
        """
        text_BTP = text_BTP.to(self.dtype)
        mean_BP, keys_B11T = text_BTP.mean(dim=1), None
        if valid_BT is not None:
            counted_BT = valid_BT | ~valid_BT.any(dim=1, keepdim=True)
            share_BT = counted_BT.float() / counted_BT.sum(dim=1, keepdim=True)
            mean_BP = (text_BTP * share_BT[..., None]).sum(dim=1).to(self.dtype)
            keys_B11T = counted_BT[:, None, None]
        temb_BD = self.refiner.time_text_embed(t_B.float() * 1000, mean_BP)
        x_BTD = self.refiner.proj_in(text_BTP)
        for block in self.refiner.token_refiner.refiner_blocks:
            x_BTD = block(x_BTD, temb_BD, keys_B11T)
        return x_BTD

    def _modulation(self, tokens: Tokens, times: Mapping[str, Tensor]) -> Modulation:
        return Modulation.at(tokens.layout, times, self._embed_time)

    def _embed_time(self, t_B: Tensor) -> Tensor:
        """Embed 1000 t as (B, D). Its sines are in fp32; diffusers rounds the time to its inputs' precision before."""
        embed = self.model.time_embed
        return embed.timestep_embedder(embed.time_proj(t_B.float() * 1000).to(self.dtype))

    def _rope(self, layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the tables of the images: text has no position."""
        config = self.model.config
        return layout_rotary(stream_of(layout, VISUAL_STREAM), tuple(config.rope_axes_dim), config.rope_theta, device)

    def _read_out(self, x_BLD: Tensor, modulation: Modulation) -> Tensor:
        segments, temb = modulation.layout.visual, modulation.temb
        x_BLD = by_clock(self.model.norm_out, x_BLD, segments, [temb[s.name] for s in segments])
        return self.model.proj_out(x_BLD)

    def flops(self, layout: Layout, mask: Mask) -> dict[str, int]:
        """Add the attention of the refiner, in which the words of each text attend to themselves."""
        cost = super().flops(layout, mask)
        pairs = sum((s.tokens - self.glyph_tokens) ** 2 for s in layout.segments if s.stream == TEXT_STREAM)
        return cost | {"attention": cost["attention"] + self.model.config.num_refiner_layers * 4 * self.width * pairs}

    def _products(self, layout: Layout, mask: Mask) -> int:
        """Count 4 D² in attention and 2 D F in the feed-forward layers for each token and block, of either stream."""
        forward = 2 * self.model.config.mlp_ratio
        return int(len(self.blocks) * (4 + forward) * self.width**2 * len(layout))

    def _end_products(self, layout: Layout) -> int:
        """Count the channels of given frames, which are zeros, too, 12 D² in each block of the refiner for words, and
        three linears for glyphs.
        """
        config, texts = self.model.config, sum(s.stream == TEXT_STREAM for s in layout.segments)
        spelt = self.glyph_tokens * texts
        text = len(layout) - layout.image_tokens - spelt
        ends = (config.in_channels + config.out_channels) * prod(self.patch) * layout.image_tokens
        refined = config.text_embed_dim + config.num_refiner_layers * 12 * self.width
        linears = (
            [module for module in getattr(self.model, OF_GLYPHS).children() if isinstance(module, nn.Linear)]
            if spelt
            else ()
        )
        return (ends + refined * text) * self.width + spelt * sum(linear.weight.numel() for linear in linears)

    def _takes(self, name: str) -> str:
        """Return the tokens of a linear; what makes modulation or gates is applied once a clock."""
        if "norm" in name or name.startswith("time_embed") or ".time_text_embed." in name:
            return "one"
        text = name.startswith("context_embedder") or any(part in name for part in ("add_", "ff_context"))
        return "text" if text else "visual"

    def _unheard(self) -> str:
        return rf"transformer_blocks\.{len(self.blocks) - 1}\.(attn\.to_add_out|ff_context)\."

    def _stock_state(self) -> dict[str, Tensor]:
        return stock_state(self.model) | self.unread


def _check(config: Mapping[str, Any], glyphs: int) -> None:
    """Raise ValueError for another form of the model, and for sizes that do not fit each other."""
    if isinstance(glyphs, bool) or not isinstance(glyphs, int) or glyphs < 0:
        raise ValueError(f"backbone.glyphs is {glyphs!r}; legal are whole numbers from 0, the number of glyph tokens")
    if config.get("use_meanflow"):
        raise ValueError(
            "backbone.config.use_meanflow is true: this is the step-distilled form, which is told a second time; legal "
            "is false"
        )
    if config["qk_norm"] != "rms_norm":
        raise ValueError(f"backbone.config.qk_norm is {config['qk_norm']!r}; legal is rms_norm")
    axes, head = config["rope_axes_dim"], config["attention_head_dim"]
    if len(axes) != 3 or not all(isinstance(width, int) and width % 2 == 0 for width in axes) or sum(axes) != head:
        raise ValueError(
            f"backbone.config.rope_axes_dim is {list(axes)}; it must be three even numbers with the sum "
            f"attention_head_dim ({head})"
        )
    if config["in_channels"] < config["out_channels"]:
        raise ValueError(
            f"backbone.config.in_channels is {config['in_channels']}; the model reads all that it predicts, so it must "
            f"be at least out_channels ({config['out_channels']}); the others are zeros"
        )
