"""Our FLUX.2 is diffusers' own: bit for bit with every treatment off, and under a mask as under a dense one."""

from dataclasses import replace

import pytest
import torch
from diffusers import Flux2KleinPipeline
from flux2_case import ALONE, GUIDANCE, ONE_BRANCH, TIMES, case, config, forward, ours, pair, stock_forward, stock_model
from tiny import backbone_for, blocks, choices, mask, randomise, tokens_for

from unigen.backbones.flux2 import ids
from unigen.core import masks
from unigen.core.layout import Layout, text_segment
from unigen.core.masks import Mask
from unigen.core.tokens import Tokens
from unigen.pipeline.build import build

FULL = mask("fcd_d")
TEXT_FIRST = Mask("text_first", {"text": {"text": "all", "target": "none"}, "target": {"text": "all", "target": "all"}})


# --- parity with every treatment off ----------------------------------------------------------------------------


@pytest.mark.parametrize("guided", [False, True])
def test_klein_and_dev_equal_the_stock_model_bit_for_bit(guided):
    stock, backbone = pair(guided=guided)
    tokens = case(backbone, 2)
    at = GUIDANCE if guided else {"train": None, "sample": None}
    training, sampling = forward(backbone, tokens, FULL), replace(tokens, sampling=True)
    assert torch.equal(training, stock_forward(stock, tokens, at["train"])) and training.std() > 0.1
    assert torch.equal(forward(backbone, sampling, FULL), stock_forward(stock, tokens, at["sample"]))
    assert torch.equal(forward(backbone, sampling, FULL), training) != guided
    for name in tokens.layout.names:  # negative controls: everything that goes in counts
        other = tokens.updated({name: tokens.features[name] + 0.1})
        assert not torch.equal(forward(backbone, other, FULL), training)
    assert not torch.allclose(forward(backbone, tokens, FULL, TIMES - 0.01), training, atol=1e-4)


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
    tokens = case(backbone)
    expected = stock_forward(stock, tokens)
    assert torch.equal(forward(backbone, tokens, FULL), expected)
    model = backbone.model
    for module in (model.double_stream_modulation_img, model.single_stream_modulation):  # negative controls
        linear = list(module.linear.branches.values())[-1] if backbone.branched else module.linear
        weight = (linear.base_layer if adapter == "lora" else linear).weight
        with torch.no_grad():
            kept = weight.clone()
            weight.add_(0.5)
            assert not torch.equal(forward(backbone, tokens, FULL), expected)
            weight.copy_(kept)


def test_weights_in_bf16_equal_the_stock_ones_in_bf16():
    made = config()
    stock = stock_model(made, torch.bfloat16)
    backbone = ours(stock, made)
    tokens = case(backbone)
    found, expected = forward(backbone, tokens, FULL), stock_forward(stock, tokens)
    assert found.dtype == torch.bfloat16 and torch.equal(found, expected)
    assert not torch.equal(forward(backbone, tokens, FULL, TIMES * 0.9), expected), "negative control"


def test_positions_are_those_of_kleins_pipeline():
    """The text counts its tokens on the fourth axis; references lie at t = 10, 20, each from row and column 0."""
    stock, backbone = pair()
    tokens = case(backbone, 2)
    layout = tokens.layout
    found = dict(zip(layout.names, ids(layout).split([s.tokens for s in layout.segments]), strict=True))
    pictures = [torch.zeros(1, 128, *s.grid[1:]) for s in layout.visual]
    text = Flux2KleinPipeline._prepare_text_ids(tokens.features["text"])[0]
    assert torch.equal(found["text"], text) and not torch.equal(found["text"], torch.zeros_like(text))
    assert torch.equal(found["target"], Flux2KleinPipeline._prepare_latent_ids(pictures[-1])[0])
    shown = torch.cat([found["condition0"], found["condition1"]])
    assert torch.equal(shown, Flux2KleinPipeline._prepare_image_ids(pictures[:2])[0])
    cos, sin = backbone._rope(layout, torch.device("cpu"))
    assert cos.dtype == sin.dtype == torch.float32 and torch.equal(cos, stock.pos_embed(ids(layout))[0])


def test_positions_count_on_every_axis():
    _, backbone = pair()
    tokens = case(backbone)
    here = forward(backbone, tokens, FULL)
    for axis in range(3):
        origin = tuple(at + (i == axis) for i, at in enumerate(tokens.layout["target"].origin))
        moved = [replace(s, origin=origin) if s.name == "target" else s for s in tokens.layout.segments]
        assert (forward(backbone, replace(tokens, layout=Layout(tuple(moved))), FULL) - here).abs().max() > 1e-3
    turned = tokens.updated({"text": tokens.features["text"].flip(1)})
    assert (forward(backbone, turned, FULL) - here).abs().max() > 1e-3, "the order of words counts: text has positions"


@pytest.mark.parametrize("name", choices("mask"))
@pytest.mark.parametrize("lowering", ["dense", "grouped", "plain"])
def test_a_mask_equals_the_stock_model_with_the_dense_mask(name, lowering):
    stock, backbone = pair(f"backbone.lowering._target_=unigen.core.attention.{lowering}")
    tokens = case(backbone, 2)
    dense = {n: masks.dense(tokens.layout, tokens.layout, mask(n)) for n in (name, "fcd_b", "fcd_a")}
    found = forward(backbone, tokens, mask(name))
    torch.testing.assert_close(found, stock_forward(stock, tokens, allowed=dense[name]), rtol=1e-4, atol=1e-5)
    other = "fcd_b" if name != "fcd_b" else "fcd_a"
    assert (found - stock_forward(stock, tokens, allowed=dense[other])).abs().max() > 1e-3, "negative control"


# --- what the converted model can do that the stock one cannot ---------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "kind"),
    [
        ({"num_layers": 1, "num_single_layers": 0}, "double_stream_modulation_img"),
        ({"num_layers": 0, "num_single_layers": 1}, "single_stream_modulation"),
    ],
)
def test_each_branch_moves_its_own_role(sizes, kind):
    """With one block and every token seeing only its own segment, a branch's weights reach its role and no other."""
    backbone = backbone_for(config(**sizes))
    tokens = case(backbone)
    times = dict.fromkeys(tokens.layout.names, TIMES)
    before = backbone(tokens, times, ALONE)
    with torch.no_grad():
        getattr(backbone.model, kind).linear.branches["condition"].weight.add_(0.1)
    after = backbone(tokens, times, ALONE)
    assert torch.equal(after["target"], before["target"])
    assert not torch.allclose(after["condition0"], before["condition0"])


@pytest.mark.parametrize("tied", [True, False])
def test_tied_branches_are_one_parameter_and_copies_are_their_own(tied):
    backbone = backbone_for(config(), tied=tied)
    model, width = backbone.model, backbone.width
    double, single = model.double_stream_modulation_img.linear, model.single_stream_modulation.linear
    assert set(double.branches) == {"condition", "target"} and set(single.branches) == {"text", "condition", "target"}
    assert isinstance(model.double_stream_modulation_txt.linear, torch.nn.Linear), "text's own already"
    for split in (double, single):
        weights = {id(branch.weight) for branch in split.branches.values()}
        assert len(weights) == (1 if tied else len(split.branches))
    grown = sum(p.numel() for p in backbone.parameters()) - backbone.stock_parameters
    assert grown == (0 if tied else (6 + 2 * 3) * width**2)


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


def test_equal_own_times_equal_a_shared_one():
    """Modulation for each token equals one for all: segments of one clock share it for speed alone."""
    backbone = backbone_for(config())
    tokens = case(backbone)
    shared = forward(backbone, tokens, mask("fcd_a"))
    own = forward(backbone, tokens, mask("fcd_a"), {n: TIMES.clone() for n in tokens.layout.names})
    torch.testing.assert_close(shared, own, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(shared, forward(backbone, tokens, mask("fcd_a"), TIMES * 0.9), atol=1e-3), "control"


def test_remembered_text_and_padding_are_the_whole_forward():
    """Text that sees only text may be remembered, padded or not; what is padding changes nothing."""
    backbone = backbone_for(config())
    times = {"text": torch.zeros(2), "target": TIMES}
    target = case(backbone, 0).layout["target"]
    long = tokens_for(Layout((text_segment(5), target)), backbone, 2)
    short = Tokens(Layout((text_segment(3), target)), long.features | {"text": long.features["text"][:, :3]})
    padded = replace(long, valid={"text": torch.tensor([[True] * 3 + [False] * 2] * 2)})
    text, image = (long.layout.only([name]) for name in ("text", "target"))
    with torch.no_grad():
        expected = backbone(short, times, TEXT_FIRST)["target"]
        memory = backbone.remember(padded.only(text), times, TEXT_FIRST)
        found = [
            backbone(padded, times, TEXT_FIRST)["target"],
            backbone(padded.only(image), times, TEXT_FIRST, memory)["target"],
        ]
        wrong = [backbone(long, times, TEXT_FIRST)["target"], backbone(long.only(image), times, TEXT_FIRST)["target"]]
    for x in found:
        torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)
    assert all(not torch.allclose(x, expected, atol=1e-3) for x in wrong), "negative controls"


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
        times = {s.name: TIMES if s.role == "target" else torch.zeros(2) for s in tokens.layout.segments}
        hook = blocks(backbone)[-1].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        backbone(tokens, times, mask("fcd_a"))["target"].square().sum().backward()
        hook.remove()
        assert len(calls) == (2 if checkpointing == "true" else 1), "it is computed again, or not"
        grads.append({n: p.grad for n, p in backbone.named_parameters() if p.requires_grad})
    assert len(grads[0]) > 10 and any((g != 0).any() for g in grads[0].values() if g is not None)
    for n, g in grads[0].items():
        torch.testing.assert_close(g, grads[1][n], rtol=1e-5, atol=1e-6)
