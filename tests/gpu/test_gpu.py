"""What only a GPU can show: bf16 steps, kernels and lowerings on CUDA, memory as planned, compilation that stays."""

import sys

import pytest
import torch
from tiny import CONF, batch, composed, mask, randomise, tiny
from torch._dynamo.utils import counters

sys.path.insert(0, str(CONF.parent))

from unigen.core import attention
from unigen.core.layout import Layout, Segment, text_segment
from unigen.pipeline.build import build_learner, build_pipeline
from unigen.pipeline.upsampling import upsample
from unigen.tools.bench.gpu import BASE, GRIDS, PAIR, Row, Step, planned
from unigen.tools.plan.memory import GIB
from unigen.tools.plan.profile import read_profile

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none here"),
]
CUDA = torch.device("cuda")
GROUPED = "backbone.lowering._target_=unigen.core.attention.grouped"
LAYOUT = Layout(
    (
        text_segment(128),
        Segment("condition", "condition", "visual", (1, 16, 16), cap=0.0),
        Segment("target", "target", "visual", (1, 16, 16), (1, 0, 0)),
    )
)


def test_a_tiny_run_trains_in_bf16():
    learner = build_learner(tiny("conditioning/adapter=lora", GROUPED, "optimizer.fused=true")).to(CUDA)
    learner.place_frozen()
    optimizer, losses = learner.configure_optimizers()["optimizer"], []
    for _ in range(20):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss, _ = learner.pipeline.training_loss(batch().to(CUDA), torch.Generator().manual_seed(0))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and all(torch.tensor(losses).isfinite())


@pytest.mark.parametrize("name", ["fcd_a", "fcd_b", "fcd_d"])
@pytest.mark.parametrize("lowering", ["grouped", "plain", "flex"])
def test_lowerings_agree_on_cuda(lowering, name):
    """In fp32, with gradients: flex's backward exists on CUDA alone."""
    chance = torch.Generator(CUDA).manual_seed(0)
    results = []
    inputs = [torch.randn(2, 4, len(LAYOUT), 64, device=CUDA, generator=chance) for _ in range(4)]
    for which in (lowering, "dense"):
        q, k, v = (x.clone().requires_grad_() for x in inputs[:3])
        out = getattr(attention, which)(q, k, v, LAYOUT, LAYOUT, mask(name))
        out.backward(inputs[3])
        results.append((out, q.grad, k.grad, v.grad))
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=2e-3, atol=2e-3)  # kernels may multiply in TF32
    other = attention.dense(*inputs[:3], LAYOUT, LAYOUT, mask("fcd_c"))
    assert (other - results[0][0]).abs().max() > 0.01, "negative control"


@pytest.mark.parametrize("kernel", ["flash", "efficient", "cudnn"])
def test_kernels_agree_in_bf16(kernel):
    from unigen.nn.kernels import try_kernel, unmasked

    try_kernel(kernel, 64, torch.bfloat16, CUDA)
    q, k, v = (torch.randn(2, 4, 256, 64, device=CUDA, dtype=torch.bfloat16) for _ in range(3))
    torch.testing.assert_close(unmasked(q, k, v, kernel), unmasked(q, k, v, "math"), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("setting", [PAIR, GRIDS[2]], ids=["pair", "grid"])
@pytest.mark.parametrize("checkpointing", ["true", "false"])
def test_a_plans_memory_is_what_cuda_allocates(setting, checkpointing):
    """Two blocks at the paper's width: within 10 %."""
    words = (*BASE, f"backbone.gradient_checkpointing={checkpointing}")
    config = composed(f"+exp={setting.exp}", "scale=paper", "trainer.precision=bf16-true", *words)
    layers = {"num_layers", "num_single_layers"} & set(config["backbone"]["config"])
    config["backbone"]["config"] |= dict.fromkeys(layers, 2)
    config["backbone"]["pretrained"] = None
    config["encoder"]["text"]["config"]["num_layers"] = 1
    made = planned(config, Row(setting, ()), read_profile(CONF / "profile", "h100"))
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    step = Step(config, setting.slots(config["data"]["size"]), setting.batch, CUDA)
    step()
    torch.cuda.reset_peak_memory_stats()
    step()
    real = torch.cuda.max_memory_allocated() - before
    assert abs(made.peak - real) < 0.1 * real, f"planned {made.peak / GIB:.2f} GiB, allocated {real / GIB:.2f}"


def test_a_compiled_step_is_not_compiled_again():
    torch._dynamo.reset()
    config = tiny("conditioning/adapter=lora", GROUPED)
    pipelines = []
    for switch in (None, {"mode": "default"}):
        config["backbone"]["compile"] = switch
        torch.manual_seed(0)
        pipelines.append(build_pipeline(config))
        randomise(pipelines[-1].backbone).to(CUDA)
        for module in pipelines[-1].modules:
            module.to(CUDA)
    counters.clear()
    graphs = []
    for seed in range(3):
        losses = [p.training_loss(batch().to(CUDA), torch.Generator().manual_seed(seed))[0] for p in pipelines]
        losses[1].backward()
        torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-3)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0 and graphs == [graphs[0]] * 3


def test_samples_on_the_gpu_are_those_of_the_cpu_and_files_can_be_made_of_them():
    made = []
    for gpu in (False, True):
        torch.manual_seed(0)
        pipeline = build_pipeline(tiny("conditioning/adapter=lora", GROUPED))
        randomise(pipeline.backbone)
        if gpu:
            pipeline.to_gpu()
        outputs = pipeline.sample(batch(), 0)
        made.append({name: x.cpu().float() for name, x in outputs.items()})
        assert pipeline.device.type == ("cuda" if gpu else "cpu")
        finer = upsample(pipeline, next(iter(outputs.values()))[0][:1], "a cat", 64, task=batch().tasks[0])
        assert finer.dtype == torch.uint8
    for name, of_cpu in made[0].items():
        torch.testing.assert_close(made[1][name], of_cpu, rtol=0, atol=3)  # of 255
