"""Our Wan is diffusers' own: bit for bit with every treatment off, and at clocks of its roles; and what roles add."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from tiny import backbone_for, batch, blocks, choices, mask, randomise, tiny
from wan_case import ONE_BRANCH, ROLES, TIMES, case, config, forward, ours, pair, stock_forward, stock_model, video

import unigen.pipeline.pipeline
from unigen.core import canvas, noise
from unigen.core.layout import Layout
from unigen.core.masks import Mask, closure, static_segments
from unigen.core.tokens import Tokens
from unigen.nn.rope import rotary
from unigen.pipeline.build import build, build_pipeline
from unigen.pipeline.guidance import Guided

FULL = mask("fcd_d")


def table(name: str, **rows: str) -> Mask:
    """Rows in words for text, condition and target: "all all none"."""
    return Mask(name, {query: dict(zip(ROLES, row.split(), strict=True)) for query, row in rows.items()})


ALONE = table("alone", text="same same same", condition="same same same", target="same same same")
# a condition that reads the text and not the target: static here, and in no joint model, where text reads the target
READING = table("reading", text="all all all", condition="all all none", target="all all all")


def own_times(tokens: Tokens) -> dict[str, torch.Tensor]:
    """Conditions and text at time 0, the target at TIMES."""
    return {s.name: TIMES if s.role == "target" else torch.zeros(2) for s in tokens.layout.segments}


# --- parity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("modulation", [*choices("conditioning/modulation"), "one branch"])
def test_a_converted_model_equals_the_stock_one_bit_for_bit(modulation, tied, adapter):
    known = modulation in choices("conditioning/modulation")
    made = config(f"conditioning/adapter={adapter}", *([f"conditioning/modulation={modulation}"] * known))
    if not known:
        made["conditioning"]["modulation"]["branches"] = ONE_BRANCH
    stock = stock_model(made)
    backbone = ours(stock, made, tied)
    tokens = case(backbone, 2)
    expected = stock_forward(stock, tokens)
    assert torch.equal(forward(backbone, tokens, FULL), expected) and expected.std() > 0.1
    other = tokens.updated({"text": tokens.features["text"] + 0.1})
    assert not torch.equal(forward(backbone, other, FULL), expected), "negative control"
    assert not torch.equal(forward(backbone, tokens, FULL, TIMES - 0.01), expected), "negative control"


def test_a_prediction_has_the_order_of_the_features_and_not_the_models_own():
    """In (C, p_t, p_h, p_w), out (p_t, p_h, p_w, C): the stock unpatchify of our tokens is the stock sample."""
    stock, backbone = pair()
    tokens = case(backbone)
    with torch.no_grad():
        sample = stock(video(tokens), TIMES * 1000, tokens.features["text"]).sample
    found = forward(backbone, tokens, FULL)
    frames = [s.grid for s in tokens.layout.visual]
    grid = (len(frames), *frames[0][1:])
    assert torch.equal(canvas.from_tokens(found, grid, backbone.patch).transpose(1, 2), sample)
    turned = found.unflatten(-1, (16, 4)).transpose(2, 3).flatten(2)
    assert not torch.equal(canvas.from_tokens(turned, grid, backbone.patch).transpose(1, 2), sample), "control"


def test_a_clock_of_each_role_equals_the_stock_form_with_a_time_for_each_token():
    """TI2V's image to video: a clean first frame at time 0. The time embedding is another matrix product there."""
    stock, backbone = pair()
    tokens = case(backbone)
    times = own_times(tokens)
    per_token = torch.cat([times[s.name][:, None].expand(-1, s.tokens) for s in tokens.layout.visual], dim=1)
    expected = stock_forward(stock, tokens, per_token)
    torch.testing.assert_close(forward(backbone, tokens, FULL, times), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(forward(backbone, tokens, FULL), expected, atol=1e-2), "negative control"


def test_a_block_that_splits_by_segment_is_bit_equal_to_the_stock_block_with_a_time_for_each_token():
    """From the same time projections, so that nothing but the block is compared."""
    stock, backbone = pair()
    tokens = case(backbone)
    given, run = [], backbone._run
    backbone._run = lambda *args: given.append(args) or run(*args)
    forward(backbone, tokens, FULL, own_times(tokens))
    _, x, c, modulation, (cos, sin), _ = given[0]
    sizes = [s.tokens for s in tokens.layout.visual]
    spread = [modulation.made[i][:, None].expand(-1, n, -1, -1) for i, n in zip(modulation.made_of, sizes, strict=True)]
    assert len(modulation.made) == 2 and modulation.made_of == (0, 1)
    with torch.no_grad():
        rope = cos[None, :, None], sin[None, :, None]
        expected = stock.blocks[0](x, c, torch.cat(spread, dim=1), rope)
        assert torch.equal(run(*given[0])[0], expected)
        shared = stock.blocks[0](x, c, modulation.made[0], rope)
        assert not torch.allclose(shared, expected, atol=1e-3), "negative control"


def test_positions_are_the_stock_ones_in_float64():
    stock, backbone = pair()
    tokens = case(backbone, 2)
    cos, sin = backbone._rope(tokens.layout, torch.device("cpu"))
    stock_cos, stock_sin = stock.rope(video(tokens))
    assert torch.equal(cos, stock_cos[0, :, 0]) and torch.equal(sin, stock_sin[0, :, 0])
    far = torch.tensor([[500, 500, 500]])
    exact, rounded = (rotary(far, (44, 42, 42), dtype=d)[0] for d in (torch.float64, torch.float32))
    assert (exact - rounded).abs().max() > 1e-6, "negative control: the precision shows"
    half = replace(tokens.layout["target"], origin=(0.5, 0, 0))
    moved = backbone._rope(Layout((half,)), torch.device("cpu"))[0]
    torch.testing.assert_close(moved[0, 0], torch.tensor(0.5).cos())


def test_positions_may_be_anywhere_and_count():
    backbone = backbone_for(config())
    tokens = case(backbone)
    here = forward(backbone, tokens, FULL)
    for axis in range(3):
        origin = tuple(at + 2000 * (i == axis) for i, at in enumerate(tokens.layout["target"].origin))
        moved = [replace(s, origin=origin) if s.name == "target" else s for s in tokens.layout.segments]
        there = forward(backbone, replace(tokens, layout=Layout(tuple(moved))), FULL)
        assert (there - here).abs().max() > 1e-3


def test_weights_in_bf16_keep_positions_in_fp32():
    stock, backbone = pair()
    tokens = case(backbone)
    expected = stock_forward(stock, tokens)
    found = forward(backbone.to(torch.bfloat16), tokens, FULL)
    assert found.dtype == torch.bfloat16 and (found.float() - expected).abs().max() < 0.05 * expected.abs().max()
    assert backbone._rope(tokens.layout, torch.device("cpu"))[0].dtype == torch.float32


# --- the sampler --------------------------------------------------------------------------------------------------


def test_sampling_equals_the_loop_of_diffusers_pipeline(monkeypatch):
    """WanPipeline's loop, by hand: 1000 t from the scheduler, two calls, uncond + g (cond - uncond), shift 3."""
    words = (
        "backbone=wan_mini",
        "mask=fcd_d",
        "process=rectified_flow",
        "solver=euler_static",
        "guidance.strength=5.0",
    )
    pipeline = build_pipeline(tiny(*words))
    stock = randomise(stock_model(config()), 0.05, seed=5)
    pipeline.backbone.model.load_state_dict(stock.state_dict(), strict=False)
    for name in ("condition", "target"):
        pipeline.backbone.model.condition_embedder.time_proj.branches[name].load_state_dict(
            stock.condition_embedder.time_proj.state_dict()
        )
        for block, theirs in zip(blocks(pipeline.backbone), stock.blocks, strict=True):
            block.tables[name].data.copy_(theirs.scale_shift_table)
    pipeline.solver.steps = 6
    given = batch(conditions=0)
    latents = {}
    monkeypatch.setattr(pipeline, "decode", lambda state, *_: latents.update(state) or {})
    pipeline.sample(given, seed=0)

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 6, 6))
    keys = [f"item{i}" for i in range(2)]
    plan = pipeline.plan(given.slots)
    eps = pipeline.draw_noise(plan, [noise.generator(0, "sample", key) for key in keys])["target"]
    grid = plan.layout["target"].grid
    z = canvas.from_tokens(eps, grid, (1, 2, 2)).transpose(1, 2)
    with torch.no_grad():
        shown, hidden = pipeline.text.encode(given.prompts), pipeline.text.encode(["", ""])
        for t in scheduler.timesteps:
            cond, uncond = (stock(z, t.expand(2), text).sample for text in (shown, hidden))
            z = scheduler.step(uncond + 5.0 * (cond - uncond), t, z, return_dict=False)[0]
    expected = canvas.to_tokens(z.transpose(1, 2), (1, 2, 2))
    torch.testing.assert_close(latents["target"], expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(latents["target"], eps, atol=0.1), "negative control"


@pytest.mark.parametrize("factor", [3.0, 5.0])
def test_the_static_shift_is_diffusers_time_grid(factor):
    solver = build(tiny("solver=euler_static", f"solver.shift.factor={factor}")["solver"])
    solver.steps = 50
    scheduler = FlowMatchEulerDiscreteScheduler(shift=factor)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 50, 50))
    times = solver.times(1024)
    torch.testing.assert_close(times, scheduler.sigmas, rtol=1e-6, atol=1e-6)
    assert torch.equal(times, solver.times(64)) and all(a > b for a, b in pairwise(times.tolist()))
    other = build(tiny("solver=euler_static", "solver.shift.factor=4.0")["solver"])
    other.steps = 50
    assert not torch.allclose(other.times(), times, atol=1e-2), "negative control"
    published = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=factor)
    published.set_timesteps(50)  # its grid ends a thousandth above 0 before the last step
    torch.testing.assert_close(times, published.sigmas.float(), rtol=0, atol=0.05)


# --- roles ---------------------------------------------------------------------------------------------------------


def test_the_row_of_text_is_not_followed_and_its_columns_are():
    backbone = backbone_for(config())
    tokens = case(backbone)
    rows = {"condition": "none all none", "target": "all all all"}
    one, other = table("a", text="all all all", **rows), table("b", text="none none none", **rows)
    assert torch.equal(forward(backbone, tokens, one), forward(backbone, tokens, other))
    timing = dict.fromkeys(ROLES, "own") | {"text": "shared"}
    static = [
        static_segments(tokens.layout, backbone.effective_mask(m), backbone.effective_timing(timing))
        for m in (one, other)
    ]
    assert static[0] == static[1] == ("text", "condition0")
    assert static_segments(tokens.layout, one, timing) == ("condition0",), "negative control: to the letter"
    blind = table("c", text="all all all", condition="none all none", target="none all all")
    assert not torch.allclose(forward(backbone, tokens, one), forward(backbone, tokens, blind), atol=1e-3)


def test_who_may_not_read_the_text_gets_no_residual_at_all():
    """As a model without cross-attention: the output bias is not added either."""
    backbone, blind = backbone_for(config()), table("blind", text="same same same", condition="none all all",
                                                    target="none all all")  # fmt: skip
    tokens = case(backbone)
    found = forward(backbone, tokens, blind)
    other = tokens.updated({"text": tokens.features["text"] + 1})
    assert torch.equal(forward(backbone, other, blind), found)
    for block in blocks(backbone):
        block.attn2.to_out[0].bias.data.add_(3.0)
    assert torch.equal(forward(backbone, tokens, blind), found)
    assert not torch.allclose(forward(backbone, tokens, mask("fcd_a")), found, atol=1e-3), "negative control"


@pytest.mark.parametrize("lowering", ["dense", "grouped", "plain"])
def test_a_mask_equals_the_stock_attention_under_a_dense_one(lowering):
    """Of two images that do not see each other and of which one does not read the text, each is as if alone."""
    apart = table("apart", text="same none none", condition="none all none", target="all none all")
    stock, backbone = pair(f"backbone.lowering._target_=unigen.core.attention.{lowering}")
    tokens = case(backbone)
    found = forward(backbone, tokens, apart)
    alone = tokens.only(tokens.layout.only(["text", "target"]))
    size = tokens.layout["target"].tokens
    expected = forward(backbone, alone, FULL)
    torch.testing.assert_close(found[:, -size:], expected, rtol=1e-5, atol=1e-5)
    placed = replace(tokens.layout["target"], origin=(0, 0, 0))
    moved = replace(alone, layout=Layout((alone.layout["text"], placed)))
    torch.testing.assert_close(forward(backbone, moved, FULL), stock_forward(stock, moved), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(forward(backbone, tokens, FULL)[:, -size:], expected, atol=1e-3), "negative control"


def test_each_branch_moves_its_own_role():
    """With one block in which every image sees only itself, a branch's weights and table reach its role alone."""
    backbone = backbone_for(config(num_layers=1))
    tokens = case(backbone)
    times = dict.fromkeys(tokens.layout.names, TIMES)
    before = backbone(tokens, times, ALONE)
    embedder = backbone.model.condition_embedder
    for parameter in (embedder.time_proj.branches["condition"].weight, blocks(backbone)[0].tables["condition"]):
        with torch.no_grad():
            parameter.add_(0.1)
        after = backbone(tokens, times, ALONE)
        assert torch.equal(after["target"], before["target"])
        assert not torch.allclose(after["condition0"], before["condition0"], atol=1e-4)
        before = after
    assert set(embedder.time_proj.branches) == {"condition", "target"}, "text has no modulation, so it has no branch"


@pytest.mark.parametrize("tied", [True, False])
def test_tied_branches_are_one_parameter_and_copies_are_their_own(tied):
    backbone = backbone_for(config(), tied=tied)
    branches = backbone.model.condition_embedder.time_proj.branches.values()
    assert len({id(branch.weight) for branch in branches}) == (1 if tied else 2)
    grown = sum(p.numel() for p in backbone.parameters()) - backbone.stock_parameters
    width, layers = 32, 2
    assert grown == (0 if tied else 6 * width * width + 6 * width + layers * 6 * width)


def test_own_time_of_a_segment_is_the_model_at_that_time():
    """Where segments do not see each other, each is as in a run in which all are at its time."""
    backbone = backbone_for(config())
    tokens = case(backbone)
    names = tokens.layout.names
    late, early = dict.fromkeys(names, TIMES), dict.fromkeys(names, torch.zeros(2))
    with torch.no_grad():
        mixed = backbone(tokens, late | {"condition0": torch.zeros(2)}, ALONE)
        late, early = backbone(tokens, late, ALONE), backbone(tokens, early, ALONE)
    torch.testing.assert_close(mixed["target"], late["target"])
    torch.testing.assert_close(mixed["condition0"], early["condition0"])
    assert not torch.allclose(early["condition0"], late["condition0"], atol=1e-3), "negative control"


# --- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [mask("fcd_a"), mask("fcd_b"), FULL, READING], ids=lambda m: m.name)
def test_what_is_remembered_and_a_step_are_the_whole_forward(table):
    """Text is static under every mask, at whatever time; a condition that does not see the target too, with text."""
    backbone = backbone_for(config())
    tokens = case(backbone)
    times = own_times(tokens)
    timing = backbone.effective_timing({"text": "shared", "condition": "own", "target": "shared"})
    static = static_segments(tokens.layout, backbone.effective_mask(table), timing)
    assert static == (("text", "condition0") if table.name in ("fcd_b", "reading") else ("text",))
    rest = tokens.layout.without(static)
    with torch.no_grad():
        full = backbone(tokens, times, table)["target"]
        still = tokens.only(tokens.layout.only(static))
        memory = backbone.remember(still, {n: times[n] for n in static}, table)
        step = backbone(tokens.only(rest), {n: times[n] for n in rest.names}, table, memory)["target"]
        torch.testing.assert_close(step, full, rtol=1e-5, atol=1e-5)
        changed = tokens.updated({"text": tokens.features["text"] + 0.5})
        other = backbone.remember(changed.only(still.layout), {n: times[n] for n in static}, table)
        wrong = backbone(tokens.only(rest), {n: times[n] for n in rest.names}, table, other)["target"]
    assert not torch.allclose(wrong, full, atol=1e-3), "negative control: the memory is read"
    assert len(memory.pairs["cross"]) == 2 and len(memory.pairs["self"]) == 2 * ("condition0" in static)


def test_a_condition_that_reads_the_text_alone_is_not_moved_by_the_target():
    """In a joint model text reads the target, so that closure says otherwise; here it is static."""
    backbone = backbone_for(config())
    tokens = case(backbone)
    size = tokens.layout["condition0"].tokens
    before = forward(backbone, tokens, READING)[:, :size]
    after = forward(backbone, tokens.updated({"target": tokens.features["target"] + 1}), READING)[:, :size]
    assert torch.equal(before, after)
    names = tokens.layout.names
    i, j = names.index("condition0"), names.index("target")
    assert closure(tokens.layout, READING)[i, j] and not closure(tokens.layout, backbone.effective_mask(READING))[i, j]
    text = forward(backbone, tokens.updated({"text": tokens.features["text"] + 1}), READING)[:, :size]
    assert not torch.allclose(before, text, atol=1e-3), "negative control"


def test_padding_of_text_is_hidden_where_tokens_say_so_also_in_the_memory():
    backbone = backbone_for(config())
    long = case(backbone)
    valid = torch.tensor([[True, True, False, False]] * 2)
    padded = replace(long, valid={"text": valid})
    other = padded.updated({"text": torch.cat([long.features["text"][:, :2], torch.randn(2, 2, 32)], dim=1)})
    expected = forward(backbone, padded, FULL)
    assert torch.equal(forward(backbone, other, FULL), expected)
    assert not torch.allclose(forward(backbone, long, FULL), expected, atol=1e-3), "negative control"
    times = dict.fromkeys(long.layout.names, TIMES)
    images = padded.only(padded.layout.without(["text"]))
    with torch.no_grad():
        memory = backbone.remember(padded.only(padded.layout.only(["text"])), times, FULL)
        found = backbone(images, times, FULL, memory)
    torch.testing.assert_close(torch.cat(list(found.values()), dim=1), expected, rtol=1e-5, atol=1e-5)


def test_guidance_remembers_the_text_of_both_branches(monkeypatch):
    """Sampling computes text once for all steps; without a memory the latents are the same."""
    words = ("backbone=wan_mini", "process=rectified_flow", "solver=euler_static", "guidance.strength=3.0")
    pipeline = build_pipeline(tiny(*words))
    randomise(pipeline.backbone)
    found = []
    for keep in (None, ()):
        if keep is not None:
            monkeypatch.setattr(unigen.pipeline.pipeline, "static_segments", lambda *_: ())
        with torch.no_grad():
            shown, hidden = (pipeline.encode(given, {}) for given in (batch(), replace(batch(), prompts=["", ""])))
            guided = Guided(pipeline, shown, [(hidden, torch.full((2,), 3.0))])
            state = {
                "condition0": guided.batches[0][1].clean.features["condition0"][:2],
                "target": torch.zeros(2, 6, 64),
            }
            found.append(guided(state, 0.7)["target"])
        assert (guided.batches[0][1].memory is None) == (keep is not None)
        assert guided.batches[0][1].active.names == (("text",) * (keep is not None) + ("condition0", "target"))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_checkpointing_changes_no_gradient(adapter):
    grads = []
    for checkpointing in ("false", "true"):
        torch.manual_seed(0)
        made = config(f"conditioning/adapter={adapter}", f"backbone.gradient_checkpointing={checkpointing}")
        backbone, chosen = build(made["backbone"]), build(made["conditioning"]["adapter"])
        build(made["conditioning"]["modulation"]).apply(backbone, chosen.freezes_base)
        chosen.apply(backbone)
        randomise(backbone).train()
        tokens, calls = case(backbone), []
        hook = blocks(backbone)[-1].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        backbone(tokens, own_times(tokens), mask("fcd_a"))["target"].square().sum().backward()
        hook.remove()
        assert len(calls) == (2 if checkpointing == "true" else 1), "it is computed again, or not"
        grads.append({n: p.grad for n, p in backbone.named_parameters() if p.requires_grad})
    assert len(grads[0]) > 10 and any((g != 0).any() for g in grads[0].values() if g is not None)
    for n, g in grads[0].items():
        torch.testing.assert_close(g, grads[1][n], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("modulation", choices("conditioning/modulation"))
@pytest.mark.parametrize("name", ["fcd_a", "fcd_b", "fcd_d"])
def test_everything_trained_gets_a_gradient_but_what_the_mask_cuts_off(name, modulation):
    """The loss is on the target alone; after the last self-attention a condition gives nothing to anyone any more."""
    words = ("backbone=wan_mini", "process=rectified_flow", f"mask={name}", f"conditioning/modulation={modulation}")
    pipeline = build_pipeline(tiny(*words))
    for part in (pipeline.backbone, pipeline.embedding):
        randomise(part)
    loss, _ = pipeline.training_loss(batch(4), torch.Generator().manual_seed(0))
    loss.backward()
    found = {n: p.grad for n, p in pipeline.backbone.named_parameters()}
    assert len(found) > 40 and not [n for n, g in found.items() if g is None or not (g != 0).any()]
    blind = build_pipeline(tiny(*words[:2], "mask=fcd_b_literal"))
    randomise(blind.backbone)
    blind.training_loss(batch(4), torch.Generator().manual_seed(0))[0].backward()
    silent = [n for n, p in blind.backbone.named_parameters() if p.grad is None or not (p.grad != 0).any()]
    assert any("condition" in n for n in silent), "negative control: the target does not read the condition"
