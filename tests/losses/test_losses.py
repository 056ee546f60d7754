"""The losses against the formulas of their papers, written out in float64."""

import pytest
import torch

from unigen.losses.errors import Epsilon, MinSNR, Velocity
from unigen.losses.weighted import weighted_mean
from unigen.processes.rectified_flow import RectifiedFlow, Uniform
from unigen.processes.vp import VariancePreserving

WEIGHTS = {"target": 1.0, "condition": 0.0, "text": 0.0}
VP, FLOW = VariancePreserving(), RectifiedFlow(Uniform())


def case(process, times: list[float]) -> dict:
    g = torch.Generator().manual_seed(0)
    x0, eps, wrong = (torch.randn(len(times), 32, 4, generator=g) for _ in range(3))
    t = torch.tensor(times)
    prediction = process.target(x0, eps, t) + 0.3 * wrong
    x, plain = process.corrupt(x0, eps, t), (0.3 * wrong).square()
    return {"x0": x0, "eps": eps, "x": x, "prediction": prediction, "t": t, "plain": plain}


def error(loss, process, c: dict) -> torch.Tensor:
    return loss.error(process, c["x0"], c["eps"], c["x"], c["prediction"], c["t"])


@pytest.mark.parametrize("process", [VP, FLOW])
def test_velocity_is_the_plain_error(process):
    c = case(process, [0.001, 0.3, 1.0])
    e = error(Velocity(WEIGHTS), process, c)
    assert e.shape == c["x0"].shape and e.dtype == torch.float32
    torch.testing.assert_close(e, c["plain"], rtol=1e-4, atol=1e-5)
    perfect = c | {"prediction": process.target(c["x0"], c["eps"], c["t"])}
    assert error(Velocity(WEIGHTS), process, perfect).max() == 0


def test_velocity_is_cogvideox_weighted_data_error():
    """1 / (1 - abar) * (x0_hat - x0)^2 = (v_hat - v)^2; another weight on the left is seen."""
    c = case(VP, [0.05, 0.3, 0.7, 1.0])
    data = (VP.to_data(c["x"], c["prediction"], c["t"]) - c["x0"]).square()
    index = (c["t"] * 1000).round().long()
    abar = VP.alpha_bar_J[index].view(-1, 1, 1)
    e = error(Velocity(WEIGHTS), VP, c)
    torch.testing.assert_close((data / (1 - abar)).float(), e, rtol=1e-3, atol=1e-4)
    assert not torch.allclose((data / (1 - abar) ** 2).float(), e, rtol=1e-1, atol=1e-2)


@pytest.mark.parametrize("process", [VP, FLOW])
def test_epsilon_is_alpha_squared_times_velocity(process):
    """RealGeneral Eq. (1): the noise's error is abar (flow: (1 - t)^2) of the velocity's, nothing at t = 1."""
    c = case(process, [0.001, 0.3, 0.7, 1.0])
    e, v = error(Epsilon(WEIGHTS), process, c), error(Velocity(WEIGHTS), process, c)
    alpha = process.coefficients(c["t"])[0].view(-1, 1, 1)
    torch.testing.assert_close(e, alpha.square() * v, rtol=1e-3, atol=1e-5)
    assert e[-1].max() < 1e-10 and v[-1].mean() > 0.05
    assert not torch.allclose(e, v, rtol=1e-1), "velocity itself would pass"


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_equals_the_papers_weight(gamma):
    c = case(VP, [0.001, 0.1, 0.3, 0.7, 0.999, 1.0])
    abar = VP.alpha_bar_J[(c["t"] * 1000).round().long()].view(-1, 1, 1)
    snr = abar / (1 - abar)
    expected = (snr.clamp(max=gamma) / (snr + 1) * c["plain"]).float()
    e = error(MinSNR(WEIGHTS, gamma=gamma), VP, c)
    torch.testing.assert_close(e, expected, rtol=1e-3, atol=1e-5)
    unclipped = (snr / (snr + 1) * c["plain"]).float()
    assert not torch.allclose(e, unclipped, rtol=1e-1, atol=1e-4), "gamma would not matter"
    assert e[-1].max() == 0


def test_min_snr_is_clipped_snr_times_data_error_on_a_flow():
    c = case(FLOW, [0.05, 0.3, 0.7])
    alpha, sigma = (f.view(-1, 1, 1) for f in FLOW.coefficients(c["t"]))
    data = (FLOW.to_data(c["x"], c["prediction"], c["t"]) - c["x0"]).square()
    e = error(MinSNR(WEIGHTS, gamma=5.0), FLOW, c)
    torch.testing.assert_close(e, (alpha / sigma).square().clamp(max=5.0) * data, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(e, data, rtol=1e-1, atol=1e-3)


@pytest.mark.parametrize("loss", [Velocity(WEIGHTS), Epsilon(WEIGHTS), MinSNR(WEIGHTS, gamma=5.0)])
@pytest.mark.parametrize("process", [VP, FLOW])
def test_errors_are_finite_and_fp32_at_both_ends_of_time(loss, process):
    c = case(process, [0.0, 1.0])
    e = error(loss, process, {k: v if k == "t" else v.bfloat16() for k, v in c.items()})
    assert e.dtype == torch.float32 and e.isfinite().all()


def test_weighted_mean_counts_elements():
    g = torch.Generator().manual_seed(0)
    errors = {n: torch.rand(2, tokens, 3, generator=g) for n, tokens in (("a", 4), ("b", 8), ("c", 2))}
    roles = {"a": "target", "b": "buffer", "c": "condition"}
    loss, means = weighted_mean(errors, roles, {"target": 1.0, "buffer": 0.5, "condition": 0.0})
    expected = (errors["a"].sum() + 0.5 * errors["b"].sum()) / (errors["a"].numel() + 0.5 * errors["b"].numel())
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(means, {n: e.mean() for n, e in errors.items()})
    assert not torch.allclose(loss, (means["a"] + 0.5 * means["b"]) / 1.5, rtol=1e-3), "a mean of means would pass"
    doubled, _ = weighted_mean(errors, roles, {"target": 2.0, "buffer": 1.0, "condition": 0.0})
    torch.testing.assert_close(loss, doubled)


def test_weight_zero_keeps_a_segment_out_of_loss_and_gradient():
    good, poison = torch.ones(1, 2, 2, requires_grad=True), torch.full((1, 2, 2), float("nan"), requires_grad=True)
    errors, roles = {"t": good.square(), "c": poison.square()}, {"t": "target", "c": "condition"}
    loss, means = weighted_mean(errors, roles, {"target": 1.0, "condition": 0.0})
    loss.backward()
    assert loss.item() == 1 and good.grad.isfinite().all() and poison.grad is None
    assert means["c"].isnan() and not means["t"].requires_grad
    bad, _ = weighted_mean(errors, roles, {"target": 1.0, "condition": 1e-6})
    assert bad.isnan(), "negative control: any weight at all lets the NaN through"


def test_weighted_mean_names_what_is_missing():
    errors = {"t": torch.ones(1, 1, 1)}
    with pytest.raises(ValueError, match=r"no weight for role buffer; its table knows target"):
        weighted_mean(errors, {"t": "buffer"}, {"target": 1.0})
    with pytest.raises(ValueError, match="no segment carries loss"):
        weighted_mean(errors, {"t": "target"}, {"target": 0.0})
    with pytest.raises(ValueError, match="gamma"):
        MinSNR(WEIGHTS, gamma=0.0)
