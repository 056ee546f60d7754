"""The variance-preserving process against diffusers' CogVideoX scheduler, and its own round trips."""

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler

from unigen.processes.vp import VariancePreserving

# CogVideoX1.5-5B's scheduler_config.json; the constructor's defaults differ in five places.
COGVIDEOX = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 1.0,
}


@pytest.fixture
def process() -> VariancePreserving:
    return VariancePreserving()


def pair(seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g), torch.randn(shape, generator=g)


@pytest.mark.parametrize(("shift", "zero"), [(1.0, True), (3.0, True), (1.0, False)])
def test_alpha_bar_is_the_schedulers_to_the_last_bit(shift, zero):
    theirs = CogVideoXDDIMScheduler(**{**COGVIDEOX, "snr_shift_scale": shift, "rescale_betas_zero_snr": zero})
    ours = VariancePreserving(snr_shift_scale=shift, zero_terminal_snr=zero).alpha_bar_J
    assert ours.dtype == torch.float64 and ours[0] == 1
    assert torch.equal(ours[1:], theirs.alphas_cumprod)


def test_alpha_bar_differs_from_the_schedulers_defaults(process):
    """Negative control: the comparison above sees a wrong constant."""
    assert not torch.allclose(process.alpha_bar_J[1:], CogVideoXDDIMScheduler().alphas_cumprod, atol=1e-2)


def test_coefficients_on_the_grid_are_the_tables(process):
    """fp32 times k / 1000 reach grid points exactly, although k / 1000 * 1000 != k in fp32."""
    t = torch.arange(1001, dtype=torch.float32) / 1000
    alpha, sigma = process.coefficients(t)
    assert alpha.dtype == sigma.dtype == torch.float32
    assert torch.equal(alpha, process.alpha_bar_J.sqrt().float())
    assert torch.equal(sigma, (1 - process.alpha_bar_J).sqrt().float())
    assert (alpha[0], sigma[0], alpha[-1], sigma[-1]) == (1, 0, 0, 1)


def test_coefficients_between_grid_points_are_linear_in_alpha_bar(process):
    t = torch.tensor([[0.5005, 0.00025], [0.99975, 0.1239]], dtype=torch.float64)
    alpha, sigma = process.coefficients(t)
    table = process.alpha_bar_J
    expected = torch.stack([
        0.5 * table[500] + 0.5 * table[501],
        0.75 * table[0] + 0.25 * table[1],
        0.25 * table[999] + 0.75 * table[1000],
        0.1 * table[123] + 0.9 * table[124],
    ]).view(2, 2)  # fmt: skip
    assert alpha.shape == (2, 2)
    torch.testing.assert_close(alpha, expected.sqrt().float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(sigma, (1 - expected).sqrt().float(), rtol=1e-6, atol=0)
    nearest = table[(t * 1000).round().long()].sqrt().float()
    assert not torch.allclose(alpha, nearest, rtol=1e-6, atol=0), "rounding to the grid would pass"


def test_terminal_snr_is_kept_when_asked():
    alpha, sigma = VariancePreserving(zero_terminal_snr=False).coefficients(torch.ones(1))
    assert alpha > 0.05 and sigma < 1


def test_corrupt_and_target_equal_the_scheduler(process):
    scheduler = CogVideoXDDIMScheduler(**COGVIDEOX)
    x0, eps = pair(0, 7, 5, 3)
    k = torch.tensor([0, 1, 19, 500, 979, 998, 999])
    t = (k + 1) / 1000
    torch.testing.assert_close(process.corrupt(x0, eps, t), scheduler.add_noise(x0, eps, k), rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(process.target(x0, eps, t), scheduler.get_velocity(x0, eps, k), rtol=1e-5, atol=2e-5)
    shifted = process.corrupt(x0, eps, k / 1000)
    assert not torch.allclose(shifted, scheduler.add_noise(x0, eps, k), atol=1e-3), "t = k / 1000 would pass"


def test_round_trip(process):
    x0, eps = pair(1, 6, 5, 3)
    t = torch.tensor([0.0, 0.001, 0.25, 0.5005, 0.999, 1.0])
    x, v = process.corrupt(x0, eps, t), process.target(x0, eps, t)
    torch.testing.assert_close(process.to_data(x, v, t), x0, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(process.to_noise(x, v, t), eps, rtol=1e-5, atol=1e-5)
    assert torch.equal(x[0], x0[0]) and torch.equal(x[-1], eps[-1])
    assert not torch.allclose(process.to_data(x, -v, t), x0, atol=0.1), "the sign of v would not matter"
    assert not torch.allclose(process.to_data(x, v, t.flip(0)), x0, atol=0.1), "the time would not matter"


def test_bf16_input_does_not_degrade_the_arithmetic(process):
    x0, eps = (x.bfloat16() for x in pair(2, 3, 64, 8))
    t = torch.tensor([0.001, 0.002, 0.999])
    abar = process.alpha_bar_J[[1, 2, 999]].view(3, 1, 1)
    exact = abar.sqrt() * x0.double() + (1 - abar).sqrt() * eps.double()
    ours = process.corrupt(x0, eps, t)
    assert ours.dtype == torch.float32
    assert (ours - exact).abs().max() < 1e-6
    scheduler = CogVideoXDDIMScheduler(**COGVIDEOX)
    theirs = scheduler.add_noise(x0, eps, torch.tensor([0, 1, 998]))
    assert (theirs[0] - exact[0]).abs().max() > 0.05, "negative control: add_noise in bf16 forgets the noise at k = 0"
    for convert in (process.target, process.to_data, process.to_noise):
        assert convert(x0, eps, t).dtype == torch.float32


def test_bf16_times_are_refused(process):
    with pytest.raises(ValueError, match="float32 or float64"):
        process.coefficients(torch.ones(2, dtype=torch.bfloat16))


@pytest.mark.parametrize("stratified", [False, True])
def test_times_are_uniform_over_the_grid(stratified):
    process = VariancePreserving(steps=10, stratified=stratified)
    g = torch.Generator().manual_seed(0)
    t = torch.cat([process.sample_times(7, g, "cpu") for _ in range(3000)])
    assert t.dtype == torch.float32
    k = (t * 10).round()
    torch.testing.assert_close(t, k / 10)
    assert k.min() == 1 and k.max() == 10
    share = torch.bincount(k.long(), minlength=11)[1:] / len(t)
    assert (share - 0.1).abs().max() < 0.01


def test_stratified_times_cover_the_batch():
    g = torch.Generator().manual_seed(0)
    stratified, plain = VariancePreserving(stratified=True), VariancePreserving(stratified=False)

    def covered(process: VariancePreserving) -> list[bool]:
        draws = [((process.sample_times(8, g, "cpu") * 1000 - 1) / 125).floor() for _ in range(50)]
        return [len(set(d.tolist())) == 8 for d in draws]

    assert all(covered(stratified))
    assert not any(covered(plain)), "negative control: 8 plain draws fill 8 slices once in 400"
    first = torch.stack([stratified.sample_times(8, g, "cpu")[0] for _ in range(200)])
    assert first.min() < 0.2 and first.max() > 0.8, "an item must not always get the same slice"


def test_times_are_a_function_of_the_generator(process):
    draw = [process.sample_times(5, torch.Generator().manual_seed(s), "cpu") for s in (3, 3, 4)]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])


def test_the_table_is_real_under_a_meta_device():
    with torch.device("meta"):
        process = VariancePreserving()
    assert process.alpha_bar_J.device.type == "cpu"


@pytest.mark.parametrize("bad", [{"steps": 1}, {"beta_start": 0.5, "beta_end": 0.1}, {"snr_shift_scale": 0.0}])
def test_impossible_schedules_are_refused(bad):
    with pytest.raises(ValueError):
        VariancePreserving(**bad)
