"""Remembered keys and values equal the full forward exactly where `static_segments` says that they may be kept."""

from itertools import product

import pytest
import torch
from tiny import (
    apart,
    backbone_for,
    batch,
    choices,
    is_mini,
    mask,
    models,
    placing,
    plan_for,
    randomise,
    spread,
    tiny,
    tokens_for,
)

import unigen.pipeline.pipeline
from unigen.core.masks import TIMINGS, closure, static_segments
from unigen.core.noise import clock
from unigen.core.tokens import Tokens
from unigen.pipeline.build import build, build_pipeline
from unigen.pipeline.guidance import Guided

ROLES = ("text", "example", "condition", "target", "buffer")


def times_at(layout, timing: dict[str, str], t: float, size: int = 2) -> dict[str, torch.Tensor]:
    t_B = torch.full((size,), t)
    clock_BS = clock(layout, t_B)
    return {s.name: t_B if timing[s.role] == "shared" else clock_BS[:, i] for i, s in enumerate(layout.segments)}


def full_and_cached(backbone, tokens: Tokens, table, timing, kept: tuple[str, ...]) -> tuple[dict, dict]:
    """Outputs at t = 0.7 of the whole layout, and of the rest of it beside what was remembered at t = 0."""
    layout = tokens.layout
    rest = layout.without(kept)
    with torch.no_grad():
        full = backbone(tokens, times_at(layout, timing, 0.7), table)
        still = tokens.only(layout.only(kept))
        memory = backbone.remember(still, times_at(still.layout, timing, 0.0), table)
        cached = backbone(tokens.only(rest), times_at(rest, timing, 0.7), table, memory)
    return {n: full[n] for n in cached}, cached


def differ(a: dict, b: dict) -> float:
    """The largest difference, relative to the largest number: what rounding makes of it differs by machine."""
    return max(((a[n] - b[n]).abs().max() / a[n].abs().max().clamp(min=1)).item() for n in a)


@pytest.fixture(scope="module")
def backbone(request):
    return backbone_for(tiny(f"backbone={request.param}"))


PLACES = list(product(apart(), [1, 2]))  # (formatter, number of conditions)
TABLES = list(product(choices("mask"), TIMINGS))


@pytest.mark.parametrize(
    ("backbone", "place", "table"), spread(models(), PLACES, TABLES, is_mini), indirect=["backbone"]
)
def test_keeping_the_conditions_is_exact_just_where_it_is_derived(backbone, place, table):
    """Where it is not derived, keeping them is wrong unless what is kept never reaches what is computed.

    Where it is, all that is static is kept with them, as sampling does: they may read a text that is static too.
    """
    (formatter, conditions), (name, word) = place, table
    timing, table = dict.fromkeys(ROLES, word), mask(name)
    layout = plan_for(placing(formatter), backbone, conditions).layout
    kept = tuple(s.name for s in layout.visual if s.role in ("condition", "example"))
    followed = backbone.effective_mask(table)
    static = static_segments(layout, followed, backbone.effective_timing(timing))
    legal = set(kept) <= set(static)
    kept = static if legal else kept
    full, cached = full_and_cached(backbone, tokens_for(layout, backbone, 2), table, timing, kept)
    reach = closure(layout, followed)
    computed = [s.name for s in layout.visual if s.name not in kept]
    seen = any(reach[layout.names.index(x), layout.names.index(n)] for x in computed for n in kept)
    if legal or not seen:
        assert differ(full, cached) < 1e-5
    else:
        assert differ(full, cached) > 1e-3


def test_only_masks_whose_condition_is_blind_make_it_static_at_its_own_time():
    layout = plan_for(build(tiny()["formatter"]), build(tiny()["backbone"]), 2).layout
    own, shared = dict.fromkeys(ROLES, "own"), dict.fromkeys(ROLES, "shared")
    static = {name for name in choices("mask") if "condition0" in static_segments(layout, mask(name), own)}
    assert static == {"fcd_b", "conditions_alone", "conditions_together", "turns"}, "of the papers' four, B alone"
    assert not any(static_segments(layout, mask(name), shared) for name in choices("mask"))


# --- the same through the sampler -------------------------------------------------------------------------------


def guided_pipeline(name: str, word: str = "own"):
    config = tiny(f"mask={name}", "guidance.strength=3.0")
    config["conditioning"]["modulation"]["timing"] = dict.fromkeys(ROLES, word)
    pipeline = build_pipeline(config)
    for part in (pipeline.backbone, pipeline.embedding):
        randomise(part)
    return pipeline


def predictions(pipeline, keep: tuple[str, ...], monkeypatch) -> tuple[dict, Guided]:
    monkeypatch.setattr(unigen.pipeline.pipeline, "static_segments", lambda *_: keep)
    with torch.no_grad():
        [(hidden, strength_B)] = pipeline.guidance.passes(batch().tasks)
        guided = Guided(pipeline, pipeline.encode(batch(), {}), [(pipeline.encode(batch(), hidden), strength_B)])
        state = {"condition0": guided.batches[0][1].clean.features["condition0"][:2], "target": torch.zeros(2, 6, 128)}
        return guided(state, 0.7), guided


def test_guidance_with_a_memory_equals_guidance_without(monkeypatch):
    pipeline = guided_pipeline("fcd_b")
    kept = static_segments(pipeline.plan(batch().slots).layout, pipeline.mask, pipeline.modulation.timing)
    assert kept == ("condition0",)
    cached, guided = predictions(pipeline, kept, monkeypatch)
    assert guided.batches[0][1].memory is not None and guided.batches[0][1].active.names == ("text", "target")
    full, plain = predictions(pipeline, (), monkeypatch)
    assert plain.batches[0][1].memory is None
    torch.testing.assert_close(cached["target"], full["target"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "word"), [("fcd_a", "own"), ("fcd_d", "own"), ("fcd_b", "shared")])
def test_guidance_with_an_illegal_memory_differs(monkeypatch, name, word):
    pipeline = guided_pipeline(name, word)
    cached, _ = predictions(pipeline, ("condition0",), monkeypatch)
    full, _ = predictions(pipeline, (), monkeypatch)
    assert (cached["target"] - full["target"]).abs().max() > 1e-3
