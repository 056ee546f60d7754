"""Classifier-free guidance: its strength, and the roles that its second branch hides, for each task.

Shapes: B batch, L tokens, P patch features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unigen.core.tokens import Tokens
from unigen.core.types import TARGET

if TYPE_CHECKING:
    from unigen.pipeline.pipeline import Pipeline


class Guidance:
    """hidden + strength * (shown - hidden), as in RealGeneral section 4.1; a strength of 1 turns it off.

    `drop` are the roles that the second branch hides: text becomes the empty prompt, an image zero latents. `by_task`
    overrides them for single tasks: {task: {strength: ..., drop: [...]}}. So one universal run has the strength of each
    of its tasks, as RealGeneral has 6 for customization and 2 for spatially aligned tasks.
    Raises ValueError for anything else in `by_task`, for roles that are no list, and for the target among them.
    """

    def __init__(
        self, strength: float = 1.0, drop: Sequence[str] = (), by_task: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        self.strength, self.drop = float(strength), _roles("guidance.drop", drop)
        if not isinstance(by_task or {}, Mapping):
            raise ValueError(f"guidance.by_task is {by_task!r}; it must be a table from task to what differs for it")
        self.by_task = {task: _own(f"guidance.by_task.{task}", own) for task, own in (by_task or {}).items()}

    def at(self, strength: float) -> Guidance:
        """Return the same guidance with one strength for all tasks."""
        own = {task: {k: v for k, v in said.items() if k != "strength"} for task, said in self.by_task.items()}
        return Guidance(strength, self.drop, own)

    @property
    def roles(self) -> tuple[str, ...]:
        """Every role that is hidden for some task."""
        return tuple(dict.fromkeys([*self.drop, *(r for own in self.by_task.values() for r in own.get("drop", ()))]))

    @property
    def protocol(self) -> dict[str, Any]:
        """The settings of guidance on which a measured number depends."""
        return {"guidance": self.strength, "drop": list(self.drop)} | (
            {"guidance_by_task": self.by_task} if self.by_task else {}
        )

    def strength_of(self, task: str) -> float:
        """Return the strength of guidance for a task."""
        return float(self.by_task.get(task, {}).get("strength", self.strength))

    def strengths(self, tasks: Sequence[str]) -> Tensor:
        """Return the strengths of these tasks, (B,) in fp32."""
        return torch.tensor([self.strength_of(task) for task in tasks], dtype=torch.float32)

    def hidden(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Return (B,) booleans by role: True for the samples in which the second branch hides it."""
        drops = [self.by_task.get(task, {}).get("drop", self.drop) for task in tasks]
        return {role: torch.tensor([role in drop for drop in drops]) for role in self.roles}


def _own(key: str, own: Any) -> dict[str, Any]:
    """Return what differs for a task. Raises ValueError for anything but a strength and dropped roles."""
    if not isinstance(own, Mapping):
        raise ValueError(f"{key} is {own!r}; legal is a table such as {{strength: 6, drop: [text]}}")
    if unknown := sorted(set(own) - {"strength", "drop"}):
        raise ValueError(f"{key}.{unknown[0]} is unknown; legal are strength and drop")
    if not isinstance(own.get("strength", 1.0), int | float):
        raise ValueError(f"{key}.strength is {own['strength']!r}; it must be a number")
    return {**own, "drop": _roles(f"{key}.drop", own["drop"])} if "drop" in own else dict(own)


def _roles(key: str, roles: Any) -> tuple[str, ...]:
    """Return dropped roles. Raises ValueError for a single word, which would be read letter by letter."""
    if isinstance(roles, str) or not isinstance(roles, Sequence):
        raise ValueError(f"{key} is {roles!r}; it must be a list of roles, such as [text]")
    if TARGET in roles:
        raise ValueError(f"{key} names '{TARGET}', which is generated and so cannot be hidden")
    return tuple(roles)


def hide(latents: Mapping[str, Tensor], roles: Mapping[str, str], hidden: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return latents (B, f, C, h, w) by slot, zero in the samples that `hidden` (B,) marks for the slot's role."""
    found = dict(latents)
    for name, z in latents.items():
        if roles[name] in hidden:
            found[name] = z.masked_fill(hidden[roles[name]].to(z.device)[:, None, None, None, None], 0)
    return found


class Guided:
    """predict(state, t): the network's output under guidance, static segments computed once.

    Both branches are in one batch. Segments that are static (`Pipeline.static`) keep their keys and values.
    """

    def __init__(self, pipeline: Pipeline, shown: Tokens, hidden: Tokens | None, strengths_B: Tensor) -> None:
        self.pipeline, self.strengths_B11 = pipeline, strengths_B.to(pipeline.device)[:, None, None]
        self.copies, self.size = (1 if hidden is None else 2), len(strengths_B)
        self.clean = replace(shown if hidden is None else shown.beside(hidden), sampling=True)
        layout, mask = shown.layout, pipeline.mask
        static = pipeline.static(layout)
        self.active, self.memory = layout.without(static), None
        if static:
            still = self.clean.only(layout.only(static))
            zero_B = torch.zeros(self.size * self.copies, device=pipeline.device)
            self.memory = pipeline.backbone.remember(still, pipeline.times(still.layout, zero_B), mask)

    def __call__(self, state: Mapping[str, Tensor], t: float) -> dict[str, Tensor]:
        p = self.pipeline
        moving = {s.name: state[s.name].repeat(self.copies, 1, 1) for s in self.active.visual if s.cap > 0}
        tokens = self.clean.updated(moving).only(self.active)
        t_B = torch.full((self.size * self.copies,), t, device=p.device)
        outputs = p.backbone(tokens, p.times(self.active, t_B), p.mask, self.memory)
        if self.copies == 1:
            return outputs
        split = {n: x.float().chunk(2) for n, x in outputs.items()}
        return {n: hidden + self.strengths_B11 * (shown - hidden) for n, (shown, hidden) in split.items()}
