"""Rectified flow against diffusers' Flux scheduler, and its own round trips."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from unigen.processes.rectified_flow import LogitNormal, RectifiedFlow, Uniform


def pair(seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g), torch.randn(shape, generator=g)


def test_corrupt_equals_the_scheduler():
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0, use_dynamic_shifting=False)
    x0, eps = pair(0, 4, 5, 3)
    k = torch.tensor([1, 250, 700, 1000])
    theirs = scheduler.scale_noise(x0, k.float(), eps)
    torch.testing.assert_close(RectifiedFlow(Uniform()).corrupt(x0, eps, k / 1000), theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(RectifiedFlow(Uniform()).corrupt(x0, eps, 1 - k / 1000), theirs, atol=1e-2)


def test_flow_round_trip():
    process = RectifiedFlow(Uniform())
    x0, eps = (x.bfloat16() for x in pair(1, 4, 5, 3))
    t = torch.tensor([0.0, 0.001, 0.6, 1.0])
    x, v = process.corrupt(x0, eps, t), process.target(x0, eps, t)
    assert x.dtype == v.dtype == torch.float32
    torch.testing.assert_close(process.to_data(x, v, t), x0.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(process.to_noise(x, v, t), eps.float(), rtol=1e-5, atol=1e-5)
    assert torch.equal(x[0], x0[0].float()) and torch.equal(x[-1], eps[-1].float())
    assert not torch.allclose(process.to_noise(x, -v, t), eps.float(), atol=0.1), "the sign of v would not matter"


@pytest.mark.parametrize("stratified", [False, True])
def test_logit_normal_times(stratified):
    """logit(t) has the mean and deviation asked for; those of uniform times (0 and 1.81) would fail."""
    g = torch.Generator().manual_seed(0)

    def logits(density: LogitNormal | Uniform) -> torch.Tensor:
        process = RectifiedFlow(density, stratified=stratified)
        return torch.cat([process.sample_times(16, g, "cpu") for _ in range(1000)]).logit(eps=1e-6)

    ours, uniform = logits(LogitNormal(mean=0.5, std=0.8)), logits(Uniform())
    assert abs(ours.mean() - 0.5) < 0.03 and abs(ours.std() - 0.8) < 0.03
    assert abs(uniform.mean()) < 0.06 and abs(uniform.std() - 1.81) < 0.06


def test_bad_density_and_bf16_times_are_refused():
    with pytest.raises(ValueError, match="positive"):
        LogitNormal(0.0, 0.0)
    with pytest.raises(ValueError, match="float32 or float64"):
        RectifiedFlow(Uniform()).coefficients(torch.ones(1, dtype=torch.bfloat16))
