"""The table of ranges and the config folder: what is shipped is legal, what stands in the table is a key of a file."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from tiny import CONF

from unigen.config import ranges
from unigen.config.ranges import TABLE, is_number, legal, refusal

APART = ("table", "cluster", "profile")  # no keys of a run: published numbers, and what other programs read
FILES = sorted(path for path in CONF.rglob("*.yaml") if path.relative_to(CONF).parts[0] not in APART)


def package(path: Any) -> tuple[str, ...]:
    header = re.search(r"^# @package (\S+)", path.read_text(), re.MULTILINE)
    said = header[1] if header else ".".join(part for part in path.relative_to(CONF).parts[:-1] if part != "base")
    return tuple(part for part in said.split(".") if part and part != "_global_")


def leaves(node: Any, parts: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict | list) and node:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, (*parts, str(key)))
    else:
        yield ".".join(parts), node


def said_in(path: Any) -> list[tuple[str, Any]]:
    """(dotted key, value) of all that a file says, at its place in the whole config."""
    content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    said = leaves({key: value for key, value in content.items() if key not in ("defaults", "hydra")}, package(path))
    at_data = [("graph", "data.graph"), ("instruction", "data.instruction")]  # where a data file puts these groups
    return [(next((new + key[len(old) :] for old, new in at_data if key.startswith(old)), key), v) for key, v in said]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONF).as_posix())
def test_every_number_that_is_shipped_is_legal(path):
    for key, value in said_in(path):
        if is_number(value):
            assert refusal(key, value) is None, key


def test_every_line_of_the_table_is_of_a_key_and_decides_something():
    """A pattern that no key needs is a misspelt one, or hidden by one above it."""
    said = [
        (key, value)
        for path in FILES
        for key, value in said_in(path)
        if value is None
        or value == {}
        or is_number(value)
        or (isinstance(value, str) and ("${" in value or value == "auto"))
    ]
    keys = {key for key, _ in said} | {f"{key}.0" for key, value in said if value is None}
    keys |= {f"{key}.{name}" for key, _ in said for name in ("train", "a_pattern")}  # tables that are empty or null
    keys |= {
        "data.graph.weights.a_pattern",
        "published.a_pattern",
        "mask.bias.a.b",
    }  # open tables that nothing shipped fills
    used = {pattern for key in keys if (pattern := ranges.pattern_of(key))}
    assert set(TABLE) - used == set()


@pytest.mark.parametrize("name", ["config", "evaluate", "trainer/default", "optimizer/adamw"])
def test_what_every_run_has_is_in_the_table(name):
    """Plug-ins of one's own need no line: a finite number is legal there."""
    for key, value in said_in(CONF / f"{name}.yaml"):
        assert not is_number(value) or legal(key), key


def test_a_shipped_number_beyond_its_range_would_be_found(tmp_path):
    """Negative control."""
    (tmp_path / "adamw.yaml").write_text(yaml.safe_dump({"lr": 5.0}))
    assert refusal("optimizer.lr", 5.0) == ("5", "legal are numbers above 0 and at most 1")
    assert refusal("optimizer.lr", 0.5) is None
