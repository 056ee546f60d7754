"""Exact predictions lead every formatter's layout back to data on every solver and process; clean images never move."""

import pytest
import torch
from tiny import apart, choices, placing, plan_for, spread, tiny

from unigen.core.layout import Layout
from unigen.pipeline.build import build
from unigen.solvers.loop import integrate

FORMATTERS = {name: placing(name) for name in apart()}  # clocks do not read positions
BACKBONE = build(tiny()["backbone"])


def walked(layout: Layout, process, solver, caps: Layout) -> tuple[dict, dict, dict]:
    """(data, where the segments start, where they end) when they are taken to have the ceilings of `caps`."""
    g = torch.Generator().manual_seed(0)
    data = {s.name: torch.randn(2, s.tokens, 8, generator=g) for s in layout.visual}
    start = {}
    for s in layout.visual:
        eps = torch.randn(data[s.name].shape, generator=g)
        start[s.name] = process.corrupt(data[s.name], eps, torch.full((2,), float(s.cap)))

    def predict(state: dict, t: float) -> dict:
        """What a perfect network says of segments at their own clocks."""
        out = {}
        for s in layout.visual:
            here = min(t, s.cap)
            alpha, sigma = process.coefficients(torch.tensor(here))
            eps = (state[s.name] - alpha * data[s.name]) / sigma.clamp(min=1e-4)
            out[s.name] = process.target(data[s.name], eps, torch.full((2,), here))
        return out

    return data, start, integrate(predict, start, caps, process, solver, torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("formatter", "solver", "process"), spread(list(FORMATTERS), choices("solver"), choices("process"))
)
def test_every_layout_is_integrated_back_to_data(formatter, solver, process):
    layout = plan_for(FORMATTERS[formatter], BACKBONE).layout
    config = tiny(f"solver={solver}", f"process={process}")
    made, moves = build(config["process"]), build(config["solver"])
    data, start, end = walked(layout, made, moves, layout)
    for s in layout.visual:
        torch.testing.assert_close(end[s.name], data[s.name], rtol=1e-3, atol=1e-3)
        assert torch.equal(start[s.name], data[s.name]) == torch.equal(end[s.name], start[s.name]) == (s.cap == 0)


@pytest.mark.parametrize("formatter", [name for name, f in FORMATTERS.items() if min(f.caps.values()) < 1])
def test_a_walk_that_ignores_the_ceilings_ends_elsewhere(formatter):
    """Negative control. What starts between noise and data a perfect network may lead back all the same."""
    layout = plan_for(FORMATTERS[formatter], BACKBONE).layout
    made, moves = build(tiny()["process"]), build(tiny()["solver"])
    data, _, end = walked(layout, made, moves, layout.with_caps(dict.fromkeys(layout.names, 1.0)))
    for s in layout.visual:
        if s.cap in (0, 1):
            assert torch.allclose(end[s.name], data[s.name], atol=1e-2) == (s.cap == 1)
