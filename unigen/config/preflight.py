"""Checks a command line against the config tree before anything heavy is imported.

Hydra accepts a misspelt key inside an `exp` file, and anything after `+`, without a word.  Here the legal keys and
types are those of the *reference*: the config of the same group choices without the overlay files (`exp`, `scale`,
`table`, `task`, `bench`) and without values from the command line.  Nothing is resolved and nothing is instantiated.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from unigen.config import ranges
from unigen.config.jobs import (
    COMMAND_LINE,
    Places,
    combinations,
    is_choice,
    one_table,
    parse,
    place,
    single_values,
    sweep_of,
    sweeper_params,
)
from unigen.config.moved import KEYS, SAME
from unigen.config.quoting import as_text
from unigen.config.tree import (
    FREE,
    UNKNOWN,
    Tree,
    default_of,
    dotted_keys,
    fits,
    kind,
    lookup,
    merge,
    nearest,
    opened_tree,
    resolved,
    spelt,
    written,
)
from unigen.config.user_configs import check_header, check_names, own_file_hint, unreadable
from unigen.config.values import ConfigError, sentence

if TYPE_CHECKING:
    from hydra.core.default_element import ResultDefault
    from hydra.core.override_parser.types import Override

OVERLAYS = ("exp", "family", "scale", "table", "task", "bench")
OPEN_TABLES = (
    *(
        "rows",
        "branches",
        "timing",
        "weights",
        "dropout",
        "by_task",
        "shares",
        "hide",
        "numbers",
        "turns",
        "roles",
        "adapters",
        "forms",
        "bias",
        "places",
        "arrangements",
        "test_arrangements",
    ),
    *("published", "metrics", "metrics_at", "benches", "margin"),
)
# Names, and whole keys, at which null is said on purpose: start from scratch, clip nothing, hold nothing out.
NULLABLE = ("pretrained", "gradient_clip_val", "data.held_out", "guidance.by_task")
ELSEWHERE_CALLED = {  # keys as other programs name them: what they are here
    **dict.fromkeys(("guidance.scale", "guidance.guidance_scale", "guidance.weight"), "guidance.strength"),
    **dict.fromkeys(("guidance_scale", "cfg_scale", "cfg", "guidance.cfg"), "guidance.strength"),
}
ELSEWHERE = {"cluster": "slurm/sweep.py", "profile": "experiments/plan.py"}  # groups that no run has: who reads them


def preflight(
    config_dir: Path, argv: Sequence[str], config_name: str = "config", open_tables: Sequence[str] = OPEN_TABLES
) -> list[str]:
    """Refuse what Hydra would accept and later code would fail on. Hydra's global state is left clean.

    Returns the words of a multirun whose keys are those of its jobs alone. Hydra composes a configuration without the
    swept choices first, in which such a key is unknown.

    Args:
        argv: the command line without the program's name; Hydra's own flags are understood.
        open_tables: names of mappings whose keys (roles, free names) are open, with everything below them.

    Raises:
        ConfigError: an unknown key, file or group choice, a value of the wrong type, or a line Hydra cannot compose.
    """
    args = _flags(argv)
    if args.help or args.hydra_help or args.info or args.shell_completion or args.experimental_rerun:
        return []
    if args.config_path:
        raise ConfigError("--config-path is not supported; add a folder of your own files with --config-dir <folder>")
    folders = [Path(folder) for folder in (config_dir, args.config_dir) if folder]
    with opened_tree(folders, args.config_name or config_name, open_tables) as tree:
        return _check_line(tree, args.overrides, multirun=args.multirun)


def config_dir_flag(argv: Sequence[str]) -> list[str]:
    """The --config-dir flag of a command line, for its jobs, which need the user's own files too."""
    folder = _flags(argv).config_dir
    return [] if folder is None else [f"--config-dir={Path(folder).resolve()}"]


def _flags(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the flags with Hydra's own parser, but raise ConfigError where that parser would print its usage
    and exit.
    """
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()

    def refuse(said: str) -> None:
        raise ConfigError(f"{said} {COMMAND_LINE}; --hydra-help lists the flags")

    parser.error = refuse
    args, strange = parser.parse_known_args(list(argv))
    if strange and (match := re.fullmatch(r"-+([\w.@/]+=.*)", strange[0])):
        raise ConfigError(f"'{strange[0]}' {COMMAND_LINE} is no flag; write {match[1]}")
    if strange and strange[0].startswith("-"):
        raise ConfigError(f"'{strange[0]}' {COMMAND_LINE} is no flag; --hydra-help lists them, and keys have no dashes")
    if strange:
        raise ConfigError(f"'{strange[0]}' {COMMAND_LINE} stands behind a flag; put flags such as -m before all keys")
    if args.config_dir == "":
        raise ConfigError(f"--config-dir is empty {COMMAND_LINE}; write --config-dir <folder>")
    if sum(bool(re.match(r"(--config-dir|-cd)(=|$)", word)) for word in argv) > 1:
        raise ConfigError(f"--config-dir is given twice {COMMAND_LINE}; put your files into one folder")
    return args


def _check_line(tree: Tree, line: Sequence[str], multirun: bool) -> list[str]:
    words = parse(tree, line, {})
    if strange := next((w for w in words if w.key_or_group.split(".")[0] in ELSEWHERE), None):
        group = strange.key_or_group.split(".")[0]
        raise ConfigError(
            f"'{strange.input_line}' {COMMAND_LINE} has no meaning here; {group}= is for {ELSEWHERE[group]}"
        )
    for word in words:
        _check_hydra_key(word)
    fixed = [w for w in words if not w.is_sweep_override() and (w.is_hydra_override() or is_choice(tree, w, {}))]
    files = _Job(tree, [word.input_line for word in fixed]).defaults()
    said = sweep_of(tree, files)
    modes = [said.mode, *(word.value() for word in fixed if word.get_key_element() == "hydra.mode")]
    multirun = multirun or modes[-1] == "MULTIRUN"
    own_keys = {word.get_key_element() for word in words}
    places = {key: where for key, where in said.places.items() if key not in own_keys}
    if multirun:  # Hydra's rule: what the line says of a key replaces what the file says
        words = list({w.get_key_element(): w for w in (*parse(tree, said.lines, said.places), *words)}.values())
    elif places:  # if the line sets every key itself, as a task of an array does, nothing is ignored
        where = next(iter(places.values()))
        raise ConfigError(f"hydra.sweeper.params {where} would be ignored, because this is a single run; add -m")
    one_table(tree, files, words)
    choices, values = [], []
    for word in words:
        if word.is_sweep_override() and not multirun:
            raise ConfigError(
                f"'{word.input_line}' names several values {COMMAND_LINE}; add -m to run one job for each, "
                f"write {word.get_key_element()}=[...] for a list, or quote one text: {as_text(word.input_line)}"
            )
        (choices if word.is_hydra_override() or is_choice(tree, word, places) else values).append(word)
    jobs, shared = combinations(tree, choices, places), {default.config_path for default in files}
    for job in jobs:
        own = [line for line in job if any(line not in other for other in jobs)]
        _Job(tree, job, values, places, shared, f" (in the job {' '.join(own)})" if own else "").check()
    common: dict = {}
    for default in files:
        merge(common, tree.content(default))
    given = {word.input_line for word in values} & set(line)
    own_keys = {word.input_line for word in values if lookup(common, word.key_or_group.split(".")) is UNKNOWN}
    return [said for said in line if multirun and said in given & own_keys and said[0] not in "+~"]


def _check_hydra_key(word: Override) -> None:
    """Refuse Hydra keys for which this project has a key or a flag. Entry points without a run folder pass "."."""
    key, value = word.key_or_group, word.input_line.partition("=")[2]
    if key == "hydra.searchpath":
        raise ConfigError(f"'{word.input_line}' {COMMAND_LINE} is for a flag here: --config-dir <folder>")
    started_by_lightning = "LOCAL_RANK" in os.environ  # a rank of DDP, which is told the first one's folder so
    if key == "hydra.run.dir" and value != "." and not started_by_lightning:
        raise ConfigError(f"'{word.input_line}' {COMMAND_LINE} is for a key here: {shlex.quote(f'run_dir={value}')}")
    if key == "hydra/launcher" and value != "basic":
        raise ConfigError(
            f"'{word.input_line}' {COMMAND_LINE} is not used here; slurm/sweep.py submits the jobs of a sweep"
        )


_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+|.*\$\{.*")


def _refers(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


@dataclass
class _Job:
    """One combination of group choices, with the values given beside it."""

    tree: Tree
    choices: list[str]
    values: list[Override] = field(default_factory=list)
    places: Places = field(default_factory=dict)
    shared: set[str] = field(default_factory=set)  # the files that are chosen without a sweep
    context: str = ""  # says which job of a sweep is meant; empty for a single one
    reference: dict = field(default_factory=dict)

    def check(self) -> None:
        from hydra import compose

        with self.told():
            defaults = self.defaults()
            overlays = [default for default in defaults if default.config_path.split("/")[0] in OVERLAYS]
            for default in overlays:
                check_header(self.tree, default)
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
            values = [line for word in self.values for line in itertools.islice(single_values(word, self.places), 1)]
            lines = [*self.choices, *values, *self.tree.search_path()]
            config = compose(self.tree.name, lines, return_hydra_config=True)
            known = {key: value for key, value in resolved(config).items() if key != "hydra"}
            self.check_resolved(known, (), lambda parts: self.where_said(parts, defaults))
            self.check_numbers(known, (), lambda parts: self.where_said(parts, defaults))

    def defaults(self) -> list[ResultDefault]:
        """List the files of this job in merge order.

        Raises:
            ConfigError: one is missing or cannot be read, or says what to sweep over where Hydra does not look.
        """
        with self.told():
            files = self.tree.defaults(self.choices)
            check_names(self.tree, files)
            for path in sorted({default.config_path for default in files} - self.shared) if self.shared else ():
                if sweeper_params(self.tree.raw(path).get("hydra")):
                    raise ConfigError(
                        f"hydra.sweeper.params in {path}.yaml would be ignored, because the file is one of several "
                        f"choices of '{path.rpartition('/')[0]}'; run them one at a time"
                    )
        return files

    @contextmanager
    def told(self) -> Iterator[None]:
        """Turn errors of Hydra and of the YAML reader into a ConfigError of one sentence."""
        from hydra.errors import HydraException

        try:
            yield
        except ConfigError:
            raise
        except (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError) as exc:
            raise ConfigError(_sentence(exc, self) + self.context) from exc

    def check_value(self, override: Override, final: dict) -> None:
        """Check a value given to the job. Null is legal where the default, or a file of this job, is null."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        key = override.key_or_group if override.package is None else f"{override.key_or_group}@{override.package}"
        parts = tuple(re.sub(r"\[([^\]]*)\]", r".\1", key).split("."))
        plus, where = override.get_key_element().removesuffix(key), place(override.input_line, self.places)
        if override.is_delete():
            if not self.is_open(parts) or lookup(final, parts) is UNKNOWN:
                several = self.tree.takes_several(parts[0])
                hint = f"; choose what to keep: {parts[0]}=[...]" if several else self.hint(key, self.tree.groups())
                raise ConfigError(f"cannot remove '{key}' {where}: ~ removes a whole group{hint}{self.context}")
            return
        for line in single_values(override, self.places):
            value = OverridesParser.create().parse_override(line).value()
            if isinstance(value, str):
                self.check_text(value, key, where, line)
            self.compare(value, parts, where, final, plus, line)
            self.check_numbers(value, parts, lambda _: where)

    def check_text(self, value: str, key: str, where: str, line: str) -> None:
        """Refuse an empty text, and a `~` or `$VARIABLE` that the shell should have replaced."""
        if not value:
            nullable = written(self.reference, key.split(".")) is None
            none = f"write {line.partition('=')[0]}=null for none" if nullable else "give a value"
            raise ConfigError(f"'{key}' is empty {where}; {none}, or leave it out{self.context}")
        match = re.search(r"(?:^|/)(\$[A-Za-z_]\w*|~(?=/|$))", value)
        if match and (match[1] != "~" or key == "run_dir"):
            raise ConfigError(
                f"'{key}' is {spelt(value)} {where}, in which no shell replaced {match[1]}; write the whole path"
                f"{self.context}"
            )

    def check_numbers(self, value: Any, parts: tuple[str, ...], where: Callable[[tuple[str, ...]], str]) -> None:
        """Refuse a number outside its range (see `ranges`). `where` says which word or file set a key."""
        for wrong in ranges.refusals(parts, value, self.is_judged):
            place = where(wrong.parts)
            raise ConfigError(f"'{'.'.join(wrong.parts)}' is {wrong.value} {place}; {wrong.legal}{self.context}")

    def check_resolved(self, value: Any, parts: tuple[str, ...], where: Callable[[tuple[str, ...]], str]) -> None:
        """Refuse an interpolation that resolves to a value of another type than the default."""
        wanted = default_of(self.reference, parts)
        if isinstance(value, dict) and isinstance(wanted, dict):
            for name, item in value.items():
                self.check_resolved(item, (*parts, name), where)
        elif isinstance(value, list) and isinstance(wanted, list) and wanted:
            texts = all(isinstance(item, str) for item in wanted)
            for i, item in enumerate(value if texts else ()):
                if not isinstance(item, str):
                    key, why = f"{'.'.join(parts)}.{i}", "expected a string, in quotes if it looks like something else"
                    place = where((*parts, str(i)))
                    raise ConfigError(f"'{key}' is {spelt(item)} {place}; {why}{self.context}")
        elif value is not None and wanted is not UNKNOWN and not self.takes(value, wanted, parts):
            key = ".".join(parts)
            raise ConfigError(f"'{key}' is {spelt(value)} {where(parts)}; expected {kind(wanted)}{self.context}")

    def takes(self, value: Any, wanted: Any, parts: tuple[str, ...]) -> bool:
        """True if a value may replace a default."""
        known = ranges.legal(".".join(parts))
        return fits(value, wanted) or (known is not None and value in known.besides)

    def is_judged(self, parts: tuple[str, ...]) -> bool:
        """True if the table of ranges applies to a key. It does not where the default itself would be refused: then the
        key belongs to another plug-in and means something else.
        """
        default = lookup(self.reference, parts)
        if default is FREE or default is UNKNOWN:
            return True
        if isinstance(default, list | str):
            return not [*ranges.refusals(parts, default, lambda _: True)]
        return ranges.is_number(default) and ranges.refusal(".".join(parts), default) is None

    def where_said(self, parts: tuple[str, ...], files: Sequence[ResultDefault]) -> str:
        """Say which word of the command line, or which file, set the value of a key last."""
        for word in reversed(self.values):
            key = tuple(re.sub(r"\[([^\]]*)\]", r".\1", word.key_or_group).split("."))
            if key[: len(parts)] == parts[: len(key)]:
                return place(word.input_line, self.places)
        for default in reversed(files):
            if lookup(self.tree.content(default), parts) is not UNKNOWN:
                return f"in {default.config_path}.yaml"
        return f"in {self.tree.name}.yaml"

    def compare(
        self, value: Any, parts: tuple[str, ...], where: str, final: dict | None, plus: str = "", line: str = ""
    ) -> None:
        """Compare `value`, and everything below it, with the reference.

        Args:
            final: what the files say, for a value of the line: null is legal where it is said already.
            plus: the + of a word, for an error.
            line: the word itself.
        """
        wanted, key = default_of(self.reference, parts), ".".join(parts)
        if wanted is UNKNOWN:
            if not self.is_open(parts):
                raise ConfigError(f"unknown key '{plus}{key}' {where}{self.unknown_hint(parts)}{self.context}")
        elif value == {} and (there := lookup(self.reference if final is None else final, parts)) and parts:
            if isinstance(there, dict):
                raise ConfigError(f"'{key}' is {{}} {where}{self.nothing_changed(parts, there)}{self.context}")
        elif isinstance(value, dict) and isinstance(wanted, dict):
            for name, item in value.items():
                self.compare(item, (*parts, str(name)), where, final, plus)
        elif value is None:
            whole = len(parts) == 1 and isinstance(wanted, dict) and wanted  # a section without which nothing is built
            said = (final is None and not whole) or self.is_open(parts) or parts[-1] in NULLABLE or key in NULLABLE
            said = said or written(self.reference, parts) in (None, FREE)
            said = said or (final is not None and written(final, parts) in (None, FREE))
            if not said:
                expected = "a value" if wanted is FREE else kind(wanted)
                raise ConfigError(f"'{key}' cannot be null {where}; expected {expected}{self.context}")
        elif wanted is FREE and final is not None and isinstance(said := lookup(final, parts), list | dict):
            if type(value) is not type(said) and not _refers(value):
                raise ConfigError(f"'{key}' is {spelt(value)} {where}; expected {kind(said)}{self.context}")
        elif _refers(value) and (nowhere := self.leads_nowhere(value)):
            shell = f"; a variable of the shell is ${{oc.env:{nowhere}}}" if nowhere.isupper() else self.hint(nowhere)
            raise ConfigError(f"'{key}' refers to '{nowhere}' {where}, which is no key{shell}{self.context}")
        elif parts[-1] == "_target_" and isinstance(value, str) and not _DOTTED.fullmatch(value):
            raise ConfigError(f"'{key}' is {spelt(value)} {where}; legal is package.module.Name{self.context}")
        elif not self.takes(value, wanted, parts):
            hint = self.wrong_type_hint(value, wanted, key, line)
            raise ConfigError(f"'{key}' is {spelt(value)} {where}; expected {kind(wanted)}{hint}{self.context}")

    def nothing_changed(self, parts: tuple[str, ...], there: dict) -> str:
        """Say that an empty mapping changes nothing, and how entries of the mapping are removed."""
        key, names = ".".join(parts), [str(name) for name in there]
        why = ", which changes nothing, because it is merged with the entries that are there"
        if key in NULLABLE:
            return f"{why} ({', '.join(names)}); write {key}=null for none"
        if self.is_open((*parts, names[0])):
            return f"{why} ({', '.join(names)}); to remove one write {shlex.quote(f'~{key}.{names[0]}')}"
        return f"{why}; leave it out"

    def leads_nowhere(self, value: str) -> str | None:
        """Return the first missing key that an interpolation names. Relative ones and resolvers are not checked."""
        for name in re.findall(r"\$\{(\w[\w.]*)\}", value):
            parts = name.split(".")
            if parts[0] != "hydra" and lookup(self.reference, parts) is UNKNOWN and not self.is_open(parts):
                return name
        return None

    def is_open(self, parts: Sequence[str]) -> bool:
        """True if a key is below a table whose keys are free, and the reference has that table."""
        tables = (parts[: i + 1] for i, part in enumerate(parts[:-1]) if part in self.tree.open_tables)
        return any(lookup(self.reference, table) is not UNKNOWN for table in tables)

    def hint(self, key: str, words: Sequence[str] | None = None) -> str:
        """Suggest the nearest legal words; where no word is near, list what is legal beside `key`."""
        if key in KEYS:
            return f"; it is called {KEYS[key]!r} now"
        if key in ELSEWHERE_CALLED:
            return f"; did you mean {ELSEWHERE_CALLED[key]!r}?"
        legal = [*dotted_keys(self.reference), *self.tree.groups()] if words is None else list(words)
        close = nearest(key, legal)
        if close:
            return f"; did you mean {' or '.join(repr(word) for word in close)}?"
        parent = key.rpartition(".")[0]
        while parent and parent not in legal:
            parent = parent.rpartition(".")[0]
        beside = [word for word in dict.fromkeys(legal) if word.rpartition(".")[0] == parent]
        return f"; legal {f'below {parent!r}' if parent else 'here'}: {', '.join(beside) or 'nothing'}"

    def unknown_hint(self, parts: tuple[str, ...]) -> str:
        """Suggest the key or the choice that an unknown key may stand for."""
        last = parts[-1]
        if ".".join(parts) in KEYS:
            return self.hint(".".join(parts))
        if "." in last and lookup(self.reference, ".".join(parts).split(".")) is not UNKNOWN:
            return f"; a file nests its keys: {last.replace('.', ': {')}: ...{'}' * last.count('.')}"
        for depth in range(1, len(parts)):
            group, name = "/".join(parts[:depth]), parts[depth]
            if name in self.tree.options(group) and lookup(self.reference, parts[: depth + 1]) is UNKNOWN:
                several = self.tree.takes_several(group)
                choose = f"add {name} to {group}=[...]" if several else f"choose it: {group}={name}"
                return f"; it is of {group}/{name}.yaml, which is not chosen: {choose}, or leave the key out"
        return self.hint(".".join(parts))

    def wrong_type_hint(self, value: Any, wanted: Any, key: str, line: str = "") -> str:
        group = key.replace(".", "/")
        if isinstance(wanted, dict) and isinstance(value, str) and self.tree.is_group(group):
            return f"; to choose a file of this group write {group}={value}"
        if isinstance(wanted, str) and not isinstance(value, (dict, list)):
            return f"; quote it: {as_text(line or f'{key}={value}')}"
        if type(wanted) is int and isinstance(value, float) and value.is_integer():
            return f"; write {value:.0f}"
        return ""


def _sentence(exc: Exception, job: _Job) -> str:
    """Like `sentence`, but for a wrong choice of a file it also says where it was made and what would be legal."""
    missing, text = getattr(exc, "missing_cfg_file", None), str(exc)
    source = re.match(r"In '([^']+)': ", text)
    given = {line.lstrip("+~").partition("=")[0]: line for line in job.choices}
    if missing == job.tree.name:
        return f"there is no {missing}.yaml in {job.tree.folders[0]}"
    if missing is not None:
        group, _, choice = missing.rpartition("/")
        hint = own_file_hint(job.tree.folders, group, choice)
        above, _, folder = group.rpartition("/")
        if not hint and above and not job.tree.options(group):
            group, choice = above, f"{folder}/{choice}"  # there is no family/flx: 'flx/mini' is one of family
        said = f"{group}={choice}" in (line.lstrip("+") for line in job.choices)
        blamed = f"in {source[1]}.yaml" if source and source[1] != job.tree.name and not said else None
        where = blamed or _where_chosen(job, group, choice)
        hint = hint or _suggestion(choice, job.tree.options(group), group)
        return f"unknown choice '{choice}' for group '{group}' {where}{hint}"
    if match := re.search(r"Could not override '([^']+)'\. No match in the defaults list", text):
        group = match[1]
        if source is None and job.tree.is_group(group.partition("@")[0]) and group in given:
            return f"'{given[group]}' {place(given[group], job.places)} needs a plus: write +{given[group]}"
        where = f"in {source[1]}.yaml" if source else place(given.get(group, ""), job.places)
        name, at, package = group.partition("@")
        if at and job.tree.is_group(name):
            owner = package.partition(".")[0]
            return (
                f"'{group}' is overridden {where}, but the other choices have no '{name}' at {package}; "
                f"choose a file of '{owner}' that has one"
            )
        return f"unknown group '{group}' {where}{job.hint(group, job.tree.groups())}"
    if (match := re.match(r"Multiple values for (\S+)\. ", text)) and match[1] in given:
        line = given[match[1]]
        return f"'{line}' {place(line, job.places)} is chosen already: write {line.lstrip('+')}"
    if match := re.match(r"Could not delete '([^'=]+)", text):
        return f"cannot remove '{match[1]}' {COMMAND_LINE}; to choose nothing in a group of several write {match[1]}=[]"
    if match := re.search(r"Either remove \+ prefix: '(.+)'", text):
        return f"'+{match[1]}' {place(f'+{match[1]}', job.places)} exists already: write {match[1]}"
    if match := re.match(r"Multiple values for (\S+)\. To override a value use 'override ([^']*)'", text):
        return f"a defaults list chooses '{match[1]}' a second time; write override /{match[2]}"
    if match := re.match(r"Could not override '([^']+)'\.\s+To append to your config", text):
        key, word = match[1], next((w.input_line for w in job.values if w.key_or_group == match[1]), match[1])
        table, _, name = key.rpartition(".")
        whole = f"+{word}" if job.is_open([*key.split("."), "name"]) else f"{table}={{{name}:...}}"
        if isinstance(lookup(job.reference, key.split(".")), dict):
            return f"'{word}' {place(word, job.places)} has an entry that is new; write {shlex.quote(f'+{word}')}"
        return f"there is no '{key}' yet {place(word, job.places)}; write {whole}"
    said = unreadable(job.tree.folders) if isinstance(exc, UnicodeDecodeError) else sentence(exc)
    for folder in job.tree.folders:
        said = said.replace(f"{folder}/", "")
    return said


def _suggestion(choice: str, options: Sequence[str], group: str) -> str:
    if now := SAME.get((group, choice)):
        return f"; it was the same configuration as '{now}': write {now}"
    close = nearest(choice, options)
    meant = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{meant} {group or 'it'} has: {', '.join(options) or 'nothing'}"


def _where_chosen(job: _Job, group: str, choice: str) -> str:
    """Find who made a choice that does not exist, because Hydra blames the primary config in every case."""
    for line in job.choices:
        key, _, value = line.lstrip("+").partition("=")
        named = key.partition("@")[0]
        if named == group and value == choice:
            return place(line, job.places)
        if (named == group or group.startswith(f"{named}/")) and choice in re.split(r"[\[\],\s'\"/]+", value):
            return place(line, job.places)
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
