"""Profiles a training step and sampling of ours beside peers, which do the same work as released codes do.

Both start from the same weights, images, prompts and random numbers (`peer_models`), and take turns in one run.
"""

import gc
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unigen.cache.store import Cache
from unigen.core.layout import Layout
from unigen.core.types import Batch, ImageSlot
from unigen.pipeline.build import build_pipeline
from unigen.pipeline.pipeline import Pipeline
from unigen.tools.bench.cache import OWN, Forgetful, Latents
from unigen.tools.bench.calibration import MIB, running_bytes
from unigen.tools.bench.gpu import GRIDS, PAIR, Setting
from unigen.tools.bench.peer_models import FramesPeer, GridPeer, Peer
from unigen.tools.bench.turns import Effort, Table, Timings, interleaved, synchronize
from unigen.training.experiment import precision

COLUMNS = ("what", "ms", "/ peer", "peak MiB", "/ peer")
PEER, DENSE = "peer", "peer, dense mask"
FRESH, KEPT, REUSE = "ours, nothing kept", "ours, latents and text kept", "ours, keys and values kept"
ROUNDING = 1e-3  # the largest relative difference of two equal computations in fp32


class Case(NamedTuple):
    """An experiment with overrides, the setting of its samples, and the peer that does the same work.

    The training step is profiled only if `trained`.
    """

    name: str
    exp: str
    words: tuple[str, ...]
    setting: Setting
    peer: type[Peer]
    trained: bool = True


CASES = (
    Case("RealGeneral, FCD A", "fcd_mask_a", (), PAIR, FramesPeer),
    Case("RealGeneral, FCD B, own condition time", "fcd_mask_b", OWN, PAIR, FramesPeer, trained=False),
    Case("VisualCloze, 3×3", "visualcloze_fill", (), GRIDS[3], GridPeer),
)
RANDOM = ("scale=paper", "backbone.pretrained=null", "encoder.codec.pretrained=null", "encoder.text.pretrained=null")
BYTES = ("encoder.text.tokenizer=byt5",)  # needs no files
CLIP = tuple(f"encoder.text.clip.{word}" for word in ("pretrained=null", "tokenizer=byt5"))
CLIP += tuple(f"+encoder.text.clip.config.{word}" for word in ("bos_token_id=0", "pad_token_id=0", "eos_token_id=1"))
# A quarter of the published width, 6 blocks, 512 image tokens or more, and small encoders.
NARROW = ("adapter.rank=64", "adapter.alpha=64")
TEXT = ("window=64", "config.num_layers=4", "config.num_heads=8", "config.d_ff=1024")
MEDIUM = (
    *RANDOM,
    *BYTES,
    "trainer.precision=32-true",
    "solver.steps=4",
    *(f"conditioning.{word}" for word in NARROW),
    *(f"encoder.text.{word}" for word in TEXT),
    "encoder.codec.config.norm_num_groups=8",
)
SIZES = {
    "mini": {
        PAIR: ("guidance.strength=6.0", "solver.steps=20"),
        GRIDS[3]: ("solver.steps=20", "data.batch_size=8"),
    },
    "medium": {
        PAIR: (
            *MEDIUM,
            "backbone.config.num_attention_heads=12",
            "backbone.config.num_layers=6",
            "backbone.config.text_embed_dim=512",
            "encoder.codec.config.block_out_channels=[8,16,16,32]",
            "encoder.codec.config.layers_per_block=1",
            "data.size=256",
            "data.batch_size=2",
            "guidance.strength=6.0",
        ),
        GRIDS[3]: (
            *MEDIUM,
            *CLIP,
            "encoder.text.clip.config.num_hidden_layers=2",
            "backbone.config.num_attention_heads=6",
            "backbone.config.num_layers=2",
            "backbone.config.num_single_layers=4",
            "backbone.config.joint_attention_dim=512",
            "encoder.codec.config.block_out_channels=[16,32,64,64]",
            "data.size=128",
            "data.batch_size=1",
        ),
    },
    "paper": {
        setting: (
            *RANDOM,
            *BYTES,
            *more,
            "trainer.precision=bf16-true",
            "encoder.text.dtype=bfloat16",
            "encoder.codec.dtype=bfloat16",
            f"data.batch_size={setting.batch}",
            "solver.steps=5",
        )
        for setting, more in ((PAIR, ("guidance.strength=6.0",)), (GRIDS[3], CLIP))
    },
}


class Anew(Pipeline):
    """Sampling that computes static segments again in every step."""

    def static(self, layout: Layout) -> tuple[str, ...]:
        return ()


class Fresh:
    """Makes batches of random images and prompts that no cache has seen before."""

    def __init__(self, slots: tuple[ImageSlot, ...], task: str) -> None:
        self.slots, self.task, self.made = slots, task, 0

    def batch(self, size: int) -> Batch:
        """Return the next new batch."""
        chance = torch.Generator().manual_seed(self.made)
        shapes = {s.name: (size, 1, 3, s.height, s.width) for s in self.slots}
        images = {name: torch.randint(0, 256, shape, generator=chance).byte() for name, shape in shapes.items()}
        numbers = range(self.made, self.made + size)
        self.made += size
        prompts = [f"a red apple, no {number}" for number in numbers]
        return Batch(self.slots, images, prompts, [("apple",)] * size, [self.task] * size, [str(n) for n in numbers])

    def stream(self, size: int, count: int) -> Iterator[Batch]:
        """Yield `count` new batches, then repeat them."""
        return cycle([self.batch(size) for _ in range(count)])


class Way(NamedTuple):
    """A candidate: a call that does one turn, the modules with its weights, and the optimizer if it trains."""

    run: Callable[[], object]
    modules: tuple[nn.Module, ...]
    optimizer: torch.optim.Optimizer | None = None

    def held(self) -> int:
        """Return the bytes of weights and optimizer states; shared weights count once."""
        weights = {x.data_ptr(): x.nbytes for m in self.modules for x in (*m.parameters(), *m.buffers())}
        states = [] if self.optimizer is None else [x for s in self.optimizer.state.values() for x in s.values()]
        return sum(weights.values()) + sum(x.nbytes for x in states)


class Contest:
    """Our pipeline and the peers of a case on one device; they have equal weights until training steps change them."""

    def __init__(self, case: Case, config: Mapping[str, Any], effort: Effort) -> None:
        self.case, self.config, self.effort = case, config, effort
        self.optimizers: dict[int, torch.optim.Optimizer] = {}
        self.how = precision(config["trainer"]["precision"])
        self.dtype = torch.bfloat16 if self.how == "bf16-true" else torch.float32
        self.ours = self._built()
        self.peers = {PEER: case.peer(self.ours, config)}
        if case.peer is GridPeer:
            self.peers[DENSE] = self._dense()
        self.fresh = Fresh(case.setting.slots(config["data"]["size"]), (config["data"]["tasks"] or ["canny>target"])[0])

    def _built(self) -> Pipeline:
        torch.manual_seed(0)
        torch.set_default_dtype(self.dtype)
        try:
            with self.effort.device:
                pipeline = build_pipeline(self.config)
                for p in trained(pipeline.backbone, pipeline.embedding):
                    torch.nn.init.normal_(p, 0, 0.02)
        finally:
            torch.set_default_dtype(torch.float32)
        for module in pipeline.modules:
            module.to(self.effort.device)
        pipeline.backbone.train()
        return pipeline

    def _dense(self) -> Peer:
        """Return the grid peer with the same modules and a dense mask of all True."""
        dense = GridPeer.__new__(GridPeer)
        dense.__dict__ = self.peers[PEER].__dict__ | {"dense": True}
        return dense

    # --- equality -----------------------------------------------------------------------------------------

    def training_difference(self) -> float:
        """Return the relative difference of the gradients on a batch of one, or of the losses if that is larger.

        Raises ArithmeticError if the difference in fp32 is more than rounding, so that a comparison means nothing.
        """
        batch, peer = self.fresh.batch(1), self.peers[PEER]
        weights = trained(self.ours.backbone, self.ours.embedding), trained(peer.model, peer.embedding)
        ways = partial(self._our_loss, self.ours, batch), partial(self._loss, peer, batch)
        losses = [self._autocast(way) for way in ways]
        ours, theirs = (torch.autograd.grad(loss, p) for loss, p in zip(losses, weights, strict=True))
        gap = _norm(a.float() - b.float() for a, b in zip(ours, theirs, strict=True)) / _norm(theirs)
        return self._checked(max(gap, abs(losses[0].item() / losses[1].item() - 1)), "gradients")

    def sampling_difference(self) -> float:
        """Return the relative difference of the target's final latents; raise as `training_difference`."""
        batch, peer, parts = self.fresh.batch(1), self.peers[PEER], self._parts()
        theirs = peer.target_tokens(self._autocast(partial(peer.latents, batch, 0)), batch)
        ways = [way(**parts) for way in (Forgetful, Latents)]
        each = [self._autocast(partial(way.sample, batch, 0))["target"] for way in ways]
        return self._checked(max(_norm([x.float() - theirs]) / _norm([theirs]) for x in each), "latents")

    def _checked(self, gap: float, what: str) -> float:
        if not gap <= (ROUNDING if self.how == "32-true" else math.inf):
            raise ArithmeticError(f"{self.case.name}: {what} of ours and the peer differ by {gap:.1e}: no comparison")
        return gap

    # --- candidates ----------------------------------------------------------------------------------------

    def training(self, folder: Path) -> dict[str, Way]:
        """Return training steps: the peers' and ours on new batches, and ours on a batch that is cached."""
        size, count = self.config["data"]["batch_size"], self.effort.rounds + 3
        kept = replace(self.ours, cache=None if self.ours.codec.cacheable else Cache(folder))
        ways = {}
        for name, peer in self.peers.items():
            ways[name] = self._step(partial(self._loss, peer), self.fresh.stream(size, count), peer.modules)
        for name, pipeline, known in ((FRESH, self.ours, False), (KEPT, kept, True)):
            batches = self.fresh.stream(size, 1 if known else count)
            ways[name] = self._step(partial(self._our_loss, pipeline), batches, pipeline.modules)
        return ways

    def sampling(self) -> dict[str, Way]:
        """Return samplings of one image each, from new prompts and conditions."""
        ways = {name: (peer.sample, peer.modules) for name, peer in self.peers.items()}
        ways |= {name: (way.sample, way.modules) for name, way in self._samplers().items()}
        streams = {name: self.fresh.stream(1, self.effort.rounds + 3) for name in ways}

        def draw(sample: Callable[[Batch, int], object], batches: Iterator[Batch]) -> None:
            self._autocast(partial(sample, next(batches), 0))

        return {name: Way(partial(draw, sample, streams[name]), m) for name, (sample, m) in ways.items()}

    def _samplers(self) -> dict[str, Pipeline]:
        """Return our sampling without a memory of keys and values and, if there are static segments, with one."""
        static = self.ours.static(self.ours.plan(self.fresh.slots).layout)
        return {FRESH: Anew(**self._parts())} | ({REUSE: self.ours} if static else {})

    def _parts(self) -> dict[str, Any]:
        return {f.name: getattr(self.ours, f.name) for f in fields(self.ours)}

    def _step(self, loss: Callable[[Batch], Tensor], batches: Iterator[Batch], modules: tuple[nn.Module, ...]) -> Way:
        """Return a training step (loss, gradients, clipping, AdamW) of the first two modules.

        These are the backbone and the condition embedding. Candidates with the same weights share the optimizer, so
        that models of full size fit into memory together.
        """
        weights, clip = trained(*modules[:2]), self.config["trainer"]["gradient_clip_val"]
        if id(modules[0]) not in self.optimizers:
            self.optimizers[id(modules[0])] = torch.optim.AdamW(weights, lr=1e-6)
        adamw = self.optimizers[id(modules[0])]

        def run() -> None:
            self._autocast(partial(loss, next(batches))).backward()
            torch.nn.utils.clip_grad_norm_(weights, clip)
            adamw.step()
            adamw.zero_grad(set_to_none=True)

        return Way(run, modules, adamw)

    def _our_loss(self, pipeline: Pipeline, batch: Batch) -> Tensor:
        return pipeline.training_loss(batch, torch.Generator().manual_seed(0))[0]

    def _loss(self, peer: Peer, batch: Batch) -> Tensor:
        return peer.loss(batch, torch.Generator().manual_seed(0))

    def _autocast(self, run: Callable[[], Any]) -> Any:
        with torch.autocast(self.effort.device.type, dtype=torch.bfloat16, enabled=self.how == "bf16-mixed"):
            return run()


def trained(*modules: nn.Module) -> list[nn.Parameter]:
    """Return the modules' parameters that require gradients."""
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def _norm(tensors: Iterable[Tensor]) -> float:
    return sum(float(x.double().square().sum()) for x in tensors) ** 0.5


def peak(way: Way, device: torch.device) -> int:
    """Return the peak bytes of one turn: what it holds and what it allocates beyond, as the profiler or CUDA counts."""
    synchronize(device)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        way.run()
        return way.held() + torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        way.run()
    return way.held() + max(running_bytes(profiler), default=0)


def peer_tables(composed: Callable[..., dict[str, Any]], sizes: list[str], effort: Effort) -> Iterator[Table]:
    """Yield a table for each size and case once it is measured. Raises ValueError for the paper's models on a CPU."""
    if "paper" in sizes and effort.device.type != "cuda":
        raise ValueError("sizes=paper builds models of 11 and 24 GB on a GPU; on a CPU use sizes=mini,medium")
    for size in sizes:
        for case in CASES:
            config = composed(case.exp, *case.words, *SIZES[size][case.setting])
            yield case_table(f"{case.name}, {size}", Contest(case, config, effort), effort)
            gc.collect()
            if effort.device.type == "cuda":
                torch.cuda.empty_cache()


def case_table(title: str, contest: Contest, effort: Effort) -> Table:
    """Return the table of a training step, if the case is trained, and of sampling one image."""
    table, config = Table(f"Ours beside a peer: {title}", COLUMNS), contest.config
    gaps, rounds = [f"sampled latents differ by {contest.sampling_difference():.0e}"], []
    if contest.case.trained:
        gaps.append(f"gradients by {contest.training_difference():.0e}")
        with TemporaryDirectory() as folder:
            rounds.append(_add(table, "training step", contest.training(Path(folder)), effort).rounds)
    rounds.append(_add(table, "sampling", contest.sampling(), effort).rounds)
    layout = contest.ours.plan(contest.fresh.slots).layout
    table.note = (
        f"{contest.how}, {len(layout)} tokens a sample, batch {config['data']['batch_size']} in training; one image of "
        f"{contest.ours.solver.steps} steps under guidance {contest.ours.guidance.strength:g}; "
        f"{' and '.join(map(str, rounds))} rounds. Relative to their norm, {' and '.join(gaps)}."
    )
    return table


def _add(table: Table, what: str, ways: Mapping[str, Way], effort: Effort) -> Timings:
    """Time candidates in turns and add their rows to the table."""
    times = interleaved({name: way.run for name, way in ways.items()}, effort)
    peaks = {name: peak(way, effort.device) for name, way in ways.items()}
    for name in ways:
        ratio = times.ratio(name, PEER), peaks[name] / peaks[PEER]
        table.add(f"{what}: {name}", 1e3 * times.median(name), ratio[0], peaks[name] / MIB, ratio[1])
    return times
