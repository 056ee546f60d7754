"""Tracing four of a run of alike blocks gives the figures of tracing all of them, and unlike blocks are noticed."""

import pytest
import torch
from tiny import tiny
from torch import nn

from unigen.pipeline.build import build, build_on_meta
from unigen.tools.plan import repeats, trace
from unigen.tools.plan.repeats import likeness, shortened
from unigen.tools.plan.trace import trace_blocks, trace_step

NARROW = torch.bfloat16
LORA, FULL = "conditioning/adapter=lora", "conditioning/adapter=full"
ON, OFF = "backbone.gradient_checkpointing=true", "backbone.gradient_checkpointing=false"
SLOW = [pytest.param(words, marks=pytest.mark.slow) for words in ((LORA, OFF), (FULL, ON), (FULL, OFF))]
LONG = {"num_layers": 7, "num_single_layers": 6}


def made(exp, *words):
    config = tiny(f"+exp={exp}", *words, **LONG)
    pipeline = build_on_meta(config)
    slots = build(config["data"]).slots
    return pipeline, slots


def figures(pipeline, slots, low=NARROW):
    """(of all blocks, quickly, how many blocks were traced)"""
    backbone = pipeline.backbone.train()
    every = backbone.checkpoint_every if backbone.model.gradient_checkpointing else 1
    trace_blocks(pipeline, slots, 2, low, backbone.blocks, [])  # tables kept by layout count for who makes them
    whole = trace_blocks(pipeline, slots, 2, low, backbone.blocks, [])
    blocks, runs = shortened(backbone.blocks, every)
    return whole, trace_blocks(pipeline, slots, 2, low, blocks, runs), len(blocks)


@pytest.mark.parametrize("words", [(LORA, ON), *SLOW], ids=" ".join)
@pytest.mark.parametrize(
    ("exp", "traced"), [("fcd_mask_a", 4), pytest.param("visualcloze_fill", 8, marks=pytest.mark.slow)]
)
def test_four_of_a_run_give_the_figures_of_all(exp, traced, words):
    pipeline, slots = made(exp, *words)
    for low in (NARROW, None):
        whole, quick, blocks = figures(pipeline, slots, low)
        assert quick == whole and blocks == traced < len(pipeline.backbone.blocks)
    few, _ = shortened(pipeline.backbone.blocks, 1)  # negative control: those left out are counted
    short = trace_blocks(pipeline, slots, 2, None, few, [])
    assert short.flops < whole.flops and short.kept < whole.kept and short.peak < whole.peak


@pytest.mark.slow
def test_units_of_blocks_that_are_recomputed_by_turns_are_left_out_whole():
    config = tiny("+exp=fcd_mask_a", LORA, ON, "backbone.checkpoint_every=2", num_layers=13)
    pipeline, slots = build_on_meta(config), build(config["data"]).slots
    whole, quick, blocks = figures(pipeline, slots)
    assert quick == whole and blocks == 9
    one_by_one, runs = shortened(pipeline.backbone.blocks, 1)  # negative control: single blocks by turns are not alike
    with pytest.raises(repeats.Unsteady):
        trace_blocks(pipeline, slots, 2, NARROW, one_by_one, runs)


def test_a_block_that_differs_is_traced_by_itself():
    pipeline, slots = made("fcd_mask_a", FULL, OFF)
    block = pipeline.backbone.blocks[3]
    with torch.device("meta"):
        wide = nn.Linear(block.ff.net[2].in_features, block.ff.net[0].proj.in_features)
        block.ff.net[0].proj = nn.Linear(wide.out_features, 3 * wide.in_features)
        block.ff.net[2] = nn.Linear(3 * wide.in_features, wide.out_features)
    whole, quick, blocks = figures(pipeline, slots)
    assert quick == whole and blocks == 7, "3, 1 and 3 alike: no run is long enough"
    for p in pipeline.backbone.blocks[6].parameters():
        p.requires_grad_(False)
    assert likeness(pipeline.backbone.blocks[5]) != likeness(pipeline.backbone.blocks[6])


@pytest.mark.parametrize("what", ["eps", "shared", "hook"])
def test_what_makes_blocks_differ(what):
    blocks = [nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)) for _ in range(7)]
    assert len(shortened(blocks, 1)[0]) == 4
    if what == "eps":
        blocks[3][1].eps = 0.5
    elif what == "shared":
        blocks[3][0].weight = blocks[4][0].weight
    else:
        blocks[3].register_forward_pre_hook(lambda *_: None)
    assert shortened(blocks, 1) == (blocks, [])


def test_blocks_that_look_alike_but_are_not_are_all_traced(monkeypatch):
    """A block that does more work each time its class is called for another one."""
    pipeline, slots = made("fcd_mask_a", FULL, OFF)
    backbone, calls = pipeline.backbone.train(), []
    kind = type(backbone.blocks[0])
    stock = kind.forward

    def forward(self, *args, **kwargs):
        calls.append(self)
        x, *rest = stock(self, *args, **kwargs)
        return (x + sum(x @ x.transpose(1, 2) @ x for _ in range(len(calls))), *rest)

    monkeypatch.setattr(kind, "forward", forward)
    trace_blocks(pipeline, slots, 2, None, backbone.blocks, [])
    calls.clear()
    whole = trace_blocks(pipeline, slots, 2, None, backbone.blocks, [])
    calls.clear()
    with pytest.raises(repeats.Unsteady):
        trace_blocks(pipeline, slots, 2, None, *shortened(backbone.blocks, 1))
    refused = trace.trace_blocks

    def afresh(*args):
        calls.clear()
        return refused(*args)

    monkeypatch.setattr(trace, "trace_blocks", afresh)
    assert trace_step(pipeline, slots, 2, None) == whole
