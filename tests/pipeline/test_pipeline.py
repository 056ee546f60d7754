"""What a pipeline remembers of its frozen encoders changes no image, only how often they are asked."""

import pytest
import torch
from tiny import batch, randomise, tiny

from unigen.core import canvas
from unigen.core.noise import generator
from unigen.encoders.folded import FoldedVAE
from unigen.pipeline.build import build_pipeline

BACKBONES = ("cogvideox_mini", "flux_mini", "flux2_mini", "wan_mini", "qwen_image_mini", "hunyuan_video_mini")


class Counting:
    """A codec that says how many images it was asked for."""

    def __init__(self, codec: FoldedVAE, cacheable: bool) -> None:
        self.codec, self.cacheable, self.asked = codec, cacheable, 0
        self.stride, self.channels = codec.stride, codec.channels
        self.temporal_stride, self.clip_unit = codec.temporal_stride, codec.clip_unit

    def encode(self, pixels, generator=None):
        self.asked += len(pixels)
        return self.codec.encode(pixels, generator)

    def decode(self, latents):
        return self.codec.decode(latents)


def with_codec(cacheable: bool):
    torch.manual_seed(0)
    config = tiny("encoder/codec=autoencoder_mini")
    node = config["encoder"]["codec"]
    node["config"] |= {"block_out_channels": [8, 8], "norm_num_groups": 2}
    node["pretrained"] = None
    pipeline = build_pipeline(config)
    pipeline.codec = Counting(pipeline.codec, cacheable)
    return pipeline


def test_each_distinct_image_is_encoded_once():
    kept, forgetful, few = with_codec(True), with_codec(False), batch(3)
    for pipeline, asked in ((kept, [6, 6]), (forgetful, [6, 12])):  # a condition and a target in each of 3 samples
        seen = []
        for _ in range(2):
            tokens = pipeline.encode(few, {})
            seen.append(pipeline.codec.asked)
        assert seen == asked
    for name, x in kept.encode(few, {}).features.items():
        torch.testing.assert_close(x, tokens.features[name], rtol=1e-4, atol=1e-5)
    changed = batch(3)
    changed.images["target"][0, 0, 0, 0, 0] ^= 1
    kept.encode(changed, {})
    assert kept.codec.asked == 7, "one pixel makes another picture"


@pytest.mark.parametrize("shape", [(3, 4, 6), (3, 6, 4), (1, 3, 4, 6)])
def test_a_digest_knows_pixels_and_shape(shape):
    x = torch.arange(72, dtype=torch.uint8)
    digests = {canvas.digest(x.view(shape)), canvas.digest(x.flip(0).view(shape)), canvas.digest(x.view(3, 2, 12))}
    assert len(digests) == 3 and canvas.digest(x.view(shape)) == canvas.digest(x.clone().view(shape))


def test_a_frozen_text_encoder_reads_each_prompt_once(monkeypatch):
    config = tiny()
    config["encoder"]["text"]["trained"] = False
    text, read = build_pipeline(config).text, []
    features = text._features
    monkeypatch.setattr(text, "_features", lambda prompts: (read.extend(prompts), features(prompts))[1])
    once = text.encode(["a cat", "a dog", "a cat"])
    again = text.encode(["a dog", "a cat", "a cow"])
    assert sorted(read) == ["a cat", "a cow", "a dog"]
    assert torch.equal(once[0], again[1]) and torch.equal(once[0], once[2]) and not torch.equal(once[0], once[1])
    assert not once.requires_grad


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("masked", [True, False])
def test_masked_padding_is_seen_by_nobody(backbone, masked):
    """Other features behind the prompt change nothing where padding is masked, and the image where it is not."""
    flow = [] if backbone == "cogvideox_mini" else ["process=rectified_flow", "solver=euler"]
    pipeline = build_pipeline(tiny(f"backbone={backbone}", f"encoder.text.mask_padding={str(masked).lower()}", *flow))
    randomise(pipeline.backbone)
    few = batch(2)
    few.prompts = ["a cat", "a cat that is no 1"]
    with torch.no_grad():
        tokens = pipeline.encode(few, {})
        behind = pipeline.text.valid(few.prompts)
        assert (behind is None) != masked
        padding_BT = ~build_pipeline(tiny("encoder.text.mask_padding=true")).text.valid(few.prompts)
        assert padding_BT[0].any() and not padding_BT[1, :2].any()
        noisy = tokens.features["text"] + padding_BT[..., None] * torch.randn_like(tokens.features["text"])
        times = pipeline.times(tokens.layout, torch.full((2,), 0.5))
        a, b = (pipeline.backbone(t, times, pipeline.mask) for t in (tokens, tokens.updated({"text": noisy})))
    assert torch.allclose(a["target"], b["target"], atol=1e-5) == masked


@pytest.mark.parametrize("adapter", ["full", "lora_visualcloze"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_trained_weight_gets_a_gradient(backbone, adapter):
    """Training on several devices refuses one that gets none, and so those behind the last block are frozen."""
    flow = [] if backbone == "cogvideox_mini" else ["process=rectified_flow", "solver=euler"]
    pipeline = build_pipeline(tiny(f"backbone={backbone}", f"conditioning/adapter={adapter}", *flow))
    pipeline.training_loss(batch(2), generator(0, "train"))[0].backward()
    found = dict(pipeline.backbone.named_parameters())
    trained = {name for name, p in found.items() if p.requires_grad}
    assert len(trained) > 20 and not [name for name in trained if found[name].grad is None]
    own = {name for name in found if ".lora_" in name or adapter == "full"}
    frozen = own - trained
    assert bool(frozen) == (backbone in ("qwen_image_mini", "hunyuan_video_mini"))
    for name in frozen:
        found[name].requires_grad_(True)
    pipeline.training_loss(batch(2), generator(0, "train"))[0].backward()
    assert not [name for name in frozen if found[name].grad is not None], "negative control: none of them would get one"
