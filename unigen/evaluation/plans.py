"""What a report says of its sweep's plan: at which look it stopped, what that look may spend, and what was tuned."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from unigen.config.stages import Plan, arm_names, read_plan
from unigen.evaluation.agreement import counted, few
from unigen.evaluation.arms import Arm
from unigen.evaluation.looks import Looks
from unigen.evaluation.runs import cleaned
from unigen.evaluation.verdicts import ALPHA

RATE = "optimizer.lr"


class Planned(NamedTuple):
    """The error that the verdicts of a page may spend, and sentences for its reader."""

    alpha: float
    notes: list[str]


class Swept(NamedTuple):
    """A sweep in stages of which a page shows runs: its plan, its arms, and the seeds that all of these have.

    `name` is that of its folder, "" if the page shows no other sweep in stages.
    """

    name: str
    plan: Plan
    arms: list[Arm]

    @property
    def seeds(self) -> int:
        return min(len(arm.runs) for arm in self.arms)

    @property
    def level(self) -> float:
        """The error that verdicts on this sweep may spend, which is ALPHA for one without looks."""
        return Looks(tuple(self.plan.looks)).level(self.seeds) if self.plan.looks else ALPHA


def planned(arms: Sequence[Arm]) -> Planned:
    """Return what the plans of these arms' sweeps say. Arms without a plan may spend ALPHA at once.

    Holm's correction is for all differences of a page together, so these have one level: the smallest of its sweeps'.

    Raises:
        ValueError: a plan cannot be read.
    """
    found = sweeps(arms)
    alpha = min((each.level for each in found), default=ALPHA)
    notes = [note for each in found for note in [*looked(each), *tuned(each)]]
    looking = [each for each in found if each.plan.looks]
    if looking and (len(looking) > 1 or len({id(arm) for each in looking for arm in each.arms}) < len(arms)):
        said = f"All verdicts of this page have one level, {alpha:.2g}"
        notes.append(f"{said}: the smallest that one of its sweeps in stages may spend.")
    with_tuning = [id(arm) for each in found if each.plan.tune for arm in each.arms]
    notes += untuned([arm for arm in arms if id(arm) not in with_tuning], bool(with_tuning))
    return Planned(alpha, list(dict.fromkeys(notes)))


def sweeps(arms: Sequence[Arm]) -> list[Swept]:
    """Return the sweeps in stages in whose folders runs of these arms lie. Raises ValueError for an unreadable plan."""
    owners: dict[Path, dict[int, Arm]] = {}
    for arm in arms:
        for run in arm.runs:
            owners.setdefault(run.path.parent, {})[id(arm)] = arm
    plans = {folder: plan for folder in owners if (plan := read_plan(folder))}
    above = os.path.commonpath([folder.parent for folder in plans]) if len(plans) > 1 else None
    names = {folder: cleaned(os.path.relpath(folder, above)) if above else "" for folder in plans}
    return [Swept(names[folder], plan, [*owners[folder].values()]) for folder, plan in plans.items()]


def looked(sweep: Swept) -> list[str]:
    """Return a sentence on the looks of a plan, none for a plan without looks."""
    plan = sweep.plan
    if not plan.looks:
        return []
    looks, done, many = Looks(tuple(plan.looks)), plan.seeds[0], len(plan.looks)
    spent = f"verdicts at {counted(sweep.seeds, 'seed')} may spend {sweep.level:.2g} of it"
    shares = f"Its looks share {looks.alpha:g}, and {spent}."
    number = plan.looks.index(done) + 1 if done in plan.looks else 0
    who = f"The sweep {sweep.name}".strip()
    if plan.stop == "answered":
        said = f"{who} stopped at look {number} of {many}, after {done} seeds, because its question was answered."
    elif plan.stop:
        said = f"{who} stopped at its last look ({many} of {many}), after {done} seeds, with differences open."
    else:
        said = f"{who} has looked {number} of {many} times and goes on to {plan.seeds[1]} seeds."
    if sweep.seeds > looks.seeds[-1]:
        shares += f" These are more than the {looks.seeds[-1]} that were planned, for which nothing corrects."
    return [f"{said} {shares}"]


def tuned(sweep: Swept) -> list[str]:
    """Return a sentence on what was tuned for each arm, none if nothing was."""
    plan = sweep.plan
    if not plan.tuned:
        return []
    grid = "; ".join(f"{key} of {values.replace(',', ', ')}" for key, values in plan.tune.items())
    arms = "; ".join(
        f"{name}: {', '.join(f'{key} {value}' for key, value in told['chosen'].items())}"
        for name, told in zip(arm_names([*plan.tuned]), plan.tuned.values(), strict=True)
    )
    of = f" of the sweep {sweep.name}" if sweep.name else ""
    return [
        f"Tuned for each arm{of} by the loss on the validation split, with a seed of its own: {grid}. Chosen: {arms}."
    ]


def untuned(arms: Sequence[Arm], others: bool) -> list[str]:
    """Return a sentence on the learning rate that these arms share, or in which they differ without tuning.

    `others` is True if other arms of the page were tuned.
    """
    rates = {arm.label: arm.runs[0].config.get(RATE) for arm in arms}
    if len(arms) < 2 - others or None in rates.values():
        return []
    if len(set(rates.values())) == 1 and not others:
        return [f"Not tuned: all arms have {RATE} {next(iter(rates.values()))}."]
    owners: dict[str, list[str]] = {}
    for arm, rate in rates.items():
        owners.setdefault(rate, []).append(arm)
    each = [f"{few(who)} {'have' if len(who) > 1 else 'has'} {RATE} {rate}" for rate, who in owners.items()]
    return [f"Not tuned: {'; '.join(each)}."]
