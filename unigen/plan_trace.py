"""What a training step allocates and computes, found by running it on the meta device, where tensors have no data.

Nothing is modelled: the very same modules run, forward and backward, checkpointing included. What the meta device lacks
is stood in for: CUDA's autocast, and the attention kernel that keeps no scores.
Shapes: B batch, H heads, L tokens, D head width.
"""

import weakref
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry

from unigen import canvas
from unigen.layout import TEXT_STREAM
from unigen.pipeline import Pipeline
from unigen.plan_repeats import Counter, Run, Unsteady, shortened
from unigen.tokens import Tokens
from unigen.types import TARGET, ImageSlot

# What CUDA's autocast runs in the low precision and in fp32 (torch's documentation of autocast), of what blocks call.
LOW = {F.linear, torch.matmul, Tensor.matmul, torch.bmm, torch.baddbmm, F.conv2d, F.conv3d}
FULL = {F.layer_norm, F.softmax, torch.softmax, Tensor.softmax}


class Trace(NamedTuple):
    """Of one micro-batch.

    Bytes `kept` for the backward when the forward ends, the `peak` of all bytes beyond weights, inputs and gradients,
    and executed FLOPs (a multiply-add is 2), recomputation included.
    """

    kept: int
    peak: int
    flops: int


class Storage:
    """Memory that is alive: its bytes, when it was made (the how-manyeth), and how many more like it there are."""

    __slots__ = ("made", "more", "ref", "size")

    def __init__(self, ref: Any, size: int, made: int) -> None:
        self.ref, self.size, self.made, self.more = ref, size, made, 0

    @property
    def bytes(self) -> int:
        return self.size * (1 + self.more)


class Recorder(TorchDispatchMode):
    """Bytes alive now and at most, of what is made under it, and the FLOPs of every product. `given` is not counted.

    `made` counts storages; `high` is the most bytes since `restart_high`. Blocks that are left out are
    counted by what one like them has made (`multiply`, see `unigen.plan_repeats`).
    """

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = self.high = self.flops = self.made = 0
        self._known: dict[int, Storage] = {}
        for tensor in given:
            self._meet(tensor, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._meet(tensor, tensor.untyped_storage().nbytes())
        return out

    def alive(self, since: int, until: int) -> int:
        """Bytes of what is there of the storages made between these counts."""
        return sum(s.bytes for s in self._made(since, until))

    def multiply(self, since: int, until: int, more: int) -> None:
        """From here on each of these storages stands for `more` others that live as long."""
        for storage in self._made(since, until):
            storage.more = more
            self._add(storage.size * more)

    def divide(self, since: int, until: int) -> int:
        """The others are gone: undoes `multiply` for what is still there; returns their bytes."""
        gone = sum(s.size * s.more for s in self._made(since, until))
        for storage in self._made(since, until):
            storage.more = 0
        self.now -= gone
        return gone

    def restart_high(self) -> None:
        self.high = self.now

    def _made(self, since: int, until: int) -> list[Storage]:
        return [s for s in self._known.values() if since <= s.made < until]

    def _meet(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            self._known[key] = Storage(weakref.ref(storage, partial(self._drop, key)), size, self.made)
            self.made += 1
            self._add(size)

    def _add(self, size: int) -> None:
        self.now += size
        self.peak, self.high = max(self.peak, self.now), max(self.high, self.now)

    def _drop(self, key: int, _: Any) -> None:
        self.now -= self._known.pop(key).bytes


class Fused(torch.autograd.Function):
    """softmax(q k^T) v as flash kernels do it: kept are q, k, v, the output and one fp32 number a query and head.

    The backward makes the scores again: 5 products where the forward has 2, as torch's counter says.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, recorder: Recorder) -> Tensor:
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.recorder, ctx.product = recorder, 2 * q.numel() * k.shape[-2]
        recorder.flops += 2 * ctx.product
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, _, _ = ctx.saved_tensors
        ctx.recorder.flops += 5 * ctx.product
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), None


class Kernels(TorchFunctionMode):
    """CUDA's autocast to `low` (None: off) and the fused attention.

    Autocast keeps its casts of trained weights for as long as it lasts, a forward or the recomputation of a block.
    """

    def __init__(self, low: torch.dtype | None, recorder: Recorder) -> None:
        super().__init__()
        self.low, self.recorder = low, recorder
        self.cached: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            q, k, v = (self._cast(x, self.low) for x in args[:3])
            return Fused.apply(q, k, v, self.recorder)
        if self.low is not None and (func in LOW or func in FULL):
            wanted = self.low if func in LOW else torch.float32
            args = [self._cast(x, wanted) for x in args]
            kwargs = {name: self._cast(x, wanted) for name, x in kwargs.items()}
        return func(*args, **kwargs)

    def _cast(self, x: Any, to: torch.dtype | None) -> Any:
        if to is None or not isinstance(x, Tensor) or not x.is_floating_point() or x.dtype == to:
            return x
        if not (x.is_leaf and x.requires_grad):
            return x.to(to)
        if id(x) not in self.cached:
            self.cached[id(x)] = x.to(to)
        return self.cached[id(x)]


def trace_step(pipeline: Pipeline, slots: tuple[ImageSlot, ...], size: int, low: torch.dtype | None) -> Trace:
    """Forward and backward of a meta pipeline's backbone on `size` samples; `low` is autocast's precision or None.

    Of long runs of alike blocks a few are traced (`unigen.plan_repeats`), with the same figures as of all.
    """
    backbone = pipeline.backbone
    every = backbone.checkpoint_every if backbone.model.gradient_checkpointing else 1
    blocks, runs = shortened(backbone.train().blocks, every)
    try:
        return trace_blocks(pipeline, slots, size, low, blocks, runs)
    except Unsteady:
        return trace_blocks(pipeline, slots, size, low, backbone.blocks, [])


def trace_blocks(
    pipeline: Pipeline,
    slots: tuple[ImageSlot, ...],
    size: int,
    low: torch.dtype | None,
    blocks: Sequence[nn.Module],
    runs: Sequence[Run],
) -> Trace:
    """`trace_step` through these blocks of the backbone, of which `runs` stand for more than they are.

    Gradients of weights are dropped as they are made: they are counted elsewhere, with what they are kept in.
    Raises Unsteady if a block does not do what one like it does.
    """
    tokens = inputs(pipeline, slots, size)
    backbone = pipeline.backbone.train()
    trained = [p for p in backbone.parameters() if p.requires_grad]
    hooks = [p.register_post_accumulate_grad_hook(_drop_gradient) for p in trained]
    given = [*backbone.parameters(), *backbone.buffers(), *tokens.features.values(), *(tokens.context or {}).values()]
    recorder, checkpointed = Recorder(given), backbone.model.gradient_checkpointing
    if checkpointed:  # a backward calls no function mode: recomputation brings its own, with a cache of its own
        again = partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), Kernels(low, recorder)))
        backbone.model.enable_gradient_checkpointing(again)
    times = pipeline.times(tokens.layout, torch.empty(size, device="meta"))
    watched = [handle for run in runs for handle in Counter(run, recorder).watch()]
    try:
        with Kernels(low, recorder) as kernels, recorder, patch.object(type(backbone), "blocks", list(blocks)):
            outputs = backbone(tokens, times, pipeline.mask)
            loss = sum(x.float().square().mean() for x in outputs.values())
            kept, kernels.cached = recorder.now, {}
        for handle in watched:
            handle.remove()
        with recorder:
            loss.backward()
    finally:
        for handle in (*hooks, *watched):
            handle.remove()
        if checkpointed:
            backbone.model.enable_gradient_checkpointing()
    return Trace(kept, recorder.peak, recorder.flops)


def _drop_gradient(p: nn.Parameter) -> None:
    p.grad = None


def inputs(pipeline: Pipeline, slots: tuple[ImageSlot, ...], size: int) -> Tokens:
    """Meta tokens of `size` samples in fp32. What a trained part makes (text, UCE) has gradients."""
    backbone, layout = pipeline.backbone, pipeline.plan(slots).layout
    pt, ph, pw = backbone.patch
    widths = {True: backbone.text_width, False: backbone.latent_channels * pt * ph * pw}
    learns = {True: pipeline.text.trained, False: any(p.requires_grad for p in pipeline.embedding.parameters())}
    features = {
        s.name: torch.empty(
            size, s.tokens, widths[text], device="meta", requires_grad=learns[text] and (text or s.cap < 1)
        )
        for s in layout.segments
        for text in [s.stream == TEXT_STREAM]
    }
    pooled = None if backbone.pooled_width is None else torch.empty(size, backbone.pooled_width, device="meta")
    width = backbone.context_width
    context = {s.name: torch.empty(size, s.tokens, width, device="meta") for s in layout.visual} if width else None
    return Tokens(layout, features, pooled=pooled, context=context)


def trace_encoding(pipeline: Pipeline, slots: tuple[ImageSlot, ...], size: int) -> Trace:
    """The frozen codec over the canvases of `size` samples; nothing is kept for a backward.

    A backbone that reads a masked picture has each canvas encoded twice (`Pipeline.encode`); of a codec without
    randomness those alone that hold a target, since what is not masked is known by then.
    """
    images = {
        s.name: torch.empty(size, s.frames, 3, s.height, s.width, dtype=torch.uint8, device="meta") for s in slots
    }
    plan, codec = pipeline.plan(slots), pipeline.codec
    pages = canvas.stitch(images, plan, slots)
    targets = {p.canvas for p in plan.placements for s in slots if s.name == p.slot and s.role == TARGET}
    twice = set() if not pipeline.backbone.context_width else targets if codec.cacheable else set(range(len(pages)))
    recorder = Recorder([*codec.parameters(), *codec.buffers(), *pages])
    # the codecs switch autocast off, and torch.autocast does not know the meta device
    with patch.object(torch, "autocast", lambda *_, **__: nullcontext()), recorder, torch.no_grad():
        for number, page in enumerate(pages):
            before = recorder.flops
            codec.moments(canvas.to_unit(page.flatten(0, 1)))
            recorder.flops += (recorder.flops - before) * (number in twice)
    return Trace(0, recorder.peak, recorder.flops)
