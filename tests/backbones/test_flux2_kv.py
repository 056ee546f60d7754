"""FLUX.2-klein with cached references: as a mask and a clock of ours it is diffusers' own, with or without a cache."""

import pytest
import torch
from diffusers.models.transformers.transformer_flux2 import Flux2KVAttnProcessor, Flux2KVParallelSelfAttnProcessor
from flux2_case import TIMES, case, config, forward, ours, stock_forward, stock_model
from tiny import mask

from unigen.core.masks import static_segments

TOGETHER = mask("conditions_together")  # references see each other alone, and everything sees them


def made():
    """A stock model with diffusers' processors for cached keys and values, ours with its weights, and tokens of two
    references and a target; references come first, as its pipeline puts them.
    """
    settings = config()
    stock = stock_model(settings)
    backbone = ours(stock, settings)
    for block in stock.transformer_blocks:
        block.attn.set_processor(Flux2KVAttnProcessor())
    for block in stock.single_transformer_blocks:
        block.attn.set_processor(Flux2KVParallelSelfAttnProcessor())
    return stock, backbone, case(backbone, 2)


def own_times(tokens, times=TIMES):
    return {s.name: torch.zeros(2) if s.role == "condition" else times for s in tokens.layout.segments}


def references(tokens):
    return sum(s.tokens for s in tokens.layout.segments if s.role == "condition")


def test_the_mask_and_a_clock_of_their_own_are_the_pass_that_extracts():
    stock, backbone, tokens = made()
    count = references(tokens)
    expected = stock_forward(stock, tokens, kv_cache_mode="extract", num_ref_tokens=count).sample
    found = forward(backbone, tokens, TOGETHER, own_times(tokens))[:, count:]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    shared = forward(backbone, tokens, TOGETHER)[:, count:]
    seeing = forward(backbone, tokens, mask("fcd_d"), own_times(tokens))[:, count:]
    for other in (shared, seeing):
        assert not torch.allclose(other, expected, rtol=1e-3, atol=1e-3), "negative control: clock and mask count"


@pytest.mark.parametrize("later", [0.5, 0.25])
def test_what_is_remembered_is_diffusers_cache_and_gives_its_later_steps(later):
    stock, backbone, tokens = made()
    layout, times = tokens.layout, own_times(tokens)
    timing = {"text": "shared", "condition": "own", "target": "shared"}
    static = static_segments(layout, backbone.effective_mask(TOGETHER), timing)
    assert static == ("condition0", "condition1")
    kept, rest = layout.only(static), layout.without(static)
    with torch.no_grad():
        memory = backbone.remember(tokens.only(kept), {n: times[n] for n in static}, TOGETHER)
    cache = stock_forward(stock, tokens, kv_cache_mode="extract", num_ref_tokens=references(tokens)).kv_cache
    stored = [*cache.double_block_caches, *cache.single_block_caches]
    assert len(memory.pairs["joint"]) == len(stored) == 4
    for (k, v), theirs in zip(memory.pairs["joint"], stored, strict=True):
        for ours_BHLD, stock_BLHD in ((k, theirs.k_ref), (v, theirs.v_ref)):
            torch.testing.assert_close(ours_BHLD.transpose(1, 2), stock_BLHD, rtol=1e-5, atol=1e-5)
    t_B = torch.full((2,), later)
    step = tokens.only(rest)
    expected = stock_forward(stock, step, times=t_B, kv_cache=cache, kv_cache_mode="cached").sample
    with torch.no_grad():
        found = backbone(step, dict.fromkeys(rest.names, t_B), TOGETHER, memory)["target"]
        blind = backbone(step, dict.fromkeys(rest.names, t_B), TOGETHER)["target"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(blind, expected, atol=1e-3), "negative control: the cache is read"


def test_references_that_see_the_text_or_share_the_clock_are_not_cached():
    _, backbone, tokens = made()
    own = {"text": "shared", "condition": "own", "target": "shared"}
    assert static_segments(tokens.layout, backbone.effective_mask(mask("fcd_d")), own) == ()
    assert static_segments(tokens.layout, backbone.effective_mask(TOGETHER), {**own, "condition": "shared"}) == ()
