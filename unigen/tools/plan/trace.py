"""Traces the memory and FLOPs of a training step by running it on the meta device, where tensors have no data.

The modules of training themselves run, forward and backward, with checkpointing. Two features that the meta device
lacks are replaced: CUDA's autocast, and the attention kernel that stores no scores.
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

from unigen.core import canvas, infill
from unigen.core.layout import TEXT_STREAM
from unigen.core.tokens import Tokens
from unigen.core.types import ImageSlot
from unigen.pipeline.pipeline import Pipeline
from unigen.tools.plan.repeats import Counter, Run, Unsteady, shortened

# Functions, among those that blocks call, which CUDA's autocast runs in low precision and in fp32 (see torch's
# documentation of autocast).
LOW = {F.linear, torch.matmul, Tensor.matmul, torch.bmm, torch.baddbmm, F.conv2d, F.conv3d}
FULL = {F.layer_norm, F.softmax, torch.softmax, Tensor.softmax}


class Trace(NamedTuple):
    """The memory and FLOPs of one micro-batch.

    `kept` are the bytes that the forward leaves for the backward, `peak` is the maximum of all bytes beyond weights,
    inputs and gradients, and `flops` are executed FLOPs (a multiply-add is 2), with recomputation.
    """

    kept: int
    peak: int
    flops: int


class Storage:
    """An allocation that is alive: its size, its number in order of creation, and how many `more` it stands for."""

    __slots__ = ("made", "more", "ref", "size")

    def __init__(self, ref: Any, size: int, made: int) -> None:
        self.ref, self.size, self.made, self.more = ref, size, made, 0

    @property
    def bytes(self) -> int:
        return self.size * (1 + self.more)


class Recorder(TorchDispatchMode):
    """Records the bytes alive now and at the peak of all tensors made under it, and the FLOPs of every product.

    The tensors `given` are not counted. `made` is the number of storages; `high` is the maximum of bytes since
    `restart_high`. Blocks that are left out are counted by multiplying the storages of an equal one (`multiply`, see
    `unigen.tools.plan.repeats`).
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
        """Return the bytes of the storages made between these counts that are still alive."""
        return sum(s.bytes for s in self._made(since, until))

    def multiply(self, since: int, until: int, more: int) -> None:
        """Let each of these storages stand for `more` others that live as long."""
        for storage in self._made(since, until):
            storage.more = more
            self._add(storage.size * more)

    def divide(self, since: int, until: int) -> int:
        """Undo `multiply` for the storages that are still alive; return the bytes that are freed."""
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
    """softmax(q k^T) v as flash kernels compute it, keeping q, k, v, the output and one fp32 number a query and head.

    The backward computes the scores again: it has 5 products and the forward 2, as in torch's counter.
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
    """Imitates CUDA's autocast to `low` (None: off) and the fused attention.

    Autocast caches its casts of trained weights until it ends, with a forward or the recomputation of a block.
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
    """Trace forward and backward of a meta pipeline's backbone on `size` samples; `low` is autocast's type or None.

    Only a few blocks of a long run of equal ones are traced (`unigen.tools.plan.repeats`), with the same result.
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
    """Trace these blocks of the backbone as `trace_step` does; `runs` stand for more blocks than they have.

    Gradients of weights are dropped as they are made, since `unigen.tools.plan.memory.held` counts them.
    Raises Unsteady if two equal blocks do not do the same work.
    """
    tokens = inputs(pipeline, slots, size)
    backbone = pipeline.backbone.train()
    trained = [p for p in backbone.parameters() if p.requires_grad]
    hooks = [p.register_post_accumulate_grad_hook(_drop_gradient) for p in trained]
    given = [*backbone.parameters(), *backbone.buffers(), *tokens.features.values(), *(tokens.context or {}).values()]
    recorder, checkpointed = Recorder(given), backbone.model.gradient_checkpointing
    if checkpointed:  # function modes are not active in a backward, so recomputation gets its own, with its own cache
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
    """Return meta tokens of `size` samples in fp32. Features of trained parts (text encoder, UCE) require gradients."""
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
    """Trace the frozen codec on everything that training encodes for `size` samples; no backward follows.

    A codec without randomness does not encode the same clip twice.
    """
    images = {
        s.name: torch.empty(size, s.frames, 3, s.height, s.width, dtype=torch.uint8, device="meta") for s in slots
    }
    plan, codec = pipeline.plan(slots), pipeline.codec
    with torch.device("cpu"):  # which cells are masked has values
        cells = infill.targets(slots, size)
        pages = pipeline.canvases(images, plan, cells, "train")
    seen = [*pages.whole, *pages.blanked]
    if codec.cacheable:
        seen = list({id(x): x for x in seen}.values())
    recorder = Recorder([*codec.parameters(), *codec.buffers(), *seen])
    # the codecs switch autocast off, and torch.autocast does not know the meta device
    with patch.object(torch, "autocast", lambda *_, **__: nullcontext()), recorder, torch.no_grad():
        for x in seen:
            codec.moments(canvas.to_unit(canvas.by_clip(x, codec.temporal_stride)))
    return Trace(0, recorder.peak, recorder.flops)
