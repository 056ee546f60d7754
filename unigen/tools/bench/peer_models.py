"""Peers: training and sampling of RealGeneral and VisualCloze as in released codes of this kind, for comparison.

They are written on stock diffusers models and stock peft, from papers and facts about the codes; nothing is copied.
Each computes the same as our pipeline from the same weights and random numbers, but in another way: every image and
prompt is encoded in every step, one sample and row after the other; RealGeneral's mask is a dense S × S tensor in each
layer; and sampling computes the conditions again at every denoising step. Encoders are the pipeline's own modules.

Shapes: B batch, F frames, C channels, h and w latent rows and columns, L tokens, P patch features, T text tokens,
D width, E width of the time embedding, S all tokens.
"""

import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from unigen.core import noise
from unigen.core.canvas import to_tokens
from unigen.core.infill import BLANKS
from unigen.core.types import CONDITION, TARGET, TEXT, Batch
from unigen.pipeline.pipeline import Pipeline


class SeparatedNorm(nn.Module):
    """SC-AdaLN in the place of diffusers' `CogVideoXLayerNormZero`: text, condition and target have a linear each.

    `conditions` is the number of condition tokens, which come before the target's; `own` is the time embedding (B, E)
    of the conditions if it is not the target's. Both are set from outside before each call, as in such codes.
    """

    def __init__(self, stock: nn.Module) -> None:
        super().__init__()
        self.silu, self.norm = stock.silu, stock.norm
        width, out = stock.linear.in_features, stock.linear.out_features // 2
        self.branches = nn.ModuleDict({role: nn.Linear(width, out) for role in (TEXT, CONDITION, TARGET)})
        self.conditions, self.own = 0, None

    def forward(self, visual_BLD: Tensor, text_BTD: Tensor, temb_BE: Tensor) -> tuple[Tensor, ...]:
        """Return modulated visual and text tokens and their gates, as the stock module does."""
        tembs = {TEXT: temb_BE, CONDITION: temb_BE if self.own is None else self.own, TARGET: temb_BE}
        made = {role: to(self.silu(tembs[role]))[:, None].chunk(3, dim=-1) for role, to in self.branches.items()}
        sizes = {CONDITION: self.conditions, TARGET: visual_BLD.shape[1] - self.conditions}
        shift, scale, gate = (
            torch.cat([made[role][i].expand(-1, size, -1) for role, size in sizes.items()], dim=1) for i in range(3)
        )
        text_shift, text_scale, text_gate = made[TEXT]
        visual = self.norm(visual_BLD) * (1 + scale) + shift
        return visual, self.norm(text_BTD) * (1 + text_scale) + text_shift, gate, text_gate


def twin(ours: nn.Module, prepare: Callable[[nn.Module], None], renamed: Callable[[str], str]) -> nn.Module:
    """Return a stock diffusers model with stock peft adapters on the same linears and the weights of `ours`.

    Frozen weights are the same tensors, adapters are copies. `prepare` changes the stock model before adapters are
    added; `renamed` maps the name of one of our modules (or a pattern of names) to the stock model's. Raises ValueError
    if `ours` has no LoRA, since the released codes train nothing else.
    """
    if not getattr(ours, "peft_config", None):
        raise ValueError("the peers section compares LoRA training: take an experiment with conditioning/adapter=lora")
    adapter = deepcopy(ours.peft_config["default"])
    adapter.target_modules = renamed(adapter.target_modules)
    adapter.rank_pattern = {renamed(name): rank for name, rank in adapter.rank_pattern.items()}
    adapter.alpha_pattern = {renamed(name): alpha for name, alpha in adapter.alpha_pattern.items()}
    with torch.device("meta"):
        model = type(ours).from_config(ours.config)
        prepare(model)
        model.requires_grad_(False)
        model.add_adapter(adapter)
    model.load_state_dict({renamed(name): x for name, x in ours.state_dict().items()}, assign=True)
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data = p.data.clone()
    if ours.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return model.train()


class Peer:
    """The base of both peers: encoders, which encode one image or prompt at a time, and the trained modules.

    Random numbers are drawn in the order in which our pipeline draws them for a batch of one.
    """

    def __init__(self, pipeline: Pipeline, config: Mapping[str, Any]) -> None:
        self.codec, self.text, self.process, self.solver = (
            pipeline.codec,
            pipeline.text,
            pipeline.process,
            pipeline.solver,
        )
        self.guidance = pipeline.guidance.strength
        self.config, self.device = config, pipeline.device
        self.model = self._twin(pipeline.backbone.model)
        self.embedding = deepcopy(pipeline.embedding)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All modules with weights."""
        return self.model, self.embedding, self.text, self.codec

    @property
    def dtype(self) -> torch.dtype:
        return self.model.proj_out.weight.dtype

    def loss(self, batch: Batch, chance: Generator) -> Tensor:
        """Return the training loss of one batch."""
        raise NotImplementedError

    def sample(self, batch: Batch, seed: int) -> Tensor:
        """Return the target as uint8 pixels (B, 3, H, W)."""
        raise NotImplementedError

    def latents(self, batch: Batch, seed: int) -> Tensor:
        """Return the final latents of everything that is decoded."""
        raise NotImplementedError

    def target_tokens(self, latents: Tensor, batch: Batch) -> Tensor:
        """Return the target's tokens (B, L, P) from the result of `latents`, in our pipeline's order."""
        raise NotImplementedError

    def _twin(self, ours: nn.Module) -> nn.Module:
        raise NotImplementedError

    def _prompts(self, batch: Batch, chance: Generator) -> list[str]:
        """Return the prompts of a training batch, some of them dropped."""
        share = self.config["dropout"][TEXT]
        if not share:
            return batch.prompts
        hidden_B = torch.rand(len(batch), generator=chance) < share
        return ["" if hide else p for p, hide in zip(batch.prompts, hidden_B.tolist(), strict=True)]

    def _texts(self, prompts: list[str]) -> Tensor:
        """Return text features (B, T, D), encoding each prompt by itself."""
        return torch.cat([self.text.encode([prompt]).float() for prompt in prompts])

    def _encode(self, image_3HW: Tensor, chance: Generator | None) -> Tensor:
        """Return the latents (C, h, w) of one image in [-1, 1]."""
        return self.codec.encode(image_3HW[None, None].to(self.device), chance)[0, 0]

    def _decode(self, z_BChw: Tensor) -> Tensor:
        """Return uint8 pixels (B, 3, H, W) on the CPU, decoding each image by itself."""
        pixels = torch.cat([self.codec.decode(z[None, None])[:, 0] for z in z_BChw])
        return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()


class FramesPeer(Peer):
    """RealGeneral on `CogVideoXTransformer3DModel`: [condition, condition, target, target] as latent frames."""

    def __init__(self, pipeline: Pipeline, config: Mapping[str, Any]) -> None:
        from diffusers import CogVideoXDDIMScheduler

        super().__init__(pipeline, config)
        p = config["process"]
        self.scheduler = CogVideoXDDIMScheduler(
            num_train_timesteps=p["steps"],
            beta_start=p["beta_start"],
            beta_end=p["beta_end"],
            snr_shift_scale=p["snr_shift_scale"],
            rescale_betas_zero_snr=p["zero_terminal_snr"],
            prediction_type="v_prediction",
            timestep_spacing="trailing",
            clip_sample=False,
        )
        self.own_time = config["conditioning"]["modulation"]["timing"][CONDITION] == "own"

    def loss(self, batch: Batch, chance: Generator) -> Tensor:
        """Return the mean squared error of v over the target's frames."""
        prompts = self._prompts(batch, chance)
        t_B = self.process.sample_times(len(batch), chance).to(self.device)
        k_B = (t_B * self.scheduler.config.num_train_timesteps).round().long() - 1
        pairs = [
            [self._encode(batch.images[role][i, 0].float() / 127.5 - 1, chance) for role in (CONDITION, TARGET)]
            for i in range(len(batch))
        ]
        condition, target = (torch.stack(z) for z in zip(*pairs, strict=True))
        noises = torch.stack([torch.randn(target.shape[1:], generator=chance) for _ in prompts]).to(self.device)
        text = self._texts(prompts)
        condition = self._shifted(condition, text, prompts, batch)
        noisy, v = (f(target, noises, k_B) for f in (self.scheduler.add_noise, self.scheduler.get_velocity))
        error = self._predicted(condition, self._frames(noisy), text, k_B) - self._frames(v)
        return error.square().mean()

    @torch.no_grad()
    def sample(self, batch: Batch, seed: int) -> Tensor:
        """Decode the mean of the target's frames."""
        return self._decode(self.latents(batch, seed).mean(dim=1))

    def target_tokens(self, latents: Tensor, batch: Batch) -> Tensor:
        """Return the tokens of all latents, which are the target's."""
        c = self.model.config
        return to_tokens(latents, (c.patch_size_t, c.patch_size, c.patch_size))

    @torch.no_grad()
    def latents(self, batch: Batch, seed: int) -> Tensor:
        """Return the target's latents (B, F, C, h, w); every step computes both branches of guidance as a whole."""
        guidance, copies = self.guidance, 1 if self.guidance == 1.0 else 2
        prompts = [*batch.prompts, *([""] * len(batch) if copies == 2 else [])]
        clean = torch.stack(
            [self._encode(batch.images[CONDITION][i, 0].float() / 127.5 - 1, None) for i in range(len(batch))]
        )
        text = self._texts(prompts)
        condition = self._shifted(clean.repeat(copies, 1, 1, 1), text, prompts, batch)
        drawn = [torch.randn(clean.shape[1:], generator=noise.generator(seed, "sample", key)) for key in batch.keys]
        x = self._frames(torch.stack(drawn).to(self.device))
        self.scheduler.set_timesteps(self.solver.steps)
        for k in self.scheduler.timesteps:
            k_B = torch.full((len(prompts),), int(k), device=self.device)
            v = self._predicted(condition, x.repeat(copies, 1, 1, 1, 1), text, k_B)
            if copies == 2:
                shown, hidden = v.chunk(2)
                v = hidden + guidance * (shown - hidden)
            x = self.scheduler.step(v, k, x).prev_sample
        return x

    def _twin(self, ours: nn.Module) -> nn.Module:
        def separate(model: nn.Module) -> None:
            for block in model.transformer_blocks:
                block.norm1, block.norm2 = SeparatedNorm(block.norm1), SeparatedNorm(block.norm2)

        return twin(ours, separate, str)

    def _frames(self, z_BChw: Tensor) -> Tensor:
        """Repeat a still to fill a temporal patch, (B, F, C, h, w)."""
        return z_BChw[:, None].repeat(1, self.model.config.patch_size_t, 1, 1, 1)

    def _shifted(self, z_BChw: Tensor, text_BTD: Tensor, prompts: list[str], batch: Batch) -> Tensor:
        """Apply UCE: add the mapped mean of the subject's text tokens and the task's bias to condition latents."""
        if not hasattr(self.embedding, "subject"):
            return z_BChw
        copies = len(prompts) // len(batch)
        shifted = []
        for z, text_TD, prompt, words, task in zip(
            z_BChw, text_BTD, prompts, batch.subjects * copies, batch.tasks * copies, strict=True
        ):
            hits_T = self.text.keywords([prompt], [words])[0].to(self.device)
            mean_D = text_TD[hits_T].mean(0) if hits_T.any() else torch.zeros_like(text_TD[0])
            bias_C = self.embedding.bias[self.embedding.tasks.index(task)]
            shifted.append(z + (self.embedding.subject(mean_D.to(bias_C.dtype)) + bias_C)[:, None, None])
        return torch.stack(shifted)

    def _predicted(self, condition: Tensor, x_BFChw: Tensor, text_BTD: Tensor, k_B: Tensor) -> Tensor:
        """Predict v (B, F, C, h, w) of the target's frames in fp32; mask and rotary tables are made for each call."""
        from diffusers.models.embeddings import get_3d_rotary_pos_embed

        c, pt = self.model.config, self.model.config.patch_size_t
        h, w = x_BFChw.shape[-2] // c.patch_size, x_BFChw.shape[-1] // c.patch_size
        reach = c.sample_height // c.patch_size, c.sample_width // c.patch_size
        rope = get_3d_rotary_pos_embed(
            c.attention_head_dim, None, (h, w), 2, grid_type="slice", max_size=reach, device=self.device
        )
        sizes = {TEXT: text_BTD.shape[1], CONDITION: h * w, TARGET: h * w}
        self._tell_norms(h * w, len(k_B))
        out = self.model(
            torch.cat([self._frames(condition), x_BFChw], dim=1).to(self.dtype),
            text_BTD.to(self.dtype),
            k_B,
            image_rotary_emb=rope,
            attention_kwargs={"attention_mask": self._mask(sizes).expand(len(k_B), -1, -1)},
            return_dict=False,
        )[0]
        return out[:, pt:].float()

    def _tell_norms(self, conditions: int, size: int) -> None:
        own = None
        if self.own_time:
            zero_B = torch.zeros(size, device=self.device)
            own = self.model.time_embedding(self.model.time_proj(zero_B).to(self.dtype))
        for block in self.model.transformer_blocks:
            for norm in (block.norm1, block.norm2):
                norm.conditions, norm.own = conditions, own

    def _mask(self, sizes: Mapping[str, int]) -> Tensor:
        """Return the role table as booleans (1, S, S)."""
        rows = self.config["mask"]["rows"]
        blocks = [
            torch.cat([torch.full((n, m), rows[q][k] != "none") for k, m in sizes.items()], dim=1)
            for q, n in sizes.items()
        ]
        return torch.cat(blocks)[None].to(self.device)


class GridPeer(Peer):
    """VisualCloze on `FluxTransformer2DModel` (Fill): rows of images, each encoded as one wide image, twice."""

    def __init__(self, pipeline: Pipeline, config: Mapping[str, Any], dense: bool = False) -> None:
        super().__init__(pipeline, config)
        self.fill, self.dense = pipeline.fill, dense

    def loss(self, batch: Batch, chance: Generator) -> Tensor:
        """Return the squared error of the velocity over masked cells, or over all if the weights say so."""
        cells = self.fill.draw(batch.slots, len(batch), chance)
        prompts = self._prompts(batch, chance)
        tokens = sum(s.height * s.width for s in batch.slots) // (2 * self.codec.stride) ** 2
        t_B = self.process.sample_times(len(batch), chance, tokens=tokens).to(self.device)
        pages = [self._pages(batch, i) for i in range(len(batch))]
        masks = [self._masks(batch, {n: bool(m[i]) for n, m in cells.items()}) for i in range(len(batch))]
        data = torch.stack([self._packed_rows(p, chance) for p in pages])
        context = torch.stack([self._context(p, m, "train", chance) for p, m in zip(pages, masks, strict=True)])
        eps = self._noise(batch, [chance] * len(batch))
        x = (1 - t_B)[:, None, None] * data + t_B[:, None, None] * eps
        v = self._predicted(x, context, self._conditions(prompts), t_B, batch, "train")
        error = (v - (eps - data)).square().mean(-1)
        everywhere = self.config["loss"]["weights"][CONDITION] > 0
        counted = torch.stack([self._masked_tokens(m) for m in masks]).to(self.device) | everywhere
        return ((error * counted).sum(1) / counted.sum(1)).mean()

    @torch.no_grad()
    def sample(self, batch: Batch, seed: int) -> Tensor:
        """Decode every row and cut the target from the last one."""
        rows = self._rows(self.latents(batch, seed), batch)
        return [self._decode(z) for z in rows][-1][..., -batch.slots[-1].width :]

    def target_tokens(self, latents: Tensor, batch: Batch) -> Tensor:
        """Return the tokens of the last cell in the last row."""
        width = batch.slots[-1].width // self.codec.stride
        return to_tokens(self._rows(latents, batch)[-1][:, None, ..., -width:], (1, 2, 2))

    @torch.no_grad()
    def latents(self, batch: Batch, seed: int) -> Tensor:
        """Return latents (B, L, 64) after Euler steps over the whole grid."""
        masks = self._masks(batch, {s.name: s.role == TARGET for s in batch.slots})
        context = torch.stack([self._context(self._pages(batch, i), masks, "sample", None) for i in range(len(batch))])
        x = self._noise(batch, [noise.generator(seed, "sample", key) for key in batch.keys])
        texts, times = self._conditions(batch.prompts), self.solver.times(x.shape[1]).tolist()
        for t, s in pairwise(times):
            t_B = torch.full((len(batch),), t, device=self.device)
            x = x + (s - t) * self._predicted(x, context, texts, t_B, batch, "sample")
        return x

    def _twin(self, ours: nn.Module) -> nn.Module:
        def renamed(name: str) -> str:  # one branch for all images is the stock linear
            return re.sub(r"\.branches\.\w+", ".linear", name.replace(r"branches\.\w+", "linear"))

        return twin(ours, lambda model: None, renamed)

    def _grid(self, batch: Batch) -> list[list[str]]:
        """Return the names of the cells, row by row."""
        numbers = sorted({s.row for s in batch.slots})
        return [[s.name for s in batch.slots if s.row == number] for number in numbers]

    def _pages(self, batch: Batch, i: int) -> list[Tensor]:
        """Return a sample's rows as images (3, H, W) in [-1, 1]."""
        return [
            torch.cat([batch.images[n][i, 0].float() / 127.5 - 1 for n in row], dim=-1) for row in self._grid(batch)
        ]

    def _masks(self, batch: Batch, masked: Mapping[str, bool]) -> list[Tensor]:
        """Return a mask (1, H, W) for each row, 1 where a cell is generated."""
        sizes = {s.name: (1, s.height, s.width) for s in batch.slots}
        return [torch.cat([torch.full(sizes[n], float(masked[n])) for n in row], dim=-1) for row in self._grid(batch)]

    def _packed_rows(self, pages: list[Tensor], chance: Generator | None) -> Tensor:
        """Encode a sample's rows one after the other; return their latents (L, 64)."""
        return torch.cat([_packed(self._encode(page, chance)) for page in pages])

    def _context(self, pages: list[Tensor], masks: list[Tensor], stage: str, chance: Generator | None) -> Tensor:
        """Return the latents of the blanked rows and the masks, (L, 320)."""
        blank = BLANKS[self.fill.blank[stage]]
        blanked = [page.masked_fill(mask.bool(), blank) for page, mask in zip(pages, masks, strict=True)]
        folded = [_packed(pixel_unshuffle(mask, self.codec.stride)).to(self.device) for mask in masks]
        return torch.cat([self._packed_rows(blanked, chance), torch.cat(folded)], dim=-1)

    def _masked_tokens(self, masks: list[Tensor]) -> Tensor:
        """Return booleans (L,), True for tokens of masked cells."""
        return torch.cat([_packed(pixel_unshuffle(m, self.codec.stride)).amax(-1) > 0 for m in masks])

    def _noise(self, batch: Batch, chances: list[Generator]) -> Tensor:
        """Draw noise (B, L, 64) cell by cell."""
        c, stride = self.codec.channels, self.codec.stride
        sizes = {s.name: (c, s.height // stride, s.width // stride) for s in batch.slots}
        drawn = {n: torch.stack([torch.randn(size, generator=g) for g in chances]) for n, size in sizes.items()}
        rows = [torch.cat([drawn[n] for n in row], dim=-1) for row in self._grid(batch)]
        return torch.cat([torch.stack([_packed(z) for z in row]) for row in rows], dim=1).to(self.device)

    def _ids(self, batch: Batch) -> list[Tensor]:
        """Return position ids (L, 3) for each row: the row's number from 1, and rows and columns of tokens."""
        cell, found = 2 * self.codec.stride, []
        for number, row in enumerate(self._grid(batch), start=1):
            slots = [s for s in batch.slots if s.name in row]
            h, w = slots[0].height // cell, sum(s.width for s in slots) // cell
            axes = torch.tensor([number]), torch.arange(h), torch.arange(w)
            found.append(torch.cartesian_prod(*axes).float().to(self.device))
        return found

    def _conditions(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Return text (B, T, D) and pooled text (B, E), encoding each prompt by itself."""
        pooled = torch.cat([self.text.pooled([p]).float() for p in prompts])
        return self._texts(prompts).to(self.dtype), pooled.to(self.dtype)

    def _predicted(
        self, x_BLP: Tensor, context: Tensor, texts: tuple[Tensor, Tensor], t_B: Tensor, batch: Batch, stage: str
    ) -> Tensor:
        """Predict the velocity (B, L, 64) in fp32."""
        text, pooled = texts
        guidance = self.config["backbone"]["guidance"]
        size, length = len(x_BLP), text.shape[1] + x_BLP.shape[1]
        mask = torch.ones(size, 1, length, length, dtype=torch.bool, device=self.device) if self.dense else None
        out = self.model(
            torch.cat([x_BLP, context], dim=-1).to(self.dtype),
            text,
            pooled,
            t_B,
            torch.cat(self._ids(batch)),
            torch.zeros(text.shape[1], 3, device=self.device),
            None if guidance is None else torch.full((size,), float(guidance[stage]), device=self.device),
            joint_attention_kwargs=None if mask is None else {"attention_mask": mask},
            return_dict=False,
        )[0]
        return out.float()

    def _rows(self, x_BLP: Tensor, batch: Batch) -> list[Tensor]:
        """Return the latents (B, C, h, w) of each row from its tokens."""
        grids = [(ids[:, 1:].max(0).values.int() + 1).tolist() for ids in self._ids(batch)]
        rows = x_BLP.split([h * w for h, w in grids], dim=1)
        return [pixel_shuffle(x.transpose(1, 2).unflatten(2, grid), 2) for x, grid in zip(rows, grids, strict=True)]


def _packed(z_Chw: Tensor) -> Tensor:
    """Pack latents as Flux does, (L, 4 C): 2 × 2 cells a token, features in the order (C, 2, 2)."""
    return pixel_unshuffle(z_Chw, 2).flatten(1).T
