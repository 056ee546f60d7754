"""Words for emoji: a caption, a subject keyword and a split key from a glyph's code points.

A glyph is its code points in lower-case hexadecimal joined by '-', without the variation selector fe0f:
'1f600', '1f469-1f3fd-200d-1f4bb'. Captions are mechanical: the Unicode name, or for a sequence the name of what it
shows followed by what modifies it ('woman technologist, medium skin tone'; 'runner, man, facing right'). They
are the same under every Python version, because names younger than Python 3.11's Unicode 14 are in a table here.

In Unicode names of old symbols BLACK and WHITE mean filled and outlined; those words are dropped, since the
drawings are coloured ('heavy black heart' is red).
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import NamedTuple

ZWJ, SELECTOR, KEYCAP, ARROW, FLAG = "200d", "fe0f", "20e3", "27a1", "1f3f4"
TONES = {
    "1f3fb": "light",
    "1f3fc": "medium-light",
    "1f3fd": "medium",
    "1f3fe": "medium-dark",
    "1f3ff": "dark",
}
GENDERS = {"2640": "woman", "2642": "man"}
HAIR = {"1f9b0": "red hair", "1f9b1": "curly hair", "1f9b2": "bald", "1f9b3": "white hair"}
PEOPLE = {"1f468": "man", "1f469": "woman", "1f9d1": "person", "1f466": "boy", "1f467": "girl", "1f9d2": "child"}
PROFESSIONS = {
    "1f33e": "farmer",
    "1f373": "cook",
    "1f393": "student",
    "1f3a4": "singer",
    "1f3a8": "artist",
    "1f3eb": "teacher",
    "1f3ed": "factory worker",
    "1f4bb": "technologist",
    "1f4bc": "office worker",
    "1f527": "mechanic",
    "1f52c": "scientist",
    "1f680": "astronaut",
    "1f692": "firefighter",
    "1fa70": "ballet dancer",
    "2695": "health worker",
    "2696": "judge",
    "2708": "pilot",
}
DOINGS = {  # activities and attributes of a person: the words before the subject, and the subject
    "1f37c": ("feeding a", "baby"),
    "1f384": ("dressed as", "santa claus"),
    "1f9af": ("with", "white cane"),
    "1f9bc": ("in", "motorized wheelchair"),
    "1f9bd": ("in", "manual wheelchair"),
}
# sequences with a name of their own, by their code points after `_reduced`
SEQUENCES = {
    "1f344-1f7eb": "brown mushroom",
    "1f34b-1f7e9": "lime",
    "1f3f3-1f308": "rainbow flag",
    "1f3f3-26a7": "transgender flag",
    "1f3f4-2620": "pirate flag",
    "1f408-2b1b": "black cat",
    "1f415-1f9ba": "service dog",
    "1f426-1f525": "phoenix",
    "1f426-2b1b": "black bird",
    "1f43b-2744": "polar bear",
    "1f441-1f5e8": "eye in speech bubble",
    "1f62e-1f4a8": "face exhaling",
    "1f635-1f4ab": "face with spiral eyes",
    "1f636-1f32b": "face in clouds",
    "1f642-2194": "head shaking horizontally",
    "1f642-2195": "head shaking vertically",
    "1f9d1-1f430-1f9d1": "people with bunny ears",
    "1f9d1-1f91d-1f9d1": "people holding hands",
    "1f9d1-1faef-1f9d1": "wrestlers",
    "1f9d1-2764-1f48b-1f9d1": "kiss",
    "1f9d1-2764-1f9d1": "couple with heart",
    "1faf1-1faf2": "handshake",
    "26d3-1f4a5": "broken chain",
    "2764-1f525": "heart on fire",
    "2764-1fa79": "mending heart",
}
# names that are younger than Python 3.11 (Unicode 15 to 17), and names that mislead
NAMES = {
    "1f46f": "people with bunny ears",
    "1f6d8": "landslide",
    "1f6dc": "wireless",
    "1fa75": "light blue heart",
    "1fa76": "grey heart",
    "1fa77": "pink heart",
    "1fa87": "maracas",
    "1fa88": "flute",
    "1fa89": "harp",
    "1fa8a": "trombone",
    "1fa8e": "treasure chest",
    "1fa8f": "shovel",
    "1faad": "folding hand fan",
    "1faae": "hair pick",
    "1faaf": "khanda",
    "1fabb": "hyacinth",
    "1fabc": "jellyfish",
    "1fabd": "wing",
    "1fabe": "leafless tree",
    "1fabf": "goose",
    "1fac6": "fingerprint",
    "1fac8": "hairy creature",
    "1facd": "orca",
    "1face": "moose",
    "1facf": "donkey",
    "1fada": "ginger root",
    "1fadb": "pea pod",
    "1fadc": "root vegetable",
    "1fadf": "splatter",
    "1fae8": "shaking face",
    "1fae9": "face with bags under eyes",
    "1faea": "distorted face",
    "1faef": "fight cloud",
    "1faf7": "leftwards pushing hand",
    "1faf8": "rightwards pushing hand",
    "26a7": "transgender sign",
    "26d1": "helmet with white cross",
    "2764": "red heart",
    **PEOPLE,
    **HAIR,
    **{code: f"{tone} skin tone" for code, tone in TONES.items()},
}
POINTING = {"1f446", "1f447", "1f448", "1f449", "1f324", "1f325", "1f326"}  # WHITE means outlined here too

# What is drawn alike and must share a split: one gender, age or colouring of a base and the others; and people with
# blond hair, frowning and pouting, who differ from the plain person by a few pixels (mean difference below 4 of 255).
_FOLD = {
    "1f468": "1f9d1",
    "1f469": "1f9d1",
    "1f466": "1f9d2",
    "1f467": "1f9d2",
    "1f474": "1f9d3",
    "1f475": "1f9d3",
    "1f934": "1fac5",
    "1f478": "1fac5",
    "1f57a": "1f483",
    "1f930": "1fac4",
    "1fac3": "1fac4",
    "1f471": "1f9d1",
    "1f64d": "1f9d1",
    "1f64e": "1f9d1",
}
_SAME = {
    "1f385": "1f9d1-1f384",
    "1f936": "1f9d1-1f384",
    "1f46c": "1f46b",
    "1f46d": "1f46b",
    "1f9d1-1f91d-1f9d1": "1f46b",
    "1f9d1-1f430-1f9d1": "1f46f",
    "1f9d1-1faef-1f9d1": "1f93c",
    "1f9d1-2764-1f9d1": "1f491",
    "1f9d1-2764-1f48b-1f9d1": "1f48f",
    "1faf1-1faf2": "1f91d",
    "1f408-2b1b": "1f408",
    "1f426-2b1b": "1f426",
    "1f43b-2744": "1f43b",
    "1f34b-1f7e9": "1f34b",
    "1f344-1f7eb": "1f344",
    "1f47f": "1f608",
}
# flags that are drawn alike in either package (found by comparing all images at 16x16)
_SAME_FLAG = {"BV": "NO", "CP": "FR", "DG": "IO", "EA": "ES", "HM": "AU", "MC": "ID", "MF": "FR", "SJ": "NO"}
_SAME_FLAG |= {"TD": "RO", "UM": "US"}


class Words(NamedTuple):
    """The parts of a caption: `before` + `subject` + ', ' + each of `after`."""

    subject: str
    before: str = ""
    after: tuple[str, ...] = ()


def caption(glyph: str) -> str:
    """A short lower-case caption ('grinning face'; 'flag DE' keeps its country letters). Contains `subject(glyph)`."""
    words = _words(glyph)
    return ", ".join([f"{words.before} {words.subject}".strip(), *words.after])


def subject(glyph: str) -> str:
    """The keyword of what the glyph shows, without skin tone, gender or hair: always part of `caption(glyph)`."""
    return _words(glyph).subject


@cache
def base_of(glyph: str) -> str:
    """The split key: the glyph without tones, genders, hair, direction and selectors, people folded together.

    Every variant of one drawing has one key: man, woman and person (also boy, girl and child, and so on), all
    families, both spellings of a couple ('people holding hands' is one code point or a sequence), and recolourings
    (black cat and cat). A glyph that consists of such a part alone, like a skin-tone swatch, is its own base.
    """
    codes = _codes(glyph)
    if len(codes) == 1:
        code = _FOLD.get(codes[0], codes[0])
        return _SAME.get(code, code)
    kept = [_FOLD.get(code, code) for code in codes if code not in {*TONES, *GENDERS, *HAIR, ARROW}]
    if len(kept) > 1 and set(kept) <= {"1f9d1", "1f9d2"}:
        return "1f46a"  # every family is one base
    if _is_flag(codes):
        letters = _letters(codes)
        return f"flag {_SAME_FLAG.get(letters, letters)}"
    key = "-".join(kept or codes)
    return _SAME.get(key, key)


def _is_flag(codes: list[str]) -> bool:
    """True if the code points are two regional indicators."""
    return len(codes) == 2 and all(0x1F1E6 <= int(code, 16) <= 0x1F1FF for code in codes)


def _letters(codes: list[str]) -> str:
    """The country letters of a flag."""
    return "".join(chr(int(code, 16) - 0x1F1E6 + ord("A")) for code in codes)


def _codes(glyph: str) -> list[str]:
    """The code points of a glyph without joiners and selectors."""
    return [code for code in glyph.split("-") if code not in (ZWJ, SELECTOR)]


@cache
def _words(glyph: str) -> Words:
    """The caption's parts. The rules in order: flags, keycaps, then what is left after its modifiers are named."""
    codes = _codes(glyph)
    if len(codes) == 1:
        return Words(_name(codes[0]))
    if _is_flag(codes):
        return Words(f"flag {_letters(codes)}")
    if codes[0] == FLAG and codes[-1] == "e007f":
        letters = "".join(chr(int(code, 16) - 0xE0000) for code in codes[1:-1]).upper()
        return Words(f"flag {letters[:2]}-{letters[2:]}")
    if codes[-1] == KEYCAP:
        return Words(f"keycap {chr(int(codes[0], 16))}")
    return _sequence(codes)


def _sequence(codes: list[str]) -> Words:
    """Words for a sequence of people, things and modifiers."""
    tones = list(dict.fromkeys(TONES[code] for code in codes if code in TONES))
    after = [GENDERS[code] for code in codes if code in GENDERS]
    after += [HAIR[code] for code in codes if code in HAIR]
    after += [" and ".join(tones) + " skin tone"] if tones else []
    after += ["facing right"] if ARROW in codes else []
    kept = [code for code in codes if code not in {*TONES, *GENDERS, *HAIR, ARROW}] or codes
    people = [PEOPLE[code] for code in kept if code in PEOPLE]
    if len(people) == len(kept) > 1:
        return Words("family", after=(*people, *after))
    if len(kept) == 2 and people and kept[1] in PROFESSIONS:
        who = "" if people[0] == "person" else people[0]
        return Words(PROFESSIONS[kept[1]], before=who, after=tuple(after))
    if len(kept) == 2 and people and kept[1] in DOINGS:
        doing, what = DOINGS[kept[1]]
        return Words(what, before=f"{people[0]} {doing}", after=tuple(after))
    name = SEQUENCES.get("-".join("1f9d1" if code in PEOPLE else code for code in kept))
    if len(people) == 2:
        after.insert(0, f"{people[0]} and {people[1]}")
    return Words(name or " and ".join(_name(code) for code in kept), after=tuple(after))


def _name(code: str) -> str:
    """The name of one code point in lower case. Raises ValueError if neither Python nor this file knows it."""
    if code in NAMES:
        return NAMES[code]
    try:
        name = unicodedata.name(chr(int(code, 16))).lower()
    except ValueError as error:
        raise ValueError(f"no name is known for code point '{code}': add it to NAMES in {__name__}") from error
    symbol = int(code, 16) < 0x10000 and not {"square", "circle"} & set(name.split())
    if symbol or code in POINTING:
        name = " ".join(word for word in name.split() if word not in ("black", "white", "heavy"))
    return name
