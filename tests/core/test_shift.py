"""The dynamic shift against its published table, diffusers' formulas, and where it degenerates."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux_fill import calculate_shift

from unigen.core.shift import DynamicShift, EmpiricalShift, checked_shift
from unigen.processes.rectified_flow import LogitNormal, RectifiedFlow, Uniform

TIMES = torch.linspace(0, 1, 11, dtype=torch.float64)


@pytest.mark.parametrize(
    ("grid", "resolution", "tokens", "mu"),
    [
        ((1, 2), 384, 1152, 0.652),
        ((2, 2), 384, 2304, 0.847),
        ((2, 3), 384, 3456, 1.042),
        ((3, 4), 384, 6912, 1.627),
        ((2, 3), 512, 6144, 1.497),
        ((3, 4), 512, 12288, 2.537),
        ((5, 5), 384, 14400, 2.894),
    ],
)
def test_mu_of_visualclozes_grids(grid, resolution, tokens, mu):
    assert grid[0] * grid[1] * (resolution // 16) ** 2 == tokens
    assert DynamicShift().mu(tokens) == pytest.approx(mu, abs=5e-4) == calculate_shift(tokens)
    assert DynamicShift(max_tokens=4097).mu(tokens) != pytest.approx(calculate_shift(tokens), abs=1e-6)


def test_mu_is_not_clipped_within_the_limit():
    assert DynamicShift().mu(64) < 0.5 and DynamicShift().mu(8192) > 1.15


@pytest.mark.parametrize("tokens", [16, 1152, 6912])
def test_times_are_shifted_as_diffusers_shifts_them(tokens):
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    shift = DynamicShift()
    theirs = scheduler.time_shift(shift.mu(tokens), 1.0, TIMES[1:])
    torch.testing.assert_close(shift(TIMES[1:], tokens), theirs, rtol=1e-12, atol=0)
    assert not torch.allclose(shift(TIMES[1:], tokens + 256), theirs, rtol=1e-3), "negative control"
    assert shift(TIMES, tokens)[[0, -1]].tolist() == [0, 1], "the ends stay, without a division by 0"
    linear = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear")
    assert not torch.allclose(linear.time_shift(shift.mu(tokens), 1.0, TIMES[1:]), theirs, rtol=1e-3)


def test_a_degenerate_shift_is_refused_unless_it_is_asked_for():
    """5×5 images at 512²."""
    with pytest.raises(
        ValueError, match=r"25600 image tokens have mu = 4.79, shift.limit is 3; use at most 15025 tokens"
    ):
        DynamicShift()(TIMES, 25600)
    assert DynamicShift().mu(15025) <= 3 < DynamicShift(limit=None).mu(15026)
    last_of_30 = DynamicShift(limit=None)(torch.tensor([1 / 30]), 25600)
    assert last_of_30 > 0.8, "what is refused: the last of 30 steps goes from here to data"
    for bad in (0, -1):
        with pytest.raises(ValueError, match="needs the number of image tokens"):
            DynamicShift().mu(bad)
    with pytest.raises(ValueError, match=r"shift\.base_tokens"):
        DynamicShift(base_tokens=4096)


@pytest.mark.parametrize(
    ("tokens", "steps", "mu"),
    [(1024, 4, 2.031), (1024, 50, 1.702), (4096, 4, 2.291), (4096, 50, 2.023), (4300, 200, 1.185), (4301, 4, 1.185)],
)
def test_flux2s_shift_depends_on_the_steps(tokens, steps, mu):
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

    shift = EmpiricalShift()
    assert shift.mu(tokens, steps) == pytest.approx(compute_empirical_mu(tokens, steps), abs=1e-12)
    assert shift.mu(tokens, steps) == pytest.approx(mu, abs=6e-4)
    assert (shift.mu(tokens, steps + 9) == shift.mu(tokens, steps)) == (tokens > shift.most), "negative control"
    theirs = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True).time_shift(mu, 1.0, TIMES[1:])
    torch.testing.assert_close(shift(TIMES[1:], tokens, steps), theirs, rtol=1e-3, atol=0)


def test_flux2s_shift_is_a_samplers_alone():
    with pytest.raises(ValueError, match=r"process\.shift is an EmpiricalShift, .* training has none"):
        RectifiedFlow(Uniform(), shift=EmpiricalShift())
    with pytest.raises(ValueError, match=r"shift\.few is \[1\.0\]; legal are two numbers"):
        EmpiricalShift(few=[1.0])
    with pytest.raises(ValueError, match=r"shift\.count is 'target'; legal are all, targets"):
        EmpiricalShift(count="target")


def drawn(shift: DynamicShift | None, tokens: int) -> torch.Tensor:
    process = RectifiedFlow(LogitNormal(), stratified=False, shift=shift)
    return process.sample_times(4000, torch.Generator().manual_seed(0), tokens=tokens)


def test_training_times_are_shifted_where_it_is_on():
    """logit(t) moves by mu and keeps its shape: exactly what the formula says of a logit-normal."""
    off, on = drawn(None, 3456).double(), drawn(DynamicShift(), 3456).double()
    torch.testing.assert_close(on.logit(), off.logit() + DynamicShift().mu(3456), rtol=1e-3, atol=1e-3)
    assert abs(off.logit().mean()) < 0.05 and on.dtype != torch.float32 == drawn(DynamicShift(), 3456).dtype
    assert not torch.allclose(on, drawn(DynamicShift(), 1152).double(), atol=1e-2), "the number of tokens matters"


def test_without_a_shift_tokens_do_not_matter():
    process = RectifiedFlow(Uniform())
    a, b = (process.sample_times(8, torch.Generator().manual_seed(1), tokens=n) for n in (1, 25600))
    assert torch.equal(a, b)


@pytest.mark.parametrize("key", ["process.shift", "solver.shift"])
def test_what_shifts_nothing_is_refused(key):
    assert checked_shift(None, key) is None
    assert isinstance(checked_shift(DynamicShift(), key), DynamicShift)
    for wrong in ([[1]], 3, "dynamic", {"base_shift": 0.5}):
        with pytest.raises(ValueError, match=f"{key} is .*; legal are null and a part"):
            checked_shift(wrong, key)
