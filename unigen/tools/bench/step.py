"""Profiles our training step beside the same step on the stock model.

Shapes: B batch, F frames, C channels, H and W rows and columns, L tokens, P patch features.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor, nn

from unigen.core import attention, canvas, masks
from unigen.core.layout import Layout
from unigen.core.tokens import Tokens
from unigen.core.types import Batch
from unigen.pipeline.build import build
from unigen.pipeline.pipeline import Pipeline
from unigen.tools.bench.turns import Effort, Table, interleaved

REFERENCE = "stock, dense mask"
Runs = dict[str, tuple[nn.Module, Callable[[], Tensor]]]


class Inputs(NamedTuple):
    """A batch for both models: filled latents (B, F, C, H, W), condition first, text (B, T, D), times (B,)."""

    latents: Tensor
    text: Tensor
    times: Tensor
    wanted: Tensor


class Rivals:
    """Our converted backbone and the stock model with the same random weights; all weights of both are trained."""

    def __init__(self, config: Mapping[str, Any], layout: Layout, batch: int, device: torch.device) -> None:
        self.layout, self.mask = layout, build(config["mask"])
        self.ours = build({**config["backbone"], "pretrained": None})
        self.stock = type(self.ours.model)(**config["backbone"]["config"])
        self.stock.load_state_dict(self.ours.model.state_dict())
        build(config["conditioning"]["modulation"]).apply(self.ours, tied=False)
        for model in (self.ours, self.stock):
            model.to(device).requires_grad_(True)
        self.processor = self.ours.model.transformer_blocks[0].attn1.processor
        self.inputs = self._draw(batch, device)
        self.rope = self._rope(device)
        self.allowed = masks.dense(layout, layout, self.mask).to(device)[None].expand(batch, -1, -1)

    def _draw(self, batch: int, device: torch.device) -> Inputs:
        chance = torch.Generator().manual_seed(0)
        t, h, w = self._grid()
        pt, ph, pw = self.ours.patch
        latents = torch.randn(batch, t * pt, self.ours.latent_channels, h * ph, w * pw, generator=chance)
        words = len(self.layout) - t * h * w
        text = torch.randn(batch, words, self.ours.text_width, generator=chance)
        times, wanted = (torch.arange(batch) + 0.5) / batch, torch.randn_like(latents[:, -pt:])
        return Inputs(*(x.to(device) for x in (latents, text, times, wanted)))

    def _grid(self) -> tuple[int, int, int]:
        """Return the number of tokens of all images along (t, h, w)."""
        grids = [s.grid for s in self.layout.visual]
        return sum(t for t, _, _ in grids), grids[0][1], grids[0][2]

    def _rope(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the rotary tables of the stock pipeline."""
        t, h, w = self._grid()
        width, (_, *reach) = self.stock.config.attention_head_dim, self.ours.reach
        return get_3d_rotary_pos_embed(width, None, (h, w), t, grid_type="slice", max_size=tuple(reach), device=device)

    def our_prediction(self, lowering: Callable[..., Tensor]) -> Tensor:
        """Return the converted model's prediction (B, L_target, P) from latents."""
        self.processor.lowering = lowering
        x, pt = self.inputs, self.ours.patch[0]
        names = [s.name for s in self.layout.segments]
        boxes = x.latents.split([s.grid[0] * pt for s in self.layout.visual], dim=1)
        features = dict(zip(names, [x.text, *(canvas.to_tokens(z, self.ours.patch) for z in boxes)], strict=True))
        return self.ours(Tokens(self.layout, features), dict.fromkeys(names, x.times), self.mask)[names[-1]]

    def stock_prediction(self, masked: bool) -> Tensor:
        """Return the stock model's prediction for the target's frames, as tokens (B, L_target, P)."""
        x = self.inputs
        k_B = (x.times * self.ours.training_steps - 1).clamp(min=0).round()
        kwargs = {"attention_mask": self.allowed} if masked else None
        out = self.stock(
            x.latents, x.text, k_B, image_rotary_emb=self.rope, attention_kwargs=kwargs, return_dict=False
        )[0]
        return canvas.to_tokens(out[:, -self.ours.patch[0] :], self.ours.patch)

    def error(self, prediction: Tensor) -> Tensor:
        """Return the mean squared error of the target."""
        return (prediction - canvas.to_tokens(self.inputs.wanted, self.ours.patch)).square().mean()

    @torch.no_grad()
    def difference(self) -> float:
        """Return the largest difference of the two predictions, which must agree, relative to the largest value."""
        ours, stock = self.our_prediction(attention.grouped), self.stock_prediction(True)
        return float((ours - stock).abs().max() / stock.abs().max())

    def runs(self) -> Runs:
        """Return the model and the loss of every candidate."""
        return {
            REFERENCE: (self.stock, lambda: self.error(self.stock_prediction(True))),
            "stock, no mask": (self.stock, lambda: self.error(self.stock_prediction(False))),
            "ours, dense": (self.ours, lambda: self.error(self.our_prediction(attention.dense))),
            "ours, grouped": (self.ours, lambda: self.error(self.our_prediction(attention.grouped))),
        }

    def short_runs(self) -> Runs:
        """Return candidates of ours for short sequences; `plain` stores all scores, bf16 is autocast."""

        def mixed(lowering: Callable[..., Tensor]) -> Tensor:
            with torch.autocast(self.inputs.latents.device.type, dtype=torch.bfloat16):
                prediction = self.our_prediction(lowering)
            return self.error(prediction.float())

        return {
            "ours, plain": (self.ours, lambda: self.error(self.our_prediction(attention.plain))),
            "ours, grouped, bf16 autocast": (self.ours, lambda: mixed(attention.grouped)),
            "ours, plain, bf16 autocast": (self.ours, lambda: mixed(attention.plain)),
        }


def whole_pipeline(pipeline: Pipeline, batch: Batch, precision: str, device: torch.device) -> Runs:
    """Return the step of the whole pipeline from images and prompts, with codec, text encoder and noise."""
    trained = [pipeline.backbone, pipeline.embedding, *([pipeline.text] if pipeline.text.trained else [])]
    for module in (*trained, pipeline.codec, pipeline.text):
        module.to(device)
    chance = torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16-mixed"):
            return pipeline.training_loss(batch, chance)[0]

    return {f"whole pipeline, {precision}": (nn.ModuleList(trained), loss)}


def steps(runs: Runs, updated: bool) -> dict[str, Callable[[], None]]:
    """Return training steps by name: forward and backward, and AdamW if `updated`."""
    adam = {id(m): torch.optim.AdamW(m.parameters(), lr=1e-6) for m, _ in runs.values()} if updated else {}

    def step(model: nn.Module, loss: Callable[[], Tensor]) -> None:
        model.zero_grad(set_to_none=True)
        loss().backward()
        if updated:
            adam[id(model)].step()

    return {name: (lambda model=model, loss=loss: step(model, loss)) for name, (model, loss) in runs.items()}


def step_table(title: str, rivals: Rivals, runs: Runs, updated: bool, effort: Effort) -> Table:
    """Return the table of forward and backward, ours beside the stock model's, and with AdamW too if `updated`.

    Raises ArithmeticError if the predictions of the two models differ.
    """
    gap = rivals.difference()
    if gap > 1e-4:
        raise ArithmeticError(f"the two models differ by {gap:.1e} at initialisation: there is nothing to compare")
    size = len(rivals.inputs.times)
    table = Table(title, ("step", "parameters", "ms", "/ stock", "+ AdamW ms", "/ stock", "samples/s"))
    plain = interleaved(steps(runs, False), effort)
    full = interleaved(steps(runs, True), effort) if updated else None
    for name, (model, _) in runs.items():
        with_adam = (1e3 * full.median(name), full.ratio(name, REFERENCE)) if full else (None, None)
        row = (1e3 * plain.median(name), plain.ratio(name, REFERENCE), *with_adam, size / (full or plain).median(name))
        table.add(name, sum(p.numel() for p in model.parameters()), *row)
    table.note = (
        f"Batch {size}, {len(rivals.layout)} tokens a sample, mask {rivals.mask.name}, fp32 unless said, "
        f"{plain.rounds} rounds. At initialisation ours and the stock model with the dense mask differ by "
        f"{gap:.0e} of the largest output."
    )
    return table
