"""Kernels of the mask-free calls: equal values, and one sentence where a kernel cannot work."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from tiny import mask, plan_for, tiny, tokens_for

from unigen.config.values import ConfigError
from unigen.core import attention
from unigen.nn import kernels
from unigen.pipeline.build import build

CPU = torch.device("cpu")


def qkv(size=12):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, size, 16, generator=g) for _ in range(3)]


@pytest.mark.parametrize("kernel", ["math", "flash"])
def test_pytorchs_kernels_agree_and_are_the_ones_asked_for(kernel, monkeypatch):
    q, k, v = qkv()
    expected = (q @ k.transpose(2, 3) / 4).softmax(-1) @ v
    seen, real = [], F.scaled_dot_product_attention

    def spy(*args):
        flags = torch.backends.cuda
        seen.append((flags.math_sdp_enabled(), flags.flash_sdp_enabled(), flags.cudnn_sdp_enabled()))
        return real(*args)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    torch.testing.assert_close(kernels.unmasked(q, k, v, kernel), expected, rtol=1e-5, atol=1e-5)
    F.scaled_dot_product_attention(q, k, v)
    assert seen[0] == {"math": (True, False, False), "flash": (False, True, False)}[kernel]
    assert sum(seen[1]) > 1, "negative control: without a name several are allowed"


def test_another_package_is_reached_through_diffusers(monkeypatch):
    """A stand-in for a package that is not here: it is given (B, L, H, D) in autocast's precision."""
    seen = []

    def stand_in(q, k, v, *, backend):
        seen.append((backend.value, q.shape, q.dtype))
        return real(q, k, v, backend="native")

    from diffusers.models import attention_dispatch

    real = attention_dispatch.dispatch_attention_fn
    monkeypatch.setattr(attention_dispatch, "dispatch_attention_fn", stand_in)
    monkeypatch.setattr(attention_dispatch, "_check_attention_backend_requirements", lambda name: None)
    q, k, v = qkv()
    found, expected = kernels.unmasked(q, k, v, "flash_3"), F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert kernels.unmasked(q, k, v, "sage").dtype == torch.bfloat16
    shape = torch.Size([2, 12, 3, 16])
    assert seen == [("_flash_3", shape, torch.float32), ("sage", shape, torch.bfloat16)]


def test_every_word_is_one_of_diffusers():
    from diffusers.models.attention_dispatch import AttentionBackendName
    from torch.nn.attention import SDPBackend

    assert set(kernels.DIFFUSERS.values()) <= {name.value for name in AttentionBackendName}
    assert all(hasattr(SDPBackend, name) for name in kernels.TORCH.values())


@pytest.mark.parametrize(("kernel", "said"), [("flash_2", "flash-attn"), ("sage", "sageattention"), ("cudnn", "")])
def test_what_cannot_work_here_is_said_in_one_sentence(kernel, said):
    pattern = (
        rf"backbone.kernel={kernel} cannot train here, on cpu in float32 with heads of 16 \(.*{said}.*\); legal are"
    )
    with pytest.raises(ConfigError, match=pattern) as error:
        kernels.try_kernel(kernel, 16, torch.float32, CPU)
    assert "\n" not in str(error.value) and "math" in str(error.value).rpartition("legal are")[2]
    kernels.try_kernel("math", 16, torch.float32, CPU)  # negative control: what works passes


def test_a_kernel_without_a_backward_is_refused(monkeypatch):
    monkeypatch.setattr(kernels, "unmasked", lambda q, *_: (q * 2).detach().requires_grad_())
    with pytest.raises(ConfigError, match="it has no backward"):
        kernels.try_kernel("math", 16, torch.float32, CPU)


def test_only_grouped_has_a_choice():
    assert kernels.with_kernel(attention.dense, None) is attention.dense
    with pytest.raises(ConfigError, match=r"backbone.kernel is 'flsh'; legal are null .*, flash, efficient"):
        kernels.with_kernel(attention.grouped, "flsh")
    with pytest.raises(ConfigError, match=r"kernel is 'math', but the lowering plain has no choice of kernels"):
        kernels.with_kernel(partial(attention.plain), "math")


def test_the_choice_reaches_every_call_of_a_backbone(monkeypatch):
    seen, real = [], kernels.unmasked
    monkeypatch.setattr(kernels, "unmasked", lambda q, k, v, kernel: seen.append(kernel) or real(q, k, v, kernel))
    outputs = {}
    for kernel in (None, "math"):
        config = tiny("backbone.lowering._target_=unigen.core.attention.grouped")
        config["backbone"]["kernel"] = kernel
        torch.manual_seed(0)
        backbone = build(config["backbone"])
        build(config["conditioning"]["modulation"]).apply(backbone, tied=False)
        layout = plan_for(build(config["formatter"]), backbone).layout
        seen.clear()
        with torch.no_grad():
            outputs[kernel] = backbone(
                tokens_for(layout, backbone), dict.fromkeys(layout.names, torch.tensor([0.5])), mask("fcd_a")
            )["target"]
        assert seen == ([] if kernel is None else [kernel] * 6)  # two blocks, three key sets
        backbone.try_kernel(CPU)
    torch.testing.assert_close(outputs["math"], outputs[None], rtol=1e-5, atol=1e-5)
