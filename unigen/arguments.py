"""key=value command lines for entry points that compose no config."""

import difflib
from collections.abc import Sequence


def parse(words: Sequence[str], legal: Sequence[str], required: Sequence[str]) -> dict[str, str]:
    """The words as a dictionary. Raises ValueError, one sentence, for anything that is not a legal key=value."""
    given = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise ValueError(f"'{word}' is not key=value (known keys: {', '.join(legal)})")
        if key not in legal:
            near = difflib.get_close_matches(key, legal, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(legal)}"
            raise ValueError(f"unknown key '{key}' ({hint})")
        given[key] = value
    for key in required:
        if key not in given:
            raise ValueError(f"say {key}=<...>; --help tells what it is")
    return given
