"""DDIM and DPM against diffusers' schedulers step for step, and the loop against its own contract (the clock)."""

from itertools import pairwise

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler, FlowMatchEulerDiscreteScheduler

from unigen.core.layout import Layout, Segment, text_segment
from unigen.processes.rectified_flow import RectifiedFlow, Uniform
from unigen.processes.vp import VariancePreserving
from unigen.solvers.ddim import DDIM
from unigen.solvers.dpm import DPM
from unigen.solvers.loop import integrate

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
VP, FLOW = VariancePreserving(), RectifiedFlow(Uniform())
CAPS = {"cap0": 0.0, "cap25": 0.25, "cap50": 0.5, "cap75": 0.75, "cap100": 1.0}
LAYOUT = Layout((text_segment(4), *(Segment(n, "target", "visual", (1, 8, 64), cap=c) for n, c in CAPS.items())))
SHAPE = (2, 512, 4)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(x: torch.Tensor, t: float) -> torch.Tensor:
    """Any smooth function of (x, t) will do to compare solvers."""
    return torch.tanh(1.3 * x + 2 * t) - 0.4 * x.flip(1)


COUNTS = [3, 5, 7, 20, 30, 50, 51, 64, 333]
DIVIDE = [steps for steps in COUNTS if 1000 % steps == 0]


class Stride:
    """In the place of a scheduler's number of steps: what `num_train_timesteps // it` becomes, to the next timestep."""

    def __init__(self, timesteps: list[int]) -> None:
        self.strides = [k - after for k, after in pairwise([*timesteps, -1])]

    def __rfloordiv__(self, _: int) -> int:
        return self.strides.pop(0)


def scheduled(kind: type, steps: int, stock: bool, **options):
    """diffusers' scheduler, `stock` or with every step ending at the next timestep, and our times on the grid."""
    scheduler = kind(**{**COGVIDEOX, **options})
    scheduler.set_timesteps(steps)
    if not stock:
        scheduler.num_inference_steps = Stride(scheduler.timesteps.tolist())
    return scheduler, VP.on_grid(DDIM(steps).times()).tolist()


@pytest.mark.parametrize("steps", COUNTS)
@pytest.mark.parametrize("solver", [DDIM, DPM])
def test_times_are_trailing(solver, steps):
    times = solver(steps).times()
    assert len(times) == steps + 1 and times[0] == 1 and times[-1] == 0
    ours = [round(t * 1000) - 1 for t in VP.on_grid(times)[:-1].tolist()]
    for kind in (CogVideoXDDIMScheduler, CogVideoXDPMScheduler):
        assert scheduled(kind, steps, stock=True)[0].timesteps.tolist() == ours
    assert scheduled(CogVideoXDDIMScheduler, steps, True, timestep_spacing="leading")[0].timesteps.tolist() != ours
    assert torch.equal(VP.on_grid(times), times) == (steps in DIVIDE), "else the grid is another one"
    assert torch.equal(FLOW.on_grid(times), times)


def test_times_of_every_count_are_diffusers_but_for_its_rounding():
    """diffusers adds up steps in float64, so that halves may fall to either side, and 61 steps become 62."""
    apart, more = set(), set()
    for steps in range(1, 1001):
        scheduler, ours = scheduled(CogVideoXDDIMScheduler, steps, stock=True)
        theirs = scheduler.timesteps.tolist()
        more |= {steps} if len(theirs) != steps else set()
        gaps = [abs(round(t * 1000) - 1 - k) for t, k in zip(ours[:-1], theirs)]
        assert max(gaps) <= 1
        apart |= {steps} if max(gaps) else set()
    assert {61, 103} <= more and len(more) < 65 and {48, 96} <= apart and len(apart) < 60
    assert not (apart | more) & {*COUNTS, 4, 10, 15, 25, 28, 40, 100, 200, 250, 500}


def ddim_walk(steps: int, stock: bool, shift: float = 1.0) -> float:
    """The largest difference of a step of ours to diffusers' from the same state."""
    scheduler, times = scheduled(CogVideoXDDIMScheduler, steps, stock, snr_shift_scale=shift)
    process, solver, apart = VariancePreserving(snr_shift_scale=shift), DDIM(steps), 0.0
    x = torch.randn(SHAPE, generator=seeded(0))
    for k, (t, s) in zip(scheduler.timesteps.tolist(), pairwise(times), strict=True):
        v = network(x, t)
        theirs = scheduler.step(v, k, x).prev_sample
        ours, _ = solver.step(process, x, v, t, s, None, None)
        apart = max(apart, (ours - theirs).abs().max().item())
        x = ours
    return apart


@pytest.mark.parametrize("steps", COUNTS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_ddim_is_cogvideox_step_for_step(steps, shift):
    assert ddim_walk(steps, stock=steps in DIVIDE, shift=shift) < 2e-5


def dpm_walk(steps: int, stock: bool) -> tuple[float, float]:
    """As `ddim_walk`, and how far a first-order step goes from ours.

    Same generator on both sides. diffusers draws noise twice per second-order step and discards the first.
    """
    scheduler, times = scheduled(CogVideoXDPMScheduler, steps, stock)
    solver, carry, old, back = DPM(steps), None, None, None
    x = torch.randn(SHAPE, generator=seeded(0))
    ours_noise, theirs_noise = seeded(1), seeded(1)
    apart = second_order = 0.0
    for k, (t, s) in zip(scheduler.timesteps.tolist(), pairwise(times), strict=True):
        v = network(x, t)
        theirs, old = scheduler.step(v, old, k, back, x, generator=theirs_noise)
        if carry is not None and s > 0:
            torch.randn(SHAPE, generator=ours_noise)
        state = ours_noise.get_state()
        ours, next_carry = solver.step(VP, x, v, t, s, carry, ours_noise)
        apart = max(apart, (ours - theirs).abs().max().item())
        first, _ = solver.step(VP, x, v, t, s, None, torch.Generator().manual_seed(0).set_state(state))
        second_order = max(second_order, (first - ours).abs().max().item())
        x, carry, back = ours, next_carry, k
    return apart, second_order


@pytest.mark.parametrize("steps", COUNTS)
def test_dpm_is_cogvideox_step_for_step(steps):
    apart, second_order = dpm_walk(steps, stock=steps in DIVIDE)
    assert apart < 5e-5
    assert second_order > 1e-3 or steps == 3, "negative control: a first-order solver would pass"


@pytest.mark.parametrize("steps", [steps for steps in COUNTS if steps not in DIVIDE])
def test_diffusers_ends_steps_elsewhere_where_the_count_does_not_divide_1000(steps):
    """What docs/realgeneral.md says, and the negative control of the two tests above."""
    assert 1e-3 < ddim_walk(steps, stock=True) < 0.1
    assert dpm_walk(steps, stock=True)[0] > 1e-3


def test_the_loop_stops_on_the_grid():
    seen, state = [], {"cap100": torch.zeros(SHAPE)}
    layout = LAYOUT.only(("cap100",))
    for process in (VP, FLOW):
        integrate(lambda now, t: seen.append(t) or now, state, layout, process, DDIM(7), seeded(0))
    on_grid = [k / 1000 for k in (1000, 857, 714, 571, 429, 286, 143)]
    assert seen[:7] == pytest.approx(on_grid, abs=1e-7)
    assert seen[7:] == pytest.approx([1 - i / 7 for i in range(7)], abs=1e-7) and seen[7:] != seen[:7]


def test_dpm_step_from_pure_noise_and_in_one_go():
    x, v = torch.randn(SHAPE, generator=seeded(0)), torch.randn(SHAPE, generator=seeded(1))
    for process in (VP, FLOW):
        x_s, _ = DPM(2).step(process, x, v, 1.0, 0.5, None, seeded(2))
        assert x_s.isfinite().all()
        x_0, _ = DPM(1).step(process, x, v, 1.0, 0.0, None, seeded(2))
        torch.testing.assert_close(x_0, process.to_data(x, v, torch.ones(2)))
        assert not torch.allclose(x_s, x_0, atol=0.1)


def test_ddim_on_a_flow_is_euler():
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0, use_dynamic_shifting=False)
    solver = DDIM(10)
    times = solver.times().tolist()
    scheduler.set_timesteps(sigmas=times[:-1])
    x = torch.randn(SHAPE, generator=seeded(0))
    for k, t, s in zip(scheduler.timesteps, times, times[1:]):
        v = network(x, t)
        theirs = scheduler.step(v, k, x).prev_sample
        ours, _ = solver.step(FLOW, x, v, t, s, None, None)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(ours, x, atol=1e-2)
        x = ours


def start(process) -> tuple[dict, dict, dict]:
    """(data, noise, state at every segment's ceiling)."""
    names = list(CAPS)
    data = {n: torch.randn(SHAPE, generator=seeded(i)) for i, n in enumerate(names)}
    noise = {n: torch.randn(SHAPE, generator=seeded(100 + i)) for i, n in enumerate(names)}
    state = {n: process.corrupt(data[n], noise[n], torch.full((2,), CAPS[n])) for n in names}
    return data, noise, state


def oracle(process, data: dict, ignore_caps: bool = False):
    """The prediction that a perfect network makes: the one whose x0 is the data, at each segment's own clock."""

    def predict(state: dict, t: float) -> dict:
        out = {}
        for name, x in state.items():
            here = t if ignore_caps else min(t, CAPS[name])
            if here == 0:
                continue
            alpha, sigma = (f.item() for f in process.coefficients(torch.tensor(here)))
            eps = (x - alpha * data[name]) / sigma
            out[name] = process.target(data[name], eps, torch.full((2,), here))
        return out

    return predict


@pytest.mark.parametrize("solver", [DDIM(20), DPM(20), DDIM(7)])
@pytest.mark.parametrize("process", [VP, FLOW])
def test_exact_predictions_integrate_back_to_data_from_every_cap(process, solver):
    data, _, state = start(process)
    out = integrate(oracle(process, data), state, LAYOUT, process, solver, seeded(5))
    for name in CAPS:
        torch.testing.assert_close(out[name], data[name], rtol=1e-4, atol=2e-4)
    assert torch.equal(out["cap0"], data["cap0"]), "clean conditions stay to the bit"
    for name in ("cap25", "cap100"):
        assert not torch.allclose(state[name], data[name], atol=0.1), "the state would have been data already"


@pytest.mark.parametrize("process", [VP, FLOW])
def test_fixed_velocity_of_the_true_noise_integrates_exactly_under_ddim(process):
    """DDIM moves along x_t = alpha x0 + sigma eps with the eps it started from, at every time on the way."""
    data, noise, state = start(process)
    seen = []

    def predict(state: dict, t: float) -> dict:
        for name, x in state.items():
            here = torch.full((2,), min(t, CAPS[name]))
            torch.testing.assert_close(x, process.corrupt(data[name], noise[name], here), rtol=1e-4, atol=1e-4)
        seen.append(t)
        return {n: process.target(data[n], noise[n], torch.full((2,), min(t, CAPS[n]))) for n in state}

    out = integrate(predict, state, LAYOUT, process, DDIM(20), seeded(0))
    assert seen == [pytest.approx(1 - i / 20) for i in range(20)]
    for name in CAPS:
        torch.testing.assert_close(out[name], data[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("process", [VP, FLOW])
def test_dpm_keeps_the_right_marginal(process):
    """With exact predictions x_s ~ N(alpha_s x0, sigma_s^2) and its noise is fresh, not the one it started from."""
    data, noise, _ = start(process)
    x0, eps, t, s = data["cap100"], noise["cap100"], 0.8, 0.4
    x = process.corrupt(x0, eps, torch.full((2,), t))
    v = process.target(x0, eps, torch.full((2,), t))
    x_s, _ = DPM(2).step(process, x, v, t, s, None, seeded(9))
    alpha, sigma = (f.item() for f in process.coefficients(torch.tensor(s)))
    z = (x_s - alpha * x0) / sigma
    assert abs(z.mean()) < 0.06 and abs(z.std() - 1) < 0.05
    kept = (z * eps).mean().item()
    assert 0 < kept < 0.9, "some of the old noise stays, some is new"
    on_the_path, _ = DDIM(2).step(process, x, v, t, s, None, None)
    assert (((on_the_path - alpha * x0) / sigma) * eps).mean() > 0.95, "negative control: DDIM keeps all of it"


@pytest.mark.parametrize("solver", [DDIM(20), DPM(20)])
def test_random_predictions_leave_waiting_segments_alone(solver):
    _, _, state = start(VP)
    kept = {n: x.clone() for n, x in state.items()}
    g, waited, moved = seeded(7), set(), set()

    def predict(now: dict, t: float) -> dict:
        for name, x in now.items():
            waiting = t >= CAPS[name]
            assert torch.equal(x, kept[name]) == waiting
            (waited if waiting else moved).add(name)
        return {n: torch.randn(SHAPE, generator=g) for n in now}

    out = integrate(predict, state, LAYOUT, VP, solver, seeded(8))
    assert torch.equal(out["cap0"], kept["cap0"])
    assert waited == set(CAPS) and moved == set(CAPS) - {"cap0"}
    assert all(torch.equal(state[n], kept[n]) for n in state), "the caller's state is not changed"
    assert not torch.allclose(out["cap25"], kept["cap25"], atol=0.1)


def test_ignoring_caps_fails():
    """Negative control: the same states and predictions, integrated as if every segment were at t."""
    data, noise, state = start(VP)
    uncapped = LAYOUT.with_caps(dict.fromkeys(CAPS, 1.0))

    def predict(now: dict, t: float) -> dict:
        return {n: VP.target(data[n], noise[n], torch.full((2,), min(t, CAPS[n]))) for n in now}

    ddim, dpm = DDIM(20), DPM(20)
    right = integrate(predict, state, LAYOUT, VP, ddim, seeded(0))
    wrong = integrate(predict, state, uncapped, VP, ddim, seeded(0))
    for name in CAPS:
        torch.testing.assert_close(right[name], data[name], rtol=1e-4, atol=1e-4)
        assert torch.allclose(wrong[name], data[name], atol=0.05) == (name == "cap100"), name
    wrong = integrate(predict, state, uncapped, VP, dpm, seeded(0))
    assert not torch.allclose(wrong["cap0"], data["cap0"], atol=0.05)


def test_dpm_noise_comes_from_the_generator():
    _, _, state = start(VP)

    def predict(now: dict, t: float) -> dict:
        return {n: network(x, t) for n, x in now.items()}

    def run(solver, seed: int) -> torch.Tensor:
        return integrate(predict, state, LAYOUT, VP, solver, seeded(seed))["cap100"]

    dpm, ddim = DPM(4), DDIM(4)
    assert torch.equal(run(dpm, 1), run(dpm, 1)) and not torch.equal(run(dpm, 1), run(dpm, 2))
    assert torch.equal(run(ddim, 1), run(ddim, 2))


def test_each_segment_keeps_its_own_memory():
    """The loop against a walk by hand over two segments; a walk that forgets it ends elsewhere."""
    _, _, state = start(VP)
    names, solver = ("cap50", "cap100"), DPM(8)
    state, times = {n: state[n] for n in names}, solver.times().tolist()

    def walk(forget: bool) -> dict:
        x, carries, g = dict(state), {}, seeded(3)
        for t, s in pairwise(times):
            v = {n: network(x[n], t) for n in names}
            for n in names:
                if t <= CAPS[n]:
                    carry = None if forget else carries.get(n)
                    x[n], carries[n] = solver.step(VP, x[n], v[n], t, s, carry, g)
        return x

    def predict(now: dict, t: float) -> dict:
        return {n: network(x, t) for n, x in now.items()}

    out = integrate(predict, state, LAYOUT.only(names), VP, solver, seeded(3))
    own, forgotten = walk(forget=False), walk(forget=True)
    for n in names:
        assert torch.equal(out[n], own[n])
        assert not torch.allclose(out[n], forgotten[n], atol=1e-3)


def test_predictions_in_bf16_leave_the_state_in_fp32():
    _, _, state = start(VP)
    for solver in (DDIM(4), DPM(4)):
        out = integrate(lambda now, t: {n: x.bfloat16() for n, x in now.items()}, state, LAYOUT, VP, solver, seeded(0))
        assert all(x.dtype == torch.float32 and x.isfinite().all() for x in out.values())


def test_a_solver_needs_a_step():
    for solver in (DDIM, DPM):
        with pytest.raises(ValueError, match="at least 1 step"):
            solver(0)


@pytest.mark.parametrize("solver", [DDIM(7), DPM(7)])
def test_a_watch_sees_each_step_and_what_it_takes_the_data_to_be(solver):
    data, _, state = start(VP)
    told, estimates = [], []

    def watch(step: int, steps: int, estimate) -> None:
        told.append((step, steps))
        estimates.append(estimate())

    plain = integrate(oracle(VP, data), state, LAYOUT, VP, solver, seeded(5))
    watched = integrate(oracle(VP, data), state, LAYOUT, VP, solver, seeded(5), watch)
    assert told == [(i + 1, 7) for i in range(7)]
    assert all(torch.equal(plain[name], watched[name]) for name in CAPS), "the watch changed the result"
    for found in estimates:  # exact predictions know the data from the first step on, where the state is still noise
        torch.testing.assert_close(found["cap100"], data["cap100"], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(state["cap100"], data["cap100"], atol=0.1), "negative control"
    assert torch.equal(estimates[0]["cap25"], state["cap25"]), "a segment that waits is shown as it is"


def test_an_error_of_the_watch_ends_the_sampling():
    data, _, state = start(VP)
    seen = []

    def watch(step: int, steps: int, estimate) -> None:
        seen.append(step)
        if step == 2:
            raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        integrate(oracle(VP, data), state, LAYOUT, VP, DDIM(7), seeded(5), watch)
    assert seen == [1, 2]
