"""Euler on the shifted grid against diffusers' flow scheduler step for step, and N points against N steps."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift
from tiny import composed

from unigen.core.layout import Layout, Segment, text_segment
from unigen.core.shift import DynamicShift, counted
from unigen.pipeline.build import build
from unigen.processes.rectified_flow import RectifiedFlow, Uniform
from unigen.solvers.ddim import DDIM
from unigen.solvers.euler import Euler
from unigen.solvers.loop import integrate

FLOW, TOKENS = RectifiedFlow(Uniform()), 3456  # 2×3 images at 384²: mu 1.042


def network(x: torch.Tensor, t: float) -> torch.Tensor:
    return torch.tanh(1.3 * x + 2 * t) - 0.4 * x.flip(1)


def diffusers_scheduler(steps: int, tokens: int) -> FlowMatchEulerDiscreteScheduler:
    """As VisualCloze's and Flux's pipelines set it up."""
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=DynamicShift().mu(tokens))
    return scheduler


@pytest.mark.parametrize("steps", [3, 4, 7, 20, 30, 50, 51, 64, 333])
def test_euler_is_diffusers_step_for_step(steps):
    scheduler, solver = diffusers_scheduler(steps, TOKENS), Euler(steps, shift=DynamicShift())
    times = solver.times(TOKENS)
    torch.testing.assert_close(times, scheduler.sigmas, rtol=1e-6, atol=1e-7)
    x, moved = torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(0)), 0.0
    for k, (t, s) in zip(scheduler.timesteps, pairwise(times.tolist()), strict=True):
        v = network(x, t)
        theirs = scheduler.step(v, k, x).prev_sample
        ours, _ = solver.step(FLOW, x, v, t, s, None, None)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        moved = max(moved, (solver.step(FLOW, x, v, t, s * 0.99, None, None)[0] - theirs).abs().max().item())
        x = ours
    assert moved > 1e-3, "negative control: ending a step 1 % elsewhere would pass"


@pytest.mark.parametrize("tokens", [1152, 6912])
def test_the_number_of_tokens_decides_the_grid(tokens):
    solver = Euler(30, shift=DynamicShift())
    torch.testing.assert_close(solver.times(tokens), diffusers_scheduler(30, tokens).sigmas, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(solver.times(tokens), solver.times(TOKENS), atol=1e-2)
    even = Euler(30)
    assert torch.equal(even.times(tokens), DDIM(30).times())


@pytest.mark.parametrize(
    ("count", "steps", "last"),
    [("steps", 30, [0.168, 0.089, 0.0]), ("points", 29, [0.174, 0.092, 0.0])],
)
def test_30_are_30_steps_in_diffusers_and_29_in_visualclozes_own_sampler(count, steps, last):
    """The last times of 2×3 images at 384², found by running both."""
    times = Euler(30, count=count, shift=DynamicShift()).times(TOKENS)
    assert len(times) == steps + 1 and times[0] == 1
    assert times[-3:].tolist() == pytest.approx(last, abs=6e-4)


def test_the_loop_tells_the_solver_how_many_image_tokens_there_are():
    layout = Layout((text_segment(7), *(Segment(n, "target", "visual", (1, 20, 30)) for n in ("a", "b"))))
    solver, seen = Euler(3, shift=DynamicShift()), []
    state = {n: torch.zeros(1, 600, 1) for n in ("a", "b")}
    integrate(lambda now, t: seen.append(t) or now, state, layout, FLOW, solver, torch.Generator())
    assert seen == solver.times(1200).tolist()[:-1] != solver.times(1207).tolist()[:-1], "text does not count"


def test_a_shift_may_count_the_targets_alone():
    layout = Layout((text_segment(7), *(Segment(n, n, "visual", (1, 20, 30)) for n in ("condition", "target"))))
    of_all, of_targets = (Euler(3, shift=DynamicShift(count=count)) for count in ("all", "targets"))
    assert [counted(solver, layout) for solver in (of_all, of_targets, Euler(3))] == [1200, 600, 1200]
    assert of_all.protocol == Euler(3, shift=DynamicShift()).protocol != of_targets.protocol
    with pytest.raises(ValueError, match=r"shift\.count is 'target'; legal are all, targets"):
        DynamicShift(count="target")


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match=r"solver\.count is 'pts'; legal are steps, points"):
        Euler(30, count="pts")
    with pytest.raises(ValueError, match=r"solver\.steps=1 counts points"):
        Euler(1, count="points").times()
    assert Euler(1).times().tolist() == [1, 0]


def test_a_protocol_says_what_steps_leave_open():
    a, b, c = (
        Euler(30, **options).protocol
        for options in ({"shift": DynamicShift()}, {"shift": DynamicShift(limit=None)}, {"count": "points"})
    )
    assert a["solver.count"] == "steps" and a["solver.shift"]["max_tokens"] == 4096
    assert c == {"solver.count": "points", "solver.shift": None}
    assert a != b


@pytest.mark.parametrize(("tokens", "steps"), [(4096, 5), (1024, 50), (8192, 40), (6889, 3)])
def test_qwen_images_grid_is_diffusers(tokens, steps):
    """Its shift is a line to 0.9 at 8192 tokens, and the last step begins at 0.02."""
    node = composed("solver=euler_qwen_image", "backbone=qwen_image", "process=rectified_flow")["solver"]
    solver = build({**node, "steps": steps})
    shift = solver.shift
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=shift.base_shift,
        max_shift=shift.max_shift,
        base_image_seq_len=shift.base_tokens,
        max_image_seq_len=shift.max_tokens,
        shift_terminal=solver.terminal,
    )
    mu = calculate_shift(tokens, shift.base_tokens, shift.max_tokens, shift.base_shift, shift.max_shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    times = solver.times(tokens)
    torch.testing.assert_close(times, scheduler.sigmas, rtol=1e-6, atol=1e-6)
    assert times[-2].item() == pytest.approx(0.02) and times[0] == 1 and times[-1] == 0
    plain = build({**node, "steps": steps, "terminal": None}).times(tokens)
    assert not torch.allclose(times[:-1], plain[:-1], atol=1e-3), "negative control"
    assert solver.protocol["solver.terminal"] == 0.02 and "solver.terminal" not in Euler(3).protocol
    if (tokens, steps) == (4096, 5):
        known = torch.tensor([1, 0.8367, 0.6326, 0.3701, 0.02, 0])
        torch.testing.assert_close(times, known, rtol=0, atol=1e-4)


def test_a_terminal_that_no_grid_has_is_refused():
    with pytest.raises(ValueError, match=r"solver.terminal is 1; legal are null and times between 0 and 1"):
        Euler(3, terminal=1)
    with pytest.raises(ValueError, match=r"solver.steps=1 is a single step, which begins at 1, not at solver.terminal"):
        Euler(1, terminal=0.02).times()
    assert len(Euler(2, terminal=0.02).times()) == 3
