"""The code that lets a diffusers transformer read `Tokens`, whatever its blocks look like.

It covers loading, precision, attention kernels, compilation, gradient checkpointing, quantisation, the memory of static
segments and the FLOPs of adapters. Each family has an adapter in a file of its own, which fills in the hooks at the end
of `DiffusersTransformer`. The layout travels as an argument (the `View`) and no state is shared between
calls, so gradient checkpointing recomputes with the very same layout.

Shapes: B batch, H heads, L tokens, D width (in attention: of a head), P patch features.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unigen.core.layout import TEXT_STREAM, VISUAL_STREAM, Layout, Segment, stream_of
from unigen.core.masks import Mask, attended_pairs, coarsest
from unigen.core.tokens import Tokens
from unigen.nn.kernels import try_kernel, with_kernel
from unigen.nn.quantized import check, quantize_frozen
from unigen.nn.role_lora import RoleAdapters, remove
from unigen.nn.shards import sizes
from unigen.weights.loading import load_pretrained

JOINT = "joint"  # the one attention of a block in which text and images are one sequence
# The other modes record CUDA graphs, in which one compiled block, called for every layer, overwrites its own outputs.
MODES = ("default", "max-autotune-no-cudagraphs")
COMPILE = {"mode": "default", "dynamic": False, "backend": "inductor"}
RECOMPILATIONS = 64  # torch gives up silently at 8: buckets of layouts, with and without gradients, need more


@dataclass
class Memory:
    """Keys and values (B, H, L, D) of static segments, computed once and reused.

    `pairs` has a list for each attention of a block (`DiffusersTransformer.attentions`), one pair for each block.
    """

    layout: Layout
    valid: Tensor | None = None
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)


class Sight(NamedTuple):
    """The view of one attention of a block: the layouts of its queries and keys, and the mask between them.

    `keys` are those of the remembered segments (`known`, a pair of keys and values) and then those of this call.
    `valid` (B, L) marks the keys that are not padding (None: all). `record` collects this call's keys and values.
    """

    queries: Layout
    keys: Layout
    mask: Mask
    valid: Tensor | None = None
    known: tuple[Tensor, Tensor] | None = None
    record: list[tuple[Tensor, Tensor]] | None = None


class View(NamedTuple):
    """The information that a block gets beside its tokens: the layout of this call, the mask as this family follows it,
    and a `Sight` for each of its attentions."""

    layout: Layout
    mask: Mask
    sights: Mapping[str, Sight]


def attend(lowering: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, sight: Sight) -> Tensor:
    """Return (B, L, H D) from queries, keys and values (B, H, L, D) by a function of `unigen.core.attention`."""
    if sight.record is not None:
        sight.record.append((k, v))
    if sight.known is not None:
        k, v = torch.cat([sight.known[0], k], dim=2), torch.cat([sight.known[1], v], dim=2)
    out = lowering(q, k, v.to(q.dtype), sight.queries, sight.keys, sight.mask, sight.valid)
    return out.transpose(1, 2).flatten(2)


def normed(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply an RMSNorm, torch's or diffusers', with its weight in the precision of x: under autocast they differ, and
    no kernel fuses that."""
    return F.rms_norm(x, x.shape[-1:], norm.weight.to(x.dtype), norm.eps)


class DiffusersTransformer(nn.Module):
    """A transformer of diffusers, built by the class `stock` from `config` or loaded (`pretrained`).

    `predicts` is what loaded weights were trained to predict, in the words of processes; None for random weights.
    `lowering` is a function of `unigen.core.attention`, whose mask-free calls `kernel` does (`unigen.nn.kernels`);
    `quantize` is for `quantize_frozen` (`unigen.nn.quantized`); `checkpoint_every` (with `gradient_checkpointing`) is
    for `checked_interval`, `compile` for `compile_blocks`. `stock_parameters` counts those of the stock model.
    """

    folders = ("transformer",)  # the folder of a pipeline that holds the weights which `pretrained` names
    # Keys of `config` that decide neither weights nor function: loaded weights bring their own.
    limits: tuple[str, ...] = ()
    axes = ("t", "h", "w")
    text_asks = True  # whether text tokens are queries too; False: images attend to text, and text to nothing
    # The attentions of a block by name, each with the streams of its queries and of its keys; None: both streams.
    attentions: Mapping[str, tuple[str | None, str | None]] = {JOINT: (None, None)}
    patch: tuple[int, int, int]
    reach: tuple[int, int, int]
    reach_key = ""  # the configuration keys that set `reach`, for messages; empty where none does
    text_width: int
    pooled_width: int | None = None
    latent_channels: int
    context_width: int = 0
    context_parts: tuple[str, ...] = ()  # what stands in `Tokens.context`, in order (`unigen.core.infill.PARTS`)

    def __init__(
        self,
        stock: type[nn.Module],
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
        self.stock_parameters = sum(p.numel() for p in self.model.parameters())
        self.kernel, self.quantize = kernel, quantize
        self.role_adapters: RoleAdapters | None = None  # set by an adapter that tells roles apart
        self.left_out: dict[str, list[str]] = {}  # linears by adapter, see `leave_out_unreached`
        self.branches: dict[str, str] = {}  # branch of the modulation by role, once it is split
        self.slots: nn.Module | None = None  # set by `tell_slots_apart`
        self._adapt(with_kernel(lowering, kernel))
        self.checkpoint_every = checked_interval(checkpoint_every)
        if gradient_checkpointing:
            self.model.enable_gradient_checkpointing()
        if compile is not None:
            compile_blocks(self.blocks, compile)

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which tokens enter the model: bf16 if the weights are (trainer.precision=bf16-true)."""
        return self.model.proj_out.weight.dtype

    @property
    def width(self) -> int:
        return self.model.config.num_attention_heads * self.model.config.attention_head_dim

    def stock(self) -> nn.Module:
        """Return the model as diffusers builds it, with copies of these weights.

        Raises ValueError for a model that is no stock model any more: with adapters, or several branches in a norm.
        """
        if getattr(self.model, "peft_config", None):
            raise ValueError("a backbone with a LoRA is no stock model; train with conditioning/adapter=full")
        if self.slots is not None:
            raise ValueError(
                "a backbone with learned vectors for its segments (conditioning.slots) is no stock model, which has no "
                "place for them; train with conditioning/slots=none"
            )
        stock = type(self.model).from_config(self.model.config)
        stock.load_state_dict(self._stock_state())
        return stock

    # --- the forward pass -------------------------------------------------------------------------------------

    def forward(
        self,
        tokens: Tokens,
        times: Mapping[str, Tensor],
        mask: Mask,
        memory: Memory | None = None,
        record: Memory | None = None,
    ) -> dict[str, Tensor]:
        """Return predictions (B, L_segment, P) for every visual segment of `tokens`; P does not count a context.

        `times` maps a segment to its modulation time t_B in [0, 1]; segments that share a clock share
        the tensor. With `memory`, its segments are attended to without being computed again; with
        `record`, this call's keys and values are kept there.
        """
        layout = tokens.layout
        x, c = self._embedded(tokens, times)
        modulation = self._modulation(tokens, times)
        view = self._view(tokens, mask, memory, record)
        x = self._through_blocks(x, c, modulation, view if memory or record else _coarser(view), memory)
        if not layout.visual:
            return {}
        outputs = self._read_out(x, modulation).split([s.tokens for s in layout.visual], dim=1)
        return dict(zip((s.name for s in layout.visual), outputs, strict=True))

    def remember(self, tokens: Tokens, times: Mapping[str, Tensor], mask: Mask) -> Memory:
        """Return the keys and values of these tokens in every block, so that later calls need not compute them."""
        memory = Memory(tokens.layout, tokens.valid_keys(), {name: [] for name in self.attentions})
        self(tokens, times, mask, record=memory)
        return memory

    def _embedded(self, tokens: Tokens, times: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Embed images (B, L, D) and text (B, L, D), each of length 0 if there is none."""
        layout = tokens.layout
        visual = [self._input(tokens, s.name) for s in layout.visual]
        assert all(s.stream == TEXT_STREAM for s in layout.segments[: len(layout.segments) - len(visual)])
        text = [s for s in layout.segments if s.stream == TEXT_STREAM]
        embed_image, _ = self._embedders()
        x = embed_image(torch.cat(visual, dim=1).to(self.dtype)) if visual else None
        if self.slots is not None and x is not None:
            x = self.slots(x, layout.visual)
        c = self._embed_text(tokens, text, times) if text else x[:, :0]
        if self.slots is not None and text:
            c = self.slots(c, text)
        return c[:, :0] if x is None else x, c

    def _embed_text(self, tokens: Tokens, texts: Sequence[Segment], times: Mapping[str, Tensor]) -> Tensor:
        """Embed the text segments (B, L, D). `times` is for a family whose text depends on time before the blocks."""
        return self._embedders()[1](torch.cat([tokens.features[s.name] for s in texts], dim=1).to(self.dtype))

    def _view(self, tokens: Tokens, mask: Mask, memory: Memory | None, record: Memory | None) -> View:
        """Make the view of this call. A compiled block can read the layouts in it, but could not make them itself."""
        layout, mask = tokens.layout, self.effective_mask(mask)
        whole = layout if memory is None else _joined(memory.layout, layout)
        valid, sights = _valid_keys(tokens, memory), {}
        for name, (asking, asked) in self.attentions.items():
            keys = stream_of(whole, asked)
            now = valid if valid is None or asked is None else _of_segments(valid, whole, keys)
            kept = None if record is None else record.pairs[name]
            sights[name] = Sight(stream_of(layout, asking), keys, mask, now, record=kept)
        return View(layout, mask, sights)

    def _through_blocks(self, x: Tensor, c: Tensor, modulation: Any, view: View, memory: Memory | None) -> Tensor:
        """Return the images (B, L, D) after all blocks."""
        rope = self._rope(view.layout, x.device)
        checkpoint = self.model.gradient_checkpointing and torch.is_grad_enabled()
        for number, block in enumerate(self.blocks):
            if memory is not None:
                pairs = {name: memory.pairs[name][number] for name in view.sights if memory.pairs[name]}
                sights = {name: sight._replace(known=pairs.get(name)) for name, sight in view.sights.items()}
                view = view._replace(sights=sights)
            again = checkpoint and number % self.checkpoint_every == 0
            run = partial(self.model._gradient_checkpointing_func, self._run) if again else self._run
            x, c = run(block, x, c, modulation, rope, view)
        return x

    def _run(
        self, block: nn.Module, x: Tensor, c: Tensor, modulation: Any, rope: Any, view: View
    ) -> tuple[Tensor, Tensor]:
        """Return images and text after a block. Every block of every family runs here, inside the part that
        checkpointing recomputes, so its adapters are told about its tokens (`view`) right before it runs."""
        if self.role_adapters is not None:
            self.role_adapters.tell(block, partial(self._taken, view), x.device)
        return self._call(block, x, c, modulation, rope, view)

    def split_modulation(self, branches: Mapping[str, str], tied: bool) -> None:
        """Give the modulation one branch for each distinct entry of the table (SC-AdaLN).

        `tied` branches share the frozen weights of the stock model; others are copies of them.
        """
        self.branches = dict(branches)
        self._split(branches, tied)

    def tell_roles_apart(self, table: Mapping[str, str | None]) -> None:
        """Apply each LoRA adapter only to the tokens of the roles that the table gives it (null: no adapter).

        Raises ValueError, as `RoleAdapters` does, for linears that serve several roles at once.
        """
        self.role_adapters = RoleAdapters(self.model, self.blocks, table, self._takes, self._served)

    def tell_slots_apart(self, vectors: nn.Module) -> None:
        """Have `vectors` (tokens (B, L, D), layout) add to the images' tokens, behind the patch embedder."""
        self.slots = vectors

    def leave_out_unreached(self, layout: Layout, mask: Mask) -> None:
        """Freeze the weights on which no prediction depends, and remove each adapter by role from the linears that none
        of its tokens pass under this mask. They would get no gradient, which training on several devices refuses.
        `left_out` has the names of the removed ones by adapter.
        """
        for name, parameter in self.model.named_parameters():
            if self._unheard() and re.match(self._unheard(), name):
                parameter.requires_grad_(False)
        mask = self.effective_mask(mask)
        for name, module in self.model.named_modules() if self.role_adapters is not None else ():
            for which in list(getattr(module, "lora_A", {})):
                if not self._counts(layout, mask, self._adapted(layout, which))[self._takes(name)]:
                    remove(module, which)
                    self.left_out.setdefault(which, []).append(name)

    def _served(self, name: str) -> tuple[str, ...]:
        """Return the roles that a linear of one modulation branch serves; () for a linear of no branch."""
        branch = name.rpartition(".branches.")[2] if ".branches." in name else None
        return tuple(role for role, own in self.branches.items() if own == branch)

    def _taken(self, view: View, word: str) -> Layout:
        """Return the layout of the tokens that a linear takes in a block, by a word of `_takes`."""
        streams = {"visual": VISUAL_STREAM, "text": TEXT_STREAM, "every": None}
        return stream_of(view.layout, streams[word])

    # --- what a role table means here --------------------------------------------------------------------------

    def effective_mask(self, mask: Mask) -> Mask:
        """Return the mask as this family can follow it; everything that reads a mask reads this one."""
        return mask

    def effective_timing(self, timing: Mapping[str, str]) -> Mapping[str, str]:
        """Return the table of clocks as this family can follow it."""
        return timing

    def placed(self, layout: Layout) -> Layout:
        """Return a whole layout with the text where this family has it; images stay where the formatter put them."""
        return layout

    def pairs(self, layout: Layout, mask: Mask) -> tuple[int, int]:
        """Return how many (query, key) token pairs a block attends to under this mask, and how many there are."""
        mask, attended, every = self.effective_mask(mask), 0, 0
        for asking, asked in self.attentions.values():
            queries, keys = stream_of(layout, asking), stream_of(layout, asked)
            attended, every = attended + attended_pairs(queries, keys, mask), every + len(queries) * len(keys)
        return attended, every

    # --- costs and precision -----------------------------------------------------------------------------------

    def flops(self, layout: Layout, mask: Mask) -> dict[str, int]:
        """Return the forward FLOPs of one sample (a multiply-add is 2): `linear` layers of the tokens, and `attention`.

        Attention counts only pairs that the mask lets through. Adapters, and what is made once a sample (modulation,
        time embeddings), are not counted.
        """
        return {
            "linear": 2 * (self._products(layout, self.effective_mask(mask)) + self._end_products(layout)),
            "attention": len(self.blocks) * 4 * self.width * self.pairs(layout, mask)[0],
        }

    def _end_products(self, layout: Layout) -> int:
        """Return the multiply-adds of embedding all tokens and of reading the images out."""
        made = self.latent_channels * prod(self.patch)
        text = (len(layout) - layout.image_tokens) * self.text_width
        return (layout.image_tokens * (2 * made + self.context_width) + text) * self.width

    def adapter_flops(self, layout: Layout, mask: Mask) -> int:
        """Return the forward FLOPs of LoRA for one sample: 2 r (inputs + outputs) for each token of an adapted linear.

        Modulation and time embeddings are made once a sample: each counts as one token.
        """
        mask, total, tokens = self.effective_mask(mask), 0, {}
        for name, module in self.model.named_modules():
            for which, down in getattr(module, "lora_A", {}).items():
                if which not in tokens:
                    tokens[which] = self._counts(layout, mask, self._adapted(layout, which))
                (inputs, rank), (_, outputs) = sizes(down), sizes(module.lora_B[which])
                count = tokens[which][self._takes(name)]
                if self._takes(name) == "one" and self.role_adapters is not None:
                    count = int(which in dict(module.told))
                total += 2 * rank * (inputs + outputs) * count
        return total

    def _adapted(self, layout: Layout, adapter: str) -> Layout:
        """Return the segments to which an adapter is applied."""
        if self.role_adapters is None:
            return layout
        table = dict(self.role_adapters.table)
        return layout.only(tuple(s.name for s in layout.segments if table[s.role] == adapter))

    def _counts(self, layout: Layout, mask: Mask, part: Layout) -> dict[str, int]:
        """Return how many tokens of a part of the layout a linear takes under an effective mask, for each word of
        `_takes`.
        """
        visual = part.image_tokens
        return {"visual": visual, "text": len(part) - visual, "every": len(part), "one": 1}

    def quantize_frozen(self) -> int:
        """Quantise the frozen linears of the blocks if `quantize` is set. Call it once the adapter has frozen them.

        Returns the number of quantised linears, which is 0 for a model of shapes alone (on the meta device).
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
            try_kernel(self.kernel, self.model.config.attention_head_dim, self.dtype, device)

    # --- what a family fills in ---------------------------------------------------------------------------------

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks, in the order in which tokens pass them."""
        raise NotImplementedError

    def _adapt(self, lowering: Callable[..., Tensor]) -> None:
        """Make the attention of the model's blocks attend by `lowering`, and the blocks take a `View`."""
        raise NotImplementedError

    def _call(
        self, block: nn.Module, x: Tensor, c: Tensor, modulation: Any, rope: Any, view: View
    ) -> tuple[Tensor, Tensor]:
        """Return images and text after a block."""
        raise NotImplementedError

    def _split(self, branches: Mapping[str, str], tied: bool) -> None:
        """Split the modulation as `split_modulation` says."""
        raise NotImplementedError

    def _input(self, tokens: Tokens, name: str) -> Tensor:
        """Return a visual segment as the model reads it: its features, and behind them its context if there is one."""
        features = tokens.features[name]
        if not self.context_width:
            return features
        return torch.cat([features, tokens.context[name].to(features.dtype)], dim=-1)

    def _embedders(self) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """Return the functions that embed image tokens and text tokens."""
        raise NotImplementedError

    def _modulation(self, tokens: Tokens, times: Mapping[str, Tensor]) -> Any:
        """Return the modulation of the blocks and the read-out, in the form that `_call` and `_read_out` take."""
        raise NotImplementedError

    def _rope(self, layout: Layout, device: torch.device) -> Any:
        """Return the cosines and sines of the positions that the blocks rotate by."""
        raise NotImplementedError

    def _read_out(self, x_BLD: Tensor, modulation: Any) -> Tensor:
        """Return predictions (B, L, P) in the feature order of `unigen.core.canvas`."""
        raise NotImplementedError

    def _products(self, layout: Layout, mask: Mask) -> int:
        """Return the multiply-adds of the linear layers of all blocks for one sample, under an effective mask."""
        raise NotImplementedError

    def _takes(self, name: str) -> str:
        """Return which tokens the linear of this name takes: "visual", "text", "every", or "one" for one a sample."""
        raise NotImplementedError

    def _unheard(self) -> str:
        """Return a regular expression of how the names of weights begin on which no prediction depends: those that make
        text behind the last block, in a family whose text has linears of its own. It is empty for none."""
        return ""

    def _stock_state(self) -> dict[str, Tensor]:
        """Return these weights under the names of the stock model."""
        raise NotImplementedError


def _coarser(view: View) -> View:
    """Return the view with segments joined that attention cannot tell apart, where its queries are its keys."""

    def joined(sight: Sight) -> Sight:
        own = coarsest(sight.keys, sight.mask)
        return sight._replace(queries=own, keys=own)

    return view._replace(sights={n: joined(s) if s.queries is s.keys else s for n, s in view.sights.items()})


@lru_cache(maxsize=256)
def _joined(known: Layout, layout: Layout) -> Layout:
    """Return the remembered segments and then these. A compiled block guards the object, so equal ones are one."""
    return known + layout


def _of_segments(valid_BL: Tensor, whole: Layout, part: Layout) -> Tensor:
    """Return the columns of `whole` that belong to the segments of `part`."""
    return torch.cat([valid_BL[:, whole.slices[name]] for name in part.names] or [valid_BL[:, :0]], dim=1)


def _valid_keys(tokens: Tokens, memory: Memory | None) -> Tensor | None:
    """Return (B, L) booleans over the remembered tokens and then these; None if nothing is padding."""
    now = tokens.valid_keys()
    if memory is None or (now is None and memory.valid is None):
        return now
    known = now if now is not None else memory.valid
    parts = [(memory.valid, memory.layout), (now, tokens.layout)]
    return torch.cat([known.new_ones(len(known), len(of)) if v is None else v for v, of in parts], dim=1)


# --- switches that change the speed and the memory of blocks, but not what they compute ---------------------------


def checked_interval(every: int) -> int:
    """Return `backbone.checkpoint_every`, n: backward recomputes the first of every n blocks, so 1 means every block.

    Raises ValueError for anything but a whole number above 0.
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"backbone.checkpoint_every is {every!r}; legal are whole numbers from 1 (every block)")
    return every


def compile_blocks(blocks: Iterable[nn.Module], options: Mapping[str, Any]) -> None:
    """Compile each block by itself: equal blocks share one compilation (diffusers' regional compilation).

    `options` is `backbone.compile`: `mode` (default, or max-autotune-no-cudagraphs), `dynamic` (false: a compilation
    for each layout; true: one for all lengths; null: torch's choice) and `backend`; absent keys are as in `COMPILE`.
    Nothing is compiled before the first step. Only another layout, mask or gradient mode makes a step compile again.
    Raises ValueError for anything else.
    """
    if not isinstance(options, Mapping):
        raise ValueError(f"backbone.compile is {options!r}; legal are null and a mapping of {', '.join(COMPILE)}")
    unknown = [key for key in options if key not in COMPILE]
    if unknown:
        raise ValueError(f"backbone.compile has the unknown key '{unknown[0]}'; legal are {', '.join(COMPILE)}")
    said = {**COMPILE, **options}
    if said["mode"] not in MODES:
        raise ValueError(f"backbone.compile.mode is {said['mode']!r}; legal are {', '.join(MODES)}")
    if said["dynamic"] not in (True, False, None):
        raise ValueError(f"backbone.compile.dynamic is {said['dynamic']!r}; legal are true, false and null")
    legal = [*torch.compiler.list_backends(), "eager", "aot_eager"]
    if said["backend"] not in legal:
        raise ValueError(f"backbone.compile.backend is {said['backend']!r}; legal are {', '.join(legal)}")
    if said["backend"] != "inductor":
        del said["mode"]  # the others have none
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILATIONS)
    # torch warns that it traces through the caches of layouts, which is safe: they depend on their arguments alone
    warnings.filterwarnings("ignore", message=".*functools.lru_cache.*", category=UserWarning)
    for block in blocks:
        block.compile(**said)
