"""Where a prompt says a subject's words: the keyword matching of UCE (RealGeneral section 3.2, "pot" in its Figure 3).

The paper says no more than "keyword matching". Here words are compared whole, never inside a word, in one Unicode form
and without case; a hyphen, a dash and any run of whitespace are one separator; and if the words are nowhere as they
are, the last of them may stand in the other number (pot and pots, box and boxes, berry and berries).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

SHORTEST = 3  # letters of a singular whose plural is looked for: 'bus' is no plural of 'bu'
SIBILANTS = ("s", "x", "z", "ch", "sh")
Span = tuple[int, int]
Word = tuple[str, Span]  # in normal form, and its place in the text as it is given


def spans(prompt: str, subjects: Iterable[str]) -> list[Span]:
    """(first, last + 1) character of the prompt, as it is given, of every place that says the words of a subject."""
    return [span for subject in subjects for span in _found(prompt, subject)]


@lru_cache(maxsize=65536)
def _found(prompt: str, subject: str) -> tuple[Span, ...]:
    wanted = [word for word, _ in _words(subject)]
    if not wanted:
        return ()
    said = _words(prompt)
    return tuple(_places(said, wanted, [wanted[-1]])) or tuple(_places(said, wanted, other_numbers(wanted[-1])))


def _places(said: Sequence[Word], wanted: Sequence[str], last: Sequence[str]) -> Iterator[Span]:
    """The places of the words one after another, the last of which may be any of `last`; they do not overlap."""
    at, count = 0, len(wanted)
    while at + count <= len(said):
        part = [word for word, _ in said[at : at + count]]
        if part[:-1] == list(wanted[:-1]) and part[-1] in last:
            yield said[at][1][0], said[at + count - 1][1][1]
            at += count
        else:
            at += 1


def other_numbers(word: str) -> list[str]:
    """The plurals of a word and the words that it may be the plural of, by the regular rules of English."""
    singulars = [word[:-1], word[:-2], f"{word[:-3]}y"]
    return [*plurals(word), *(s for s in singulars if word in plurals(s))]


def plurals(word: str) -> list[str]:
    """'pot' to 'pots', 'box' to 'boxes', 'berry' to 'berries'; after an o both are regular. Nothing of short words."""
    if len(word) < SHORTEST:
        return []
    if word.endswith("y") and word[-2] not in "aeiou":
        return [f"{word[:-1]}ies"]
    if word.endswith(SIBILANTS):
        return [f"{word}es"]
    return [f"{word}s", f"{word}es"] if word.endswith("o") else [f"{word}s"]


def _words(text: str) -> list[Word]:
    """Words (letters, digits and what is set on them) and other signs, one by one; separators are none of them."""
    found: list[Word] = []
    open_word = False
    for letter, span in _letters(text):
        kind = _kind(letter)
        if kind == "word" and open_word:
            word, (start, _) = found[-1]
            found[-1] = word + letter, (start, span[1])
        elif kind != "separator":
            found.append((letter, span))
        open_word = kind == "word"
    return found


def _letters(text: str) -> Iterator[tuple[str, Span]]:
    """A text's characters, each with the marks set on it, in one form (NFKD, without case), and their places in it."""
    if text.isascii():  # as below, in a quarter of the time: most prompts are
        yield from ((letter, (i, i + 1)) for i, letter in enumerate(text.lower()))
        return
    starts = [i for i, character in enumerate(text) if i == 0 or unicodedata.category(character)[0] != "M"]
    for start, stop in pairwise([*starts, len(text)]):
        yield unicodedata.normalize("NFKD", text[start:stop]).casefold(), (start, stop)


@lru_cache(maxsize=4096)
def _kind(letter: str) -> str:
    """Whether a character is of a "word", a "separator" or another "sign"."""
    if letter[0].isalnum() or letter[0] == "_":
        return "word"
    return "separator" if letter[0].isspace() or unicodedata.category(letter[0]) == "Pd" else "sign"
