"""Reads the config folder as data: its groups, the content of its files, and the legal keys."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from unigen.config.values import ConfigError

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.default_element import ResultDefault

FREE = object()  # returned by `lookup` for a legal key that takes any value
UNKNOWN = object()  # ... and at a key that is not legal
_REFERENCE = re.compile(r"\$\{(\w[\w.]*)\}")
_SPLIT = re.compile(r"[./]")


@dataclass
class Tree:
    """The config folders (the project's, then the user's), read through Hydra where order and packages matter."""

    folders: list[Path]
    name: str
    loader: ConfigLoader
    open_tables: tuple[str, ...]
    contents: dict[str, dict] = field(default_factory=dict)

    def is_group(self, key: str) -> bool:
        return any((folder / key).is_dir() for folder in self.folders)

    def groups(self) -> list[str]:
        """Every folder that has files at some depth: family too, whose choices are flux/mini and the like."""
        files = [path.relative_to(folder) for folder in self.folders for path in folder.rglob("*.yaml")]
        return sorted({parent.as_posix() for file in files for parent in file.parents} - {"."})

    def options(self, group: str) -> list[str]:
        """The choices of a group. Files in its folder `base`, which others share, are not choices."""
        roots = [folder / group for folder in self.folders]
        names = {p.relative_to(root).with_suffix("").as_posix() for root in roots for p in root.rglob("*.yaml")}
        return sorted(name for name in names if not name.startswith("base/"))

    def takes_several(self, group: str) -> bool:
        """True if a list of files of a group may be chosen: the first line of each file then gives it its own place."""
        files = [path for folder in self.folders for path in (folder / group).glob("*.yaml") if path.is_file()]
        return any(f"@package {group.replace('/', '.')}.{path.stem}" in path.read_text() for path in files)

    def search_path(self) -> list[str]:
        """The Hydra override that adds the user's own config folders."""
        extra = ",".join(f"'file://{folder}'" for folder in self.folders[1:])
        return [f"hydra.searchpath=[{extra}]"] if extra else []

    def defaults(self, lines: Sequence[str]) -> list[ResultDefault]:
        """The files of a job in merge order, without Hydra's own; raises Hydra's and the YAML reader's errors."""
        from hydra.types import RunMode

        found = self.loader.compute_defaults_list(self.name, [*lines, *self.search_path()], RunMode.RUN).defaults
        return [default for default in found if not default.config_path.startswith("hydra/")]

    def content(self, default: ResultDefault) -> dict:
        """The content of a file, unresolved, at its place in the whole config. Hydra's own part is left out."""
        content = {key: value for key, value in self.raw(default.config_path).items() if key != "defaults"}
        for part in reversed(default.package.split(".") if default.package else []):
            content = {part: content}
        return {key: value for key, value in content.items() if key != "hydra"}

    def raw(self, config_path: str) -> dict:
        """A file as it is written, with its defaults list; ConfigError where no folder holds it."""
        if config_path not in self.contents:
            path = next((f for folder in self.folders if (f := folder / f"{config_path}.yaml").is_file()), None)
            if path is None:
                raise ConfigError(f"{config_path}.yaml is not in {' or '.join(map(str, self.folders))}")
            content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
            if not isinstance(content, dict):
                raise ConfigError(f"{config_path}.yaml holds a list; a config file is a mapping of keys")
            self.contents[config_path] = content
        return self.contents[config_path]


@contextmanager
def opened_tree(folders: Sequence[Path], name: str, open_tables: Sequence[str]) -> Iterator[Tree]:
    """Yield the tree of config folders with the primary config `name`. Hydra's global state is left clean.

    Raises:
        ConfigError: a folder does not exist.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    folders = [folder.resolve() for folder in folders]
    for folder in folders:
        if not folder.is_dir():
            missing = "is a file; --config-dir takes a folder" if folder.exists() else "does not exist"
            raise ConfigError(f"config folder {folder} {missing}")
    GlobalHydra.instance().clear()
    with warnings.catch_warnings(), initialize_config_dir(version_base="1.3", config_dir=str(folders[0])):
        warnings.simplefilter("ignore")  # Hydra says the same again when it runs
        yield Tree(folders, name, GlobalHydra.instance().config_loader(), tuple(open_tables))


def resolved(node: Any) -> Any:
    """A composed config as plain data, without values that cannot be resolved yet (`???`, or known only in a run)."""
    if isinstance(node, DictConfig):
        found = {str(key): _value(node, key) for key in node}
        return {key: resolved(value) for key, value in found.items() if value is not UNKNOWN}
    if isinstance(node, ListConfig):
        return [None if (value := _value(node, i)) is UNKNOWN else resolved(value) for i in range(len(node))]
    return node


def _value(node: DictConfig | ListConfig, key: Any) -> Any:
    try:
        return node[key]
    except Exception:  # a resolver failed: the error is reported when the run resolves everything
        return UNKNOWN


def lookup(node: Any, parts: Sequence[str]) -> Any:
    """Return the reference's value at a key, FREE (null, `auto`, `???`, an interpolation) or UNKNOWN."""
    found = written(node, parts)
    return FREE if _is_free(found) else found


def written(node: Any, parts: Sequence[str]) -> Any:
    """Return the value at a key as the file writes it, FREE below a free key, or UNKNOWN where there is no such key."""
    for part in parts:
        if isinstance(node, dict):
            node = next((value for name, value in node.items() if str(name) == part), UNKNOWN)
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return FREE if _is_free(node) else UNKNOWN
    return node


def default_of(reference: Any, parts: Sequence[str]) -> Any:
    """Return the value that determines a key's type, in the terms of `lookup`. A text that contains references, such as
    ${run_dir}/samples, is a text; a default that is one reference alone is replaced by its target.
    """
    found, seen = written(reference, parts), set()
    while isinstance(found, str) and (match := _REFERENCE.fullmatch(found)) and found not in seen:
        seen.add(found)
        found = written(reference, match[1].split("."))
    if found is UNKNOWN:
        return FREE if seen else UNKNOWN
    return FREE if _is_free(found) and not is_text(found) else found


def is_text(default: Any) -> bool:
    """True if a default is a text with references in it, such as ${run_dir}/samples, and not one reference alone."""
    if not isinstance(default, str) or "${" not in default:
        return False
    found = 1
    while found:  # references within references, from the inside out
        default, found = re.subn(r"\$\{[^{}]*\}", "", default)
    return bool(default)


def _is_free(node: Any) -> bool:
    return node is FREE or node is None or node == "auto" or _is_open(node)


def _is_open(value: Any) -> bool:
    return isinstance(value, str) and (value == "???" or "${" in value)


def fits(value: Any, wanted: Any) -> bool:
    """True if `value` may replace the default `wanted`: it has the same type, is an int for a float, or is not known
    yet.
    """
    if wanted is FREE or _is_open(value):
        return True
    if isinstance(wanted, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is type(wanted)


def kind(wanted: Any) -> str:
    """Describe in words which values fit a default."""
    if isinstance(wanted, dict):
        return f"a mapping of {', '.join(map(str, wanted))}" if wanted else "a mapping, which is empty by default: {}"
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a string", list: "a list"}
    return f"{names.get(type(wanted), type(wanted).__name__)} like the default {spelt(wanted)}"


def spelt(value: Any) -> str:
    """A value as YAML spells it, near enough for an error."""
    return str(value).lower() if isinstance(value, bool) else repr(value)


def merge(below: dict, above: dict) -> None:
    """Hydra's merge: mappings merge, everything else replaces, and `???` replaces nothing."""
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            merge(below[key], value)
        elif not (value == "???" and key in below):
            below[key] = copy.deepcopy(value)


def dotted_keys(node: Any, prefix: str = "") -> Iterator[str]:
    for name, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{name}"
        yield from dotted_keys(value, f"{prefix}{name}.")


def nearest(word: str, legal: Iterable[str]) -> list[str]:
    """Return up to two likely words: similar under the same parent, similar as a whole, or with the same last name."""
    known = list(dict.fromkeys(legal))
    as_deep = [name for name in known if len(_SPLIT.findall(name)) == len(_SPLIT.findall(word))]
    parent, _, leaf = word.rpartition(".")
    beside = {name.rpartition(".")[2]: name for name in as_deep if name.rpartition(".")[0] == parent}
    if close := get_close_matches(leaf, beside, 2):
        return [beside[name] for name in close]
    if close := get_close_matches(word, as_deep, 2, cutoff=0.8):
        return close
    if begun := [name for name in known if len(name) > 2 and "." not in word and word.startswith(name)]:
        return begun[:1]  # experiment: exp
    last = {name: _SPLIT.split(name)[-1] for name in known}
    close = get_close_matches(_SPLIT.split(word)[-1], set(last.values()), 1, cutoff=0.8)
    return [name for name in known if last[name] in close][:2]
