"""Keyword matching for UCE: finds a subject's words in a prompt (RealGeneral section 3.2, "pot" in its Figure 3).

The paper says no more than "keyword matching". Here whole words are compared, in one Unicode form and without case. A
hyphen, a dash and a run of whitespace are each one separator. If the words do not occur as they are, the last of them
may occur in the other number (pot and pots, box and boxes, berry and berries).
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
    """Return the span (first, last + 1), in characters of the prompt, of every occurrence of a subject's words."""
    return [span for subject in subjects for span in _found(prompt, subject)]


@lru_cache(maxsize=65536)
def _found(prompt: str, subject: str) -> tuple[Span, ...]:
    wanted = [word for word, _ in _words(subject)]
    if not wanted:
        return ()
    said = _words(prompt)
    return tuple(_places(said, wanted, [wanted[-1]])) or tuple(_places(said, wanted, other_numbers(wanted[-1])))


def _places(said: Sequence[Word], wanted: Sequence[str], last: Sequence[str]) -> Iterator[Span]:
    """Yield the spans where the words occur in a row without overlap; the last word may be any of `last`."""
    at, count = 0, len(wanted)
    while at + count <= len(said):
        part = [word for word, _ in said[at : at + count]]
        if part[:-1] == list(wanted[:-1]) and part[-1] in last:
            yield said[at][1][0], said[at + count - 1][1][1]
            at += count
        else:
            at += 1


def other_numbers(word: str) -> list[str]:
    """Return the plurals of a word, and the words whose plural it may be, by the regular rules of English."""
    singulars = [word[:-1], word[:-2], f"{word[:-3]}y"]
    return [*plurals(word), *(s for s in singulars if word in plurals(s))]


def plurals(word: str) -> list[str]:
    """Return the regular plurals ('pots', 'boxes', 'berries'): two after an o, none of words shorter than SHORTEST."""
    if len(word) < SHORTEST:
        return []
    if word.endswith("y") and word[-2] not in "aeiou":
        return [f"{word[:-1]}ies"]
    if word.endswith(SIBILANTS):
        return [f"{word}es"]
    return [f"{word}s", f"{word}es"] if word.endswith("o") else [f"{word}s"]


def _words(text: str) -> list[Word]:
    """Split a text into words (letters and digits with their marks) and single other signs, without separators."""
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
    """Yield each character with its combining marks, normalised (NFKD, without case), and its span in the text."""
    if text.isascii():  # gives the same as the code below in a quarter of the time, and most prompts are ASCII
        yield from ((letter, (i, i + 1)) for i, letter in enumerate(text.lower()))
        return
    starts = [i for i, character in enumerate(text) if i == 0 or unicodedata.category(character)[0] != "M"]
    for start, stop in pairwise([*starts, len(text)]):
        yield unicodedata.normalize("NFKD", text[start:stop]).casefold(), (start, stop)


@lru_cache(maxsize=4096)
def _kind(letter: str) -> str:
    """Return the kind of a character: "word", "separator" or "sign"."""
    if letter[0].isalnum() or letter[0] == "_":
        return "word"
    return "separator" if letter[0].isspace() or unicodedata.category(letter[0]) == "Pd" else "sign"
