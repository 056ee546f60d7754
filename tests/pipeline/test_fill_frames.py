"""Frames whose clean latents ride on channels, on every family: each is noised, and read from beside its noise."""

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel, WanTransformer3DModel
from tiny import batch, composed, randomise, tiny

from unigen.core import canvas, noise
from unigen.core.types import Batch, ImageSlot
from unigen.pipeline.build import build_pipeline

FLOW = ("process=rectified_flow", "solver=euler")
# the words of each family, and the channels beside the noisy latents (16) and those of the codec (16)
FAMILIES = {
    "cogvideox": (("backbone=cogvideox_mini", "backbone.config.in_channels=32", "fill.blank.sample=zero"), 0),
    "flux": (("backbone=flux_fill_mini", *FLOW), 64),
    "wan": (("backbone=wan_mini", "backbone.config.in_channels=33", *FLOW), 1),
}
COMMON = ("fill=targets", "mask=full", "conditioning/embedding=none", "conditioning/modulation=shared")


def pipeline_for(family: str, formatter: str = "frames_fill", *words: str):
    torch.manual_seed(0)
    pipeline = build_pipeline(tiny(*COMMON, *FAMILIES[family][0], f"formatter={formatter}", *words))
    randomise(pipeline.backbone, 0.1)
    return pipeline


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param, pipeline_for(request.param)


def changed(whole: Batch, name: str) -> Batch:
    return Batch(**{**vars(whole), "images": {**whole.images, name: 255 - whole.images[name]}})


def test_every_frame_is_noised_and_the_given_one_is_read_from_its_channels(family):
    name, pipeline = family
    layout = pipeline.plan(batch().slots).layout
    assert [(s.name, s.cap, s.origin[0]) for s in layout.visual] == [("condition0", 1.0, 0), ("target", 1.0, 1)]
    tokens, patch = pipeline.encode(batch(), {}), pipeline.backbone.patch
    grid = layout["target"].grid
    shown = {n: canvas.from_tokens(x, grid, patch) for n, x in tokens.context.items()}
    mask = FAMILIES[name][1]
    channels = pipeline.codec.channels
    at = {"cogvideox": slice(0, channels), "flux": slice(0, channels), "wan": slice(mask, None)}[name]
    clean = canvas.from_tokens(tokens.features["condition0"], grid, patch)
    assert torch.equal(shown["condition0"][:, :, at], clean) and shown["target"].shape[2] == mask + channels
    assert not torch.equal(shown["target"][:, :, at], canvas.from_tokens(tokens.features["target"], grid, patch))
    if name == "cogvideox":
        assert (shown["target"] == 0).all(), "zero latents, not those of a black image"


def test_sampling_reads_the_condition_and_never_the_truth(family):
    _, pipeline = family
    drawn = pipeline.sample(batch(), 0)["target"]
    assert torch.equal(pipeline.sample(changed(batch(), "target"), 0)["target"], drawn)
    assert not torch.equal(pipeline.sample(changed(batch(), "condition0"), 0)["target"], drawn)


def test_training_noises_all_frames_at_one_time(family):
    _, pipeline = family
    loss, parts = pipeline.training_loss(batch(), noise.generator(0))
    assert parts.keys() == {"condition0", "target"} and torch.isfinite(loss)
    assert torch.isclose(loss.detach(), parts["target"]), "the loss is on the target alone"


@pytest.mark.parametrize("formatter", ["aligned", "frames_buffered"])
def test_other_placements_have_a_context_too(formatter):
    pipeline = pipeline_for("flux", formatter)
    assert pipeline.encode(batch(), {}).context.keys() == {s.name for s in pipeline.plan(batch().slots).layout.visual}
    assert pipeline.sample(batch(), 0)["target"].shape == (2, 1, 3, 32, 48)


def test_a_clip_has_a_context_for_each_of_its_frames():
    pipeline = pipeline_for("wan")
    slots = (ImageSlot("c", "condition", 32, 48), ImageSlot("x", "target", 32, 48, frames=3))
    g = torch.Generator().manual_seed(0)
    images = {s.name: torch.randint(0, 256, (1, s.frames, 3, 32, 48), generator=g, dtype=torch.uint8) for s in slots}
    tokens = pipeline.encode(Batch(slots, images, ["a"], [()], ["t"], ["k"]), {})
    given = canvas.from_tokens(tokens.context["x"], (3, 2, 3), (1, 2, 2))[:, :, 0]
    assert given.shape == (1, 3, 4, 6) and (given == 0).all()
    assert (canvas.from_tokens(tokens.context["c"], (1, 2, 3), (1, 2, 2))[:, :, 0] == 1).all()


@torch.no_grad()
@pytest.mark.parametrize("name", ["cogvideox", "wan"])
def test_the_stock_model_reads_the_same_channels(name):
    """diffusers' model takes [noisy latents, context] as channels of one clip, whose frames are ours."""
    lowering = "backbone.lowering._target_=unigen.core.attention.grouped"
    pipeline = pipeline_for(name, "frames_fill", lowering)
    tokens, layout = pipeline.encode(batch(), {}), pipeline.plan(batch().slots).layout
    t_B, patch = torch.tensor([0.5, 1.0]), pipeline.backbone.patch
    found = pipeline.backbone(tokens, dict.fromkeys(layout.names, t_B), pipeline.mask)
    both = [torch.cat([tokens.features[s.name], tokens.context[s.name]], dim=-1) for s in layout.visual]
    clip = torch.cat([canvas.from_tokens(x, s.grid, patch) for x, s in zip(both, layout.visual, strict=True)], dim=1)
    stock, text = pipeline.backbone.stock().eval(), tokens.features["text"]
    if name == "wan":
        assert isinstance(stock, WanTransformer3DModel)
        expected = stock(clip.transpose(1, 2), t_B * 1000, text).sample.transpose(1, 2)
    else:
        assert isinstance(stock, CogVideoXTransformer3DModel)
        from diffusers.models.embeddings import get_3d_rotary_pos_embed

        width = stock.config.attention_head_dim
        rope = get_3d_rotary_pos_embed(width, None, (2, 3), 2, grid_type="slice", max_size=(2, 3))
        steps = (t_B * 1000 - 1).round().long()
        expected = stock(clip, text, steps, image_rotary_emb=rope).sample
    ours = torch.cat([canvas.from_tokens(found[s.name], s.grid, patch) for s in layout.visual], dim=1)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    wrong = tokens.context | {"condition0": tokens.context["target"]}
    other = pipeline.backbone(
        type(tokens)(layout, tokens.features, context=wrong), dict.fromkeys(layout.names, t_B), pipeline.mask
    )
    assert (other["target"] - found["target"]).abs().max() > 1e-4, "negative control"


def test_a_number_of_channels_that_fits_no_context_is_refused():
    with pytest.raises(ValueError, match=r"takes 80, but a codec of 16 channels .* makes 68 \(given and latents"):
        build_pipeline(tiny(*COMMON, *FAMILIES["wan"][0], "backbone.config.in_channels=36"))
    config = composed("backbone=cogvideox_mini")["backbone"]
    config["config"]["ofs_embed_dim"], config["pretrained"] = 512, None
    from unigen.pipeline.build import build

    with pytest.raises(ValueError, match="ofs_embed_dim is 512"):
        build(config)
