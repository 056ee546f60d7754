"""HunyuanVideo-1.5's glyph tokens: features, the forward pass and sampling are those of diffusers' own pipeline."""

from dataclasses import replace

import pytest
import torch
from diffusers import HunyuanVideo15Pipeline
from hunyuan_case import GLYPHS, TIMES, WORDS, case, config, forward, layout, ours, stock_model, stock_pipeline
from tiny import composed, mask, randomise, tokens_for
from transformers import ByT5Tokenizer

from unigen.cache.store import prompt_keys
from unigen.core import noise
from unigen.core.canvas import to_tokens
from unigen.core.layout import Layout, text_segment
from unigen.core.types import Batch, ImageSlot
from unigen.encoders.hunyuan_text import GlyphText, HunyuanText
from unigen.pipeline.build import build, build_pipeline

FULL = mask("fcd_d")
CLOSE = {"rtol": 1e-4, "atol": 2e-5}
T5 = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2, "feed_forward_proj": "gated-gelu"}
QWEN = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 400,
    "rms_norm_eps": 1e-6,
}
PROMPTS = ['a sign says "Open now"', "a red heart", 'a shop “Cafe” with "Tea" and "Tea"', 'an empty ""']
GLYPH_NODE = {
    "_target_": "unigen.encoders.hunyuan_text.GlyphText",
    "config": {**T5, "vocab_size": 384},
    "tokenizer": "byt5",
    "window": 40,
}
NODE = {"config": QWEN, "tokenizer": "byt5", "window": 48, "template": "look: {} end.", "drop": 6}


def glyphs(window: int = 40) -> GlyphText:
    torch.manual_seed(0)
    return randomise(GlyphText(GLYPH_NODE["config"], "byt5", window), 0.1)


def text() -> HunyuanText:
    torch.manual_seed(0)
    return randomise(HunyuanText(**NODE, glyphs=glyphs()), 0.1)


# --- features ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_features_are_those_of_diffusers_pipeline():
    made = glyphs()
    embed = HunyuanVideo15Pipeline._get_byt5_prompt_embeds
    expected, shown = embed(ByT5Tokenizer(), made.model, PROMPTS, "cpu", 40)
    found, valid = made(PROMPTS), made.valid(PROMPTS)
    assert torch.equal(valid, shown.bool()) and valid.any(1).tolist() == [True, False, True, True]
    torch.testing.assert_close(found[valid], expected[valid], **CLOSE)
    assert not found[~valid].any() and found.shape == (4, 40, 8)
    torch.testing.assert_close(made(PROMPTS[2:3]), found[2:3], **CLOSE)  # whatever its neighbours
    other, plain = made(['a sign says "Open mow"']), made.valid(["a sign says Open now"])
    assert (other - found[:1]).abs().max() > 1e-2 and not plain.any(), "negative controls"


def test_long_words_are_cut_as_the_pipeline_cuts_them_and_named():
    made, prompt = glyphs(12), 'says "a long line of words"'
    _, shown = HunyuanVideo15Pipeline._get_byt5_prompt_embeds(ByT5Tokenizer(), made.model, [prompt], "cpu", 12)
    with pytest.warns(UserWarning, match=r"the words in quotation marks of .* take more than .*glyphs\.window \(12\)"):
        (ids,) = made.ids([prompt])
    assert list(ids) == ByT5Tokenizer()('Text "a long line of words". ', max_length=12, truncation=True)["input_ids"]
    assert torch.equal(made.valid([prompt]), shown.bool())


def test_glyphs_lie_behind_the_words_and_say_what_is_kept():
    made = text()
    found, valid = made.encode(PROMPTS), made.valid(PROMPTS)
    assert found.shape == (4, 88, 32) and valid.shape == (4, 88) and (made.tokens, made.glyph_tokens) == (88, 40)
    torch.testing.assert_close(found[:, 48:, :8], made.glyphs(PROMPTS), **CLOSE)
    assert not found[:, 48:, 8:].any()
    marks = made.keywords(["a cat"], [("cat",)])
    assert marks.shape == (1, 88) and marks[:, :48].any() and not marks[:, 48:].any()
    assert len(set(prompt_keys(made, [*PROMPTS, PROMPTS[0]]))) == 4 and len(made.ids(PROMPTS)[0]) == 6 + 88
    wide = GlyphText({**T5, "d_model": 64, "vocab_size": 384}, "byt5", 40)
    with pytest.raises(ValueError, match=r"glyphs\.config\.d_model is 64; legal is at most 32"):
        HunyuanText(**NODE, glyphs=wide)


def test_the_published_encoders_have_their_sizes():
    words = ("backbone=hunyuan_video1_5", "process=rectified_flow", "encoder/text=qwen2_5_vl_glyphs")
    said = composed(*words)["encoder"]["text"]
    with torch.device("meta"):
        made = build(said)
    assert (made.tokens, made.glyph_tokens, made.glyphs.width, made.width) == (1256, 256, 1472, 3584)
    layer = 4 * 1472 * 384 + 3 * 1472 * 3584 + 2 * 1472
    assert sum(p.numel() for p in made.glyphs.parameters()) == 1510 * 1472 + 12 * layer + 32 * 6 + 1472


# --- the model ---------------------------------------------------------------------------------------------------


ONE_BRANCH = "conditioning/modulation=shared"


def with_glyphs(*overrides: str):
    made = config(f"backbone.glyphs={GLYPHS}", *overrides)
    stock = stock_model(made)
    return stock, ours(stock, made)


def spelt(backbone, hidden: bool = False):
    """Tokens of two samples: words, two of which are padding in the second, and glyphs, of which that one has none."""
    segments = layout(2).segments
    tokens = tokens_for(Layout((text_segment(WORDS + GLYPHS), *segments[1:])), backbone, 2)
    valid = torch.ones(2, WORDS + GLYPHS, dtype=torch.bool)
    valid[1, WORDS - 2 :] = False
    valid[:, WORDS:] &= not hidden
    return replace(tokens, valid={"text": valid})


@torch.no_grad()
def stock_spelt(stock, tokens, times=TIMES) -> torch.Tensor:
    """diffusers' forward, which is given words and glyphs apart."""
    c, size = stock.config, len(times)
    x = torch.cat([tokens.features[s.name] for s in tokens.layout.visual], dim=1)
    _, h, w = tokens.layout.visual[0].grid
    frames, p = x.shape[1] // (h * w), c.patch_size
    cells = x.view(size, frames, h, w, c.out_channels, p, p)
    latents = cells.permute(0, 4, 1, 2, 5, 3, 6).reshape(size, c.out_channels, frames, h * p, w * p)
    given = latents.new_zeros(size, c.in_channels - c.out_channels, *latents.shape[2:])
    text, valid = tokens.features["text"], tokens.valid["text"].float()
    out = stock(
        torch.cat([latents, given], dim=1),
        times * 1000,
        text[:, :WORDS],
        valid[:, :WORDS],
        encoder_hidden_states_2=text[:, WORDS:, : c.text_embed_2_dim],
        encoder_attention_mask_2=valid[:, WORDS:],
        image_embeds=torch.zeros(size, 2, c.image_embed_dim),
        return_dict=False,
    )[0]
    parts = out.view(size, c.out_channels, frames, h, p, w, p).permute(0, 2, 3, 5, 1, 4, 6)
    return parts.reshape(size, frames * h * w, -1)


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_a_model_with_glyphs_equals_the_stock_one(adapter):
    stock, backbone = with_glyphs(f"conditioning/adapter={adapter}")
    tokens = spelt(backbone)
    expected, found = stock_spelt(stock, tokens), forward(backbone, tokens, FULL)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert expected.std() > 0.1
    other = tokens.updated({"text": torch.cat([tokens.features["text"][:, :-1], tokens.features["text"][:, :1]], 1)})
    moved = (forward(backbone, other, FULL) - expected).abs().amax(dim=(1, 2))
    assert moved[0] > 1e-3 and moved[1] < 1e-4, "negative control: a glyph that is valid is read, and no other"


def test_a_text_that_spells_nothing_is_as_without_glyph_tokens():
    stock, backbone = with_glyphs()
    plain = ours(stock, config())
    tokens, bare = spelt(backbone, hidden=True), case(plain, 2)
    same = bare.updated({n: x[:, :WORDS] if n == "text" else x for n, x in tokens.features.items()})
    torch.testing.assert_close(forward(backbone, tokens, FULL), forward(plain, same, FULL), **CLOSE)
    assert set(plain.unread) > set(backbone.unread) and not any("context_embedder_2" in n for n in backbone.unread)
    assert (forward(backbone, spelt(backbone), FULL)[0] - forward(plain, same, FULL)[0]).abs().max() > 1e-3, "control"


def test_an_export_has_the_embedder_of_glyphs_and_flops_count_it():
    from unigen.tools.bench.turns import flop_counter

    stock, backbone = with_glyphs(ONE_BRANCH)
    tokens = spelt(backbone)
    torch.testing.assert_close(stock_spelt(backbone.stock(), tokens), stock_spelt(stock, tokens), **CLOSE)
    key = "context_embedder_2.linear_1.weight"
    assert torch.equal(backbone.stock().state_dict()[key], stock.state_dict()[key]) and stock.state_dict()[key].any()
    plain, counts = ours(stock, config(ONE_BRANCH)), []
    for model, given in ((backbone, replace(tokens, valid=None)), (plain, replace(case(plain, 2), valid=None))):
        with flop_counter() as counter:
            forward(model, given, FULL)
        counts.append(counter.get_total_flops() - 2 * sum(model.flops(given.layout, FULL).values()))
    assert counts[0] == counts[1], "what is counted once a sample is the same with glyphs and without"


def test_other_numbers_of_glyphs_are_refused():
    made = config("backbone.glyphs=8")
    with pytest.raises(
        ValueError, match=r"encoder makes 0 .*HunyuanVideo15 takes 8 \(backbone\.glyphs\); write backbone"
    ):
        build_pipeline(made)
    with pytest.raises(ValueError, match=r"backbone\.glyphs is -1; legal are whole numbers from 0"):
        build(config("backbone.glyphs=-1")["backbone"])


# --- sampling ----------------------------------------------------------------------------------------------------


def test_sampling_equals_diffusers_own_pipeline(monkeypatch):
    """A clip of 3 latent frames whose prompt has words in quotation marks, with guidance against a blank."""
    words = ("solver=euler_static", "solver.shift.factor=5.0", "guidance.strength=3.0", "+guidance.hide.text=blank")
    words = (*words, "+exp=fcd_mask_d", "task=text", "conditioning/modulation=shared", "conditioning/embedding=none")
    made = config("backbone.glyphs=40", *words)
    made["encoder"]["text"] = {"_target_": "unigen.encoders.hunyuan_text.HunyuanText", **NODE, "glyphs": GLYPH_NODE}
    made["solver"]["steps"] = steps = 3
    torch.manual_seed(0)
    pipeline = build_pipeline(made)
    for part in (pipeline.backbone, pipeline.text):
        randomise(part, 0.2)
    prompts, slots = [PROMPTS[0], PROMPTS[1]], (ImageSlot("target", "target", 32, 48, 3),)
    images = {"target": torch.zeros(2, 3, 3, 32, 48, dtype=torch.uint8)}
    given, state = Batch(slots, images, prompts, [()] * 2, ["text"] * 2, ["a", "b"]), {}
    monkeypatch.setattr(pipeline, "decode", lambda found, *_: state.update(found) or {})
    pipeline.sample(given, seed=0)
    chosen = [noise.generator(0, "sample", key) for key in given.keys]
    latents = noise.normal((2, 3, pipeline.codec.channels, 4, 6), chosen).transpose(1, 2)

    def stock(spelling: bool) -> torch.Tensor:
        pipe, told = stock_pipeline(pipeline.backbone.stock(), 5.0, 3.0), {}
        for start, said in (("", prompts), ("negative_", [" "] * 2)):
            embeds, shown = HunyuanVideo15Pipeline._get_byt5_prompt_embeds(
                ByT5Tokenizer(), pipeline.text.glyphs.model, said, "cpu", 40
            )
            told[f"{start}prompt_embeds"] = pipeline.text.encode(said)[:, :48]
            told[f"{start}prompt_embeds_mask"] = pipeline.text.valid(said)[:, :48].float()
            told[f"{start}prompt_embeds_2"] = embeds.detach()
            told[f"{start}prompt_embeds_mask_2"] = shown.float() * spelling
        how = {"height": 32, "width": 48, "num_inference_steps": steps, "latents": latents, "output_type": "latent"}
        return to_tokens(pipe(**told, **how).frames.transpose(1, 2), pipeline.backbone.patch)

    found = stock(True)
    torch.testing.assert_close(state["target"], found, rtol=1e-3, atol=1e-3)
    unspelt = (stock(False) - found).abs().amax(dim=(1, 2))
    assert unspelt[0] > 1e-2 and unspelt[1] < 1e-3, "negative control: the first prompt alone has such words"
