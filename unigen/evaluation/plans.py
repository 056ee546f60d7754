"""What a report says of its sweep's plan: at which look it stopped, what that look may spend, and what was tuned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from unigen.config.stages import Plan, arm_names, read_plan
from unigen.evaluation.arms import Arm
from unigen.evaluation.looks import Looks
from unigen.evaluation.runs import Run
from unigen.evaluation.verdicts import ALPHA

RATE = "optimizer.lr"


class Planned(NamedTuple):
    """The error that the verdicts of a page may spend, and sentences for its reader."""

    alpha: float
    notes: list[str]


def planned(runs: Sequence[Run], arms: Sequence[Arm]) -> Planned:
    """Return what the plans of these runs' sweeps say. Runs without a plan may spend ALPHA at once.

    Raises:
        ValueError: a plan cannot be read.
    """
    found = [plan for folder in dict.fromkeys(run.path.parent for run in runs) if (plan := read_plan(folder))]
    seeds = min((len(arm.runs) for arm in arms), default=0)
    several = [Looks(tuple(plan.looks)) for plan in found if plan.looks]
    alpha = min((looks.level(seeds) for looks in several), default=ALPHA)
    notes = [note for plan in found for note in [*looked(plan, seeds), *tuned(plan)]]
    if not any(plan.tune for plan in found):
        notes += untuned(arms)
    return Planned(alpha, list(dict.fromkeys(notes)))


def looked(plan: Plan, seeds: int) -> list[str]:
    """Return a sentence on the looks of a plan, none for a plan without looks."""
    if not plan.looks:
        return []
    looks, done, many = Looks(tuple(plan.looks)), plan.seeds[0], len(plan.looks)
    shares = f"Its looks share {looks.alpha:g}, and verdicts at {seeds} seeds may spend {looks.level(seeds):.2g} of it."
    number = plan.looks.index(done) + 1 if done in plan.looks else 0
    if plan.stop == "answered":
        said = f"The sweep stopped at look {number} of {many}, after {done} seeds, because its question was answered."
    elif plan.stop:
        said = f"The sweep stopped at its last look ({many} of {many}), after {done} seeds, with differences open."
    else:
        said = f"The sweep has looked {number} of {many} times and goes on to {plan.seeds[1]} seeds."
    if seeds > looks.seeds[-1]:
        shares += f" These are more than the {looks.seeds[-1]} that were planned, for which nothing corrects."
    return [f"{said} {shares}"]


def tuned(plan: Plan) -> list[str]:
    """Return a sentence on what was tuned for each arm, none if nothing was."""
    if not plan.tuned:
        return []
    grid = "; ".join(f"{key} of {values.replace(',', ', ')}" for key, values in plan.tune.items())
    arms = "; ".join(
        f"{name}: {', '.join(f'{key} {value}' for key, value in told['chosen'].items())}"
        for name, told in zip(arm_names([*plan.tuned]), plan.tuned.values(), strict=True)
    )
    return [f"Tuned for each arm by the loss on the validation split, with a seed of its own: {grid}. Chosen: {arms}."]


def untuned(arms: Sequence[Arm]) -> list[str]:
    """Return a sentence on the learning rate that several arms share, or in which they differ without tuning."""
    rates = {arm.label: arm.runs[0].config.get(RATE) for arm in arms}
    if len(arms) < 2 or None in rates.values():
        return []
    if len(set(rates.values())) == 1:
        return [f"Not tuned: all arms have {RATE} {next(iter(rates.values()))}."]
    return [f"Not tuned: {', '.join(f'{arm} has {RATE} {rate}' for arm, rate in rates.items())}."]
