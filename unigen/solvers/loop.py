"""The sampling loop: every segment walks from its own ceiling to data. Shapes: T times, S segments."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from unigen.layout import Layout
from unigen.noise import clock
from unigen.protocols import Process, Solver

State = dict[str, Tensor]


@torch.no_grad()
def integrate(
    predict: Callable[[State, float], State],
    state: State,
    layout: Layout,
    process: Process,
    solver: Solver,
    generator: torch.Generator | Sequence[torch.Generator],
) -> State:
    """From t = 1 to 0: segment s moves from min(t, cap_s) to min(t', cap_s), by one solver step with its own memory.

    The times are the solver's, all but the first (where the state is) on the grid of the process.

    A step between equal clocks is the identity: a segment waits, bit for bit, until the time falls below its
    ceiling, so clean conditions (cap 0) never move. `state` holds x at min(1, cap_s) by segment name and is left
    as it is; `predict(state, t)` gives the network's predictions by name, of which only those that move are read.
    """
    state = dict(state)
    carries = dict.fromkeys(s.name for s in layout.visual)
    times_T = solver.times(layout.image_tokens)
    times_T = torch.cat([times_T[:1], process.on_grid(times_T[1:])])
    clocks = {name: clock_T.tolist() for name, clock_T in zip(layout.names, clock(layout, times_T).T, strict=True)}
    for i, t in enumerate(times_T.tolist()[:-1]):
        predictions = predict(state, t)
        for name in carries:
            here, there = clocks[name][i : i + 2]
            if here == there:
                continue
            state[name], carries[name] = solver.step(
                process, state[name], predictions[name], here, there, carries[name], generator
            )
    return state
