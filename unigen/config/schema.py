"""The legal keys of configuration files as a JSON schema, with which editors complete and check them.

It is the union over all choices: a key that some choice of a group has is legal, whichever is chosen. The preflight,
which knows the choices, refuses more. Files of a group of parts (conf/mask, ...) have a part of it: #/properties/mask.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from unigen.config import ranges
from unigen.config.preflight import OPEN_TABLES
from unigen.config.tree import Tree, is_text, opened_tree
from unigen.config.values import ConfigError

DRAFT = "https://json-schema.org/draft/2020-12/schema"
# The primary configurations, and the groups whose files set keys of the whole: what a schema is for.
FILES = {"config": ("exp", "table", "task", "family", "scale"), "evaluate": ("bench",)}
LATER = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}  # an interpolation, or a value that is given elsewhere
NULL = {"type": "null"}
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}


@dataclass
class Key:
    """What the files say of one key: its values, the keys below it, and the comments behind it."""

    values: list[Any] = field(default_factory=list)
    below: dict[str, Key] = field(default_factory=dict)
    mapping: bool = False  # some file has a mapping here, which may be empty
    said: list[str] = field(default_factory=list)


def schema(folders: Sequence[Path], name: str = "config") -> dict[str, Any]:
    """Return the schema of the files that set keys of the whole configuration (`FILES`).

    Args:
        folders: the project's config folder, then the user's, whose choices count too.
        name: the primary configuration.

    Raises:
        ConfigError: a folder does not exist, or a file cannot be read.
    """
    root = Key(mapping=True)
    with opened_tree(folders, name, OPEN_TABLES) as tree:
        for place in _placed(tree):
            content = {key: value for key, value in tree.raw(place.path).items() if key not in ("defaults", "hydra")}
            _add(root, [part for part in place.package.split(".") if part], content, _comments(tree, place))
        keys = {key: _key_schema(found, (key,)) for key, found in root.below.items()}
        return {
            "$schema": DRAFT,
            "title": f"unigen: files of {', '.join(f'conf/{group}' for group in FILES[name])}",
            "type": "object",
            "properties": {"defaults": _defaults_schema(tree), "hydra": {"type": "object"}, **keys},
            "additionalProperties": False,
        }


class Place(NamedTuple):
    """A file, the package in which its keys stand, and the group as whose choice it stands there."""

    path: str
    package: str
    group: str


def _placed(tree: Tree) -> Iterator[Place]:
    """Yield every file that can be part of the configuration, in each of its places."""
    overlays = [Place(f"{group}/{option}", "", group) for group in FILES[tree.name] for option in tree.options(group)]
    found, todo = set(), [Place(tree.name, "", ""), *(entry for place in overlays for entry in _chosen(tree, place))]
    while todo:
        place = todo.pop()
        if place not in found and place.group not in FILES[tree.name]:
            found.add(place)
            yield place
            todo += _chosen(tree, place)


def _chosen(tree: Tree, of: Place) -> Iterator[Place]:
    """Yield what the defaults list of a file can put beside it: of each group all choices, with their packages."""
    for entry in tree.raw(of.path).get("defaults", []):
        for said, choice in entry.items() if isinstance(entry, dict) else [(entry, None)]:
            target, _, at = str(said).split()[-1].partition("@")
            named = target.removeprefix("/")
            path = named if target.startswith("/") or not of.group else f"{of.group}/{named}"
            if target == "_self_" or path.startswith("hydra/"):
                continue
            if not isinstance(entry, dict):
                group = path.split("/")[0] if target.startswith("/") else of.group
                yield Place(path, _package(tree, path, named.rpartition("/")[0], of.package, at), group)
                continue
            files = {f"{path}/{option}" for option in tree.options(path)}
            files |= {f"{path}/{choice}"} if isinstance(choice, str) and "${" not in choice else set()
            yield from (Place(file, _package(tree, file, named, of.package, at), path) for file in sorted(files))


def _package(tree: Tree, file: str, group: str, above: str, place: str) -> str:
    """Return the package of a chosen file: what is written behind "@", else in its first line, else its group."""
    if place:
        inside = "" if place.startswith("_global_") else above
        return _joined(inside, re.sub(r"^(_global_|_here_|_group_)\.?", "", place))
    header = re.match(r"# @package (\S+)", _file(tree, file).read_text(encoding="utf-8"))
    return _joined("", header[1].removeprefix("_global_")) if header else _joined(above, group.replace("/", "."))


def _file(tree: Tree, path: str) -> Path:
    for folder in tree.folders:
        if (file := folder / f"{path}.yaml").is_file():
            return file
    raise ConfigError(f"{path}.yaml, which a defaults list names, is not in {' or '.join(map(str, tree.folders))}")


def _joined(above: str, below: str) -> str:
    return ".".join(part for part in (above, below) if part)


def _add(key: Key, above: Sequence[str], value: Any, said: dict[tuple[str, ...], str]) -> None:
    """Add a value of a file at the key `above`, with everything below it."""
    for part in above:
        key.mapping = True
        key = key.below.setdefault(part, Key())
    _merge(key, value, said, ())


def _merge(key: Key, value: Any, said: dict[tuple[str, ...], str], parts: tuple[str, ...]) -> None:
    if (comment := said.get(parts)) and comment not in key.said:
        key.said.append(comment)
    if not isinstance(value, dict):
        key.values.append(value)
        return
    key.mapping = True
    for name, item in value.items():
        _merge(key.below.setdefault(str(name), Key()), item, said, (*parts, str(name)))


def _comments(tree: Tree, place: Place) -> dict[tuple[str, ...], str]:
    """Return the comment behind each key of a file, by its path within the file."""
    text = _file(tree, place.path).read_text(encoding="utf-8")
    lines, found = text.splitlines(), {}

    def walk(node: yaml.Node | None, parts: tuple[str, ...]) -> None:
        if not isinstance(node, yaml.MappingNode) or node.flow_style:
            return
        for name, value in node.value:
            here = (*parts, str(name.value))
            end = value.end_mark if value.start_mark.line == name.start_mark.line else name.end_mark
            if end.line < len(lines) and (match := re.match(r":?\s*#\s*(.*)", lines[end.line][end.column :])):
                found[here] = match[1].strip()
            walk(value, here)

    walk(yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)), ())
    return found


def _key_schema(key: Key, parts: tuple[str, ...]) -> dict[str, Any]:
    """Return the schema of one key and of what stands below it."""
    about = {"description": "; ".join(key.said)} if key.said else {}
    forms = [_mapping_schema(key, parts)] if key.mapping else []
    free = not key.mapping if not key.values else any(_is_free(value) for value in key.values)
    known = ranges.legal(".".join(parts))
    judged = known is not None and all(_is_free(v) or _accepts(".".join(parts), v) for v in key.values)
    if free and not judged and ".".join(parts) not in ranges.LISTS:
        part = {"type": "object", "required": ["_target_"]}  # any part may stand where a choice has none
        return about | ({"anyOf": [*forms, part, {"not": {"type": "object"}}]} if forms else {})
    forms += _value_schemas(key.values, ".".join(parts), known if judged else None, free)
    return about | {"anyOf": [*forms, NULL, LATER]}


def _mapping_schema(key: Key, parts: tuple[str, ...]) -> dict[str, Any]:
    """Return the schema of a mapping, whose keys are those that the files have, or free ones in an open table."""
    below = {name: _key_schema(found, (*parts, name)) for name, found in key.below.items()}
    if any(part in OPEN_TABLES for part in parts):
        return {"type": "object"}
    return {"type": "object", "properties": below, "additionalProperties": False}


def _value_schemas(values: Sequence[Any], key: str, known: ranges.Range | None, free: bool) -> list[dict[str, Any]]:
    """Return the schemas of the values that fit the defaults, and that the table of ranges admits."""
    types = {TYPES[str if is_text(value) else type(value)] for value in values if not _is_free(value)}
    if free and known:
        if known.mapping:
            return [{"type": "object"}]
        if not known.broad and not known.text and known.low > known.high:
            return [{"enum": list(known.besides)}]
        types |= {"string" if known.text else "integer" if known.whole else "number"}
    if "number" in types:
        types -= {"integer"}
    forms: list[dict[str, Any]] = []
    if "array" in types or key in ranges.LISTS:
        forms.append(_list_schema([value for value in values if isinstance(value, list)], key))
    limits = _limits(known)
    forms += [{"type": kind, **(limits if kind in ("integer", "number") else {})} for kind in sorted(types - {"array"})]
    if known and known.besides:
        only = known.low > known.high and not known.text and not known.broad
        forms = [*([] if only else forms), {"enum": list(known.besides)}]
    return forms


def _list_schema(values: Sequence[list], key: str) -> dict[str, Any]:
    """Return the schema of a list, its length and its items where they are known."""
    length = {} if (n := ranges.LISTS.get(key)) is None else {"minItems": n, "maxItems": n}
    if (items := ranges.legal(f"{key}.0")) and not items.broad:
        kind = {"type": "string"} if items.text else {"type": "integer" if items.whole else "number", **_limits(items)}
        return {"type": "array", "items": {"anyOf": [kind, NULL, LATER]}, **length}
    texts = values and all(value and all(isinstance(item, str) for item in value) for value in values)
    return {"type": "array", **({"items": {"type": "string"}} if texts else {}), **length}


def _limits(known: ranges.Range | None) -> dict[str, float]:
    """Return the interval of a range in the words of a schema, which concern numbers alone."""
    if known is None or known.text or known.mapping or known.low > known.high:
        return {}
    low, high = ("exclusiveMinimum" if known.above else "minimum"), ("exclusiveMaximum" if known.below else "maximum")
    return {low: known.low, high: known.high}


def _defaults_schema(tree: Tree) -> dict[str, Any]:
    """Return the schema of a defaults list: files of the same group, and choices of the others."""
    choices = {}
    for group in {group.split("/")[0] if group.split("/")[0] in FILES[tree.name] else group for group in tree.groups()}:
        one = {"anyOf": [{"enum": tree.options(group)}, LATER]}
        whole = {"anyOf": [*one["anyOf"], NULL, {"type": "array", "items": one}]}
        choices |= {f"{how}{group}": whole for how in ("override /", "/", "override ")}
    entry = {"type": "object", "properties": choices, "patternProperties": {"@": {}}, "additionalProperties": False}
    return {"type": "array", "items": {"anyOf": [{"type": "string"}, entry]}}


def _is_free(value: Any) -> bool:
    """True for a default that does not say which values are legal: null, auto, one reference, ???."""
    if isinstance(value, str) and is_text(value):
        return False
    return value is None or value in ("auto", "???") or (isinstance(value, str) and "${" in value)


def _accepts(key: str, value: Any) -> bool:
    """True if the table of ranges admits a default. Where it does not, the key means something else there."""
    return not [*ranges.refusals(tuple(key.split(".")), value, lambda _: True)]
