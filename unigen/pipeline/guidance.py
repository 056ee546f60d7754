"""Classifier-free guidance: passes that hide some roles, and the strengths by which their predictions are combined.

Shapes: B batch, L tokens, P patch features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unigen.core.tokens import Tokens
from unigen.core.types import TARGET, TEXT
from unigen.pipeline.hiding import NEGATIVE, WORDS, Hidden, checked_ways, way_of

if TYPE_CHECKING:
    from unigen.pipeline.pipeline import Pipeline

PASS = ("drop", "strength", "hide")
ALWAYS = 0.0, 1.0


@dataclass(frozen=True)
class Pass:
    """A pass of the network in which the roles `drop` are hidden, each in its way (`hide`: where it differs).

    `strength` is how far guidance goes from this prediction to that of the next pass; None: the task's strength.
    """

    drop: tuple[str, ...]
    strength: float | None = None
    hide: Mapping[str, str] = field(default_factory=dict)


class Guidance:
    """hidden + strength * (shown - hidden), as in RealGeneral section 4.1; a strength of 1 turns it off.

    `drop` are the roles that the second pass hides. `by_task` overrides both for single tasks: {task: {strength: ...,
    drop: [...]}}. So one universal run has the strength of each of its tasks, as RealGeneral has 6 for customization
    and 2 for spatially aligned tasks.

    `passes` replaces `drop` by several passes, from the one that hides most; the one that hides nothing follows by
    itself. With predictions p_1 to p_n and that last one p_(n+1), the result is p_1 + sum_k strength_k (p_(k+1) - p_k).
    InstructPix2Pix (Eq. 3) has two, [{drop: [text, condition], strength: 1.5}, {drop: [text], strength: 7.5}], and one
    pass is the formula above. A pass without a strength has the task's (`strength`, `by_task`).

    `hide` says how a role is hidden, in training (`dropout`) too: text is `empty` ("", the default) or `blank` (" ");
    an image has `zero` latents (the default), is a `black` image that the codec encodes, or is `absent`. A pass may
    have a `hide` of its own. With `negative`, the passes that hide the text show this prompt in its place, and training
    does not; a pass with a `hide` of its own for the text keeps that one. With `rescale`, each token of the result has
    the norm of the prediction that hides nothing (Qwen-Image-Edit).

    `interval` is the range of times t (1 is noise, both ends included) in which there is guidance; at other times the
    pass that hides nothing is computed alone (arXiv 2404.07724; OmniGen2 says it as a share of the steps, which is a
    share of t only where the solver's times are evenly spaced).
    Raises ValueError for anything else in these tables, for roles that are no list, and for the target among them.
    """

    def __init__(
        self,
        strength: float = 1.0,
        drop: Sequence[str] = (),
        by_task: Mapping[str, Mapping[str, Any]] | None = None,
        hide: Mapping[str, str] | None = None,
        passes: Sequence[Mapping[str, Any]] | None = None,
        rescale: bool = False,
        negative: str | None = None,
        interval: Sequence[float] = ALWAYS,
    ) -> None:
        self.strength, self.drop, self.rescale = float(strength), _roles("guidance.drop", drop), rescale
        if not isinstance(by_task or {}, Mapping):
            raise ValueError(f"guidance.by_task is {by_task!r}; it must be a table from task to what differs for it")
        self.by_task = {task: _own(f"guidance.by_task.{task}", own) for task, own in (by_task or {}).items()}
        self.hide = checked_ways("guidance.hide", hide)
        if not isinstance(negative, str | None):
            raise ValueError(f"guidance.negative is {negative!r}; it must be a prompt, or null for none")
        self.negative, self.interval = negative, _interval(interval)
        if isinstance(passes or [], str | Mapping) or not isinstance(passes or [], Sequence):
            raise ValueError(
                f"guidance.passes is {passes!r}; it must be a list such as [{{drop: [text], strength: 3}}]"
            )
        self.several = tuple(_pass(f"guidance.passes.{i}", said) for i, said in enumerate(passes or ()))
        _check_negative(self)
        for task, own in self.by_task.items():
            if self.several and "drop" in own:
                raise ValueError(
                    f"guidance.by_task.{task}.drop would not be used: guidance.passes says what each pass hides; legal "
                    "is strength, for the passes without one"
                )

    def against(self, negative: str) -> Guidance:
        """Return the same guidance with a negative prompt. Raises ValueError if no pass hides the text."""
        changed = copy(self)
        changed.negative = negative
        _check_negative(changed)
        return changed

    def at(self, strength: float) -> Guidance:
        """Return the same guidance with one strength for all tasks.

        Raises ValueError if every one of several passes has a strength of its own, so that it would change nothing.
        """
        if self.several and all(each.strength is not None for each in self.several):
            raise ValueError(
                f"a strength of guidance is given ({strength:g}), but each of the {len(self.several)} passes of "
                "guidance.passes has its own; give none, or leave the strength out of the pass that is to have it"
            )
        own = {task: {k: v for k, v in said.items() if k != "strength"} for task, said in self.by_task.items()}
        changed = copy(self)
        changed.strength, changed.by_task = float(strength), own
        return changed

    @property
    def roles(self) -> tuple[str, ...]:
        """Every role that is hidden in some pass for some task."""
        tables = [self.drop, *(own.get("drop", ()) for own in self.by_task.values())]
        return tuple(dict.fromkeys(r for drop in ([each.drop for each in self.several] or tables) for r in drop))

    @property
    def protocol(self) -> dict[str, Any]:
        """The settings of guidance on which a measured number depends."""
        said = {"guidance": self.strength, "drop": list(self.drop)}
        said |= {"guidance_by_task": self.by_task} if self.by_task else {}
        if self.several:
            told = ({"drop": list(p.drop), "strength": p.strength, "hide": dict(p.hide)} for p in self.several)
            said = {"passes": list(told), **{key: value for key, value in said.items() if key != "drop"}}
        said |= {"hide": self.hide} if set(self.hide) & set(self.roles) else {}
        said |= {"negative": self.negative} if self.negative is not None else {}
        said |= {"interval": list(self.interval)} if self.interval != ALWAYS else {}
        return said | ({"rescale": True} if self.rescale else {})

    def strength_of(self, task: str) -> float:
        """Return the strength of guidance for a task."""
        return float(self.by_task.get(task, {}).get("strength", self.strength))

    def passes_of(self, task: str) -> tuple[Pass, ...]:
        """Return the passes for a task, from the one that hides most; each has its strength and the way of each role.

        The pass that hides nothing is not among them.
        """
        own = (Pass(self.by_task.get(task, {}).get("drop", self.drop)),)
        negative = {} if self.negative is None else {TEXT: NEGATIVE}
        found = []
        for each in self.several or own:
            ways = {role: way_of(role, {**self.hide, **negative, **each.hide}) for role in each.drop}
            strength = self.strength_of(task) if each.strength is None else each.strength
            found.append(Pass(each.drop, strength, ways))
        return tuple(found)

    def ways(self, role: str) -> tuple[str, ...]:
        """Return the ways in which passes hide a role."""
        every = [each for task in (*self.by_task, "") for each in self.passes_of(task)]
        return tuple(dict.fromkeys(each.hide[role] for each in every if role in each.drop))

    def passes(self, tasks: Sequence[str]) -> list[tuple[Hidden, Tensor]]:
        """Return what each pass hides and its strengths (B,) in fp32, for samples of these tasks.

        A pass that no sample needs is left out: its prediction has the weight 0 where its strength is that of the pass
        before it, and in the first pass where it is 1.
        """
        by_sample = [self.passes_of(task) for task in tasks]
        found: list[tuple[Hidden, Tensor]] = []
        before_B = torch.ones(len(tasks))
        for each in zip(*by_sample, strict=True):
            strength_B = torch.tensor([one.strength for one in each], dtype=torch.float32)
            if not torch.equal(strength_B, before_B):
                roles = dict.fromkeys(role for one in each for role in one.drop)
                found.append(({role: [one.hide.get(role) for one in each] for role in roles}, strength_B))
            before_B = strength_B
        return found

    def needed(self) -> list[tuple[str, Pass]]:
        """Return the distinct passes that sampling computes for some task, each with the key that says it."""
        found: dict[tuple[str, tuple[str, ...]], tuple[str, Pass]] = {}
        for task in ("", *self.by_task):
            own = f"guidance.by_task.{task}" if "drop" in self.by_task.get(task, {}) else "guidance.drop"
            for number, each in self._needed(task).items():
                key = f"guidance.passes.{number}" if self.several else own
                found.setdefault((key, each.drop), (key, each))
        return list(found.values())

    def lines(self) -> list[str]:
        """Return what a step of sampling computes, a line for each way of guiding; nothing where guidance is off."""
        said: dict[str, list[str]] = {}
        low, high = self.interval
        for task in (*self.by_task, ""):
            passes = [_words(each) for each in self._needed(task).values()]
            if passes:
                words = f"{1 + len(passes)} passes a step, with everything shown; {'; '.join(passes)}"
                words += "; tokens keep the norm of the first" if self.rescale else ""
                words += "" if self.interval == ALWAYS else f"; at t from {low:g} to {high:g}, else 1 pass"
                said.setdefault(words, []).append(task or "other tasks")
        of_tasks = {words: f" ({', '.join(tasks)})" if self.by_task else "" for words, tasks in said.items()}
        return [f"guidance{tasks}: {words}" for words, tasks in of_tasks.items()]

    def _needed(self, task: str) -> dict[int, Pass]:
        """Return the passes of a task that have a weight other than 0, by number."""
        strengths = [1.0, *(each.strength for each in self.passes_of(task))]
        return {i: each for i, each in enumerate(self.passes_of(task)) if each.strength != strengths[i]}


def _words(each: Pass) -> str:
    """Say what a pass hides and its strength: 'without text (the empty prompt), strength 6'."""
    hidden = " and ".join(f"{role} ({WORDS[way]})" for role, way in each.hide.items()) or "nothing"
    return f"without {hidden}, strength {each.strength:g}"


def _pass(key: str, said: Any) -> Pass:
    """Return a pass. Raises ValueError for anything but dropped roles, a strength and ways of hiding them."""
    if not isinstance(said, Mapping):
        raise ValueError(f"{key} is {said!r}; legal is a table such as {{drop: [text, condition], strength: 1.5}}")
    if unknown := sorted(set(said) - set(PASS)):
        raise ValueError(f"{key}.{unknown[0]} is unknown; legal are {', '.join(PASS)}")
    if "drop" not in said or not said["drop"]:
        raise ValueError(f"{key} drops no role; the pass that hides nothing comes by itself, so give drop: [text]")
    strength, ways = said.get("strength"), checked_ways(f"{key}.hide", said.get("hide"))
    if isinstance(strength, bool) or not isinstance(strength, int | float | None):
        raise ValueError(f"{key}.strength is {strength!r}; it must be a number, or null for the task's")
    drop = _roles(f"{key}.drop", said["drop"])
    if odd := [role for role in ways if role not in drop]:
        raise ValueError(f"{key}.hide names '{odd[0]}', which this pass does not drop; it drops {', '.join(drop)}")
    return Pass(drop, None if strength is None else float(strength), ways)


def _own(key: str, own: Any) -> dict[str, Any]:
    """Return what differs for a task. Raises ValueError for anything but a strength and dropped roles."""
    if not isinstance(own, Mapping):
        raise ValueError(f"{key} is {own!r}; legal is a table such as {{strength: 6, drop: [text]}}")
    if unknown := sorted(set(own) - {"strength", "drop"}):
        raise ValueError(f"{key}.{unknown[0]} is unknown; legal are strength and drop")
    if not isinstance(own.get("strength", 1.0), int | float):
        raise ValueError(f"{key}.strength is {own['strength']!r}; it must be a number")
    return {**own, "drop": _roles(f"{key}.drop", own["drop"])} if "drop" in own else dict(own)


def _check_negative(guidance: Guidance) -> None:
    """Raises ValueError for a negative prompt that no pass would show."""
    if guidance.negative is not None and not any(NEGATIVE in guidance.ways(role) for role in guidance.roles):
        raise ValueError(
            f"guidance.negative would not be used: no pass drops {TEXT} and leaves out how (hide); add {TEXT} to "
            "guidance.drop"
        )


def _interval(said: Any) -> tuple[float, float]:
    """Return the times between which there is guidance. Raises ValueError for others than two of [0, 1] in order."""
    numbers = isinstance(said, Sequence) and [type(x) in (int, float) for x in said] == [True, True]
    if not numbers or not 0 <= said[0] <= said[1] <= 1:
        raise ValueError(
            f"guidance.interval is {said!r}; legal are two times t from 0 to 1 in order, such as [0.2, 0.9]"
        )
    return float(said[0]), float(said[1])


def _roles(key: str, roles: Any) -> tuple[str, ...]:
    """Return dropped roles. Raises ValueError for a single word, which would be read letter by letter."""
    if isinstance(roles, str) or not isinstance(roles, Sequence):
        raise ValueError(f"{key} is {roles!r}; it must be a list of roles, such as [text]")
    if TARGET in roles:
        raise ValueError(f"{key} names '{TARGET}', which is generated and so cannot be hidden")
    return tuple(roles)


class Guided:
    """predict(state, t): the network's output under guidance, static segments computed once.

    `passes` are the tokens of the passes that hide roles, each with its strengths (B,), from the one that hides most;
    `shown` hide nothing. Passes that have the same segments are in one batch; a pass whose images are absent in all
    samples is computed without them. Where guidance has an interval, the pass that hides nothing is a batch of its own.
    """

    def __init__(self, pipeline: Pipeline, shown: Tokens, passes: Sequence[tuple[Tokens, Tensor]] = ()) -> None:
        self.guidance = pipeline.guidance
        self.strengths = [strength_B.to(pipeline.device)[:, None, None] for _, strength_B in passes]
        every = [_here(tokens) for tokens in (shown, *(hidden for hidden, _ in passes))]
        alone = self.guidance.interval != ALWAYS
        alike: dict[tuple[object, ...], list[int]] = {}
        for number, tokens in enumerate(every):
            alike.setdefault((tokens.layout.names, alone and number == 0), []).append(number)
        self.batches = [(numbers, OneBatch(pipeline, [every[i] for i in numbers])) for numbers in alike.values()]

    def __call__(self, state: Mapping[str, Tensor], t: float) -> dict[str, Tensor]:
        low, high = self.guidance.interval
        if not self.strengths or not low <= t <= high:
            return self.batches[0][1](state, t)[0]
        made: dict[int, dict[str, Tensor]] = {}
        for numbers, batch in self.batches:
            made |= zip(numbers, batch(state, t), strict=True)
        names = [name for name in made[0] if all(name in outputs for outputs in made.values())]
        return {name: self._combined([made[i][name].float() for i in range(len(made))]) for name in names}

    def _combined(self, made: Sequence[Tensor]) -> Tensor:
        """Combine predictions (B, L, P), the one that hides nothing first, by the formula of `Guidance`."""
        shown, found = made[0], made[1]
        for strength_B11, before, after in zip(self.strengths, made[1:], [*made[2:], shown], strict=True):
            found = found + strength_B11 * (after - before)
        if not self.guidance.rescale:
            return found
        return found * (shown.norm(dim=-1, keepdim=True) / found.norm(dim=-1, keepdim=True).clamp(min=1e-12))


class OneBatch:
    """Passes with the same segments as one batch of the network, whose static segments keep their keys and values."""

    def __init__(self, pipeline: Pipeline, passes: Sequence[Tokens]) -> None:
        self.pipeline, self.copies = pipeline, len(passes)
        self.size = len(next(iter(passes[0].features.values())))
        self.clean = replace(reduce(Tokens.beside, passes), sampling=True)
        layout = self.clean.layout
        static = pipeline.static(layout)
        self.active, self.memory = layout.without(static), None
        if static:
            still = self.clean.only(layout.only(static))
            zero_B = torch.zeros(self.size * self.copies, device=pipeline.device)
            self.memory = pipeline.backbone.remember(still, pipeline.times(still.layout, zero_B), pipeline.mask)

    def __call__(self, state: Mapping[str, Tensor], t: float) -> list[dict[str, Tensor]]:
        """Return the outputs (B, L, P) of each pass, by segment."""
        p = self.pipeline
        moving = {s.name: state[s.name].repeat(self.copies, 1, 1) for s in self.active.visual if s.cap > 0}
        tokens = self.clean.updated(moving).only(self.active)
        t_B = torch.full((self.size * self.copies,), t, device=p.device)
        outputs = p.backbone(tokens, p.times(self.active, t_B), p.mask, self.memory)
        parts = {name: x_BLP.chunk(self.copies) for name, x_BLP in outputs.items()}
        return [{name: chunks[i] for name, chunks in parts.items()} for i in range(self.copies)]


def _here(tokens: Tokens) -> Tokens:
    """Return the tokens without the images that no sample has: nobody attends to those, so the others are the same."""
    valid = tokens.valid or {}
    gone = [s.name for s in tokens.layout.visual if s.name in valid and not valid[s.name].any()]
    if not gone:
        return tokens
    left = {name: marks for name, marks in valid.items() if name not in gone}
    return replace(tokens.only(tokens.layout.without(gone)), valid=left or None)
