"""Checks a command line against the config tree before anything heavy is imported.

Hydra accepts a misspelt key inside an `exp` file, and anything after `+`, without a word.  Here the legal keys and
types are those of the *reference*: the config of the same group choices without the overlay files (`exp`, `scale`,
`task`) and without values from the command line.  Nothing is resolved and nothing is instantiated.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from unigen.config import ConfigError, sentence
from unigen.configtree import FREE, UNKNOWN, Tree, dotted_keys, fits, kind, lookup, merge, nearest, spelt

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

OVERLAYS = ("exp", "scale", "task")
OPEN_TABLES = ("rows", "branches", "timing", "weights", "dropout", "published")
MOST_JOBS = 64
COMMAND_LINE = "on the command line"


def preflight(
    config_dir: Path, argv: Sequence[str], config_name: str = "config", open_tables: Sequence[str] = OPEN_TABLES
) -> None:
    """Refuses what Hydra would accept and later code would trip over; leaves Hydra's global state clean.

    Args:
        argv: the command line without the program's name; Hydra's own flags are understood.
        open_tables: names of mappings whose keys (roles, free names) are open, with everything below them.

    Raises:
        ConfigError: an unknown key, file or group choice, a value of the wrong type, or a line Hydra cannot compose.
    """
    from hydra import initialize_config_dir
    from hydra._internal.utils import get_args_parser
    from hydra.core.global_hydra import GlobalHydra

    args = get_args_parser().parse_known_args(list(argv))[0]
    if args.help or args.hydra_help or args.info or args.shell_completion or args.experimental_rerun:
        return
    if args.config_path:
        raise ConfigError("--config-path is not supported; add a folder of your own files with --config-dir <folder>")
    folders = [Path(folder).resolve() for folder in (config_dir, args.config_dir) if folder]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"config folder {folder} does not exist")
    GlobalHydra.instance().clear()
    with warnings.catch_warnings(), initialize_config_dir(version_base="1.3", config_dir=str(folders[0])):
        warnings.simplefilter("ignore")  # Hydra says the same again when it runs
        loader = GlobalHydra.instance().config_loader()
        tree = Tree(folders, args.config_name or config_name, loader, tuple(open_tables))
        _check_line(tree, args.overrides, multirun=args.multirun)


def _check_line(tree: Tree, line: Sequence[str], multirun: bool) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        overrides = OverridesParser.create(tree.loader).parse_overrides(list(line))
    except HydraException as exc:
        bad = getattr(exc, "override", None) or " ".join(line)
        raise ConfigError(f"cannot read '{bad}' {COMMAND_LINE}; write key=value, group=choice or +exp=name") from exc
    multirun = multirun or "hydra.mode=MULTIRUN" in line
    groups, values = [], []
    for override in overrides:
        if override.is_sweep_override() and not multirun:
            raise ConfigError(
                f"'{override.input_line}' names several values {COMMAND_LINE}; add -m to run one job for each, "
                f"or write {override.get_key_element()}=[...] for a list"
            )
        if override.is_hydra_override() or _is_choice(tree, override):
            groups.append(override)
        else:
            values.append(override)
    jobs = _jobs(tree, groups)
    for job in jobs:
        own = [line for line in job if any(line not in other for other in jobs)]
        _Job(tree, job, values, f" (in the job {' '.join(own)})" if own else "").check()


def _jobs(tree: Tree, groups: Sequence[Override]) -> list[list[str]]:
    """Every combination of group choices; beyond MOST_JOBS every choice once, beside the first of the others."""
    columns = []
    for override in groups:
        column = list(_single_values(override))
        if not column:
            options = ", ".join(tree.options(override.key_or_group))
            raise ConfigError(f"'{override.input_line}' {COMMAND_LINE} matches nothing; there are: {options}")
        columns.append(column)
    if math.prod(map(len, columns)) <= MOST_JOBS:
        return [list(job) for job in itertools.product(*columns)]
    first = [column[0] for column in columns]
    return [[*first[:i], choice, *first[i + 1 :]] for i, column in enumerate(columns) for choice in column]


def _single_values(override: Override) -> Iterator[str]:
    """The override as lines without a sweep, one for each value."""
    if override.is_discrete_sweep():
        lines = (f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator())
        return itertools.islice(lines, 2) if override.is_range_sweep() else lines  # a range is of one type
    if override.is_sweep_override():
        raise ConfigError(f"'{override.input_line}' {COMMAND_LINE} cannot be enumerated; list the values or use range")
    return iter([override.input_line])


def _is_choice(tree: Tree, override: Override) -> bool:
    """Whether an override chooses files of a group; a mapping for a group's name sets values instead, as in Hydra."""
    group, value = override.key_or_group, override.value()
    if not tree.is_group(group) or isinstance(value, dict):
        return False
    if not (override.is_delete() or override.is_sweep_override() or isinstance(value, (str, list))):
        options = ", ".join(tree.options(group))
        raise ConfigError(f"'{override.input_line}' {COMMAND_LINE} chooses no file of '{group}'; it has: {options}")
    return True


@dataclass
class _Job:
    """One combination of group choices, with the values given beside it."""

    tree: Tree
    choices: list[str]
    values: list[Override]
    context: str  # says which job of a sweep is meant; empty for a single one
    reference: dict = field(default_factory=dict)

    def check(self) -> None:
        from hydra import compose
        from hydra.errors import HydraException

        try:
            defaults = self.tree.defaults(self.choices)
            overlays = [default for default in defaults if default.config_path.split("/")[0] in OVERLAYS]
            for default in defaults:
                if default not in overlays:
                    merge(self.reference, self.tree.content(default))
            final = copy.deepcopy(self.reference)
            for default in overlays:
                content = self.tree.content(default)
                self.compare(content, (), f"in {default.config_path}.yaml", final=None)
                merge(final, content)
            for override in self.values:
                self.check_value(override, final)
            values = [line for override in self.values for line in itertools.islice(_single_values(override), 1)]
            compose(self.tree.name, [*self.choices, *values, *self.tree.search_path()], return_hydra_config=True)
        except ConfigError:
            raise
        except (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError) as exc:
            raise ConfigError(_sentence(exc, self) + self.context) from exc

    def check_value(self, override: Override, final: dict) -> None:
        """A value on the command line; null is legal where the default, or a file of this job, says null."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        key = override.key_or_group if override.package is None else f"{override.key_or_group}@{override.package}"
        parts = tuple(re.sub(r"\[([^\]]*)\]", r".\1", key).split("."))
        plus = override.get_key_element().removesuffix(key)
        if override.is_delete():
            if not self.is_open(parts) or lookup(final, parts) is UNKNOWN:
                hint = self.hint(key, self.tree.groups())
                raise ConfigError(f"cannot remove '{key}' {COMMAND_LINE}: ~ removes a whole group{hint}{self.context}")
            return
        for line in _single_values(override):
            self.compare(OverridesParser.create().parse_override(line).value(), parts, COMMAND_LINE, final, plus)

    def compare(self, value: Any, parts: tuple[str, ...], where: str, final: dict | None, plus: str = "") -> None:
        """Walks down `value` beside the reference; `final` (command line only) tells where null is said already."""
        wanted, key = lookup(self.reference, parts), ".".join(parts)
        if wanted is UNKNOWN:
            if not self.is_open(parts):
                raise ConfigError(f"unknown key '{plus}{key}' {where}{self.hint(key)}{self.context}")
        elif isinstance(value, dict) and isinstance(wanted, dict):
            for name, item in value.items():
                self.compare(item, (*parts, str(name)), where, final, plus)
        elif value is None:
            said = final is None or self.is_open(parts) or wanted is FREE or lookup(final, parts) in (None, FREE)
            if not said:
                raise ConfigError(f"'{key}' cannot be null {where}; expected {kind(wanted)}{self.context}")
        elif not fits(value, wanted):
            hint = self.wrong_type_hint(value, wanted, key)
            raise ConfigError(f"'{key}' is {spelt(value)} {where}; expected {kind(wanted)}{hint}{self.context}")

    def is_open(self, parts: Sequence[str]) -> bool:
        return any(part in self.tree.open_tables for part in parts[:-1])

    def hint(self, key: str, words: Sequence[str] | None = None) -> str:
        """The nearest legal words; where none is near, what is legal beside `key`."""
        legal = [*dotted_keys(self.reference), *self.tree.groups()] if words is None else list(words)
        close = nearest(key, legal)
        if close:
            return f"; did you mean {' or '.join(repr(word) for word in close)}?"
        parent = key.rpartition(".")[0]
        while parent and parent not in legal:
            parent = parent.rpartition(".")[0]
        beside = [word for word in dict.fromkeys(legal) if word.rpartition(".")[0] == parent]
        return f"; legal {f'below {parent!r}' if parent else 'here'}: {', '.join(beside) or 'nothing'}"

    def wrong_type_hint(self, value: Any, wanted: Any, key: str) -> str:
        group = key.replace(".", "/")
        if isinstance(wanted, dict) and isinstance(value, str) and self.tree.is_group(group):
            return f"; to choose a file of this group write {group}={value}"
        if isinstance(wanted, str) and not isinstance(value, (dict, list)):
            return f"; quote it: '{key}=\"{value}\"'"
        return ""


def _sentence(exc: Exception, job: _Job) -> str:
    """As `sentence`, and for a choice that does not exist or was given wrongly: where it was made, what is legal."""
    missing, text = getattr(exc, "missing_cfg_file", None), str(exc)
    source = re.match(r"In '([^']+)': ", text)
    given = {line.lstrip("+~").partition("=")[0]: line for line in job.choices}
    if missing == job.tree.name:
        return f"there is no {missing}.yaml in {job.tree.folders[0]}"
    if missing is not None:
        group, _, choice = missing.rpartition("/")
        where = f"in {source[1]}.yaml" if source and source[1] != job.tree.name else _where_chosen(job, group, choice)
        options = job.tree.options(group)
        return f"unknown choice '{choice}' for group '{group}' {where}{_suggestion(choice, options, group)}"
    if match := re.search(r"Could not override '([^']+)'\. No match in the defaults list", text):
        group = match[1]
        if source is None and job.tree.is_group(group.partition("@")[0]) and group in given:
            return f"'{given[group]}' {COMMAND_LINE} needs a plus: write +{given[group]}"
        where = f"in {source[1]}.yaml" if source else COMMAND_LINE
        return f"unknown group '{group}' {where}{job.hint(group, job.tree.groups())}"
    if (match := re.match(r"Multiple values for (\S+)\. ", text)) and match[1] in given:
        return f"'{given[match[1]]}' {COMMAND_LINE} is chosen already: write {given[match[1]].lstrip('+')}"
    if match := re.match(r"Could not delete '([^'=]+)", text):
        return f"cannot remove '{match[1]}' {COMMAND_LINE}; to choose nothing in a group of several write {match[1]}=[]"
    if match := re.search(r"Either remove \+ prefix: '(.+)'", text):
        return f"'+{match[1]}' {COMMAND_LINE} exists already: write {match[1]}"
    said = sentence(exc)
    for folder in job.tree.folders:
        said = said.replace(f"{folder}/", "")
    return said


def _suggestion(choice: str, options: Sequence[str], group: str) -> str:
    close = nearest(choice, options)
    meant = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{meant} {group or 'it'} has: {', '.join(options) or 'nothing'}"


def _where_chosen(job: _Job, group: str, choice: str) -> str:
    """Says who made a choice that does not exist: Hydra blames the primary config, whoever overrode it."""
    for line in job.choices:
        key, _, value = line.lstrip("+").partition("=")
        if key.partition("@")[0] == group and choice in re.split(r"[\[\],\s'\"]+", value):
            return COMMAND_LINE
    stand_in = f"{group}={next(iter(job.tree.options(group)), '')}"  # legal, so that Hydra lists the files in play
    try:
        files = [default.config_path for default in job.tree.defaults([*job.choices, stand_in])]
    except Exception:
        return "in a defaults list"
    for path in files:
        for entry in job.tree.raw(path).get("defaults", []):
            for key, value in entry.items() if isinstance(entry, dict) else ():
                named = key.split()[-1].lstrip("/").partition("@")[0] == group
                if named and choice in (value if isinstance(value, list) else [value]):
                    return f"in {path}.yaml"
    return f"in {job.tree.name}.yaml"
