"""The one data path: sample -> signature -> plan -> tokens -> corrupt -> condition -> backbone -> loss | solver.

Training and sampling walk the same first steps with the same functions.
Shapes: B batch, F frames, f latent frames, C channels, H and W pixels, h and w latent cells, L tokens,
P patch features.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from unigen.cache.store import Cache
from unigen.core import canvas, infill, noise, turns
from unigen.core.finite import NotFinite
from unigen.core.infill import Cells, Fill
from unigen.core.layout import TEXT_STREAM, Geometry, Layout, Plan
from unigen.core.masks import Mask, static_segments
from unigen.core.shift import counted
from unigen.core.tokens import Tokens
from unigen.core.types import CONDITION, Batch, Illustrated, ImageSlot, Signature, subjects_of
from unigen.losses.weighted import SAMPLE, weighted_mean
from unigen.pipeline import hiding
from unigen.pipeline.compatibility import (
    check,
    check_session,
    check_times,
    warn_of_the_unseen,
    warn_of_the_untrained,
)
from unigen.pipeline.encoding import CanvasEncoder
from unigen.pipeline.guidance import Guidance, Guided
from unigen.pipeline.hiding import Hidden
from unigen.pipeline.illustration import check_looked_at, check_shown, illustrated, looked_at
from unigen.protocols import Backbone, Codec, Embedding, Formatter, Loss, Modulation, Process, Solver, TextEncoder
from unigen.solvers.loop import integrate

Watch = Callable[[int, int, Callable[[], dict[str, Tensor]]], None]  # (steps done, of how many, images so far)


class Canvases(NamedTuple):
    """What the codec encodes of a batch, a tensor (B, F, C, H, W) a canvas.

    `blanked` are the whole canvases without the pixels that are generated (the same tensor where there are none), and
    `masks`, (B, F, 1, H, W) booleans, say which those are. Both are empty for a backbone that does not infill.
    """

    whole: list[Tensor]
    blanked: Sequence[Tensor] = ()
    masks: Sequence[Tensor] = ()


@dataclass
class Pipeline:
    """The parts of one experiment. It is a plain object; the LightningModule decides which of its modules train.

    `dropout` maps a role, or several that are hidden together (text+condition), to the probability that training hides
    it. How a role is hidden says `guidance.hide`, for training and for the passes of guidance.
    `fill` says which cells are masked for a backbone that infills, and how; other backbones do not use it.
    `cache` keeps the results of frozen encoders for later runs.
    `watch` is called after each step of sampling, with a function that draws the targets as they are expected to become
    (uint8 pixels by slot, as `sample` returns them). It does not change the result; an error that it raises ends the
    sampling.
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
    guidance: Guidance = field(default_factory=Guidance)
    dropout: Mapping[str, float] = field(default_factory=dict)
    fill: Fill = field(default_factory=Fill)
    cache: Cache | None = None
    watch: Watch | None = None

    def __post_init__(self) -> None:
        check(self)
        check_looked_at(self)
        warn_of_the_untrained(self)
        self._plan = lru_cache(maxsize=256)(self._make_plan)
        self._encode_canvas = CanvasEncoder()

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    @property
    def geometry(self) -> Geometry:
        """The sizes by which pixels become tokens on this backbone and codec."""
        b, c = self.backbone, self.codec
        return Geometry(c.stride, b.patch, b.axes, b.reach, c.temporal_stride, c.clip_unit, b.reach_key)

    @property
    def infilling(self) -> Fill | None:
        """The rule of masking, if the backbone reads a masked image beside the noised tokens; else None."""
        return self.fill if self.backbone.context_width else None

    @property
    def effective_mask(self) -> Mask:
        """The mask as the backbone's family can follow it; all that is derived from a mask is derived from this one."""
        return self.backbone.effective_mask(self.mask)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """Everything that has weights."""
        return self.backbone, self.embedding, self.text, self.codec

    def to_gpu(self) -> None:
        """Move all parts to the GPU if there is one, for sampling. Raises ValueError if they do not fit on it."""
        if not torch.cuda.is_available():
            return
        try:
            for module in self.modules:
                module.to("cuda")
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"the models do not fit on the GPU ({torch.cuda.get_device_name()}); with CUDA_VISIBLE_DEVICES= before "
                "the command they compute on the CPU, slowly"
            ) from error

    def plan(self, slots: tuple[ImageSlot, ...]) -> Plan:
        """Return the placement plan, kept by signature. Raises ValueError for slots that the formatter cannot place."""
        return self._plan(Signature(tuple(slots), self.text.tokens))

    def _make_plan(self, signature: Signature) -> Plan:
        plan = self.formatter(signature, self.geometry)
        plan = replace(plan, layout=self.backbone.placed(plan.layout.numbered()))
        if self.backbone.slots is not None:
            self.backbone.slots.check(plan.layout)
        if not any(self.loss.weights[s.role] > 0 and s.cap > 0 for s in plan.layout.visual):
            raise ValueError("loss.weights is 0 for every noised role of this layout: there is nothing to learn")
        check_times(self, plan.layout)
        check_session(self, plan)
        check_shown(self, plan)
        hiding.check_absent(plan, [role for role in self.formatter.roles if hiding.ABSENT in self.hidden_as(role)])
        warn_of_the_unseen(self, plan.layout)
        return plan

    # --- sample -> tokens ---------------------------------------------------------------------------------

    def encode(
        self,
        batch: Batch,
        hidden: Hidden,
        generator: Generator | None = None,
        cells: Cells | None = None,
        plan: Plan | None = None,
    ) -> Tokens:
        """Encode a batch to clean tokens. `hidden[role]` says how each sample hides a role, None where it is shown.

        `generator` samples codec posteriors (training); without one their means are used. `cells` are those that a
        backbone with a context is to generate, by default the targets. `plan` is the part of the batch's plan that is
        encoded, by default all of it.
        """
        plan = plan or self.plan(batch.slots)
        named = [s.name for s in plan.layout.segments if s.stream == TEXT_STREAM]
        by_turn = turns.prompts_by_turn(batch.prompts, batch.slots)[: len(named)]
        prompts = [hiding.prompts(said, hidden, self.guidance.negative) for said in by_turn]
        images = hiding.blackened(batch.images, (*batch.slots, *plan.slots), hidden)
        if looks_at := looked_at(self.text):
            prompts = [illustrated(said, images, plan.slots, looks_at, hidden) for said in prompts]
        texts = self._encode_text([prompt for said in prompts for prompt in said]).chunk(len(named))
        known = torch.cat(texts, dim=1), self._keywords(prompts, batch, plan), batch.tasks
        stage = "sample" if generator is None else "train"
        pages = self.canvases(images, plan, cells or infill.targets(plan.slots, len(batch)), stage)
        context = None
        latents = self._latents(pages.whole, plan, generator)
        if pages.masks:  # conditions are read from the blanked images, and what is known of a sample is added there
            shown = self.embedding(self._latents(pages.blanked, plan, generator), plan.slots, *known)
            zero = self.infilling.blank[stage] == "zero"
            told = hiding.zeroed(shown, plan.slots, hidden)
            context = infill.features(told, pages.masks, plan, self.backbone.context_parts, zero)
        else:
            latents = self.embedding(latents, plan.slots, *known)
        laid = canvas.tokens(hiding.zeroed(latents, plan.slots, hidden), plan)
        features = {**dict(zip(named, texts, strict=True)), **laid}
        valid, valid_BT = hiding.present(plan.layout, hidden, self.device), [self.text.valid(said) for said in prompts]
        if valid_BT[0] is not None:
            valid |= dict(zip(named, (v.to(self.device) for v in valid_BT), strict=True))
        session = len(turns.turns_of(batch.slots)) > 1
        return Tokens(plan.layout, features, valid or None, self._pooled(prompts[0], session), context)

    def _pooled(self, prompts: list[str], session: bool) -> Tensor | None:
        """Return the prompts as one vector each, if the backbone takes one.

        It would tell every turn of a session of the later ones, so there it is that of the empty prompt.
        """
        if self.backbone.pooled_width is None:
            return None
        pooled = self.text.pooled([""] * len(prompts) if session else prompts)
        return pooled if self.text.trained else pooled.float()

    def _keywords(
        self, prompts: list[list[str]] | list[list[Illustrated]], batch: Batch, plan: Plan
    ) -> dict[str, Tensor]:
        """Return (B, T) booleans for every condition slot, True for the tokens of the texts that name its subject."""
        names = [slot.name for slot in plan.slots if slot.role == CONDITION]
        own = [[subjects_of(said, i, len(names)) for said in batch.subjects] for i in range(len(names))]

        def found(subjects: list[tuple[str, ...]]) -> Tensor:
            return torch.cat([self.text.keywords(said, subjects) for said in prompts], dim=1).to(self.device)

        if own and all(subjects == own[0] for subjects in own):  # looked up once
            return dict.fromkeys(names, found(own[0]))
        return {name: found(own[i]) for i, name in enumerate(names)}

    def canvases(self, images: Mapping[str, Tensor], plan: Plan, cells: Cells, stage: str) -> Canvases:
        """Lay images (B, F, C, H, W) by slot on the canvases that the codec encodes.

        For a backbone that infills, `cells` say what is masked. `stage` is "train" or "sample".
        """
        whole = canvas.stitch(images, plan)
        if self.infilling is None:
            return Canvases(whole)
        masks = infill.pixel_masks(cells, plan)
        blanked = [self.infilling.blanked(x, mask, stage) for x, mask in zip(whole, masks, strict=True)]
        return Canvases(whole, blanked, masks)

    def _latents(self, pages: Sequence[Tensor], plan: Plan, generator: Generator | None) -> dict[str, Tensor]:
        """Encode canvases (B, F, C, H, W); return the latents (B, f, C, h, w) of each slot."""
        encoded = [self._encode_canvas(self.codec, page, generator, self.cache, self.device) for page in pages]
        return canvas.cut(encoded, plan)

    def _encode_text(self, prompts: list[str] | list[Illustrated]) -> Tensor:
        """Encode prompts. Features of a frozen encoder are in fp32, whatever the precision of its weights."""
        if self.text.trained:
            return self.text.encode(prompts)
        if self.cache is None:
            return self.text.encode(prompts).float()
        return self.cache.features(self.text, prompts, self.device).float()

    def hidden_as(self, role: str) -> tuple[str, ...]:
        """Return the ways in which training or guidance hides a role, in the words of `unigen.pipeline.hiding`."""
        trained = (hiding.way_of(role, self.guidance.hide),) * (hiding.share_of(role, self.dropout) > 0)
        return tuple(dict.fromkeys([*trained, *self.guidance.ways(role)]))

    def times(self, layout: Layout, t_B: Tensor) -> dict[str, Tensor]:
        """Return each segment's modulation time: the step's t (one shared tensor), or its own clock."""
        clock_BS = noise.clock(layout, t_B)
        timing = self.modulation.timing
        return {s.name: t_B if timing[s.role] == "shared" else clock_BS[:, i] for i, s in enumerate(layout.segments)}

    def draw_noise(self, plan: Plan, generators: list[Generator]) -> dict[str, Tensor]:
        """Draw standard normal tokens (B, L, P) for every noised slot, one generator for each sample.

        The latent frames that pad a temporal patch get the noise of the first one or their own, as the plan says.
        """
        g, drawn = plan.geometry, {}
        for slot in plan.slots:
            if plan.layout[slot.name].cap == 0:
                continue
            frames = g.latent_frames(slot.frames) if plan.copy_noise == "same" else g.padded_frames(slot.frames)
            shape = frames, self.codec.channels, slot.height // g.stride, slot.width // g.stride
            eps = noise.normal((len(generators), *shape), generators).to(self.device)
            drawn[slot.name] = eps
        return canvas.tokens(drawn, plan, padding="replicate")

    # --- training -----------------------------------------------------------------------------------------

    def training_loss(self, batch: Batch, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of one batch, and its parts for the log. All randomness comes from `generator`."""
        size, plan = len(batch), self.plan(batch.slots)
        cells = self.infilling and self.infilling.draw(plan.slots, size, generator)
        hidden = hiding.drawn(self.dropout, size, self.guidance.hide, generator)
        t_B = self.process.sample_times(size, generator, tokens=counted(self.process, plan.layout)).to(self.device)
        clean = self.encode(batch, hidden, generator, cells)
        return self.denoising_loss(clean, self.draw_noise(plan, [generator] * size), t_B, cells)

    def denoising_loss(
        self, clean: Tokens, noises: dict[str, Tensor], t_B: Tensor, cells: Cells | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss at given times and noise; validation fixes both. `cells` are as in `encode`."""
        layout = clean.layout
        clocks = dict(zip(layout.names, noise.clock(layout, t_B).unbind(1), strict=True))
        noisy = {n: self.process.corrupt(clean.features[n], eps, clocks[n]) for n, eps in noises.items()}
        predictions = self.backbone(clean.updated(noisy), self.times(layout, t_B), self.mask)
        errors = {
            n: self.loss.error(self.process, clean.features[n], eps, noisy[n], predictions[n], clocks[n])
            for n, eps in noises.items()
        }
        generated = cells and infill.generated(cells)
        average = getattr(self.loss, "average", SAMPLE)
        return weighted_mean(errors, {n: layout[n].role for n in errors}, self.loss.weights, generated, average)

    # --- sampling -----------------------------------------------------------------------------------------

    def static(self, layout: Layout) -> tuple[str, ...]:
        """Return the segments that sampling computes once, for all steps and all passes of guidance."""
        timing = self.backbone.effective_timing(self.modulation.timing)
        return static_segments(layout, self.effective_mask, timing)

    @torch.no_grad()
    def sample(self, batch: Batch, seed: int) -> dict[str, Tensor]:
        """Sample uint8 pixels (B, F, C, H, W) of every target slot. Clean segments (cap 0) never change.

        Noise is keyed by (seed, sample key), so an image does not depend on its batch mates. A session is sampled turn
        by turn; a finished target is encoded again for the turns after it, as a user's own image would be.
        """
        plan, size = self.plan(batch.slots), len(batch)
        keys = batch.keys or [str(i) for i in range(size)]
        noises = self.draw_noise(plan, [noise.generator(seed, "sample", k) for k in keys])
        chance = [noise.generator(seed, "solver", key) for key in keys]
        outputs, finished = {}, turns.copies(batch.slots)
        for part in turns.parts(plan):
            seen = {again.name: outputs[name] for name, again in finished.items() if name in outputs}
            outputs |= self._sample(replace(batch, images=batch.images | seen), part, noises, chance)
        return outputs

    def _sample(
        self, batch: Batch, plan: Plan, noises: Mapping[str, Tensor], chance: list[Generator]
    ) -> dict[str, Tensor]:
        """Sample uint8 pixels (B, F, C, H, W) of the targets of a plan, from this noise."""
        shown, guided = self.encode(batch, {}, plan=plan), self.guidance.passes(batch.tasks)
        passes = [(self.encode(batch, hidden, plan=plan), strength_B) for hidden, strength_B in guided]
        state = {s.name: shown.features[s.name] for s in plan.layout.visual}
        for segment in (s for s in plan.layout.visual if s.name in noises):
            cap_B = torch.full((len(batch),), segment.cap, device=self.device)
            state[segment.name] = self.process.corrupt(state[segment.name], noises[segment.name], cap_B)
        predict = Guided(self, shown, passes)
        watch = None if self.watch is None else partial(self._watched, self.watch, plan)
        state = integrate(predict, state, plan.layout, self.process, self.solver, chance, watch)
        return self.decode(state, plan)

    def _watched(
        self, watch: Watch, plan: Plan, step: int, steps: int, estimate: Callable[[], Mapping[str, Tensor]]
    ) -> None:
        """Tell `watch` of a step, with its estimate as images."""
        watch(step, steps, lambda: self.decode(estimate(), plan))

    def decode(self, state: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
        """Decode tokens of all slots to uint8 pixels (B, F, C, H, W) of the target slots."""
        return canvas.decoded(state, plan, self._decode_canvas)

    def _decode_canvas(self, z_BfChw: Tensor) -> Tensor:
        """Decode to uint8 pixels (B, F, C, H, W). Raises NotFinite for NaN, which would silently become black."""
        clips = canvas.by_clip(z_BfChw, self.codec.temporal_stride)
        pixels = self.codec.decode(clips)
        if not pixels.isfinite().all():
            what = "the codec's images" if z_BfChw.isfinite().all() else "the sampled latents"
            raise NotFinite(
                f"{what} are not finite: no image can be drawn (guidance.strength={self.guidance.strength:g}, "
                f"solver.steps={self.solver.steps}); check the weights, or take a higher precision"
            )
        return canvas.by_canvas(canvas.to_pixels(pixels), len(z_BfChw))
