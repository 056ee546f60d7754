"""A frozen base in few bits: near the whole one, shared as its weights were, and adapters train on it."""

import sys

import pytest
import torch
from tiny import batch, randomise, tiny
from torch import nn

from unigen.config.values import ConfigError
from unigen.nn import quantized
from unigen.nn.quantized import Bits, QuantizedLinear, bytes_beside, quantize_frozen
from unigen.pipeline.build import build_pipeline

GROUPED = "backbone.lowering._target_=unigen.core.attention.grouped"
ERROR = {"int8": 0.02, "nf4": 0.15}  # mean, of a weight's mean size


FAMILIES = ("flux_mini", "flux2_mini", "wan_mini", "qwen_image_mini", "hunyuan_video_mini")


def pipeline_of(adapter="lora", name="cogvideox_mini", **backbone):
    flow = [] if name == "cogvideox_mini" else ["process=rectified_flow", "solver=euler"]
    config = tiny(f"conditioning/adapter={adapter}", f"backbone={name}", *flow, GROUPED)
    config["backbone"] |= backbone
    torch.manual_seed(0)
    return build_pipeline(config)


def step(pipeline):
    loss, _ = pipeline.training_loss(batch(), torch.Generator().manual_seed(0))
    loss.backward()
    grads = [p.grad.flatten() for n, p in pipeline.backbone.named_parameters() if "lora_" in n and p.requires_grad]
    return loss.detach(), torch.cat(grads)


@pytest.mark.parametrize("word", ERROR)
def test_a_step_on_few_bits_is_near_the_whole_one(word):
    pytest.importorskip("torchao")
    whole, few = pipeline_of(), pipeline_of()
    for pipeline in (whole, few):
        randomise(pipeline.backbone, 0.1)
    linears = [m for b in few.backbone.blocks for m in b.modules() if type(m) is nn.Linear]
    frozen = [m for m in linears if not m.weight.requires_grad]
    numbers, kept = bytes_beside(few.backbone.blocks, word)
    assert quantize_frozen(few.backbone.blocks, word) == len(frozen) == 24
    made = [m for b in few.backbone.blocks for m in b.modules() if isinstance(m, QuantizedLinear)]
    bits = {id(m.bits): m.bits for m in made}
    assert len(made) == 24 and len(bits) == len({id(m.weight) for m in frozen}) < 24  # tied branches share theirs
    assert numbers == sum(m.bits.stored.numel() for m in {id(m.bits): m for m in made}.values())
    assert sum(b.nbytes for b in bits.values()) == pytest.approx(kept, rel=0.15) and kept < 1.2 * numbers
    (loss, grad), (near_loss, near_grad) = step(whole), step(few)
    assert (near_loss - loss).abs() < 0.02 * loss and (near_grad - grad).norm() < 0.2 * grad.norm()
    assert near_loss != loss and not torch.equal(near_grad, grad), "negative control"


def frozen_of(pipeline):
    """The frozen linears of the blocks that are no adapter's."""
    named = [(n, m) for b in pipeline.backbone.blocks for n, m in b.named_modules() if type(m) is nn.Linear]
    return [m for n, m in named if "lora_" not in n and not m.weight.requires_grad]


@pytest.mark.parametrize("name", FAMILIES)
def test_adapters_that_no_prediction_depends_on_are_frozen_and_not_quantised(name):
    """The last block of Qwen-Image and HunyuanVideo-1.5 makes a text that nobody reads."""
    pipeline = pipeline_of(name=name)
    adapters = [p for n, p in pipeline.backbone.named_parameters() if ".lora_" in n]
    unread = any(not p.requires_grad for p in adapters)
    assert unread == (name in ("qwen_image_mini", "hunyuan_video_mini"))
    weights = {id(m.weight): m.weight.numel() for m in frozen_of(pipeline)}
    assert bytes_beside(pipeline.backbone.blocks, "int8")[0] == sum(weights.values()) > 0


@pytest.mark.parametrize("word", ERROR)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_a_step_on_few_bits(name, word):
    pytest.importorskip("torchao")
    whole, few = pipeline_of(name=name), pipeline_of(name=name)
    for pipeline in (whole, few):
        randomise(pipeline.backbone, 0.1)
    frozen = len(frozen_of(few))
    assert quantize_frozen(few.backbone.blocks, word) == frozen
    (loss, grad), (near_loss, near_grad) = step(whole), step(few)
    assert (near_loss - loss).abs() < 0.02 * loss and (near_grad - grad).norm() < 2 * ERROR[word] * grad.norm()
    assert near_loss != loss and not torch.equal(near_grad, grad), "negative control"


@pytest.mark.parametrize("word", ERROR)
def test_products_are_those_of_the_whole_weight_made_again(word):
    pytest.importorskip("torchao")
    stock = nn.Linear(64, 32).requires_grad_(False)
    bits = Bits(stock.weight, word)
    few, whole = QuantizedLinear(stock, bits), bits.whole()
    assert (whole - stock.weight).abs().mean() < ERROR[word] * stock.weight.abs().mean()
    x = torch.randn(3, 64, requires_grad=True)
    y = few(x)
    torch.testing.assert_close(y, x @ whole.T + stock.bias)
    y.sum().backward()
    torch.testing.assert_close(x.grad, whole.sum(0).expand(3, -1))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        few(x)
    assert (32, 64) not in [tuple(s) for s in saved], "the whole weight is not kept for the backward"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert few(x).dtype == torch.bfloat16
    few.to(torch.float16)
    assert torch.equal(few.bits.whole(), whole), "another precision of the module leaves the bits alone"


def test_the_key_quantises_and_is_saved_nowhere():
    pytest.importorskip("torchao")
    few = pipeline_of(quantize="int8")
    assert any(isinstance(m, QuantizedLinear) for m in few.backbone.modules())
    assert not any("base_layer.weight" in name and ".ff." not in name for name in few.backbone.state_dict())
    with pytest.raises(ValueError, match="a backbone with a LoRA is no stock model"):
        few.backbone.stock()
    with torch.device("meta"):
        assert not any(isinstance(m, QuantizedLinear) for m in pipeline_of(quantize="int8").backbone.modules())


def test_what_cannot_be_quantised_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match=r"backbone.quantize is 'int4'; legal are null, int8, nf4"):
        pipeline_of(quantize="int4")
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ConfigError, match=r"backbone.quantize=nf4 needs torchao .*; install it by pip install"):
        pipeline_of(quantize="nf4")
    monkeypatch.setattr(quantized, "check", lambda word: None)
    with pytest.raises(ConfigError, match=r"backbone.quantize=int8, but no linear of the blocks is frozen"):
        pipeline_of("full", quantize="int8")
