"""Switches of speed change no value: compiled and recomputed blocks, each with the count of what the switch did."""

from collections import Counter

import pytest
import torch
from tiny import backbone_for, batch, blocks, mask, plan_for, randomise, tiny, tokens_for
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from unigen.backbones import base
from unigen.core.layout import Layout
from unigen.pipeline.build import build, build_pipeline

GROUPED = "backbone.lowering._target_=unigen.core.attention.grouped"
KINDS = {  # kinds of block
    "cogvideox_mini": 1,
    "flux_mini": 2,
    "flux2_mini": 2,
    "wan_mini": 1,
    "qwen_image_mini": 1,
    "hunyuan_video_mini": 1,
}


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def made(name, *words, blocks=1, **switches):
    """A backbone of random weights, the same for the same sizes; of Flux twice as many single blocks."""
    config = tiny(f"backbone={name}", GROUPED, *words, num_layers=blocks, num_single_layers=2 * blocks)
    config["backbone"] |= switches
    torch.manual_seed(0)
    return backbone_for(config), build(config["formatter"])


def step(backbone, layout, seed=0, table="fcd_a"):
    """(loss, gradients) on features and times of this seed; the times are new tensors in every call."""
    tokens = tokens_for(layout, backbone, 2, seed)
    t_B = torch.rand(2, generator=torch.Generator().manual_seed(seed))
    backbone.zero_grad()
    outputs = backbone(tokens, dict.fromkeys(layout.names, t_B), mask(table))
    loss = sum(x.square().mean() for x in outputs.values())
    loss.backward()
    return loss.detach(), [p.grad for p in backbone.parameters() if p.grad is not None]


def equal(a, b):
    return torch.equal(a[0], b[0]) and all(torch.equal(x, y) for x, y in zip(a[1], b[1], strict=True))


# --- compile ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_blocks_are_compiled_once_and_never_again_for_a_new_step(name):
    """Whole blocks (no graph break), a compilation for each kind of block and memory format, none in later steps."""
    plain, formatter = made(name)
    compiled, _ = made(name)
    layout, counter = plan_for(formatter, plain).layout, CompileCounter()
    base.compile_blocks([], {})  # as every compilation: without a warning for each cached table
    for block in compiled.blocks:
        block.compile(backend=counter, fullgraph=True, dynamic=False)
    assert equal(step(compiled, layout), step(plain, layout))
    first = counter.frame_count
    assert KINDS[name] <= first <= KINDS[name] + 1  # the first single block of Flux gets no views
    for seed in (1, 2):
        assert equal(step(compiled, layout, seed), step(plain, layout, seed))
    assert counter.frame_count == first
    assert equal(step(compiled, layout, table="fcd_d"), step(plain, layout, table="fcd_d"))
    assert counter.frame_count > first, "negative control: another mask of the same shapes is another graph"


@pytest.mark.slow
def test_layouts_of_one_length_share_a_compilation_where_nothing_is_hidden():
    """Other images at other places, but as many tokens: with mask D and one modulation branch no block can tell."""
    words = ("conditioning/modulation=shared", "backbone.lowering._target_=unigen.core.attention.plain")
    compiled, formatter = made("cogvideox_mini", *words)
    plain, _ = made("cogvideox_mini", *words)
    layout, counter = plan_for(formatter, compiled).layout, CompileCounter()
    text, *images = layout.segments
    swapped = Layout((text, *reversed(images)))
    assert swapped.roles != layout.roles
    for block in compiled.blocks:
        block.compile(backend=counter, fullgraph=True, dynamic=False)
    for which in (layout, swapped):
        assert equal(step(compiled, which, table="fcd_d"), step(plain, which, table="fcd_d"))
    assert counter.frame_count == 1
    step(compiled, Layout((text, *images[:1])), table="fcd_d")
    assert counter.frame_count == 2, "negative control: another length is another graph"


@pytest.mark.slow
def test_gradients_of_a_block_compiled_for_this_machine_in_bf16_are_those_of_the_eager_one():
    """Inductor's vectorised backward of a norm behind a transposition gave NaN."""
    words = ("backbone.lowering._target_=unigen.core.attention.plain",)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 64}
    gradients = []
    for compile in (None, {"mode": "default"}):
        config = tiny("backbone=cogvideox_mini", *words, num_layers=1)
        config["backbone"]["config"] |= sizes
        config["backbone"]["compile"] = compile
        torch.manual_seed(0)
        backbone, formatter = backbone_for(config), build(config["formatter"])
        with torch.autocast("cpu", torch.bfloat16):
            _, found = step(backbone, plan_for(formatter, backbone).layout, table="fcd_d")
        gradients.append(torch.cat([g.flatten() for g in found]))
    eager, compiled = gradients
    assert compiled.isfinite().all()
    assert (eager - compiled).norm() < 0.05 * eager.norm()
    assert (eager - compiled.flip(0)).norm() > 0.5 * eager.norm(), "negative control"


@pytest.mark.slow
def test_a_lowering_that_keeps_its_mask_breaks_the_graph_and_agrees():
    """The dense mask is a tensor that outlives the step: it is made outside the graph."""
    words = ("backbone.lowering._target_=unigen.core.attention.dense",)
    plain, formatter = made("cogvideox_mini", *words)
    compiled, _ = made("cogvideox_mini", *words, compile={"backend": "eager"})
    layout = plan_for(formatter, plain).layout
    assert equal(step(compiled, layout), step(plain, layout))
    graphs = counters["stats"]["unique_graphs"]
    assert equal(step(compiled, layout, 1), step(plain, layout, 1)) and counters["stats"]["unique_graphs"] == graphs
    assert counters["graph_break"], "negative control: grouped has none"


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_compiled_checkpointed_lora_samples_and_trains_as_an_eager_one(name):
    """Prompts are padded and what is static is remembered where the published family has it so."""
    flow = () if name == "cogvideox_mini" else ("process=rectified_flow", "solver=euler")
    padded = ("encoder.text.mask_padding=true",) * (name in ("qwen_image_mini", "hunyuan_video_mini"))
    words = (f"backbone={name}", *flow, *padded, "mask=fcd_b", "conditioning/adapter=lora", GROUPED,
             "conditioning.modulation.timing.condition=own")  # fmt: skip
    pipelines = []
    for switches in ({}, {"compile": {"backend": "eager"}, "gradient_checkpointing": True}):
        config = tiny(*words, num_layers=1, num_single_layers=1)
        config["backbone"] |= switches
        torch.manual_seed(0)
        pipelines.append(build_pipeline(config))
    losses, images = [], []
    for pipeline in pipelines:
        randomise(pipeline.backbone)
        loss, _ = pipeline.training_loss(batch(), torch.Generator().manual_seed(0))
        loss.backward()
        losses.append(loss.detach())
        images.append(pipeline.sample(batch(), seed=0)["target"])
    torch.testing.assert_close(*losses)
    assert (images[0].int() - images[1].int()).abs().max() <= 1
    assert counters["stats"]["unique_graphs"] >= 2, "negative control: training and sampling were compiled"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mod": "default"}, "backbone.compile has the unknown key 'mod'; legal are mode, dynamic, backend"),
        ({"mode": "fast"}, "backbone.compile.mode is 'fast'; legal are default, max-autotune-no-cudagraphs"),
        ({"dynamic": "auto"}, "backbone.compile.dynamic is 'auto'; legal are true, false and null"),
        ({"backend": "gcc"}, "backbone.compile.backend is 'gcc'; legal are .*inductor"),
    ],
)
def test_other_compilations_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        base.compile_blocks([], options)


# --- checkpointing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "recomputed"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4]), (3, [0, 3])])
def test_every_kth_block_is_recomputed_and_gradients_are_the_same(every, recomputed):
    plain, formatter = made("flux_mini", blocks=2)
    backbone, _ = made("flux_mini", blocks=2, gradient_checkpointing=True, checkpoint_every=every)
    layout, calls = plan_for(formatter, plain).layout, Counter()
    for number, block in enumerate(blocks(backbone)):
        block.register_forward_pre_hook(lambda *_, number=number: calls.update([number]))
    assert equal(step(backbone, layout), step(plain, layout))
    assert [number for number, times in calls.items() if times == 2] == recomputed and len(calls) == 6


@pytest.mark.parametrize("every", [0, -1, True, 0.5, "all"])
def test_other_intervals_are_refused(every):
    with pytest.raises(ValueError, match=r"backbone.checkpoint_every is .*; legal are whole numbers from 1"):
        base.checked_interval(every)
