"""The second stage: an all-ones mask over a blank, Euler from the strength down without a shift, row 1, one image."""

import pytest
import torch
from visual_prompts import CLEAN, COGVIDEOX, FILL, pipeline_for

from unigen.core import canvas, noise
from unigen.pipeline.upsampling import scaled, upsample, upsampled_size


def image(height: int = 32, width: int = 32, seed: int = 0) -> torch.Tensor:
    small = torch.randint(0, 256, (1, 3, 4, 4), generator=torch.Generator().manual_seed(seed)).float()
    return torch.nn.functional.interpolate(small, (height, width), mode="bilinear").byte()


@pytest.fixture(scope="module")
def fill():
    return pipeline_for(*FILL)[0]


def watched(pipeline, monkeypatch) -> list:
    """What the backbone is given from now on: (tokens, times)."""
    calls, forward = [], pipeline.backbone.forward

    def noted(tokens, times, *rest):
        calls.append((tokens, times))
        return forward(tokens, times, *rest)

    monkeypatch.setattr(pipeline.backbone, "forward", noted)
    return calls


@pytest.mark.parametrize(("blank", "value"), [("grey", 0.0), ("black", -1.0)])
def test_the_model_sees_one_masked_image_in_row_1(fill, monkeypatch, blank, value):
    calls = watched(fill, monkeypatch)
    upsample(fill, image(), "a cat", 64, strength=0.4, blank=blank)
    assert len(calls) == 9, "10 points, 9 steps"
    segment = calls[0][0].layout["target"]
    assert segment.origin == (1, 0, 0) and segment.grid == (1, 4, 4) and calls[0][0].layout.names == ("text", "target")
    expected = fill.codec.encode(torch.full((1, 1, 3, 64, 64), value))
    for tokens, _ in calls:
        shown, mask = tokens.context["target"].split((64, 256), dim=-1)
        assert (mask == 1).all() and tokens.sampling
        torch.testing.assert_close(canvas.from_tokens(shown, (1, 4, 4), (1, 2, 2)), expected)


def test_it_is_eulers_method_from_the_strength_down(fill):
    """Written out: x = (1 - s) x0 + s eps, then nine equal steps along the velocity."""
    strength, made = 0.4, {}
    x0 = fill.codec.encode(canvas.to_unit(scaled(image(), (64, 64)))[:, None])
    eps = noise.normal((1, 1, 16, 8, 8), [noise.generator(3, "sample", "me/upsampled")])
    blank = fill.codec.encode(torch.zeros(1, 1, 3, 64, 64))
    context = torch.cat([canvas.to_tokens(blank, (1, 2, 2)), torch.ones(1, 16, 256)], dim=-1)
    for name, s in (("ours", strength), ("inverted", 1 - strength)):
        x = (1 - s) * canvas.to_tokens(x0, (1, 2, 2)) + s * canvas.to_tokens(eps, (1, 2, 2))
        for t, after in torch.linspace(s, 0, 10).unfold(0, 2, 1).tolist():
            x = x + (after - t) * velocity(fill, x, context, t)
        z = canvas.from_tokens(x, (1, 4, 4), (1, 2, 2))
        made[name] = canvas.to_pixels(fill.codec.decode(z)[:, 0]).int()
    ours = upsample(fill, image(), "a cat", 64, strength=strength, seed=3, key="me").int()
    assert (ours - made["ours"]).abs().max() <= 1
    assert (ours - made["inverted"]).abs().max() > 1, "negative control: the authors' 0.4 is our 0.6"


@torch.no_grad()
def velocity(pipeline, x: torch.Tensor, context: torch.Tensor, t: float) -> torch.Tensor:
    from unigen.core.layout import Layout, Segment, text_segment
    from unigen.core.tokens import Tokens

    layout = Layout((text_segment(pipeline.text.tokens), Segment("target", "target", "visual", (1, 4, 4), (1, 0, 0))))
    features = {"text": pipeline.text.encode(["a cat"]), "target": x}
    pooled = pipeline.text.pooled(["a cat"])
    tokens = Tokens(layout, features, pooled=pooled, context={"target": context}, sampling=True)
    return pipeline.backbone(tokens, dict.fromkeys(layout.names, torch.tensor([t])), pipeline.mask)["target"]


def test_the_higher_the_strength_the_less_is_left(fill):
    plain = fill.codec.decode(fill.codec.encode(canvas.to_unit(scaled(image(), (64, 64)))[:, None]))[:, 0]
    plain = canvas.to_pixels(plain).int()
    far = [(upsample(fill, image(), "", 64, strength=s).int() - plain).abs().float().mean() for s in (0.01, 0.4, 1.0)]
    assert far[0] < 3 and 3 * far[0] < far[1] < far[2]
    same = [upsample(fill, image(seed=seed), "", 64, strength=1.0) for seed in (0, 1)]
    assert torch.equal(*same), "at 1 nothing of the picture is left"
    some = [upsample(fill, image(seed=seed), "", 64, strength=0.9) for seed in (0, 1)]
    assert not torch.equal(*some), "negative control"


def test_prompt_seed_and_key_count_and_the_pipeline_stays_as_it_was(fill):
    before = dict(vars(fill))
    first = upsample(fill, image(), "a cat", 64)
    assert torch.equal(first, upsample(fill, image(), "a cat", 64, strength=0.6)), "as published: 1 - 0.4"
    for other in ({"prompt": "a dog"}, {"seed": 1}, {"key": "other"}, {"blank": "black"}, {"steps": 3}):
        assert not torch.equal(first, upsample(fill, image(), **{"prompt": "a cat", "resolution": 64, **other})), other
    assert all(vars(fill)[name] is value for name, value in before.items())


@pytest.mark.parametrize("words", [CLEAN, COGVIDEOX], ids=["flux dev", "cogvideox"])
def test_models_without_a_context_upsample_too(words):
    pipeline, _ = pipeline_for(*words)
    made = upsample(pipeline, image(32, 48), "a cat", 64, steps=2)
    assert made.dtype == torch.uint8 and made.shape == (1, 3, 48, 64)
    assert not torch.equal(made, upsample(pipeline, image(32, 48, seed=1), "a cat", 64, steps=2))


@pytest.mark.parametrize(
    ("size", "resolution", "expected"),
    [
        ((64, 64), 128, (128, 128)),
        ((48, 80), 128, (96, 160)),
        ((432, 320), 1024, (1184, 880)),
        ((8, 256), 64, (16, 352)),
    ],
)
def test_sizes_keep_area_and_shape_in_whole_tokens(size, resolution, expected):
    assert upsampled_size(*size, resolution, (16, 16)) == expected


def test_what_cannot_be_is_said(fill):
    for strength in (0.0, -0.1, 1.1):
        with pytest.raises(ValueError, match=r"strength=.* must be above 0 .* and at most 1"):
            upsample(fill, image(), "", 64, strength=strength)
    with pytest.raises(ValueError, match="takes 512×512 positions; the backbone holds 256×512"):
        upsample(fill, image(), "", 8192)
    with pytest.raises(ValueError, match=r"fill\.blank\.train is 'white'"):
        upsample(fill, image(), "", 64, blank="white")
