"""The sampling loop: every segment walks from its own ceiling to data. Shapes: T times, S segments."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from unigen.core.layout import Layout
from unigen.core.noise import clock
from unigen.core.shift import counted
from unigen.protocols import Process, Solver

State = dict[str, Tensor]
Watch = Callable[[int, int, Callable[[], State]], None]  # (steps done, of how many, estimates of the data)


@torch.no_grad()
def integrate(
    predict: Callable[[State, float], State],
    state: State,
    layout: Layout,
    process: Process,
    solver: Solver,
    generator: torch.Generator | Sequence[torch.Generator],
    watch: Watch | None = None,
) -> State:
    """Integrate from t = 1 to 0; in each step segment s moves from min(t, cap_s) to min(t', cap_s), with its own carry.

    The times are the solver's; all but the first, at which the state is given, are moved to the grid of the process.

    A step between equal clocks is the identity: a segment waits, bit for bit, until the time falls below its
    ceiling, so clean conditions (cap 0) never move. `state` holds x at min(1, cap_s) by segment name and is not
    changed; `predict(state, t)` returns the network's predictions by name, and only those of moving segments are read.
    `watch` is called after each step, with a function that computes what the step took the data to be; it changes
    nothing, and an error that it raises ends the sampling.
    """
    state = dict(state)
    carries = dict.fromkeys(s.name for s in layout.visual)
    times_T = solver.times(counted(solver, layout))
    times_T = torch.cat([times_T[:1], process.on_grid(times_T[1:])])
    clocks = {name: clock_T.tolist() for name, clock_T in zip(layout.names, clock(layout, times_T).T, strict=True)}
    for i, t in enumerate(times_T.tolist()[:-1]):
        predictions, before = predict(state, t), dict(state)
        for name in carries:
            here, there = clocks[name][i : i + 2]
            if here == there:
                continue
            state[name], carries[name] = solver.step(
                process, state[name], predictions[name], here, there, carries[name], generator
            )
        if watch is not None:
            now = {name: clocks[name][i] for name in carries if clocks[name][i] != clocks[name][i + 1]}
            watch(i + 1, len(times_T) - 1, partial(_estimated, process, before, predictions, now))
    return state


def _estimated(process: Process, state: State, predictions: State, clocks: Mapping[str, float]) -> State:
    """Return the state with what the predictions say of the data in the place of each moving segment."""
    found = dict(state)
    for name, t in clocks.items():
        t_B = torch.full((state[name].shape[0],), t, dtype=torch.float32, device=state[name].device)
        found[name] = process.to_data(state[name], predictions[name], t_B)
    return found
