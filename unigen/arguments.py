"""key=value command lines for entry points that compose no config."""

import difflib
from collections.abc import Mapping, Sequence


def parse(
    words: Sequence[str], legal: Sequence[str], required: Sequence[str], empty: Sequence[str] = ()
) -> dict[str, str]:
    """The words as a dictionary. `empty` are the keys whose value may be the empty text.

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
            raise ValueError(f"say {key}=<...>; --help tells what it is")
    return given


def one_of(given: Mapping[str, str], own: Mapping[str, Sequence[str]]) -> str:
    """Which one of the keys of `own` is given; what it maps them to are further keys that go with that one alone.

    Raises ValueError, one sentence, if it is none or several, and for a key that goes with another one.
    """
    found = [key for key in own if key in given]
    if len(found) != 1:
        legal = " or ".join(f"{key}=<...>" for key in own)
        raise ValueError(f"say {'only one of' if found else 'either'} {legal}; --help tells what they are")
    for key, others in own.items():
        strangers = [other for other in others if other in given and key != found[0]]
        if strangers:
            raise ValueError(f"{strangers[0]}= goes with {key}=, not with {found[0]}=")
    return found[0]
