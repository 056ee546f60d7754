"""Whether the parts of an experiment fit each other: asked once, where all of them meet."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from unigen import noise, ranges
from unigen.fill import check_width
from unigen.layout import Layout
from unigen.types import CONDITION, EXAMPLE

if TYPE_CHECKING:
    from unigen.pipeline import Pipeline


def check(p: Pipeline) -> None:
    """Validate once, where all parts meet; afterwards they trust each other. Raises ValueError naming the culprit."""
    source = f"formatter {type(p.formatter).__name__}"
    missing = [axis for axis in p.formatter.axes if axis not in p.backbone.axes]
    if missing:
        raise ValueError(
            f"{source} places images along {', '.join(p.formatter.axes)}, but backbone "
            f"{type(p.backbone).__name__} has no axis {', '.join(missing)}; it has {', '.join(p.backbone.axes)}"
        )
    p.mask.check(p.formatter.roles, source)
    ranges.check("solver.guidance", p.solver.guidance)
    ranges.check("loss.weights", dict(p.loss.weights))
    ranges.check("dropout", dict(p.dropout))
    tables = {
        "conditioning.modulation.branches": p.modulation.branches,
        "conditioning.modulation.timing": p.modulation.timing,
        "loss.weights": p.loss.weights,
    }
    for name, table in tables.items():
        for role in p.formatter.roles:
            if role not in table:
                raise ValueError(f"{name} has no entry for role '{role}' (from {source}); it knows {', '.join(table)}")
    for name, roles in {"solver.drop": p.solver.drop, "dropout": p.dropout}.items():
        for role in roles:
            if role not in p.formatter.roles:
                raise ValueError(f"{name} names role '{role}'; {source} has {', '.join(p.formatter.roles)}")
    widths = {
        "text width": (p.text.width, p.backbone.text_width),
        "latent channels": (p.codec.channels, p.backbone.latent_channels),
    }
    if p.backbone.pooled_width is not None:
        widths["pooled text width"] = p.text.pooled_width, p.backbone.pooled_width
    for what, (made, taken) in widths.items():
        if made != taken:
            raise ValueError(f"{what}: the encoder makes {made}, backbone {type(p.backbone).__name__} takes {taken}")
    check_width(p.backbone.context_width, p.codec.channels, p.codec.stride, p.backbone.patch)
    if p.backbone.predicts not in (None, p.process.predicts):
        raise ValueError(
            f"the weights of backbone.pretrained predict '{p.backbone.predicts}' (backbone.predicts), but process "
            f"{type(p.process).__name__} trains '{p.process.predicts}' (vp: v, rectified_flow: flow); take the process "
            "of the weights, or random ones by backbone.pretrained=null"
        )


def check_times(p: Pipeline, layout: Layout) -> None:
    """Raises ValueError now, not after hours of training, if so many tokens make the times of either degenerate."""
    p.process.sample_times(1, noise.generator("check"), tokens=layout.image_tokens)
    p.solver.times(layout.image_tokens)


def warn_of_the_unseen(p: Pipeline, layout: Layout) -> None:
    """Warn if pictures that are there to be looked at are noised to nothing, and no clean copy reaches the backbone."""
    lost = [s.role for s in layout.visual if s.role in (CONDITION, EXAMPLE) and s.cap == 1]
    if lost and not p.backbone.context_width:
        warnings.warn(
            f"formatter.caps is 1 for {', '.join(dict.fromkeys(lost))}, and backbone {type(p.backbone).__name__} takes "
            "no clean copy on channels of its own: the model never sees these pictures; lower the caps to 0 "
            "(formatter=grid_clean), or take a Fill backbone",
            stacklevel=2,
        )
