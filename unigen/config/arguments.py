"""Reads key=value command lines for entry points that compose no config."""

import difflib
from collections.abc import Mapping, Sequence


def parse(
    words: Sequence[str], legal: Sequence[str], required: Sequence[str], empty: Sequence[str] = ()
) -> dict[str, str]:
    """Turn the words of a command line into a dictionary. Only the keys in `empty` may have an empty value.

    Raises ValueError, one sentence, for anything that is not a legal key=value.
    """
    given = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not (value or key in empty):
            raise ValueError(f"'{word}' is not key=value (known keys: {', '.join(legal)})")
        if key not in legal:
            near = difflib.get_close_matches(key, legal, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(legal)}"
            raise ValueError(f"unknown key '{key}' ({hint})")
        given[key] = value
    for key in required:
        if key not in given:
            raise ValueError(f"give {key}=<...>; --help explains it")
    return given


def one_of(given: Mapping[str, str], own: Mapping[str, Sequence[str]]) -> str:
    """Return the one key of `own` that is given. `own` maps each key to further keys that may be given with it alone.

    Raises ValueError, one sentence, if it is none or several, and for a key that goes with another one.
    """
    found = [key for key in own if key in given]
    if len(found) != 1:
        legal = " or ".join(f"{key}=<...>" for key in own)
        raise ValueError(f"give {'only one of' if found else 'either'} {legal}; --help explains them")
    for key, others in own.items():
        strangers = [other for other in others if other in given and key != found[0]]
        if strangers:
            raise ValueError(f"{strangers[0]}= goes with {key}=, not with {found[0]}=")
    return found[0]
