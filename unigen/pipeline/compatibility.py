"""Checks that the parts of an experiment fit each other, made once, where all of them meet."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

from unigen.config import ranges
from unigen.core import noise
from unigen.core.infill import check_width
from unigen.core.layout import Layout, Plan
from unigen.core.shift import counted
from unigen.core.turns import check_causal, turns_of
from unigen.core.types import BUFFER, CONDITION, EXAMPLE, TARGET, TEXT
from unigen.pipeline.hiding import BLACK, NEGATIVE, share_of, together, way_of
from unigen.protocols import Adapter

if TYPE_CHECKING:
    from unigen.pipeline.pipeline import Pipeline


OF_WEIGHTS = {"flow": "process=rectified_flow solver=euler", "v": "process=vp solver=ddim"}


def check(p: Pipeline) -> None:
    """Validate once, where all parts meet; afterwards they trust each other. Raises ValueError naming the culprit."""
    source = f"formatter {p.formatter.name}"
    missing = [axis for axis in p.formatter.axes if axis not in p.backbone.axes]
    if missing:
        raise ValueError(
            f"{source} places images along {', '.join(p.formatter.axes)}, but backbone "
            f"{type(p.backbone).__name__} has no axis {', '.join(missing)}; it has {', '.join(p.backbone.axes)}"
        )
    _check_ranges(p)
    _check_roles(p, source)
    _check_widths(p)
    if p.backbone.predicts not in (None, p.process.predicts):
        raise ValueError(
            f"the weights of backbone.pretrained predict '{p.backbone.predicts}' (backbone.predicts), but process "
            f"{type(p.process).__name__} trains '{p.process.predicts}'; take the weights' own by "
            f"{OF_WEIGHTS.get(p.backbone.predicts, 'process=...')}, or random weights by backbone.pretrained=null"
        )


def _check_ranges(p: Pipeline) -> None:
    """Raises ValueError for a number of guidance, loss or dropout outside its range."""
    ranges.check("guidance.strength", p.guidance.strength)
    for task, own in p.guidance.by_task.items():
        ranges.check(f"guidance.by_task.{task}.strength", own.get("strength", 1.0))
    for number, each in enumerate(p.guidance.several):
        ranges.check(f"guidance.passes.{number}.strength", each.strength)
    ranges.check("loss.weights", dict(p.loss.weights))
    ranges.check("dropout", dict(p.dropout))


def _check_roles(p: Pipeline, source: str) -> None:
    """Raises ValueError if a table by role lacks a role of the formatter, or one names a role that it has not."""
    p.mask.check(p.formatter.roles, source)
    tables = {
        "conditioning.modulation.branches": p.modulation.branches,
        "conditioning.modulation.timing": p.modulation.timing,
        "loss.weights": p.loss.weights,
    }
    check_names(f"mask '{p.mask.name}': rows", [role for role, _ in p.mask.rows], p.formatter.roles)
    for query, row in p.mask.rows:
        check_names(f"mask '{p.mask.name}': rows.{query}", [role for role, _ in row], p.formatter.roles)
    for name, table in tables.items():
        check_names(name, table, p.formatter.roles)
        for role in p.formatter.roles:
            if role not in table:
                raise ValueError(f"{name} has no entry for role '{role}' (from {source}); it knows {', '.join(table)}")
    check_names("guidance.hide", p.guidance.hide, p.formatter.roles)
    dropped = [role for name in p.dropout for role in together(name)]
    passes = "guidance.passes" if p.guidance.several else "guidance.drop"
    for name, roles in {passes: p.guidance.roles, "dropout": dropped}.items():
        for role in roles:
            if role not in p.formatter.roles:
                raise ValueError(f"{name} names role '{role}'; {source} has {', '.join(p.formatter.roles)}")


def _check_widths(p: Pipeline) -> None:
    """Raises ValueError if an encoder makes features or latents of another size than the backbone takes."""
    made, taken = (getattr(part, "glyph_tokens", 0) for part in (p.text, p.backbone))
    if made != taken:
        raise ValueError(
            f"glyph tokens: the text encoder makes {made} (encoder.text.glyphs.window), backbone "
            f"{type(p.backbone).__name__} takes {taken} (backbone.glyphs); write backbone.glyphs={made}, or take "
            "encoder/text=qwen2_5_vl_glyphs"
        )
    widths = {
        "text width": (p.text.width, p.backbone.text_width),
        "latent channels": (p.codec.channels, p.backbone.latent_channels),
    }
    if p.backbone.pooled_width is not None:
        widths["pooled text width"] = p.text.pooled_width, p.backbone.pooled_width
    for what, (made, taken) in widths.items():
        if made != taken:
            raise ValueError(f"{what}: the encoder makes {made}, backbone {type(p.backbone).__name__} takes {taken}")
    shifted = getattr(p.embedding, "channels", p.codec.channels)
    if shifted != p.codec.channels:
        raise ValueError(
            f"conditioning.embedding.channels is {shifted}, but the codec {type(p.codec).__name__} makes latents of "
            f"{p.codec.channels} channels"
        )
    check_width(p.backbone.context_width, p.backbone.context_parts, p.codec.channels, p.geometry)


def check_names(key: str, named: Iterable[str], roles: tuple[str, ...]) -> None:
    """Raises ValueError if the table `key` names a role that neither the formatter nor any other part knows."""
    legal = dict.fromkeys([*roles, TEXT, CONDITION, EXAMPLE, BUFFER, TARGET])
    for role in named:
        if role not in legal:
            close = get_close_matches(role, legal, 1)
            meant = f"did you mean '{close[0]}'? " if close else ""
            raise ValueError(f"{key} names role '{role}', which does not exist; {meant}legal are {', '.join(legal)}")


def check_adapters(adapter: Adapter, roles: tuple[str, ...]) -> None:
    """Raises ValueError if a table from role to adapter lacks a role of the formatter, or names an unknown one."""
    table = getattr(adapter, "adapters", None)
    if table is None:
        return
    key = "conditioning.adapter.adapters"
    check_names(key, table, roles)
    if missing := [role for role in roles if role not in table]:
        names = list(dict.fromkeys(filter(None, table.values())))
        lines = ", ".join(f"{role}: null" for role in missing)
        raise ValueError(
            f"{key} has no entry for {', '.join(missing)}; add {{{lines}}} for no adapter there, or the name of one, "
            f"such as {names[0]}, instead of null"
        )


def check_times(p: Pipeline, layout: Layout) -> None:
    """Raises ValueError, before training, if the number of tokens makes times of process or solver degenerate."""
    p.process.sample_times(1, noise.generator("check"), tokens=counted(p.process, layout))
    p.solver.times(counted(p.solver, layout))


def warn_of_the_untrained(p: Pipeline) -> None:
    """Warn if a pass of guidance hides what training never hides, or hides it in another way than training.

    A negative prompt is a prompt like others, so no training has to hide the text as that one.
    """
    sets = [frozenset(together(name)) for name, share in p.dropout.items() if share > 0]
    for key, each in p.guidance.needed():
        hidden = frozenset(each.drop)
        if hidden != frozenset().union(*(roles for roles in sets if roles <= hidden)):
            warnings.warn(
                f"{key} hides {' and '.join(each.drop)} in sampling, but training never hides just that: the network "
                f"has not learnt this pass; add dropout: {{{'+'.join(each.drop)}: 0.1}}",
                stacklevel=2,
            )
        for role in each.drop:
            trained, now = way_of(role, p.guidance.hide), each.hide[role]
            if now not in (trained, NEGATIVE) and share_of(role, p.dropout) > 0:
                warnings.warn(
                    f"{key}.hide.{role} is '{now}', but training hides {role} as '{trained}' (guidance.hide.{role}): "
                    "the network has not learnt this pass; give one way for both in guidance.hide",
                    stacklevel=2,
                )


def check_session(p: Pipeline, plan: Plan) -> None:
    """Raises ValueError for a session that cannot be sampled turn by turn under this mask and on this backbone."""
    check_causal(plan, p.effective_mask)
    if len(turns_of(plan.slots)) > 1 and BLACK in p.hidden_as(EXAMPLE):
        raise ValueError(
            f"guidance hides {EXAMPLE} as '{BLACK}', but in a session the clean copies of finished targets have this "
            f"role and no image of their own; write guidance.hide.{EXAMPLE}: zero"
        )
    if len(turns_of(plan.slots)) > 1 and p.infilling is not None:
        raise ValueError(
            f"backbone {type(p.backbone).__name__} infills: it reads clean images on channels of its own, and in a "
            "session they are tokens; take a backbone without a context, such as backbone=flux_mini"
        )


def warn_of_the_unseen(p: Pipeline, layout: Layout) -> None:
    """Warn if conditions or examples are noised fully, and no clean copy of them reaches the backbone."""
    lost = [s.role for s in layout.visual if s.role in (CONDITION, EXAMPLE) and s.cap == 1]
    if lost and p.infilling is None:
        warnings.warn(
            f"formatter.caps is 1 for {', '.join(dict.fromkeys(lost))}, and backbone {type(p.backbone).__name__} takes "
            "no clean copy on channels of its own: the model never sees these images; lower the caps to 0 "
            "(formatter=grid_clean), or take a Fill backbone",
            stacklevel=2,
        )
