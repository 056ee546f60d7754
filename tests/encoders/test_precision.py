"""Frozen encoders held in bfloat16: rounded features, fp32 after them, and entries of a cache of their own."""

import pytest
import torch
from codec_pipelines import pipeline
from test_codecs import images, unit
from test_flux_text import CLIP
from tiny import CONF, batch, composed, tiny

from unigen.cache.store import Cache, fingerprint
from unigen.core import noise
from unigen.encoders.flux_text import FluxText, PooledCLIP
from unigen.encoders.t5 import T5Text
from unigen.pipeline.build import build, build_learner
from unigen.tools.plan.estimate import plan
from unigen.tools.plan.profile import read_profile
from unigen.weights.loading import load_pretrained

T5 = tiny()["encoder"]["text"]["config"]
SMALL = {"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 2}
PROMPTS = ["a cat", "a dog on a mat"]


def flux_text(dtype):
    torch.manual_seed(0)
    return FluxText(T5, "byt5", vocabulary=384, window=32, clip=PooledCLIP(CLIP, "byt5"), dtype=dtype)


def codec(name, dtype):
    torch.manual_seed(0)
    node = composed(f"encoder/codec={name}", f"encoder.codec.dtype={dtype}")["encoder"]["codec"]
    return build(node | {"pretrained": None, "config": node["config"] | SMALL})


def error(rounded, exact):
    return float((rounded.float() - exact).norm() / exact.norm())


def test_text_features_are_those_of_fp32_but_for_rounding():
    exact, rounded = flux_text("float32"), flux_text("bfloat16")
    for ask in ("encode", "pooled"):
        wanted, found = getattr(exact, ask)(PROMPTS), getattr(rounded, ask)(PROMPTS)
        assert found.dtype == torch.bfloat16 and wanted.dtype == torch.float32
        assert 0 < error(found, wanted) < 0.02
        assert error(found.flip(0), wanted) > 0.02, "negative control: the other prompt"


@pytest.mark.parametrize("name", ["flux_vae", "cogvideox_vae"])
def test_latents_and_images_are_those_of_fp32_but_for_rounding(name):
    exact, rounded, x = codec(name, "float32"), codec(name, "bfloat16"), unit(images(2))
    assert rounded.moments(x).dtype == torch.bfloat16
    z, rounded_z = (c.encode(x, noise.generator(0, "train", 0, 0)) for c in (exact, rounded))
    assert rounded_z.dtype == torch.float32 and 0 < error(rounded_z, z) < 0.02
    assert error(exact.encode(x, noise.generator(1, "train", 0, 0)), z) > 0.02, "negative control: another draw"
    shown = rounded.decode(z)
    assert shown.dtype == torch.float32 and 0 < error(shown, exact.decode(z)) < 0.05


def test_everything_after_an_encoder_is_fp32_and_a_cache_changes_nothing(tmp_path):
    """Else a backbone in fp32 would be given bf16, and with a cache something else than without."""

    def tokens(cache, dtype=torch.bfloat16):
        made = pipeline("flux_vae", cache)
        for encoder in (made.codec, made.text):
            torch.nn.Module.to(encoder, dtype)
        return made, made.encode(batch(2), {}, noise.generator(0, "train", 0, 0)).features

    (_, plain), (made, filling), (_, reading) = (tokens(c) for c in (None, Cache(tmp_path), Cache(tmp_path)))
    for name, x in plain.items():
        assert x.dtype == torch.float32
        assert torch.equal(filling[name], x) and torch.equal(reading[name], x)
    exact, others = tokens(Cache(tmp_path), torch.float32)
    assert not any(torch.equal(others[name], x) for name, x in plain.items()), "nothing of bf16 is read for fp32"
    assert fingerprint(made.text) != fingerprint(exact.text) and fingerprint(made.codec) != fingerprint(exact.codec)


def test_loaded_weights_arrive_as_asked(tmp_path):
    saved = T5Text(T5, "byt5", vocabulary=384, window=32, pool=1, trained=False)
    saved.model.save_pretrained(tmp_path)
    key = "encoder.text.pretrained"
    for dtype in (torch.float32, torch.bfloat16):
        assert {p.dtype for p in load_pretrained(type(saved.model), str(tmp_path), key, dtype=dtype).parameters()} == {
            dtype
        }
    loaded = T5Text(T5, "byt5", 384, 32, pool=1, trained=False, pretrained=str(tmp_path), dtype="bfloat16")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"encoder\.codec\.dtype is 'float16'; legal are float32, bfloat16"):
        codec("flux_vae", "float16")
    with pytest.raises(ValueError, match=r"encoder\.text\.dtype is 'half'; legal are float32, bfloat16"):
        flux_text("half")
    with pytest.raises(ValueError, match=r"encoder\.text\.dtype is bfloat16, but encoder\.text\.trained is true"):
        T5Text(T5, "byt5", vocabulary=384, window=32, pool=1, trained=True, dtype="bfloat16")


def test_a_plan_counts_what_the_encoders_of_a_run_hold():
    h100 = read_profile(CONF / "profile", "h100")

    def both(dtype):
        config = tiny("+exp=fcd_mask_a", f"encoder.text.dtype={dtype}")
        config["encoder"]["text"]["trained"] = False
        learner = build_learner(config)
        held = sum(x.nbytes for m in learner.frozen for x in (*m.parameters(), *m.buffers()))
        return plan(config, h100).held.encoders, held, sum(p.numel() for p in learner.pipeline.text.parameters())

    (wide, held, count), (narrow, half, _) = both("float32"), both("bfloat16")
    assert wide == held and narrow == half and wide - narrow == 2 * count > 0
