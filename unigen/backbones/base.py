"""What all backbones share: `Tokens` through the blocks of a diffusers transformer, under a mask and with a memory.

The blocks are diffusers' own. The layout reaches the modulation in the place of `temb`, and attention as the `view` in
its keyword arguments, so no state is shared between calls, and gradient checkpointing recomputes with the very same.

Shapes: B batch, H heads, L tokens, D width (in attention: of a head), P patch features.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unigen.backbones.speed import checked_interval, compile_blocks
from unigen.layout import TEXT_STREAM, Layout
from unigen.masks import Mask, attended_pairs
from unigen.nn.kernels import try_kernel, with_kernel
from unigen.nn.modulation import Modulation
from unigen.nn.quantized import check, quantize_frozen
from unigen.tokens import Tokens
from unigen.weights import load_pretrained


@dataclass
class Memory:
    """Keys and values (B, H, L, D) of static segments, one pair for each block, computed once and reused."""

    layout: Layout
    valid: Tensor | None = None
    blocks: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class View(NamedTuple):
    """What a block's attention is told: whose queries these are, and what they may see.

    `valid` (B, L) are the keys that are no padding, the remembered ones first (None: all); `known` the layout, keys and
    values that this block remembers; `record` takes this call's keys and values.
    """

    layout: Layout
    mask: Mask
    valid: Tensor | None = None
    known: tuple[Layout, Tensor, Tensor] | None = None
    record: list[tuple[Tensor, Tensor]] | None = None


def attend(lowering: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    """(B, L, H D) from queries, keys and values (B, H, L, D) of the layout, by a function of `unigen.attention`."""
    if view.record is not None:
        view.record.append((k, v))
    keys = view.layout
    if view.known is not None:
        layout, known_k, known_v = view.known
        keys, k, v = layout + keys, torch.cat([known_k, k], dim=2), torch.cat([known_v, v], dim=2)
    return lowering(q, k, v.to(q.dtype), view.layout, keys, view.mask, view.valid).transpose(1, 2).flatten(2)


class JointTransformer(nn.Module):
    """A diffusers transformer of joint blocks, built by the class `stock` from `config` or loaded (`pretrained`).

    `predicts` is what loaded weights were trained to predict, as processes call it; None for others.
    `attention` makes the attention processor from a function of `unigen.attention`, whose mask-free calls `kernel` does
    (`unigen.nn.kernels`); `quantize` is for `quantize_frozen` (`unigen.nn.quantized`). `checkpoint_every` (with
    `gradient_checkpointing`) and `compile`: `unigen.backbones.speed`.
    A subclass says how its model embeds (`_embed`, `_embed_time`), places (`_rope`) and reads out (`_norm_out`), what
    its `blocks` are, and whether they return the pictures first, as they take them.
    """

    folders = ("transformer",)  # where a pipeline keeps what `pretrained` names
    limits: tuple[
        str, ...
    ] = ()  # of `config`, what decides neither weights nor function: loaded weights bring their own
    axes = ("t", "h", "w")
    pictures_first = True
    patch: tuple[int, int, int]
    text_width: int
    latent_channels: int
    context_width: int

    def __init__(
        self,
        stock: type[nn.Module],
        attention: Callable[[Callable[..., Tensor]], Any],
        lowering: Callable[..., Tensor],
        config: Mapping[str, Any],
        pretrained: str | None,
        predicts: str,
        *,
        gradient_checkpointing: bool = False,
        checkpoint_every: int = 1,
        compile: Mapping[str, Any] | None = None,
        kernel: str | None = None,
        quantize: str | None = None,
    ) -> None:
        super().__init__()
        self.predicts = None if pretrained is None else predicts
        decisive = {name: value for name, value in config.items() if name not in self.limits}
        load = load_pretrained(stock, pretrained, "backbone.pretrained", self.folders[0], decisive)
        self.model = load or stock(**config)
        self.kernel, self.quantize = kernel, quantize
        self.model.set_attn_processor(attention(with_kernel(lowering, kernel)))
        self.checkpoint_every = checked_interval(checkpoint_every)
        if gradient_checkpointing:
            self.model.enable_gradient_checkpointing()
        if compile is not None:
            compile_blocks(self.blocks, compile)

    @property
    def blocks(self) -> list[nn.Module]:
        """In the order in which tokens pass them."""
        raise NotImplementedError

    def stock(self) -> nn.Module:
        """The model as diffusers builds it, with copies of these weights.

        Raises ValueError for a model that is no stock model any more: with adapters, or several branches in a norm.
        """
        if getattr(self.model, "peft_config", None):
            raise ValueError("a backbone with a LoRA is no stock model; train with conditioning/adapter=full")
        stock = type(self.model).from_config(self.model.config)
        stock.load_state_dict(self._stock_state())
        return stock

    def forward(
        self,
        tokens: Tokens,
        times: Mapping[str, Tensor],
        mask: Mask,
        memory: Memory | None = None,
        record: Memory | None = None,
    ) -> dict[str, Tensor]:
        """Predictions (B, L_segment, P) for every visual segment of `tokens`; P does not count a context.

        `times` maps a segment to its modulation time t_B in [0, 1]; segments that share a clock share
        the tensor. With `memory`, its segments are attended to without being computed again; with
        `record`, this call's keys and values are kept there.
        """
        layout = tokens.layout
        visual = [self._input(tokens, s.name) for s in layout.visual]
        assert all(s.stream == TEXT_STREAM for s in layout.segments[: len(layout.segments) - len(visual)])
        text = [tokens.features[s.name] for s in layout.segments if s.stream == TEXT_STREAM]
        embed_picture, embed_text = self._embedders()
        dtype = self.model.proj_out.weight.dtype  # bf16 where the weights themselves are (trainer.precision=bf16-true)
        x = embed_picture(torch.cat(visual, dim=1).to(dtype)) if visual else None
        c = embed_text(torch.cat(text, dim=1).to(dtype)) if text else x[:, :0]
        x = c[:, :0] if x is None else x
        modulation = self._modulation(tokens, times)
        view = View(layout, mask, _valid_keys(tokens, memory), record=None if record is None else record.blocks)
        return self._head(self._through_blocks(x, c, modulation, view, memory), modulation)

    def remember(self, tokens: Tokens, times: Mapping[str, Tensor], mask: Mask) -> Memory:
        """Keys and values of these tokens in every block, to be attended to without computing them again."""
        memory = Memory(tokens.layout, tokens.valid_keys())
        self(tokens, times, mask, record=memory)
        return memory

    def flops(self, layout: Layout, mask: Mask) -> dict[str, int]:
        """Forward FLOPs of one sample (a multiply-add is 2): `linear` layers of the blocks and `attention`.

        Attention counts only pairs that the mask lets through. Adapters are not counted. A block costs 12 D² for each
        token: 4 + 8, or 3 + 4 + 5 in a single one of Flux, where two products are fused.
        """
        c, blocks = self.model.config, len(self.blocks)
        width = c.num_attention_heads * c.attention_head_dim
        visual = sum(s.tokens for s in layout.visual)
        made = self.latent_channels * prod(self.patch)
        ends = visual * (2 * made + self.context_width) + (len(layout) - visual) * self.text_width
        return {
            "linear": 2 * (blocks * 12 * width * width * len(layout) + ends * width),
            "attention": blocks * 4 * width * attended_pairs(layout, layout, mask),
        }

    def adapter_flops(self, layout: Layout) -> int:
        """Forward FLOPs of one sample in LoRA: 2 r (inputs + outputs) for each token that an adapted linear takes.

        Modulation and time embeddings are made once a sample: each counts as one token.
        """
        visual = sum(s.tokens for s in layout.visual)
        tokens = {"visual": visual, "text": len(layout) - visual, "every": len(layout), "one": 1}
        total = 0
        for name, module in self.model.named_modules():
            for which, down in getattr(module, "lora_A", {}).items():
                sizes = down.in_features + module.lora_B[which].out_features
                total += 2 * down.out_features * sizes * tokens[self._takes(name)]
        return total

    def quantize_frozen(self) -> int:
        """Keep the frozen linears of the blocks in few bits, if `quantize` says so, once they are known to be frozen.

        Returns how many. Of a model of shapes alone (meta) none is.
        """
        if self.quantize is None:
            return 0
        if next(self.model.parameters()).is_meta:
            check(self.quantize)
            return 0
        return quantize_frozen(self.blocks, self.quantize)

    def try_kernel(self, device: torch.device) -> None:
        """Raises ConfigError if the chosen attention kernel cannot do a training step on this device."""
        if self.kernel is not None:
            try_kernel(self.kernel, self.model.config.attention_head_dim, self.model.proj_out.weight.dtype, device)

    def _modulation(self, tokens: Tokens, times: Mapping[str, Tensor]) -> Modulation:
        """Each segment's time embedding; a clock that segments share is embedded once."""
        own = Modulation.of(tokens.layout, times)
        return own._replace(clocks=tuple(self._embed_time(t_B, tokens) for t_B in own.clocks))

    def _through_blocks(
        self, x: Tensor, c: Tensor, modulation: Modulation, view: View, memory: Memory | None
    ) -> Tensor:
        """The pictures (B, L, D) after all blocks."""
        rope = self._rope(view.layout, x.device)
        checkpoint = self.model.gradient_checkpointing and torch.is_grad_enabled()
        for number, block in enumerate(self.blocks):
            if memory is not None:
                view = view._replace(known=(memory.layout, *memory.blocks[number]))
            again = checkpoint and number % self.checkpoint_every == 0
            run = partial(self.model._gradient_checkpointing_func, block) if again else block
            made = run(x, c, modulation, rope, {"view": view})
            x, c = made if self.pictures_first else made[::-1]
        return x

    def _head(self, x_BLD: Tensor, modulation: Modulation) -> dict[str, Tensor]:
        segments = modulation.layout.visual
        if not segments:
            return {}
        sizes, temb = [s.tokens for s in segments], modulation.temb
        tembs = [temb[s.name] for s in segments]
        if all(t is tembs[0] for t in tembs):
            x = self._norm_out(x_BLD, tembs[0])
        else:
            parts = x_BLD.split(sizes, dim=1)
            x = torch.cat([self._norm_out(p, t) for p, t in zip(parts, tembs, strict=True)], dim=1)
        return dict(zip((s.name for s in segments), self.model.proj_out(x).split(sizes, dim=1), strict=True))

    # --- what a subclass fills in ---------------------------------------------------------------------------

    def _takes(self, name: str) -> str:
        """Which tokens the linear of this name takes: "visual", "text", "every", or "one" a sample."""
        raise NotImplementedError

    def _input(self, tokens: Tokens, name: str) -> Tensor:
        """A visual segment as the model reads it."""
        return tokens.features[name]

    def _norm_out(self, x_BLD: Tensor, temb: Tensor) -> Tensor:
        """The last norm, modulated by a time embedding (B, E)."""
        return self.model.norm_out(x_BLD, temb)

    def _embedders(self) -> tuple[nn.Module, nn.Module]:
        """Of pictures and of text."""
        raise NotImplementedError

    def _embed_time(self, t_B: Tensor, tokens: Tokens) -> Tensor:
        """(B, E) of a clock and of whatever else of these tokens modulates the blocks."""
        raise NotImplementedError

    def _rope(self, layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the positions that the blocks rotate by."""
        raise NotImplementedError

    def _stock_state(self) -> dict[str, Tensor]:
        """These weights under the names of the stock model."""
        raise NotImplementedError


def _valid_keys(tokens: Tokens, memory: Memory | None) -> Tensor | None:
    """(B, L) booleans over what is remembered and then these tokens; None if nothing is padding."""
    now = tokens.valid_keys()
    if memory is None or (now is None and memory.valid is None):
        return now
    known = now if now is not None else memory.valid
    parts = [(memory.valid, memory.layout), (now, tokens.layout)]
    return torch.cat([known.new_ones(len(known), len(of)) if v is None else v for v, of in parts], dim=1)
