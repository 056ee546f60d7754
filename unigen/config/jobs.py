"""Lists the jobs that a command line makes, as Hydra's sweeper would run them, and the file behind each value.

A file (a `table`) may turn the line into a multirun and say what is swept over: `hydra.mode`, `hydra.sweeper.params`.
Hydra reads both from the files that the line chooses without a sweep.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from unigen.config.margins import read_margins
from unigen.config.quoting import advice, as_text
from unigen.config.tree import Tree, nearest, spelt
from unigen.config.values import ConfigError

if TYPE_CHECKING:
    from hydra.core.default_element import ResultDefault
    from hydra.core.override_parser.types import Override

MOST_JOBS = 64
MOST_VALUES = 10_000  # values of one key in a sweep
COMMAND_LINE = "on the command line"
Places = Mapping[str, str]  # key of an override, with its + or ~ -> where it was said, if not on the command line


class Sweep(NamedTuple):
    """A multirun as config files describe it: Hydra's mode, and lines like those of the command line with
    their places.
    """

    mode: str | None
    lines: list[str]
    places: Places


def place(line: str, places: Places) -> str:
    return places.get(line.partition("=")[0], COMMAND_LINE)


def parse(tree: Tree, lines: Sequence[str], places: Places) -> list[Override]:
    """Parse lines as Hydra overrides. Raises ConfigError if a line is not an override."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create(tree.loader).parse_overrides(list(lines))
    except HydraException as exc:
        bad = getattr(exc, "override", None) or " ".join(lines)
        where = place(bad, places)
        raise ConfigError(f"cannot read '{' '.join(bad.split())}' {where}; {advice(bad)}") from exc


def is_choice(tree: Tree, override: Override, places: Places) -> bool:
    """True if an override chooses files of a group. As in Hydra, a mapping under a group's name sets values instead."""
    group, value = override.key_or_group, override.value()
    if not group:
        raise ConfigError(f"'{override.input_line}' {place(override.input_line, places)} has no key; write key=value")
    if not tree.is_group(group) or isinstance(value, dict):
        return False
    if not (override.is_delete() or override.is_sweep_override() or isinstance(value, (str, list))):
        line, options = override.input_line, tree.options(group)
        hint = f"it has: {', '.join(options)}"
        if line.partition("=")[2] in options:
            hint = f"quote it: {as_text(line)}"
        elif value is None and tree.takes_several(group):
            hint = f"to choose none write {group}=[]"
        raise ConfigError(f"'{line}' {place(line, places)} chooses no file of '{group}'; {hint}")
    return True


def sweep_of(tree: Tree, files: Sequence[ResultDefault]) -> Sweep:
    """Read from `files`, in merge order, which mode and which sweep over values they ask for.

    Raises:
        ConfigError: the mode is neither RUN nor MULTIRUN, or a parameter is not one line of values.
    """
    mode, params, places = None, {}, {}
    for default in files:
        own = None if default.package else tree.raw(default.config_path).get("hydra")
        mode, where = own.get("mode", mode) if isinstance(own, dict) else mode, f"in {default.config_path}.yaml"
        if mode not in (None, "RUN", "MULTIRUN"):
            raise ConfigError(f"hydra.mode is {spelt(mode)} {where}; it can be RUN or MULTIRUN")
        for key, value in sweeper_params(own).items():
            if value is None or isinstance(value, (dict, list)):
                raise ConfigError(f'hydra.sweeper.params.{key} {where} is not one line of values; write {key}: "a,b"')
            params[key], places[key] = value, where
    return Sweep(mode, [f"{key}={value}" for key, value in params.items()], places)


def sweeper_params(hydra: object) -> dict:
    """`hydra.sweeper.params` of a file, or {} if it has another type, about which Hydra itself complains later."""
    for key in ("sweeper", "params"):
        hydra = hydra.get(key) if isinstance(hydra, dict) else None
    return hydra if isinstance(hydra, dict) else {}


def one_table(tree: Tree, files: Sequence[ResultDefault], words: Sequence[Override]) -> None:
    """Check that a line runs no published table, or one table together with experiments to run.

    Raises:
        ConfigError: the second of two tables would replace the first one's arms; a table of published numbers alone; or
            a margin, scale or benchmark that is none.
    """
    tables = [default.config_path for default in files if default.config_path.startswith("table/")]
    names = [path.removeprefix("table/") for path in tables]
    if len(tables) > 1:
        raise ConfigError(
            f"+table=[{','.join(names)}] would run the arms of {names[-1]} alone; run one table at a time"
        )
    own = tree.raw(tables[0]).get("table") if tables else None
    if isinstance(own, dict) and "published" in own and all(word.key_or_group != "exp" for word in words):
        raise ConfigError(
            f"{tables[0]}.yaml holds published numbers and names no experiment to run; see them with "
            f"experiments/report.py table={names[0]}, or choose experiments with +exp=..."
        )
    if isinstance(own, dict):
        _check_scales_and_benches(tree, f"{tables[0]}.yaml", own)
        columns = table_columns(own)
        read_margins(own.get("margin"), columns, f"table.margin in {tables[0]}.yaml")
        for word in words:
            if word.key_or_group == "table.margin" and not word.is_sweep_override():
                read_margins(word.value(), columns, f"table.margin {COMMAND_LINE}")


def table_columns(table: Mapping[str, Any]) -> list[str]:
    """Return the published columns that a table names for any scale."""
    at = table.get("metrics_at")
    named = [table.get("metrics"), *(at.values() if isinstance(at, dict) else ())]
    return list(dict.fromkeys(str(column) for columns in named if isinstance(columns, dict) for column in columns))


def _check_scales_and_benches(tree: Tree, file: str, table: Mapping[str, Any]) -> None:
    """Check that the scales and benchmarks that a table names exist: without this check, the report would lack their
    columns and say nothing.

    A benchmark is named in brackets behind a metric, `clip_t (dreambench)`, or in `benches`, whose parts may stand in
    brackets too.
    """
    at, rows = (node if isinstance(node, dict) else {} for node in (table.get("metrics_at"), table.get("benches")))
    by_scale = [(row, said) for row, said in rows.items() if isinstance(said, dict)]
    scales = [("metrics_at", scale) for scale in at]
    scales += [(f"benches.{row}", scale) for row, said in by_scale for scale in said if scale != "exp"]
    for key, scale in scales:
        _check_name(f"table.{key} in {file}", "scale", scale, tree.options("scale"))
    parts = [part for _, said in by_scale for node in said.values() if isinstance(node, dict) for part in node.items()]
    benches = [("benches", bench) for _, bench in parts]
    own = {part for part, _ in parts}
    for key, columns in [("metrics", table.get("metrics")), *((f"metrics_at.{scale}", at[scale]) for scale in at)]:
        for said in columns.values() if isinstance(columns, dict) else ():
            found = re.findall(r" \((.+)\)$", "\n".join(map(str, said if isinstance(said, list) else [said])), re.M)
            benches += [(key, bench) for bench in found if bench not in own]
    for key, bench in benches:
        _check_name(f"table.{key} in {file}", "benchmark", bench, tree.options("bench"))


def _check_name(where: str, kind: str, name: object, legal: Sequence[str]) -> None:
    if name not in legal:
        close = nearest(str(name), legal)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(legal)}"
        raise ConfigError(f"{where} names the {kind} {str(name)!r}, which does not exist; {hint}")


def combinations(tree: Tree, choices: Sequence[Override], places: Places) -> list[list[str]]:
    """List all combinations of group choices. Beyond MOST_JOBS, each choice occurs once, with the first of
    the others.
    """
    columns = []
    for override in choices:
        column = list(single_values(override, places))
        if not column:
            where, options = place(override.input_line, places), ", ".join(tree.options(override.key_or_group))
            raise ConfigError(f"'{override.input_line}' {where} matches nothing; there are: {options}")
        columns.append(column)
    if math.prod(map(len, columns)) <= MOST_JOBS:
        return [list(job) for job in itertools.product(*columns)]
    first = [column[0] for column in columns]
    return [[*first[:i], choice, *first[i + 1 :]] for i, column in enumerate(columns) for choice in column]


def single_values(override: Override, places: Places) -> Iterator[str]:
    """Yield the override as lines without a sweep, one line for each value."""
    if override.is_discrete_sweep():
        key, line = override.get_key_element(), override.input_line
        values = list(itertools.islice(override.sweep_string_iterator(), MOST_VALUES + 1))
        if len(values) > MOST_VALUES:
            raise ConfigError(f"'{line}' {place(line, places)} names more than {MOST_VALUES} jobs")
        return iter([f"{key}={value}" for value in values])
    if override.is_sweep_override():
        line = override.input_line
        raise ConfigError(f"'{line}' {place(line, places)} cannot be enumerated; list the values or use range")
    return iter([override.input_line])
