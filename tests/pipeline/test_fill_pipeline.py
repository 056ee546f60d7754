"""A pipeline on a backbone that reads a context: what reaches it in training and sampling, and what carries loss."""

import pytest
import torch
from tiny import batch, composed, tiny
from torch import nn

from unigen.conditioning.uce import NoEmbedding
from unigen.core import canvas, infill
from unigen.core.canvas import from_tokens
from unigen.core.infill import Fill
from unigen.core.noise import generator
from unigen.core.types import Batch
from unigen.encoders.vae import FrameCodec
from unigen.pipeline.build import build
from unigen.pipeline.guidance import Guidance
from unigen.pipeline.pipeline import Pipeline


class Infill(nn.Module):
    """The least that an infill backbone is: every token's output is a map of itself and of its row's context."""

    axes, patch, reach, reach_key = ("t", "h", "w"), (1, 2, 2), (64, 64, 64), ""
    latent_channels, context_width, pooled_width, predicts = 16, 320, None, None
    context_parts = infill.FILL
    slots = None

    effective_mask = effective_timing = placed = staticmethod(lambda table: table)

    def __init__(self, text_width: int) -> None:
        super().__init__()
        self.text_width, self.seen = text_width, []
        self.head = nn.Linear(64 + 320, 64)

    def forward(self, tokens, times, mask, memory=None):
        self.seen.append(tokens)
        names = [s.name for s in tokens.layout.visual]
        read = torch.cat([tokens.context[n].mean(1, keepdim=True) for n in names], dim=1).mean(1, keepdim=True)
        self.outputs = {n: self.head(torch.cat([tokens.features[n], tokens.context[n] + read], dim=-1)) for n in names}
        return self.outputs


class Blurred(FrameCodec):
    """A codec that sees two squares beyond each, as an image VAE does; with a posterior that is no point."""

    stride, channels, cacheable, spread = 8, 16, False, 0.5

    def image_moments(self, pixels):
        z = nn.functional.pixel_unshuffle(pixels, 8)[:, 5:21]
        return nn.functional.avg_pool2d(z, 5, stride=1, padding=2)

    def image_latents(self, z, generator=None):
        return z if generator is None else z + self.spread * torch.randn(z.shape, generator=generator)

    def images(self, z):
        return nn.functional.pixel_shuffle(z.repeat(1, 12, 1, 1), 8)


def pipeline_for(fill: Fill | None = None, loss: str = "flow_masked", backbone: type = Infill, **parts):
    torch.manual_seed(0)
    config = tiny("formatter=grid", "mask=fcd_d", "conditioning/modulation=shared", f"loss={loss}", "solver=euler")
    text = build(config["encoder"]["text"])
    made = {
        "embedding": NoEmbedding(),
        "modulation": build(config["conditioning"]["modulation"]),
        "process": build(composed("process=rectified_flow")["process"]),
        **{name: build(config[name]) for name in ("formatter", "mask", "loss", "solver")},
        "codec": Blurred(),
        "fill": fill or Fill(),
    }
    return Pipeline(text=text, backbone=backbone(text.width), **(made | parts))


def changed(whole: Batch, name: str) -> Batch:
    """The same with other pixels in one slot."""
    return Batch(**{**vars(whole), "images": {**whole.images, name: 255 - whole.images[name]}})


def latents_in(context: torch.Tensor) -> torch.Tensor:
    return from_tokens(context[..., :64], (1, 2, 3), (1, 2, 2))


def test_the_context_holds_what_is_shown_and_what_is_to_be_made():
    pipeline = pipeline_for()
    tokens = pipeline.encode(batch(), {})
    assert {n: c.shape for n, c in tokens.context.items()} == dict.fromkeys(("condition0", "target"), (2, 6, 320))
    assert (tokens.context["condition0"][..., 64:] == 0).all() and (tokens.context["target"][..., 64:] == 1).all()
    blank = batch()
    blank.images["target"].zero_()
    (page,) = canvas.stitch(blank.images, pipeline.plan(blank.slots))
    expected = pipeline.codec.encode(canvas.to_unit(page))[:, 0]
    assert torch.equal(latents_in(tokens.context["condition0"])[:, 0], expected[..., :6])
    assert not torch.equal(tokens.context["condition0"][..., :64], tokens.features["condition0"]), (
        "negative control: the codec sees beyond the border, where the target was and is blanked"
    )


def test_in_training_the_context_is_a_posterior_draw_of_its_own():
    pipeline = pipeline_for()
    example = batch()
    example.slots = tuple(s._replace(row=1) for s in example.slots)
    shown = [s._replace(name=f"e_{s.name}", role="example", row=0) for s in example.slots]
    example.images |= {f"e_{n}": x for n, x in list(example.images.items())}
    example.slots = (*shown, *example.slots)
    with_draws = pipeline.encode(example, {}, generator(0))
    context, features = with_draws.context["e_target"][..., :64], with_draws.features["e_target"]
    assert (context - features).std() == pytest.approx(pipeline.codec.spread * 2**0.5, rel=0.1)
    means = pipeline.encode(example, {})
    assert torch.equal(means.context["e_target"][..., :64], means.features["e_target"]), "nothing of that row is masked"


def test_masked_pixels_never_reach_the_output():
    """The truth in a batch is for the loss: other pixels there change nothing, those of a condition do."""
    pipeline = pipeline_for()
    drawn = pipeline.sample(batch(), 0)["target"]
    assert torch.equal(pipeline.sample(changed(batch(), "target"), 0)["target"], drawn)
    assert not torch.equal(pipeline.sample(changed(batch(), "condition0"), 0)["target"], drawn)


def test_the_context_is_constant_over_the_steps_and_doubled_by_guidance():
    pipeline = pipeline_for()
    pipeline.guidance = Guidance(3.0, ("condition",))
    clean = pipeline.encode(batch(), {}).context
    pipeline.sample(batch(), 0)
    assert len(pipeline.backbone.seen) == 3
    for tokens in pipeline.backbone.seen:
        for name, context in tokens.context.items():
            assert torch.equal(context[:2], clean[name]) and context.shape[0] == 4
        hidden = tokens.context["condition0"][2:]
        assert (hidden[..., :64] == 0).all() and (clean["condition0"][..., :64] != 0).any(), "hidden is zero latents"
        assert torch.equal(hidden[..., 64:], clean["condition0"][..., 64:]), "and not another mask"
    moved = [tokens.features["target"] for tokens in pipeline.backbone.seen]
    assert not torch.equal(moved[0], moved[1]), "negative control: what is noised is not constant"


def test_sampling_masks_the_targets_whatever_training_does():
    tokens = [pipeline_for(Fill(rule, share=1.0)).encode(batch(), {}).context for rule in ("targets", "paper", "code")]
    assert all(torch.equal(tokens[0][n], other[n]) for n in tokens[0] for other in tokens[1:])


@pytest.mark.parametrize(("generates", "word"), [("train", "grey"), ("sample", "black")])
def test_blank_is_chosen_for_training_and_sampling_apart(generates, word):
    blank = {"train": "grey", "sample": "black"}
    pipeline = pipeline_for(Fill("code", 0.5, blank))
    pipeline.codec.spread = 0.0
    draws = generator(0) if generates == "train" else None
    for same in (True, False):
        other = Fill("code", 0.5, dict.fromkeys(blank, word if same else {"grey": "black", "black": "grey"}[word]))
        reference = pipeline_for(other)
        reference.codec.spread = 0.0
        found = [p.encode(batch(), {}, draws).context["target"] for p in (pipeline, reference)]
        assert torch.equal(*found) == same


# --- loss --------------------------------------------------------------------------------------------------------


def carried(pipeline, cells: dict[str, list[bool]], monkeypatch) -> dict[str, list[bool]]:
    """Whose outputs have a gradient, by slot and sample, when training masks these cells; and what the context says."""
    drawn = {n: torch.tensor(x) for n, x in cells.items()}
    monkeypatch.setattr(pipeline.fill, "draw", lambda slots, size, g: drawn)
    loss, parts = pipeline.training_loss(batch(), generator(0))
    outputs = pipeline.backbone.outputs
    grads = torch.autograd.grad(loss, list(outputs.values()), allow_unused=True)
    assert parts.keys() == outputs.keys()
    for name, context in pipeline.backbone.seen[-1].context.items():
        assert torch.equal(context[..., 64:].flatten(1).bool().all(1), drawn[name])
    return {
        name: [False, False] if g is None else (g != 0).flatten(1).any(1).tolist()
        for name, g in zip(outputs, grads, strict=True)
    }


@pytest.mark.parametrize(
    "cells",
    [
        {"condition0": [False, False], "target": [True, True]},
        {"condition0": [True, False], "target": [False, True]},  # the released code's rule
        {"condition0": [True, False], "target": [True, True]},  # the paper's
        {"condition0": [True, True], "target": [False, False]},
    ],
)
def test_the_masked_region_carries_the_loss_sample_by_sample(cells, monkeypatch):
    assert carried(pipeline_for(Fill("code"), "flow_masked"), cells, monkeypatch) == cells
    everywhere = {"condition0": [True, True], "target": [True, True]}
    assert carried(pipeline_for(Fill("code"), "flow_all"), cells, monkeypatch) == everywhere, "negative control"


def test_a_backbone_without_a_context_gets_none_and_draws_nothing(monkeypatch):
    class Plain(Infill):
        context_width = 0

        def forward(self, tokens, times, mask, memory=None):
            assert tokens.context is None
            return {s.name: self.head(tokens.features[s.name].repeat(1, 1, 6)) for s in tokens.layout.visual}

    with pytest.warns(UserWarning, match="the model never sees these images"):
        pipeline = pipeline_for(backbone=Plain)
        monkeypatch.setattr(pipeline.fill, "draw", lambda *_: pytest.fail("cells were drawn"))
        pipeline.training_loss(batch(), generator(0))
    assert pipeline.sample(batch(), 0).keys() == {"target"}


def test_a_codec_that_does_not_make_the_context_is_refused():
    class Wider(Infill):
        context_width = 384

    with pytest.raises(ValueError, match=r"context width: the backbone takes 384, but .* makes 320 .* 1×2×2 patch"):
        pipeline_for(backbone=Wider)


def test_what_is_known_of_a_sample_is_added_where_the_condition_is_read():
    class Marked(NoEmbedding):
        def forward(self, latents, slots, *known):
            return {n: z + 7 if n == "condition0" else z for n, z in latents.items()}

    plain, marked = (p.encode(batch(), {}) for p in (pipeline_for(), pipeline_for(embedding=Marked())))
    shift = marked.context["condition0"] - plain.context["condition0"]
    torch.testing.assert_close(shift[..., :64], torch.full((2, 6, 64), 7.0), rtol=0, atol=1e-5)
    assert (shift[..., 64:] == 0).all() and torch.equal(marked.features["condition0"], plain.features["condition0"])
