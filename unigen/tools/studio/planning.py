"""What the tab Preview and plan shows: the preview page, the mask with its closure and costs, and the estimate.

An edited mask is a table of words by role, as in a mask's YAML file; everything else follows from it.
"""

import io
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import yaml

from unigen.config.files import write_text
from unigen.config.values import ConfigError
from unigen.core.masks import WORDS, Mask
from unigen.pipeline.header import cacheable, unmasked
from unigen.pipeline.pipeline import Pipeline
from unigen.tools.forms.tables import Cell, Table
from unigen.tools.plan.estimate import Plan, plan
from unigen.tools.plan.profile import read_profile
from unigen.tools.plan.terminal import memory_table, parameters_table, time_table, verdict
from unigen.tools.preview.gathering import Bucket, Preview, preview, signature
from unigen.tools.preview.html import page
from unigen.tools.preview.tables import NEVER, mask_table, scaled
from unigen.tools.studio.composing import composed
from unigen.tools.studio.places import Places

Rows = dict[str, dict[str, str]]
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}", re.ASCII)
GROUPS = ("scale", "family", "task", "mask", "formatter")  # in the order in which they are chosen


class Choice(NamedTuple):
    """The words of a command line, as the tab's fields say them."""

    words: tuple[str, ...]

    @property
    def line(self) -> str:
        return shlex.join(self.words)


def choice(experiment: str | None, groups: Mapping[str, str | None], text: str) -> Choice:
    """Return the words of the fields. Raises ConfigError for what cannot be split, and for flags."""
    try:
        typed = shlex.split(text or "")
    except ValueError as error:
        raise ConfigError(f"the overrides cannot be read: {error}") from error
    if bad := next((word for word in typed if word.startswith("-")), None):
        raise ConfigError(f"'{bad}' is a flag; here are group=choice and key=value alone")
    named = [f"{group}={groups[group]}" for group in GROUPS if groups.get(group)]
    return Choice((*([f"+exp={experiment}"] if experiment else []), *named, *typed))


@lru_cache(maxsize=8)
def gathered(places: Places, chosen: Choice) -> Preview:
    """Return the preview of a command line; the last ones are kept. Raises ValueError or OSError."""
    from unigen.training.experiment import quiet

    quiet()
    return preview(composed(places, chosen.words))


def preview_page(places: Places, chosen: Choice) -> str:
    """Return the preview as a whole HTML page."""
    return page(gathered(places, chosen))


def bucket_of(made: Preview) -> Bucket:
    """Return the most frequent signature that has a layout. Raises ConfigError, with the refusal, if none has."""
    found = next((bucket for bucket in made.buckets if bucket.plan is not None), None)
    if made.pipeline is None or found is None:
        raise ConfigError(made.refusals[0] if made.refusals else "this experiment has no layout")
    return found


def roles_of(made: Preview) -> list[str]:
    """Return the roles of the most frequent layout, in its order: the rows and columns that matter here."""
    return list(dict.fromkeys(segment.role for segment in bucket_of(made).plan.layout.segments))


def rows_of(mask: Mask) -> Rows:
    return {query: dict(row) for query, row in mask.rows}


def clicked(rows: Rows, query: str, key: str) -> Rows:
    """Return the table with the next word at (query, key): all, same, earlier, none, and all again."""
    word = WORDS[(WORDS.index(rows[query][key]) + 1) % len(WORDS)]
    return rows | {query: rows[query] | {key: word}}


def edited(made: Preview, rows: Rows, name: str) -> Pipeline:
    """Return the pipeline of a preview with another table. Raises ValueError if its parts do not allow it."""
    old = made.pipeline.mask
    return replace(made.pipeline, mask=Mask(name, rows, {query: dict(row) for query, row in old.bias}))


class Costs(NamedTuple):
    """What a mask costs and allows: FLOPs of a forward pass of one sample, share of attended pairs."""

    flops: float
    pairs: float


def costs(pipeline: Pipeline, bucket: Bucket) -> Costs:
    layout = bucket.plan.layout
    attended, pairs = pipeline.backbone.pairs(layout, pipeline.mask)
    return Costs(sum(pipeline.backbone.flops(layout, pipeline.mask).values()), attended / pairs)


def mask_tables(made: Preview, rows: Rows, name: str) -> tuple[Table, Table, list[str]]:
    """Return the closure of an edited mask, its costs beside those of the chosen one, and lines on what follows.

    Raises ValueError if the parts of the model do not allow the mask.
    """
    bucket, pipeline = bucket_of(made), edited(made, rows, name)
    layout = bucket.plan.layout
    before, now = costs(made.pipeline, bucket), costs(pipeline, bucket)
    facts = [*unmasked(pipeline), cacheable(pipeline, layout)]  # the closure's own lines are notes of its table
    lines = [
        [
            Cell("attended pairs"),
            Cell(f"{before.pairs:.1%}"),
            Cell(f"{now.pairs:.1%}"),
            Cell(change(before.pairs, now.pairs)),
        ],
        [
            Cell("forward FLOPs"),
            Cell(scaled(before.flops)),
            Cell(scaled(now.flops)),
            Cell(change(before.flops, now.flops)),
        ],
        [
            Cell("computed once for all denoising steps"),
            *(Cell(", ".join(each.static(layout)) or NEVER) for each in (made.pipeline, pipeline)),
            Cell(""),
        ],
    ]
    cost = Table(f"Costs for {signature(bucket.slots)}", ["", made.pipeline.mask.name, name, "change"], lines, [], [])
    return mask_table(pipeline, layout), cost, facts


def change(before: float, now: float) -> str:
    """Return a change as text, in percent."""
    return "none" if now == before else f"{now / before - 1:+.1%}"


def estimate(places: Places, chosen: Choice, rows: Rows | None, profile: str) -> tuple[Plan, str]:
    """Return the resource estimate, with an edited mask if `rows` are given, and its tables as plain text."""
    from rich.console import Console

    device = read_profile(places.conf / "profile", profile)
    config: dict[str, Any] = dict(composed(places, chosen.words))
    if rows is not None:
        config["mask"] = config["mask"] | {"rows": rows}
    made = plan(config, device)
    console = Console(file=io.StringIO(), width=100, highlight=False, color_system=None)
    for table in (time_table(made), memory_table(made), parameters_table(made)):
        console.print(table)
    lines = [made.warning] if made.warning else []
    return made, "\n".join([*verdict(made, ()), *lines, "", console.file.getvalue()])


def mask_yaml(rows: Rows, name: str, source: str, bias: Mapping[str, Any]) -> str:
    """Return a mask as a YAML file, a line for each role, as those of conf/mask are. Raises ConfigError for a name."""
    if not NAME.fullmatch(name or ""):
        raise ConfigError(f"name='{name}' cannot be a mask's; small letters, digits and _ are legal, a letter first")
    width = max(map(len, rows))
    lines = [f"# Made in the studio from {source}.", "_target_: unigen.core.masks.Mask", f"name: {name}", "rows:"]
    for query, row in rows.items():
        inner = ", ".join(f"{key}: {word}" for key, word in row.items())
        lines.append(f"  {query + ':':<{width + 1}} {{{inner}}}")
    tail = yaml.safe_dump({"bias": {q: dict(row) for q, row in bias.items()}}, default_flow_style=None, sort_keys=False)
    return "\n".join(lines) + "\n" + tail


def save_mask(places: Places, name: str, text: str, chosen: Choice) -> tuple[str, str]:
    """Write a mask's YAML below `places.out`; return a line on it and the command line that uses it.

    Raises ConfigError if a mask of that name is there already, shipped or saved.
    """
    file = places.out / "conf" / "mask" / f"{name}.yaml"
    if file.exists() or (places.conf / "mask" / f"{name}.yaml").exists():
        raise ConfigError(f"there is a mask '{name}' already; choose another name")
    write_text(file, text)
    words = [word for word in chosen.words if not word.startswith("mask=")]
    line = ["python", str(places.root / "experiments" / "run.py"), "--config-dir", str(places.out / "conf")]
    return f"written: {file}", shlex.join([*line, *words, f"mask={name}"])
