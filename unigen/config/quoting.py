"""Handles words of a command line that Hydra's grammar cannot read: quotes those with one meaning, advises on others.

Hydra takes only some characters bare: not `=`, `#`, `'`, brackets or any letter beyond a to z.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence

_WORD = re.compile(r"(\s*[+~]{0,2}[\w.@/-]+\s*)=(.*)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?|null|true|false", re.IGNORECASE)
_KEY_IN_MAPPING = re.compile(r"""[{,]\s*["']?[^"'{}\[\],:]*>[^"'{}\[\],:]*["']?\s*:""")
EXAMPLE = """'key=["one","two"]'"""


def readable(words: Sequence[str]) -> list[str]:
    """Quote the values that Hydra cannot read bare and that can only be texts, as in run_dir=runs/猫.

    `~/` at its start becomes the home folder, as in the shells that see it there. Words that may be meant as a list,
    a mapping, a function or several values stay as they are, for `advice`.
    """
    return [_as_text(word) or word for word in words]


def advice(word: str) -> str:
    """Say how to write a word that cannot be read, as the end of a sentence. Hydra can read what it proposes."""
    bare = word.strip()
    if re.search(r"[\n\t\r]", bare):
        return "it has a line break or a tab in it: take that out"
    if len(bare) > 2 and bare[0] == bare[-1] and bare[0] in "'\"" and _reads(bare[1:-1]):
        return f"its quotes came through the shell: write {bare[1:-1]}"
    key, equals, value = (part.strip() for part in bare.partition("="))
    if ">" in key or (value[:1] == "{" and _KEY_IN_MAPPING.search(value)):
        return _in_a_file(key, value)
    if equals and _reads(tight := f"{key}={value}") and tight != word:
        return f"leave out the spaces: {shlex.quote(tight)}"
    name, colon, rest = bare.partition(":")
    if not equals and colon and _reads(as_key := f"{name.strip()}={rest.strip()}"):
        return f"write {shlex.quote(as_key)}"
    if equals and re.fullmatch(r"\(.*,.*\)", value) and _reads(as_list := f"{key}=[{value[1:-1]}]"):
        return f"a list stands in brackets: {shlex.quote(as_list)}"
    if equals and value[:1] == "[" and value[-1:] == "]":
        items = [_in_quotes(item) for item in value[1:-1].split(",")]
        if _reads(quoted := f"{key}=[{','.join(items)}]"):
            return f"quote its texts: {shlex.quote(quoted)}"
    if equals and value[:1] not in ("[", "{") and _reads(quoted := f"{key}={_quoted(value)}"):
        return f"quote it: {shlex.quote(quoted)}"
    if equals and value:
        return f"put the whole word in single quotes and the texts within it in double ones, such as {EXAMPLE}"
    return "write key=value, group=choice or +exp=name"


def _in_a_file(key: str, value: str) -> str:
    """Say how to set a key with a `>` in it, such as a task's name, which Hydra cannot read on a command line."""
    first, *rest = key.lstrip("+~").split(".")
    if not value:
        table = key.lstrip("+~").rpartition(".")[0]
        return f"a key with '>' cannot be written here; to remove all of its table, write {table}=null"
    text = re.sub(r":(?=\S)", ": ", value) if value[:1] == "{" else value
    if rest[-2:-1] == ["by_task"] and _NUMBER.fullmatch(value):
        text = f"{{strength: {value}}}"
    for part in reversed(rest):
        text = f"{{{part}: {text}}}"
    return (
        f"a key with '>' can only be written in a file: put the two lines `# @package _global_` and `{first}: {text}` "
        "into own/exp/mine.yaml, and begin the line with --config-dir=own +exp=mine (with another one: "
        "+exp=[OTHER,mine])"
    )


def as_value(text: str) -> str:
    """Write a text as the value of a word, in quotes where Hydra's grammar needs them."""
    from hydra.core.override_parser.types import Quote, QuotedString

    plain = re.fullmatch(r"[\w./-]+", text, re.ASCII)
    return text if plain else QuotedString(text=text, quote=Quote.single).with_quotes()


def as_text(word: str) -> str:
    """Write the word with its value as a text, quoted for Hydra and for the shell."""
    key, _, value = word.partition("=")
    return shlex.quote(f"{key}={_quoted(value)}")


def _as_text(word: str) -> str | None:
    match = _WORD.fullmatch(word)
    if match is None or match[1] != match[1].strip() or not match[2] or _reads(word):
        return None
    key, value = match.groups()
    if value[0] in "[{('\"" or re.search(r"[,\n\t\r]|\$\{|^\w+\(", value):
        return None
    value = os.path.expanduser(value) if value.startswith("~/") else value
    quoted = f"{key}={_quoted(value)}"
    return quoted if _reads(quoted, value) else None


def _in_quotes(item: str) -> str:
    item = item.strip().strip("'\"")
    return item if _NUMBER.fullmatch(item) else _quoted(item)


def _quoted(value: str) -> str:
    """Put a text in double quotes. Backslashes are doubled before a quote, the only place where they would
    escape it.
    """
    value = re.sub(r'(\\*)"', r'\1\1\\"', value)
    ending = len(value) - len(value.rstrip("\\"))
    return f'"{value}{value[len(value) - ending :]}"'


def _reads(word: str, value: str | None = None) -> bool:
    """True if Hydra can read a word and, where `value` is given, reads that value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return bool(override.key_or_group) and (value is None or override.value() == value)
