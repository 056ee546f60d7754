"""The one data path: sample -> signature -> plan -> tokens -> corrupt -> condition -> backbone -> loss | solver.

Training and sampling walk the same first steps with the same functions.
Shapes: B batch, F frames, C channels, L tokens, P patch features.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Generator, Tensor, nn

from unigen import canvas, fill, noise
from unigen.cache import Cache
from unigen.fill import Cells, Fill
from unigen.finite import NotFinite
from unigen.layout import Geometry, Layout, Plan
from unigen.losses.weighted import SAMPLE, weighted_mean
from unigen.masks import Mask, static_segments
from unigen.memo import Memo
from unigen.parts import check, check_times, warn_of_the_unseen
from unigen.protocols import Backbone, Codec, Embedding, Formatter, Loss, Modulation, Process, Solver, TextEncoder
from unigen.solvers.loop import integrate
from unigen.tokens import Tokens
from unigen.types import TARGET, TEXT, Batch, ImageSlot, Signature

LATENT_MEMORY = 2**30  # bytes of latents kept for pictures that come back in the next epoch


@dataclass
class Pipeline:
    """The parts of one experiment. A plain object: which of its modules train is the LightningModule's business.

    `dropout` maps a role to the probability that training hides it: text becomes the empty prompt,
    a picture zero latents. What `solver.drop` names, guidance hides in its second branch in the same way.
    `fill` says what a backbone that reads a masked picture (`context_width`) is shown; others have no use for it.
    `cache` keeps what frozen encoders made beyond this run.
    Raises ValueError if the parts do not fit each other (see `check`).
    """

    formatter: Formatter
    mask: Mask
    backbone: Backbone
    embedding: Embedding
    modulation: Modulation
    codec: Codec
    text: TextEncoder
    process: Process
    loss: Loss
    solver: Solver
    dropout: Mapping[str, float] = field(default_factory=dict)
    fill: Fill = field(default_factory=Fill)
    cache: Cache | None = None

    def __post_init__(self) -> None:
        check(self)
        self._plan = lru_cache(maxsize=256)(self._make_plan)
        self._latents = Memo(LATENT_MEMORY)

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """Everything that has weights."""
        return self.backbone, self.embedding, self.text, self.codec

    def plan(self, slots: tuple[ImageSlot, ...]) -> Plan:
        """Where everything goes, kept by signature; refuses a layout with roles that a table does not know."""
        return self._plan(Signature(tuple(slots), self.text.tokens))

    def _make_plan(self, signature: Signature) -> Plan:
        b, c = self.backbone, self.codec
        plan = self.formatter(signature, Geometry(c.stride, b.patch, b.axes, b.reach))
        if not any(self.loss.weights[s.role] > 0 and s.cap > 0 for s in plan.layout.visual):
            raise ValueError("loss.weights is 0 for every noised role of this layout: there is nothing to learn")
        check_times(self, plan.layout)
        warn_of_the_unseen(self, plan.layout)
        return plan

    # --- sample -> tokens ---------------------------------------------------------------------------------

    def encode(
        self,
        batch: Batch,
        dropped: Mapping[str, Tensor],
        generator: Generator | None = None,
        cells: Cells | None = None,
    ) -> Tokens:
        """Clean tokens of a batch. `dropped[role]` (B,) booleans hide that role of those samples.

        `generator` samples codec posteriors (training); without one their means are used. `cells` are those that a
        backbone with a context is to generate, by default the targets.
        """
        slots, plan = batch.slots, self.plan(batch.slots)
        text_hidden = dropped.get(TEXT)
        prompts = batch.prompts
        if text_hidden is not None:
            prompts = ["" if hide else p for p, hide in zip(prompts, text_hidden.tolist(), strict=True)]
        text_BTD = self._encode_text(prompts)
        pages = canvas.stitch(batch.images, plan, slots)
        latents, context = self._latents_of(pages, plan, slots, generator), None
        known = text_BTD, self.text.keywords(prompts, batch.subjects).to(self.device), batch.tasks
        if self.backbone.context_width:  # then conditions are read there, and what is known of a sample is added there
            masks = fill.pixel_masks(cells or fill.targets(slots, len(batch)), plan, slots)
            stage = "sample" if generator is None else "train"
            pages = [self.fill.blanked(page, mask, stage) for page, mask in zip(pages, masks, strict=True)]
            shown = self.embedding(self._latents_of(pages, plan, slots, generator), slots, *known)  # a draw of its own
            shown = canvas.hide(shown, slots, dropped)
            context = fill.features(shown, masks, plan, slots, self.codec.stride, self.backbone.patch)
        else:
            latents = self.embedding(latents, slots, *known)
        features = {TEXT: text_BTD}
        for name, z in canvas.hide(latents, slots, dropped).items():
            filled = canvas.fill_patch(z, self.backbone.patch[0], plan.fill)
            features[name] = canvas.to_tokens(filled, self.backbone.patch)
        pooled = None if self.backbone.pooled_width is None else self.text.pooled(prompts)
        if pooled is not None and not self.text.trained:
            pooled = pooled.float()
        return Tokens(plan.layout, features, pooled=pooled, context=context)

    def _latents_of(
        self, pages: list[Tensor], plan: Plan, slots: tuple[ImageSlot, ...], generator: Generator | None
    ) -> dict[str, Tensor]:
        """Latents (B, F, C, H, W) by slot of canvases, each encoded as one picture."""
        return canvas.cut([self._encode_page(page, generator) for page in pages], plan, slots, self.codec.stride)

    def _encode_text(self, prompts: list[str]) -> Tensor:
        """Of a frozen encoder in fp32, whatever its weights are held in."""
        if self.text.trained:
            return self.text.encode(prompts)
        if self.cache is None:
            return self.text.encode(prompts).float()
        return self.cache.features(self.text, prompts, self.device).float()

    def _encode_page(self, page_BFCHW: Tensor, generator: Generator | None) -> Tensor:
        """Latents of canvases; a codec without randomness sees each distinct uint8 picture once.

        What is not uint8, a picture with grey cells, is in the codecs' range already and not kept.
        """
        pictures = page_BFCHW.flatten(0, 1)

        def encode(positions: list[int] | slice) -> Tensor:
            return self.codec.encode(canvas.to_unit(pictures[positions].to(self.device)), generator)

        if pictures.is_floating_point():
            z = self.codec.encode(pictures.to(self.device), generator)
        elif self.cache is not None:
            z = self.codec.draw(self.cache.moments(self.codec, pictures, self.device), generator)
        elif self.codec.cacheable:
            z = self._latents([canvas.digest(x) for x in pictures], encode).to(self.device)
        else:
            z = encode(slice(None))
        return z.unflatten(0, page_BFCHW.shape[:2])

    def times(self, layout: Layout, t_B: Tensor) -> dict[str, Tensor]:
        """Each segment's modulation time: the step's t (one shared tensor), or its own clock."""
        clock_BS = noise.clock(layout, t_B)
        timing = self.modulation.timing
        return {s.name: t_B if timing[s.role] == "shared" else clock_BS[:, i] for i, s in enumerate(layout.segments)}

    def draw_noise(self, plan: Plan, slots: tuple[ImageSlot, ...], generators: list[Generator]) -> dict[str, Tensor]:
        """Standard normal tokens (B, L, P) for every noised slot, one generator for each sample.

        The copies that fill a still's temporal patch get the same noise or their own, as the plan says.
        """
        pt = self.backbone.patch[0]
        drawn = {}
        for slot in slots:
            if plan.layout[slot.name].cap == 0:
                continue
            own = slot.frames if slot.frames % pt == 0 or plan.copy_noise == "same" else pt
            h, w = slot.height // self.codec.stride, slot.width // self.codec.stride
            eps = noise.normal((len(generators), own, self.codec.channels, h, w), generators).to(self.device)
            drawn[slot.name] = canvas.to_tokens(canvas.fill_patch(eps, pt, "replicate"), self.backbone.patch)
        return drawn

    # --- training -----------------------------------------------------------------------------------------

    def training_loss(self, batch: Batch, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one batch, and its parts for the log. All randomness comes from `generator`."""
        size, layout = len(batch), self.plan(batch.slots).layout
        cells = self.fill.draw(batch.slots, size, generator) if self.backbone.context_width else None
        dropped = {
            role: torch.rand(size, generator=generator) < share for role, share in self.dropout.items() if share > 0
        }
        t_B = self.process.sample_times(size, generator, tokens=layout.image_tokens).to(self.device)
        clean = self.encode(batch, dropped, generator, cells)
        noises = self.draw_noise(self.plan(batch.slots), batch.slots, [generator] * size)
        return self.denoising_loss(layout, clean, noises, t_B, cells)

    def denoising_loss(
        self, layout: Layout, clean: Tokens, noises: dict[str, Tensor], t_B: Tensor, cells: Cells | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss at given times and noise: also what validation measures at fixed ones. `cells` as in `encode`."""
        clocks = dict(zip(layout.names, noise.clock(layout, t_B).unbind(1), strict=True))
        noisy = {n: self.process.corrupt(clean.features[n], eps, clocks[n]) for n, eps in noises.items()}
        predictions = self.backbone(clean.updated(noisy), self.times(layout, t_B), self.mask)
        errors = {
            n: self.loss.error(self.process, clean.features[n], eps, noisy[n], predictions[n], clocks[n])
            for n, eps in noises.items()
        }
        generated = cells and fill.generated(cells)
        average = getattr(self.loss, "average", SAMPLE)
        return weighted_mean(errors, {n: layout[n].role for n in errors}, self.loss.weights, generated, average)

    # --- sampling -----------------------------------------------------------------------------------------

    def static(self, layout: Layout) -> tuple[str, ...]:
        """The segments that sampling computes once, for all steps and both branches of guidance."""
        return static_segments(layout, self.mask, self.modulation.timing)

    @torch.no_grad()
    def sample(self, batch: Batch, seed: int) -> dict[str, Tensor]:
        """uint8 pixels (B, F, C, H, W) of every target slot; what is clean (cap 0) is never changed.

        Noise is keyed by (seed, sample key), so a picture does not depend on its batch mates.
        """
        plan, size = self.plan(batch.slots), len(batch)
        keys = batch.keys or [str(i) for i in range(size)]
        noises = self.draw_noise(plan, batch.slots, [noise.generator(seed, "sample", k) for k in keys])
        clean = self._branches(batch)
        state = {s.name: clean.features[s.name][:size] for s in plan.layout.visual}
        for name, eps in noises.items():
            cap_B = torch.full((size,), plan.layout[name].cap, device=self.device)
            state[name] = self.process.corrupt(state[name], eps, cap_B)
        predict = Guided(self, clean, size)
        chance = [noise.generator(seed, "solver", key) for key in keys]
        state = integrate(predict, state, plan.layout, self.process, self.solver, chance)
        return self.decode(state, plan, batch.slots)

    def _branches(self, batch: Batch) -> Tokens:
        """Clean tokens, with the guidance branch (its roles hidden) stacked behind along the batch."""
        clean = replace(self.encode(batch, {}), sampling=True)
        if self.solver.guidance == 1.0:
            return clean
        everyone = torch.ones(len(batch), dtype=torch.bool)
        return clean.beside(self.encode(batch, dict.fromkeys(self.solver.drop, everyone)))

    def decode(self, state: dict[str, Tensor], plan: Plan, slots: tuple[ImageSlot, ...]) -> dict[str, Tensor]:
        """Tokens of the target slots back to uint8 pixels (B, F, C, H, W)."""
        latents = {}
        for slot in slots:
            box = canvas.from_tokens(state[slot.name], plan.layout[slot.name].grid, self.backbone.patch)
            latents[slot.name] = canvas.read_patch(box, slot.frames, plan.fill)
        wanted = {p.canvas for p in plan.placements for s in slots if s.name == p.slot and s.role == TARGET}
        pages = canvas.paste(latents, plan, slots, self.codec.stride)
        pixels = [self._decode_latents(page) if i in wanted else None for i, page in enumerate(pages)]
        targets = {s.name for s in slots if s.role == TARGET}
        shown = Plan(plan.layout, tuple(p for p in plan.placements if p.slot in targets))
        return canvas.cut(pixels, shown, slots, stride=1)

    def _decode_latents(self, z_BFCHW: Tensor) -> Tensor:
        """Raises NotFinite where pixels would be made up: a NaN becomes black in uint8 without a word."""
        pixels = self.codec.decode(z_BFCHW.flatten(0, 1))
        if not pixels.isfinite().all():
            what = "the codec's images" if z_BFCHW.isfinite().all() else "the sampled latents"
            raise NotFinite(
                f"{what} are not finite: no image can be drawn (solver.guidance={self.solver.guidance:g}, "
                f"solver.steps={self.solver.steps}); check the weights, or take a higher precision"
            )
        return canvas.to_pixels(pixels).unflatten(0, z_BFCHW.shape[:2])


class Guided:
    """predict(state, t): the network's output under classifier-free guidance, static segments computed once.

    Guidance (RealGeneral section 4.1): hidden + omega * (shown - hidden), both branches in one batch.
    Segments that `static_segments` derives from layout, mask and timing keep their keys and values.
    """

    def __init__(self, pipeline: Pipeline, clean: Tokens, size: int) -> None:
        self.pipeline, self.clean, self.size = pipeline, clean, size
        layout, mask = clean.layout, pipeline.mask
        static = pipeline.static(layout)
        self.active, self.memory = layout.without(static), None
        if static:
            still = clean.only(layout.only(static))
            zero_B = torch.zeros(len(next(iter(clean.features.values()))), device=pipeline.device)
            self.memory = pipeline.backbone.remember(still, pipeline.times(still.layout, zero_B), mask)

    def __call__(self, state: dict[str, Tensor], t: float) -> dict[str, Tensor]:
        p = self.pipeline
        copies = len(next(iter(self.clean.features.values()))) // self.size
        moving = {s.name: state[s.name].repeat(copies, 1, 1) for s in self.active.visual if s.cap > 0}
        tokens = self.clean.updated(moving).only(self.active)
        t_B = torch.full((self.size * copies,), t, device=p.device)
        outputs = p.backbone(tokens, p.times(self.active, t_B), p.mask, self.memory)
        if copies == 1:
            return outputs
        split = {n: x.float().chunk(2) for n, x in outputs.items()}
        return {n: hidden + p.solver.guidance * (shown - hidden) for n, (shown, hidden) in split.items()}
